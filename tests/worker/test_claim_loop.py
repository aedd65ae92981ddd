"""Which jobs a worker gives another chance, and which it gives up: real claims, and work that only waits."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from shared import keys, live_records
from shared.assets import Asset
from shared.jobs import Claim, TextJob
from shared.redis import failures
from shared.redis.connection import Redis
from shared.redis.failures import WritesRefused
from shared.requests import Request, submit
from shared.results import End, from_fields
from shared.settings import Settings
from tests.support import stream_entries, until
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

    def __init__(self, redis: Redis, settings: Settings, work: Waiting | None = None) -> None:
        self.claims = Claims(redis, "w", settings.claim_timeout)
        self.loop = ClaimLoop(settings, self.claims, Publisher(redis, settings))
        self.work = work or Waiting()


@asynccontextmanager
async def at_work(
    redis: Redis, settings: Settings, work: Waiting | None = None
) -> AsyncIterator[RunningWorker]:
    worker = RunningWorker(redis, settings, work)
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
    entries: Any = await redis.xpending_range(keys.jobs("live"), keys.GROUP, "-", "+", 10)
    jobs = {
        entry: fields[b"request"].decode() for entry, fields in await stream_entries(redis, keys.jobs("live"))
    }
    return {jobs[entry["message_id"]]: entry["times_delivered"] for entry in entries}


async def set_deliveries(redis: Redis, counts: dict[str, int]) -> None:
    """As if a worker that is dead had had the sessions so often."""
    await redis.xgroup_create(keys.jobs("live"), keys.GROUP, id="0", mkstream=True)
    await redis.xreadgroup(keys.GROUP, "dead", {keys.jobs("live"): ">"})
    for entry, fields in await stream_entries(redis, keys.jobs("live")):
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
    ((_, letter),) = await stream_entries(redis, keys.JOBS_DEAD)
    assert (letter[b"lane"], letter[b"deliveries"]) == (b"live", b"4")
    end = from_fields((await stream_entries(redis, keys.results("r-a")))[-1][1])
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
        first, other = ("r-a", "r-b") if "r-a" in worker.work.begun else ("r-b", "r-a")
        assert sorted(worker.work.begun) == [first, "r-c"]
        assert await delivered(redis) == {first: 3, other: 2, "r-c": 2}
        monkeypatch.setattr(claim_loop, "HARMLESS", 0.0)
        await worker.loop.forgive()
        await until(lambda: len(worker.work.begun) == 3)
        assert await delivered(redis) == {first: 1, other: 3, "r-c": 1}


async def test_what_has_just_begun_is_not_forgiven(redis: Redis, settings: Settings) -> None:
    await start(redis, settings, "a")
    await set_deliveries(redis, {"r-a": 1})
    async with at_work(redis, settings) as worker:
        await until(lambda: len(worker.work.begun) == 1)
        await worker.loop.forgive()
        assert await delivered(redis) == {"r-a": 2}


@pytest.mark.parametrize("payload", [None, "{", '{"kind":"song","request":"r"}', '{"kind":"text"}'])
async def test_a_job_that_cannot_be_read_ends_its_request(
    redis: Redis, settings: Settings, payload: str | None
) -> None:
    asset = Asset(id="f", path="/f.mp4")
    await redis.hset(keys.asset("f"), "id", "f")
    await submit(redis, settings, Request(id="r", lane="video", planned=2, assets=[asset.id]), [])
    await redis.xadd(keys.jobs("video"), {"request": "r", **({"payload": payload} if payload else {})})
    await redis.xadd(keys.jobs("video"), {"request": "unknown", "payload": "{"})
    async with at_work(redis, settings):
        await until(lambda: has_letters(redis, 2))
        ((_, fields),) = await stream_entries(redis, keys.results("r"))
        end = from_fields(fields)
        assert isinstance(end, End)
        assert (end.state, end.status) == ("failed", 500)
        assert end.error.startswith("a job of this request is unreadable: ")
        assert await redis.zcard(keys.asset_users("f")) == 0, "the file is free"
        assert not await redis.exists(keys.results("unknown"))
    letters = [fields for _, fields in await stream_entries(redis, keys.JOBS_DEAD)]
    assert {letter[b"request"] for letter in letters} == {b"r", b"unknown"}
    assert all(letter[b"error"].startswith(b"unreadable: ") for letter in letters)
    assert await redis.xlen(keys.jobs("video")) == 0


async def has_letters(redis: Redis, count: int) -> bool:
    return await redis.xlen(keys.JOBS_DEAD) == count


class Interrupted(Waiting):
    """Work that meets an outage twice, and then stores its result and ends."""

    def __init__(self, redis: Redis) -> None:
        super().__init__()
        self._redis = redis

    async def run(self, claim: Claim) -> None:
        self.begun.append(claim.job.request)
        if len(self.begun) < 3:
            raise WritesRefused("it is full")
        await self._redis.setbit(keys.done(claim.job.request), 0, 1)


async def test_a_job_that_meets_an_outage_is_kept_and_tried_again(
    redis: Redis, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(failures, "RETRY_INTERVAL", 0.01)
    await submit(
        redis, settings, Request(id="r", lane="text", planned=1), [TextJob(request="r", texts=["a"])]
    )
    async with at_work(redis, settings, Interrupted(redis)) as worker:
        await until(lambda: len(worker.work.begun) == 3)
        await until(lambda: no_text_is_left(redis))
        assert await redis.hget(keys.request("r"), "state") == b"running", "no end was made up"
    assert await redis.xlen(keys.JOBS_DEAD) == 0


async def no_text_is_left(redis: Redis) -> bool:
    return await redis.xlen(keys.jobs("text")) == 0
