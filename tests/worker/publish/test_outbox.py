"""Claims on messages, on the oldest and the newest server that is supported."""

from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest

from shared.keys import OUTBOX, OUTBOX_COUNTS, OUTBOX_DEAD, PUBLISHERS
from shared.redis.connection import Redis, single_connection
from shared.settings import Settings
from tests.support import stream_entries, until
from worker.publish.outbox import Message, Outbox

STREAM = "stream-{rtembed}"


@pytest.fixture
def redis_environment(every_redis: dict[str, str]) -> dict[str, str]:
    return every_redis


@pytest.fixture
def at(settings: Settings) -> Settings:
    """Settings under which a silent publisher is given up after a second."""
    return replace(settings, claim_timeout=1.0)


@pytest.fixture
async def reader(at: Settings) -> AsyncIterator[Redis]:
    client = single_connection(at)
    yield client
    await client.aclose()


async def create_group(redis: Redis) -> None:
    await redis.xgroup_create(OUTBOX, PUBLISHERS, id="0", mkstream=True)


async def add(redis: Redis, count: int) -> list[str]:
    fields: dict[Any, Any] = {"key": "k", "type": "vision_llm", "stream": "s", "value": b"\x00\xff"}
    added: list[Any] = [await redis.xadd(OUTBOX, fields) for _ in range(count)]
    return [entry_id.decode() for entry_id in added]


def ids(messages: list[Message]) -> list[str]:
    return [message.id for message in messages]


async def test_messages_are_claimed_once_in_order_and_whole(
    at: Settings, redis: Redis, reader: Redis
) -> None:
    outbox = Outbox(redis, at, "worker")
    await create_group(redis)
    added = await add(redis, 3)
    first, rest = await outbox.take(reader, 1), await outbox.take(reader, 10)
    assert ids(first + rest) == added
    assert first == [Message(added[0], b"k", b"vision_llm", b"\x00\xff", "s")]


async def test_the_group_is_made_when_it_is_missing(at: Settings, redis: Redis, reader: Redis) -> None:
    added = await add(redis, 1)
    outbox = Outbox(redis, at, "worker")
    assert await outbox.take(reader, 10) == []
    assert ids(await outbox.take(reader, 10)) == added
    await redis.delete(OUTBOX)
    assert await outbox.adopt(10, []) == []
    assert [group["name"] for group in await redis.xinfo_groups(OUTBOX)] == [PUBLISHERS.encode()]


async def test_sent_messages_are_gone_and_counted(at: Settings, redis: Redis, reader: Redis) -> None:
    outbox = Outbox(redis, at, "worker")
    await create_group(redis)
    added = await add(redis, 3)
    await outbox.take(reader, 10)
    await outbox.sent(added[:2])
    await outbox.sent(added[:2])
    assert [entry_id.decode() for entry_id, _ in await stream_entries(redis, OUTBOX)] == added[2:]
    assert (await redis.xpending(OUTBOX, PUBLISHERS))["pending"] == 1
    assert await redis.hgetall(OUTBOX_COUNTS) == {b"sent": b"2"}
    assert await redis.xlen(OUTBOX) == 1


async def test_a_refused_message_goes_to_the_dead_letters(at: Settings, redis: Redis, reader: Redis) -> None:
    outbox = Outbox(redis, at, "worker")
    await create_group(redis)
    await add(redis, 1)
    (message,) = await outbox.take(reader, 10)
    await outbox.refuse(message, "too large")
    ((_, dead),) = await stream_entries(redis, OUTBOX_DEAD)
    assert dead == {
        b"key": b"k",
        b"type": b"vision_llm",
        b"stream": b"s",
        b"value": b"\x00\xff",
        b"error": b"too large",
    }
    assert await redis.xlen(OUTBOX) == 0


