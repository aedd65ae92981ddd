"""A part of a simulated fleet, which `tests.bench.capacity` starts.

Its workers use the product's claims, heartbeats, leases, results and metrics; their cameras and texts need
neither decoder nor model.
"""

import argparse
import asyncio
import os
import random
import signal
import time
from dataclasses import replace
from typing import Any

import numpy as np
import uvloop

from shared import live_records
from shared.fleet import Worker
from shared.jobs import Claim, LiveJob, TextJob, VideoJob
from shared.redis.connection import Redis, connect
from shared.redis.redis_clock import RedisClock
from shared.results import Result
from shared.settings import Settings, load
from shared.telemetry import export
from shared.telemetry.fleet_metrics import Figures
from shared.telemetry.instruments import embedded_items
from tests.support import served_model
from worker.claim_loop import ClaimLoop
from worker.claims import Claims
from worker.live.session import BEAT_INTERVAL, LEASE_INTERVAL
from worker.publish.publisher import Publisher
from worker.signs_of_life import SignsOfLife
from worker.watch import Watch
from worker.worker_metrics import WorkerMetrics

MODEL = served_model(id="null", dimension=768, created=1)
VECTOR = np.random.default_rng(1).random(768, np.float32).tobytes()
IMMEDIATELY = 0.001


class SimulatedTasks:
    """Does the jobs of one worker: a camera has a chunk each `chunk_seconds`, a text takes a millisecond."""

    def __init__(
        self, redis: Redis, settings: Settings, publisher: Publisher, owner: str, chunk: float
    ) -> None:
        self._redis = redis
        self._settings = settings
        self._publisher = publisher
        self._owner = owner
        self._chunk = chunk

    async def run(self, claim: Claim) -> None:
        """Do a claimed job to its end."""
        if isinstance(claim.job, LiveJob):
            async with asyncio.TaskGroup() as session:
                chunks = session.create_task(self._embed(claim.job))
                await self._beat(claim)
                chunks.cancel()
        elif isinstance(claim.job, TextJob):
            await asyncio.sleep(IMMEDIATELY)
            results = [Result(chunk=n, vector=VECTOR) for n in range(len(claim.job.texts))]
            await self._publisher.publish(claim.job, results)
        elif isinstance(claim.job, VideoJob):
            for chunk in claim.job.chunks:
                times = [chunk.start + n * 10**9 for n in range(8)]
                result = Result(
                    chunk=chunk.index, start=chunk.start, end=chunk.end, vector=VECTOR, frame_times=times
                )
                await self._publisher.publish(claim.job, [result])

    async def stand_by(self, claim: Claim) -> bool:
        """Take no session from a worker that lives."""
        return False

    async def _embed(self, job: LiveJob) -> None:
        number, moment = 0, time.monotonic() + random.uniform(0, self._chunk)
        while True:
            await asyncio.sleep(moment - time.monotonic())
            start = int(number * self._chunk * 1e9)
            times = [start + n * 10**9 for n in range(8)]
            result = Result(chunk=number, start=start, end=start + 10**10, vector=VECTOR, frame_times=times)
            await self._publisher.publish(job, [result])
            embedded_items.add(1, {"model": MODEL.id, "modality": "video"})
            number, moment = number + 1, moment + self._chunk

    async def _beat(self, claim: Claim) -> None:
        fields: dict[str, Any] = {
            "state": "running",
            "detail": "",
            "transport": "tcp",
            "clock": "picture",
            "next": 1,
        }
        await asyncio.sleep(random.uniform(0, BEAT_INTERVAL))
        lease_due = chunk_due = 0.0
        while True:
            began = time.monotonic()
            lease, cut = began >= lease_due, began >= chunk_due
            lease_due = began + LEASE_INTERVAL if lease else lease_due
            chunk_due = began + self._chunk if cut else chunk_due
            state, stop, _ = await live_records.beat(
                self._redis, self._settings, claim, self._owner, fields if lease or cut else {}, lease=lease
            )
            if state != "running" or stop:
                return
            await asyncio.sleep(BEAT_INTERVAL - (time.monotonic() - began) % BEAT_INTERVAL)


async def one_worker(settings: Settings, registry: object, name: str, chunk: float) -> None:
    """Serve as one worker, with connections of its own, until cancelled."""
    redis = connect(settings)
    claims = Claims(redis, name, settings.claim_timeout, MODEL.id)
    publisher = Publisher(redis, settings)
    publisher.model = MODEL
    jobs = ClaimLoop(settings, claims, publisher)
    record = Worker(
        name=claims.consumer, state="ready", host=name, pid=os.getpid(), model=MODEL, backend="cpu"
    )
    alive = SignsOfLife(
        redis, settings, record=record, claims=claims, jobs=jobs, publisher=publisher, clock=RedisClock(),
        metrics=WorkerMetrics(Figures(redis, registry, name)),  # type: ignore[arg-type]
        watch=Watch(lambda: None, 60, 60),
    )  # fmt: skip
    await asyncio.sleep(random.uniform(0, 2))
    await claims.create_groups()
    tasks = SimulatedTasks(redis, settings, publisher, claims.consumer, chunk)

    async def nothing() -> None:
        return

    async with asyncio.TaskGroup() as owned:
        owned.create_task(alive.run())
        owned.create_task(jobs.run(tasks, asyncio.Event(), nothing))  # type: ignore[arg-type]


async def fleet(url: str, workers: int, chunk: float) -> None:
    """Serve as so many workers until SIGTERM."""
    settings = load({"REDIS_URL": url, "RTEMBED_MAX_LIVE_STREAMS": "100000"})
    settings = replace(settings, redis_timeout=30.0)
    registry = export.configure(settings).registry
    stopped = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopped.set)
    names = [f"sim{os.getpid()}x{n}" for n in range(workers)]
    serving = [asyncio.create_task(one_worker(settings, registry, name, chunk)) for name in names]
    ended = asyncio.create_task(stopped.wait())
    done, _ = await asyncio.wait([ended, *serving], return_when=asyncio.FIRST_COMPLETED)
    for task in done - {ended}:
        task.result()
    os._exit(0)  # no goodbye: the next fleet has a Redis of its own


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("url")
    parser.add_argument("workers", type=int)
    parser.add_argument("chunk", type=float)
    chosen = parser.parse_args()
    uvloop.run(fleet(chosen.url, chosen.workers, chosen.chunk))
