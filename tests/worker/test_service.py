"""Claims, slots and the stop of a worker: real Valkey, real decoders, an engine that waits for the test."""

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from shared import keys
from shared.assets import Asset
from shared.chunks import SECOND, Chunk
from shared.fleet import read_fleet
from shared.jobs import TextJob, VideoJob
from shared.keys import Lane
from shared.redis.connection import Redis, connect
from shared.requests import CANCELLED, Request, failed, finish, submit
from shared.results import from_fields
from shared.settings import Settings, load
from tests.e2e.media import colour_film
from tests.support import RedisServer, served_model, stream_entries, until, valkey_binary
from worker.claims import Claims
from worker.compose import Loaded
from worker.models.directory import ModelInfo
from worker.models.embedding_engine import Clips, Vectors
from worker.service import Service

Start = Callable[..., AbstractAsyncContextManager[Service]]


class Engine:
    """Counts calls; the video's wait while the gate is closed."""

    supports_text = True

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.gate.set()
        self.video_calls = 0
        self.closed = False
        self.error: Exception | None = None

    def embed_video(self, clips: Clips) -> Vectors:
        self.video_calls += 1
        assert self.gate.wait(20)  # less than a worker's event loop may stand still
        return np.ones((len(clips), 2), np.float32)

    def embed_text(self, texts: Sequence[str]) -> Vectors:
        if self.error:
            raise self.error
        return np.ones((len(texts), 2), np.float32)

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def engine() -> Engine:
    return Engine()


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Asset:
    path = colour_film(tmp_path_factory.mktemp("film") / "film.mp4", seconds=6, per_scene=1)
    return Asset(id="a1", path=str(path), filename="film.mp4")


@pytest.fixture
def start(settings: Settings, engine: Engine, monkeypatch: pytest.MonkeyPatch) -> Start:
    """Run a worker with one decoder until the block ends."""
    info = ModelInfo(id="m", architecture="t", dimension=2, frames=4, resolution=16, max_text_tokens=0)
    model = served_model(dimension=2, frames=4, created=1)
    monkeypatch.setattr("worker.service.load", lambda *_: Loaded(info, engine, "test", 1, model))

    @asynccontextmanager
    async def run(**environment: str) -> AsyncIterator[Service]:
        variables = {
            "REDIS_URL": settings.redis_url or "", "RTEMBED_DECODE_SLOTS": "1", "RTEMBED_CLAIM_TIMEOUT": "1",
            "RTEMBED_METRICS_PORT": "off",
        }  # fmt: skip
        service = Service(load({**variables, **environment}))
        running = asyncio.create_task(service.run())
        try:
            await until(lambda: running.done() or service.alive.record.state == "ready")
            yield service
        finally:
            engine.gate.set()
            service.stop()
            await asyncio.wait_for(running, 40)
        assert engine.closed

    return run


async def submit_video(redis: Redis, settings: Settings, film: Asset, jobs: int, name: str = "r1") -> Request:
    """One request of `jobs` jobs of one chunk each."""
    work = [
        VideoJob(request=name, model="m", assets=[film], chunks=[Chunk(i, i * SECOND, (i + 1) * SECOND)])
        for i in range(jobs)
    ]
    request = Request(id=name, lane="video", planned=jobs)
    await submit(redis, settings, request, work)
    return request


async def submit_text(redis: Redis, settings: Settings, name: str) -> None:
    await submit(
        redis,
        settings,
        Request(id=name, lane="text", planned=1),
        [TextJob(request=name, model="m", texts=["a"])],
    )


async def state(redis: Redis, name: str) -> str:
    value: Any = await redis.hget(keys.request(name), "state")
    return value.decode() if value else "gone"


async def pending(redis: Redis, lane: Lane) -> int:
    found: Any = await redis.xpending(keys.jobs(lane, "m"), keys.GROUP)
    return int(found["pending"])


async def test_a_worker_claims_only_what_it_has_slots_for(
    redis: Redis, settings: Settings, film: Asset, start: Start, engine: Engine
) -> None:
    engine.gate.clear()
    async with start() as service:
        assert service.jobs.slots["video"] == 2
        await submit_video(redis, settings, film, 6)
        await until(lambda: engine.video_calls == 1 and len(service.jobs.running) == 2)
        await asyncio.sleep(1.5)  # longer than a claiming read blocks, and than the claim timeout
        assert (await pending(redis, "video"), await redis.xlen(keys.jobs("video", "m"))) == (2, 6)
        other = Claims(redis, "other", settings.claim_timeout, "m")
        assert len(await other.take(redis, "video", 9)) == 4
        await other.hand_back()
        engine.gate.set()
        await until(lambda: _is(redis, "r1", "done"))
        await until(lambda: _empty(redis, "video"))


async def test_texts_pass_while_every_video_slot_is_taken(
    redis: Redis, settings: Settings, film: Asset, start: Start, engine: Engine
) -> None:
    engine.gate.clear()
    async with start() as service:
        await submit_video(redis, settings, film, 6)
        await until(lambda: engine.video_calls == 1)
        for i in range(5):
            await submit_text(redis, settings, f"t{i}")
        for i in range(5):
            await until(lambda name=f"t{i}": _is(redis, name, "done"))
        assert not engine.gate.is_set()
        assert service.jobs.jobs_done == 5
        await until(lambda: _empty(redis, "text"))


