import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from gateway.results.follow import IDS_AHEAD, ResultListener
from shared import keys
from shared.jobs import TextJob
from shared.redis.connection import Redis, connect
from shared.requests import Request, submit
from shared.results import End, Entry, Result
from shared.settings import Settings, load
from tests.support import RedisServer, until, valkey_binary
from worker.publish.publisher import Publisher

JOB = TextJob(request="r1", texts=["a", "b", "c"])
REQUEST = Request(id="r1", lane="text", planned=3)


@pytest.fixture
def redis_environment(every_redis: dict[str, str]) -> dict[str, str]:
    return every_redis


@pytest.fixture
async def listener(redis: Redis, settings: Settings) -> AsyncIterator[ResultListener]:
    made = ResultListener(redis, settings)
    running = asyncio.create_task(made.run())
    yield made
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


async def publish(redis: Redis, settings: Settings, *chunks: int) -> None:
    await Publisher(redis, settings).publish(JOB, [Result(chunk=chunk, vector=b"1234") for chunk in chunks])


async def test_entries_arrive_as_they_are_published(
    listener: ResultListener, redis: Redis, settings: Settings
) -> None:
    seen: list[Entry] = []
    async with listener.subscribe("r1") as follower:
        await submit(redis, settings, REQUEST, [JOB])

        async def read() -> None:
            async for _, entry in follower.entries(stored=False):
                seen.append(entry)

        reading = asyncio.create_task(read())
        await publish(redis, settings, 1)
        await until(lambda: len(seen) == 1)
        await publish(redis, settings, 0, 2)
        await reading
    assert seen == [Result(chunk=c, vector=b"1234") for c in (1, 0, 2)] + [End(state="done")]


async def test_what_was_stored_before_is_read_first(
    listener: ResultListener, redis: Redis, settings: Settings
) -> None:
    await submit(redis, settings, REQUEST, [JOB])
    await publish(redis, settings, 0)
    async with listener.subscribe("r1") as follower:
        await publish(redis, settings, 1, 2)
        entries = [entry async for _, entry in follower.entries()]
    assert [e.chunk for e in entries if isinstance(e, Result)] == [0, 1, 2]
    assert entries[-1] == End(state="done")


async def test_reading_goes_on_after_an_entry_already_seen(
    listener: ResultListener, redis: Redis, settings: Settings
) -> None:
    await submit(redis, settings, REQUEST, [JOB])
    await publish(redis, settings, 0, 1, 2)
    async with listener.subscribe("r1") as follower:
        found = [entry_id async for entry_id, _ in follower.entries()]
    async with listener.subscribe("r1") as follower:
        rest = [entry_id async for entry_id, _ in follower.entries(after=found[1])]
    assert rest == found[2:]


async def test_more_entries_than_one_page(listener: ResultListener, redis: Redis, settings: Settings) -> None:
    await submit(redis, settings, Request(id="r1", lane="text", planned=250), [JOB])
    await publish(redis, settings, *range(250))
    async with listener.subscribe("r1") as follower:
        entries = [entry async for _, entry in follower.entries()]
    assert len(entries) == 251


async def test_a_follower_that_is_cancelled_leaves_nothing_behind(
    listener: ResultListener, redis: Redis, settings: Settings
) -> None:
    async def follow() -> None:
        async with listener.subscribe("r1") as follower:
            async for _ in follower.entries():
                pass

    following = asyncio.create_task(follow())
    await until(lambda: subscribers(redis, "r1"))
    following.cancel()
    await asyncio.gather(following, return_exceptions=True)
    assert listener._queues == {}


async def test_one_request_may_be_followed_twice(
    listener: ResultListener, redis: Redis, settings: Settings
) -> None:
    async with listener.subscribe("r1") as follower:
        async with listener.subscribe("r1"):
            pass
        await submit(redis, settings, REQUEST, [JOB])
        await publish(redis, settings, 0, 1, 2)
        async with asyncio.timeout(4):  # less than it takes until a follower looks by itself
            entries = [entry async for _, entry in follower.entries(stored=False)]
    assert len(entries) == 4
    assert listener._queues == {}


async def test_channels_are_left_many_at_a_time(listener: ResultListener, redis: Redis) -> None:
    for number in range(IDS_AHEAD):
        async with listener.subscribe(f"r{number}"):
            pass
    await until(lambda: nobody(redis, "r0"))
    assert await redis.pubsub_numsub(keys.notify(f"r{IDS_AHEAD - 1}")) == [
        (keys.notify(f"r{IDS_AHEAD - 1}").encode(), 0)
    ]


async def test_a_new_id_is_subscribed_to_already(listener: ResultListener, redis: Redis) -> None:
    ids = set()
    for _ in range(3 * IDS_AHEAD):
        await until(lambda: len(listener._ahead) > 0)
        ids.add(request_id := listener.new_id())
        assert await subscribers(redis, request_id)
        async with listener.subscribe(request_id):
            pass
    assert len(ids) == 3 * IDS_AHEAD


async def test_a_channel_just_left_can_be_followed_again(
    listener: ResultListener, redis: Redis, settings: Settings
) -> None:
    async with listener.subscribe("r1"):
        pass
    async with listener.subscribe("r1") as follower:
        for number in range(IDS_AHEAD):
            async with listener.subscribe(f"other {number}"):
                pass
        await submit(redis, settings, REQUEST, [JOB])
        await publish(redis, settings, 0, 1, 2)
        entries = [entry async for _, entry in follower.entries(stored=False)]
    assert len(entries) == 4


async def test_nothing_is_missed_when_redis_restarts(tmp_path: Path) -> None:
    server = RedisServer(valkey_binary(), tmp_path, "--appendfsync", "always")
    server.start()
    settings = load({"REDIS_URL": server.url, "RTEMBED_REDIS_TIMEOUT": "1"})
    redis = connect(settings)
    listener = ResultListener(redis, settings)
    running = asyncio.create_task(listener.run())
    seen: list[Entry] = []
    try:
        async with listener.subscribe("r1") as follower:
            await submit(redis, settings, REQUEST, [JOB])

            async def read() -> None:
                async for _, entry in follower.entries(stored=False):
                    seen.append(entry)

            reading = asyncio.create_task(read())
            await publish(redis, settings, 0)
            await until(lambda: len(seen) == 1)
            server.stop()
            await asyncio.sleep(0.5)
            server.start()
            other = connect(settings)
            await publish(other, settings, 1, 2)
            await other.aclose()
            await asyncio.wait_for(reading, 20)
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        await redis.aclose()
        server.stop()
    assert [e.chunk for e in seen if isinstance(e, Result)] == [0, 1, 2]
    assert seen[-1] == End(state="done")


async def test_a_cancelled_call_never_hands_its_answer_to_the_next_caller(redis: Redis) -> None:
    await redis.set("{rtembed}:mine", "1")
    await redis.set("{rtembed}:theirs", "2")
    for turn in range(200):
        call = asyncio.ensure_future(redis.get("{rtembed}:mine"))
        for _ in range(turn % 7):
            await asyncio.sleep(0)
        call.cancel()
        await asyncio.gather(call, return_exceptions=True)
        assert await redis.get("{rtembed}:theirs") == b"2"


async def subscribers(redis: Redis, request: str) -> bool:
    return bool((await redis.pubsub_numsub(keys.notify(request)))[0][1])


async def nobody(redis: Redis, request: str) -> bool:
    return not await subscribers(redis, request)
