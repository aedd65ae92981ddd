"""A worker's heartbeat: renews its record, its claims, its metrics."""

import asyncio
import time
from collections.abc import Callable

import msgspec
import structlog

from shared import fleet
from shared.fleet import HEARTBEAT, UNABLE, Worker
from shared.redis.connection import Redis, RedisError
from shared.redis.redis_clock import RedisClock
from shared.settings import Settings
from shared.telemetry.instruments import redis_round_trip
from worker.claim_loop import ClaimLoop
from worker.claims import Claims
from worker.publish.publisher import Publisher
from worker.watch import Watch
from worker.worker_metrics import WorkerMetrics

log = structlog.get_logger(__name__)

FORGET_INTERVAL = 60.0
LAST_WORDS_TTL = 60
"""Seconds that the record of a worker that could not start is kept."""
LONGEST_REASON = 500


class SignsOfLife:
    """Announces one worker to the fleet. `record` is what it announces."""

    def __init__(
        self,
        redis: Redis,
        settings: Settings,
        *,
        record: Worker,
        claims: Claims,
        jobs: ClaimLoop,
        publisher: Publisher,
        clock: RedisClock,
        metrics: WorkerMetrics,
        watch: Watch,
    ) -> None:
        self.record = record
        self._redis = redis
        self._settings = settings
        self._claims = claims
        self._jobs = jobs
        self._publisher = publisher
        self._clock = clock
        self._metrics = metrics
        self._watch = watch
        self._trouble: Callable[[], str] = lambda: ""

    def ask(self, trouble: Callable[[], str]) -> None:
        """Add a check: `trouble` returns why this worker cannot work at the moment, or an empty text."""
        self._trouble = trouble

    def change(self, **changes: object) -> None:
        """Change the record; the next heartbeat publishes it."""
        self.record = msgspec.structs.replace(self.record, **changes)

    async def run(self) -> None:
        """Send heartbeats until cancelled."""
        interval = min(HEARTBEAT, self._settings.claim_timeout / 3)
        forget = time.monotonic() + FORGET_INTERVAL
        while True:
            try:
                await self.beat()
                await self._metrics.publish(claim.lane for claim, _ in self._jobs.running.values())
                if time.monotonic() > forget:
                    forget = time.monotonic() + FORGET_INTERVAL
                    await self._claims.forget_consumers()
            except RedisError as error:
                log.warning("no heartbeat: redis is away", error=str(error))
            await asyncio.sleep(interval)

    async def beat(self) -> None:
        """Renew this worker's claims, announce it, and drop jobs that are lost or whose request has ended.

        Claims come first: a full Redis still renews them, though it may refuse the record.
        """
        redis_round_trip.record(await self._clock.measure(self._redis))
        self.change(jobs_running=len(self._jobs.running), jobs_done=self._jobs.jobs_done)
        ready = self.record.state == "ready"
        if problem := self._watch.problem or (self._trouble() if ready else ""):
            self.change(healthy=False, detail=problem)
        elif ready:
            self.change(healthy=True, detail="")
        for _, entry_id in await self._claims.renew():
            if entry_id in self._jobs.running:
                claim, task = self._jobs.running[entry_id]
                log.warning("claim lost to another worker", request_id=claim.job.request, job=entry_id)
                task.cancel()
        self._jobs.workers = await fleet.announce(self._redis, self.record)
        await self._jobs.forgive()
        for claim, task in list(self._jobs.running.values()):
            if claim.lane == "video" and await self._publisher.state(claim.job) != "running":
                log.info("job dropped, its request has ended", request_id=claim.job.request, job=claim.id)
                task.cancel()
                await self._claims.complete(claim)

    async def cannot_start(self, reason: str) -> None:
        """Record why this worker ends, so that /v1/startup can show it. Raises RedisError."""
        self.change(detail=UNABLE + reason[:LONGEST_REASON])
        await fleet.announce(self._redis, self.record, LAST_WORDS_TTL)

    async def withdraw(self) -> None:
        """Publish the last metrics and remove the record. Raises RedisError."""
        await self._metrics.publish([])
        await fleet.withdraw(self._redis, self.record.name)