async def test_jobs_of_a_request_that_has_ended_leave_the_queue(
    redis: Redis, settings: Settings, film: Asset, start: Start, engine: Engine
) -> None:
    engine.gate.clear()
    async with start():
        request = await submit_video(redis, settings, film, 6)
        await until(lambda: engine.video_calls == 1)
        await finish(redis, settings, request, CANCELLED)
        await until(lambda: _empty(redis, "video"))
        assert engine.video_calls == 1
        assert not engine.gate.is_set()
    assert [from_fields(fields) for _, fields in await stream_entries(redis, keys.results("r1"))] == [
        CANCELLED
    ]


async def test_a_claim_lost_to_another_ends_its_task(
    redis: Redis, settings: Settings, film: Asset, start: Start, engine: Engine
) -> None:
    engine.gate.clear()
    async with start() as service:
        await submit_video(redis, settings, film, 1)
        await until(lambda: engine.video_calls == 1)
        (entry_id,) = service.jobs.running
        await redis.xclaim(keys.jobs("video", "m"), keys.GROUP, "another", 0, [entry_id])
        await until(lambda: not service.jobs.running)
        assert entry_id not in service.claims.held["video"]
        engine.gate.set()
        ((_, owner),) = [(p["message_id"], p["consumer"]) for p in await _pending_range(redis)]
        assert owner == b"another"
        await redis.xack(keys.jobs("video", "m"), keys.GROUP, entry_id)
    assert await state(redis, "r1") == "running"


async def test_what_runs_is_finished_before_the_worker_stops(
    redis: Redis, settings: Settings, film: Asset, start: Start, engine: Engine
) -> None:
    engine.gate.clear()
    async with start() as service:
        await submit_video(redis, settings, film, 1)
        await until(lambda: engine.video_calls == 1)
        service.stop()
        await until(lambda: _workers(redis, "stopping"))
        await submit_text(redis, settings, "t1")
        engine.gate.set()
        await until(lambda: _is(redis, "r1", "done"))
    assert await redis.xlen(keys.jobs("video", "m")) == 0
    assert (await redis.xlen(keys.jobs("text", "m")), await state(redis, "t1")) == (1, "running")
    fleet = await read_fleet(redis)
    assert fleet.workers == []
    assert fleet.model is not None


async def test_what_cannot_be_finished_is_handed_back_uncounted(
    redis: Redis, settings: Settings, film: Asset, start: Start, engine: Engine
) -> None:
    engine.gate.clear()
    async with start(RTEMBED_SHUTDOWN_TIMEOUT="0") as service:
        await submit_video(redis, settings, film, 6)
        await until(lambda: len(service.jobs.running) == 2 and engine.video_calls == 1)
        stopped = time.monotonic()
        service.stop()
        await until(lambda: not service.jobs.running)
        await asyncio.sleep(1)
        assert time.monotonic() - stopped < 10, "the event loop stood still while the engine worked"
    taken = await Claims(redis, "other", settings.claim_timeout, "m").take_over("video", 9)
    assert [claim.deliveries for claim in taken] == [1, 1]
    assert await state(redis, "r1") == "running"


async def test_a_job_that_fails_unexpectedly_fails_alone(
    redis: Redis, settings: Settings, start: Start, engine: Engine
) -> None:
    async with start():
        engine.error = RuntimeError("secret detail")
        await submit_text(redis, settings, "t1")
        await until(lambda: _is(redis, "t1", "failed"))
        ((_, last),) = await stream_entries(redis, keys.results("t1"))
        assert from_fields(last) == failed("An unknown error occurred")
        engine.error = None
        await submit_text(redis, settings, "t2")
        await until(lambda: _is(redis, "t2", "done"))
        await until(lambda: _empty(redis, "text"))


async def test_a_worker_that_was_away_from_redis_goes_on(
    tmp_path: Path, start: Start, engine: Engine, settings: Settings
) -> None:
    server = RedisServer(valkey_binary(), tmp_path, "--appendfsync", "always")
    server.start()
    try:
        async with start(REDIS_URL=server.url, RTEMBED_REDIS_TIMEOUT="1"):
            server.stop()
            await asyncio.sleep(0.5)
            server.start()
            redis = connect(load({"REDIS_URL": server.url}))
            await submit_text(redis, settings, "t1")
            await until(lambda: _is(redis, "t1", "done"))
            await redis.aclose()
    finally:
        server.stop()


async def test_a_worker_stops_while_redis_is_away(
    tmp_path: Path, film: Asset, start: Start, engine: Engine, settings: Settings
) -> None:
    server = RedisServer(valkey_binary(), tmp_path)
    server.start()
    engine.gate.clear()
    try:
        async with start(
            REDIS_URL=server.url, RTEMBED_REDIS_TIMEOUT="0.5", RTEMBED_SHUTDOWN_TIMEOUT="1"
        ) as service:
            redis = connect(load({"REDIS_URL": server.url}))
            await submit_video(redis, settings, film, 2)
            await until(lambda: engine.video_calls == 1)
            await redis.aclose()
            server.stop()
            service.stop()
    finally:
        server.stop()


async def _is(redis: Redis, name: str, wanted: str) -> bool:
    return await state(redis, name) == wanted


async def _empty(redis: Redis, lane: Lane) -> bool:
    return not await redis.xlen(keys.jobs(lane, "m"))


async def _workers(redis: Redis, wanted: str) -> bool:
    return [w.state for w in (await read_fleet(redis)).workers] == [wanted]


async def _pending_range(redis: Redis) -> list[Any]:
    found: list[Any] = await redis.xpending_range(keys.jobs("video", "m"), keys.GROUP, "-", "+", 9)
    return found
