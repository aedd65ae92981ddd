"""A worker whose GPU is lost ends, says why, and leaves its jobs to others; what breaks each worker is given
up."""

import asyncio
import re
from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np
import pytest

from shared import keys
from shared.assets import Asset
from shared.chunks import SECOND, Chunk
from shared.errors import DeviceLost
from shared.jobs import Job, TextJob, VideoJob
from shared.keys import Lane
from shared.redis.connection import Redis
from shared.requests import Request, submit
from shared.settings import Settings, load
from tests.e2e.media import colour_film
from tests.support import served_model, until
from worker.compose import Loaded
from worker.models.directory import ModelInfo
from worker.models.embedding_engine import Clips, Vectors
from worker.service import Service

DELIVERIES = 2
LOST = "NVIDIA L40S (GPU-1) is lost to this process: cudaErrorIllegalAddress"
INFO = ModelInfo(id="m", architecture="t", dimension=2, frames=4, resolution=16, max_text_tokens=0)
MODEL = served_model(dimension=2, frames=4, created=1)


class Engine:
    """On a GPU that is there or not."""

    supports_text = True

    def __init__(self, *, lost: bool) -> None:
        self.lost = lost

    def embed_video(self, clips: Clips) -> Vectors:
        return self._vectors(len(clips))

    def embed_text(self, texts: Sequence[str]) -> Vectors:
        return self._vectors(len(texts))

    def _vectors(self, count: int) -> Vectors:
        if self.lost:
            raise DeviceLost(LOST)
        return np.ones((count, 2), np.float32)

    def close(self) -> None:
        pass


@pytest.fixture
def jobs(tmp_path: Any) -> dict[str, Job]:
    film = Asset(id="a", path=str(colour_film(tmp_path / "f.mp4", seconds=2, per_scene=1)), filename="f.mp4")
    return {
        "text": TextJob(request="r", model=INFO.id, texts=["a", "b"]),
        "video": VideoJob(request="r", model=INFO.id, assets=[film], chunks=[Chunk(0, 0, SECOND)]),
    }


def worker(settings: Settings, monkeypatch: pytest.MonkeyPatch, *, lost: bool) -> Service:
    """A worker that is not running yet. It would end this process, too, after the shutdown timeout."""
    loaded = Loaded(INFO, Engine(lost=lost), "test", 1, MODEL)
    monkeypatch.setattr("worker.service.load", lambda *_: loaded)
    variables = {
        "REDIS_URL": settings.redis_url or "", "RTEMBED_DECODE_SLOTS": "1", "RTEMBED_CLAIM_TIMEOUT": "1",
        "RTEMBED_METRICS_PORT": "off", "RTEMBED_WORKER_NAME": "lost" if lost else "well",
        "RTEMBED_SHUTDOWN_TIMEOUT": "3600", "ENABLE_REDIS_ERROR_MESSAGES": "true",
        "RTEMBED_MAX_DELIVERIES": str(DELIVERIES),
    }  # fmt: skip
    return Service(load(variables))


async def state(redis: Redis) -> str:
    value: Any = await redis.hget(keys.request("r"), "state")
    return str(value.decode())


@pytest.mark.parametrize("lane", ["text", "video"])
async def test_the_job_goes_to_another_worker(
    redis: Redis, settings: Settings, jobs: dict[str, Job], lane: Lane, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with redis.pubsub() as operators:
        await operators.subscribe(settings.error_topic)
        first = worker(settings, monkeypatch, lost=True)
        running = asyncio.create_task(first.run())
        await until(lambda: first.alive.record.state == "ready")
        request = Request(id="r", lane=lane, planned=2 if lane == "text" else 1)
        await submit(redis, settings, request, [jobs[lane]])
        await asyncio.wait_for(running, 30)
        assert first.watch.problem == LOST
        assert await state(redis) == "running"
        await until(lambda: told(operators, r"Worker lost\S* ends: NVIDIA L40S \(GPU-1\) is lost"))
    waiting: Any = await redis.xpending_range(keys.jobs(lane, INFO.id), keys.GROUP, "-", "+", 9)
    (entry,) = waiting
    assert entry["consumer"].startswith(b"lost")
    assert entry["times_delivered"] == 1

    second = worker(settings, monkeypatch, lost=False)
    running = asyncio.create_task(second.run())
    await until(lambda: _is(redis, "done"))
    second.stop()
    await asyncio.wait_for(running, 30)


async def _is(redis: Redis, wanted: str) -> bool:
    return await state(redis) == wanted


async def told(operators: Any, pattern: str) -> bool:
    message = await operators.get_message(timeout=1)
    return bool(message and re.search(pattern, str(message["data"])))


async def test_a_job_that_breaks_every_gpu_is_given_up(
    redis: Redis, settings: Settings, jobs: dict[str, Job], monkeypatch: pytest.MonkeyPatch
) -> None:
    job = msgspec.structs.replace(jobs["text"], texts=["a"])
    await submit(redis, settings, Request(id="r", lane="text", planned=1), [job])
    for _ in range(DELIVERIES):
        service = worker(settings, monkeypatch, lost=True)
        await asyncio.wait_for(service.run(), 30)
        await asyncio.sleep(1.1)  # longer than the claim timeout
    assert await state(redis) == "running"
    last = worker(settings, monkeypatch, lost=False)
    running = asyncio.create_task(last.run())
    await until(lambda: _is(redis, "failed"))
    await until(lambda: _buried(redis))
    last.stop()
    await asyncio.wait_for(running, 30)


async def _buried(redis: Redis) -> bool:
    return await redis.xlen(keys.JOBS_DEAD) == 1
