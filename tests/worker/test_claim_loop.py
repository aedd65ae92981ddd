"""Which jobs a worker gives another chance, and which it gives up: real claims, and work that only waits."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from shared import keys, live_records
from shared.assets import Asset
from shared.jobs import Claim
from shared.redis.connection import Redis
from shared.results import End, from_fields
from shared.settings import Settings
from tests.support import until
from worker import claim_loop
from worker.claim_loop import ClaimLoop
from worker.claims import Claims
from worker.publish.publisher import Publisher


class Waiting:
    """Work that goes on for ever."""

    def __init__(self) -> None:
        self.begun: list[str] = []

    async def run(self, claim: Claim) -> None:
        self.begun.append(claim.job.request)
        await asyncio.Event().wait()


class RunningWorker:
    """A claim loop at work. It dies without a word when `dies` is called."""

    def __init__(self, redis: Redis, settings: Settings) -> None:
        self.claims = Claims(redis, "w", settings.claim_timeout)
        self.loop = ClaimLoop(settings, self.claims, Publisher(redis, settings))
        self.work = Waiting()


@asynccontextmanager
async def at_work(redis: Redis, settings: Settings) -> AsyncIterator[RunningWorker]:
    worker = RunningWorker(redis, settings)
    await worker.claims.create_groups()
    tasks: Any = worker.work

    async def nothing() -> None:
        pass

    running = asyncio.create_task(worker.loop.run(tasks, asyncio.Event(), nothing))
    try:
        yield worker
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def start(redis: Redis, settings: Settings, name: str) -> None:
    asset = Asset(id=name, kind="stream", path="rtsp://h/")
    await redis.hset(keys.asset(name), "id", name)
    session = live_records.LiveRecord(request=f"r-{name}", chunk_duration=10)
    await live_records.start(redis, settings, f"r-{name}", asset, session)


async def delivered(redis: Redis) -> dict[str, int]:
    """How often each session has been delivered, by its request."""
    entries = await redis.xpending_range(keys.jobs("live"), keys.GROUP, "-", "+", 10)
    jobs = {entry: fields[b"request"].decode() for entry, fields in await redis.xrange(keys.jobs("live"))}
    return {jobs[entry["message_id"]]: entry["times_delivered"] for entry in entries}


async def set_deliveries(redis: Redis, counts: dict[str, int]) -> None:
    """As if a worker that is dead had had the sessions so often."""
    await redis.xgroup_create(keys.jobs("live"), keys.GROUP, id="0", mkstream=True)
    await redis.xreadgroup(keys.GROUP, "dead", {keys.jobs("live"): ">"})
    for entry, fields in await redis.xrange(keys.jobs("live")):
        count = counts[fields[b"request"].decode()]
        await redis.xclaim(
            keys.jobs("live"), keys.GROUP, "dead", 0, [entry], idle=60_000, retrycount=count, justid=True
        )


async def test_a_session_that_no_worker_survives_is_given_up(redis: Redis, settings: Settings) -> None:
    await start(redis, settings, "a")
    await set_deliveries(redis, {"r-a": 3})
    async with at_work(redis, settings) as worker:
        await until(lambda: is_empty(redis))
        assert worker.work.begun == []
    ((_, letter),) = await redis.xrange(keys.JOBS_DEAD)
    assert (letter[b"lane"], letter[b"deliveries"]) == (b"live", b"4")
    end = from_fields((await redis.xrange(keys.results("r-a")))[-1][1])
    assert isinstance(end, End)
    assert "given up after 3 deliveries" in end.error
    record = await redis.hgetall(keys.live("a"))
    assert record[b"state"] == b"ended"
    assert b"given up after 3 deliveries" in record[b"detail"]
    assert 0 < await redis.ttl(keys.live("a")) <= settings.result_ttl
    assert await live_records.read_sessions(redis, ["a"]) == [None]


async def is_empty(redis: Redis) -> bool:
    return await redis.xlen(keys.jobs("live")) == 0


async def test_sessions_on_their_last_chance_run_one_at_a_time(
    redis: Redis, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The one that ends the worker is then the only one that is held guilty."""
    for name in ("a", "b", "c"):
        await start(redis, settings, name)
    await set_deliveries(redis, {"r-a": 2, "r-b": 2, "r-c": 1})
    async with at_work(redis, settings) as worker:
        await until(lambda: len(worker.work.begun) == 2)
        await asyncio.sleep(1)
        assert sorted(worker.work.begun) == ["r-a", "r-c"]
        assert await delivered(redis) == {"r-a": 3, "r-b": 2, "r-c": 2}
        monkeypatch.setattr(claim_loop, "HARMLESS", 0.0)
        await worker.loop.forgive()
        await until(lambda: len(worker.work.begun) == 3)
        assert await delivered(redis) == {"r-a": 1, "r-b": 3, "r-c": 1}


async def test_what_has_just_begun_is_not_forgiven(redis: Redis, settings: Settings) -> None:
    await start(redis, settings, "a")
    await set_deliveries(redis, {"r-a": 1})
    async with at_work(redis, settings) as worker:
        await until(lambda: len(worker.work.begun) == 1)
        await worker.loop.forgive()
        assert await delivered(redis) == {"r-a": 2}
