"""Reading a stream as one consumer of a group, on the oldest and the newest server that is supported."""

from collections.abc import AsyncIterator

import pytest

from shared.redis.connection import Redis, RedisError, single_connection
from shared.redis.consumer_group import ConsumerGroup
from shared.settings import Settings

STREAM = "{rtembed}:some"


@pytest.fixture
def redis_environment(every_redis: dict[str, str]) -> dict[str, str]:
    return every_redis


@pytest.fixture
async def reader(settings: Settings) -> AsyncIterator[Redis]:
    client = single_connection(settings)
    yield client
    await client.aclose()


def group(redis: Redis, consumer: str = "one") -> ConsumerGroup:
    return ConsumerGroup(redis, STREAM, "group", consumer)


async def test_entries_are_claimed_once_and_in_order(redis: Redis, reader: Redis) -> None:
    await group(redis).create()
    await group(redis).create()  # is there already
    ids = [await redis.xadd(STREAM, {"n": n, "raw": b"\xff\x00"}) for n in range(3)]
    first = await group(redis).read(reader, 2)
    rest = await group(redis, "two").read(reader, 2)
    assert [entry_id for entry_id, _ in first + rest] == ids
    assert first[0][1] == {b"n": b"0", b"raw": b"\xff\x00"}


async def test_a_read_ends_when_nothing_comes(redis: Redis, reader: Redis) -> None:
    await group(redis).create()
    assert await group(redis).read(reader, 1) == []


async def test_a_missing_group_is_made_with_what_waits(redis: Redis, reader: Redis) -> None:
    await redis.xadd(STREAM, {"n": 1})
    assert await group(redis).read(reader, 1) == []
    assert len(await group(redis).read(reader, 1)) == 1
    await redis.delete(STREAM)
    assert await group(redis).claim("reclaim", [0, 1]) == []
    await redis.xadd(STREAM, {"n": 1})
    assert len(await group(redis).read(reader, 1)) == 1
    assert len(await group(redis, "two").claim("reclaim", [0, 1])) == 1


async def test_other_errors_are_raised(redis: Redis, reader: Redis) -> None:
    await redis.set(STREAM, "no stream")
    with pytest.raises(RedisError, match="WRONGTYPE"):
        await group(redis).create()
    with pytest.raises(RedisError, match="WRONGTYPE"):
        await group(redis).read(reader, 1)
    with pytest.raises(RedisError, match="WRONGTYPE"):
        await group(redis).claim("reclaim", [0, 1])