async def test_the_living_keep_their_claims_and_the_dead_lose_them(
    at: Settings, redis: Redis, reader: Redis
) -> None:
    living, dead, heir = (Outbox(redis, at, name) for name in ("living", "dead", "heir"))
    await create_group(redis)
    added = await add(redis, 4)
    assert ids(await living.take(reader, 2)) == added[:2]
    assert ids(await dead.take(reader, 2)) == added[2:]
    taken: list[Message] = []

    async def inherit() -> bool:
        await living.adopt(0, added[:2])
        taken.extend(await heir.adopt(10, ids(taken)))
        return len(taken) >= 2

    await until(inherit)
    assert ids(taken) == added[2:]


async def test_at_most_as_many_are_adopted_as_there_is_room_for(
    at: Settings, redis: Redis, reader: Redis
) -> None:
    dead, heir = Outbox(redis, at, "dead"), Outbox(redis, at, "heir")
    await create_group(redis)
    added = await add(redis, 5)
    await dead.take(reader, 5)
    taken: list[Message] = []

    async def inherit() -> bool:
        taken.extend(await heir.adopt(2, ids(taken)))
        return bool(taken)

    await until(inherit)
    assert ids(taken) == added[:2]


async def test_own_messages_that_are_not_known_are_handed_out_after_the_timeout(
    at: Settings, redis: Redis, reader: Redis
) -> None:
    outbox = Outbox(redis, at, "worker")
    await create_group(redis)
    added = await add(redis, 3)
    await outbox.take(reader, 10)
    found: list[Message] = []
    assert await outbox.adopt(10, added[:1]) == []

    async def look() -> bool:
        found.extend(await outbox.adopt(10, added[:1]))
        return bool(found)

    await until(look)
    assert ids(found) == added[1:]


async def test_a_claim_on_a_message_that_is_gone_is_given_up(
    at: Settings, redis: Redis, reader: Redis
) -> None:
    dead, heir = Outbox(redis, at, "dead"), Outbox(redis, at, "heir")
    await create_group(redis)
    added = await add(redis, 2)
    await dead.take(reader, 2)
    await redis.xdel(OUTBOX, *added)

    async def nothing_pending() -> bool:
        assert await heir.adopt(10, []) == []
        return (await redis.xpending(OUTBOX, PUBLISHERS))["pending"] == 0  # type: ignore[no-any-return] # redis-py's reply

    await until(nothing_pending)


async def test_publishers_that_left_nothing_behind_are_forgotten(
    at: Settings, redis: Redis, reader: Redis
) -> None:
    gone, here = Outbox(redis, at, "gone"), Outbox(redis, at, "here")
    await create_group(redis)
    await add(redis, 1)
    await gone.sent(ids(await gone.take(reader, 1)))

    async def alone() -> bool:
        await here.adopt(10, [])
        names = [c["name"].decode() for c in await redis.xinfo_consumers(OUTBOX, PUBLISHERS)]
        return names == [here.consumer]

    await until(alone)


async def test_messages_move_to_another_stream_exactly_once(
    at: Settings, redis: Redis, reader: Redis
) -> None:
    one, other = Outbox(redis, at, "one"), Outbox(redis, at, "other")
    await create_group(redis)
    added = await add(redis, 3)
    await one.take(reader, 3)
    await one.relay(added[:2], STREAM)
    await other.relay(added, STREAM)
    entries = [fields for _, fields in await stream_entries(redis, STREAM)]
    assert entries == [{b"metadata": b"\x00\xff", b"message_type": b"vision_llm", b"key": b"k"}] * 3
    assert await redis.xlen(OUTBOX) == 0
    assert (await redis.xpending(OUTBOX, PUBLISHERS))["pending"] == 0
    assert await redis.hget(OUTBOX_COUNTS, "sent") == b"3"


@pytest.mark.parametrize(("bound", "left"), [(0, 300), (-1, 300)])
async def test_without_a_bound_the_stream_keeps_everything(
    at: Settings, redis: Redis, reader: Redis, bound: int, left: int
) -> None:
    outbox = Outbox(redis, replace(at, redis_stream_maxlen=bound), "worker")
    await create_group(redis)
    added = await add(redis, 300)
    await outbox.relay(added, STREAM)
    assert await redis.xlen(STREAM) == left
