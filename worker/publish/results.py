"""Storing what was computed: every call is one atomic step in Redis, and repeating it changes nothing."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import structlog

from shared import keys, results
from shared.jobs import Job, VideoJob
from shared.redis import Redis, RedisError, script
from shared.requests import end_arguments, end_keys, finish, request_of
from shared.results import End, Result
from shared.settings import Settings

log = structlog.get_logger(__name__)

DONE = End(state="done")
PATIENCE = 30.0
RETRY_INTERVAL = 0.5


class Publisher:
    """Publishes the results of jobs. `publish` and `fail` return the request's state afterwards:
    `running`, `done`, `failed`, `cancelled`, or `gone` when Redis knows the request no longer."""

    def __init__(self, redis: Redis, settings: Settings) -> None:
        self._redis = redis
        self._settings = settings

    async def publish(self, job: Job, finished: Sequence[Result], end: End = DONE) -> str:
        """Store and announce results. The request ends with `end` after its last chunk, or at once if
        `end` is a failure."""
        groups: list[bytes | str | int] = []
        for result in finished:
            fields = results.to_fields(result)
            groups += [result.chunk, results.pack(fields), len(fields), *fields]
        request = request_of(job)
        head = end_arguments(self._settings, request, end)
        arguments = [*head, self._settings.request_ttl, len(finished), *groups]

        async def store() -> str:
            state: bytes = await script(self._redis, "publish", "end")(keys=end_keys(request), args=arguments)
            return state.decode()

        return await _persist(store)

    async def fail(self, job: Job, end: End) -> str:
        """End the request without a result."""
        return await _persist(lambda: finish(self._redis, self._settings, request_of(job), end))

    async def state(self, job: Job) -> str:
        """The request's state now."""
        state: Any = await self._redis.hget(keys.request(job.request), "state")
        return state.decode() if state else "gone"

    async def chunks_done(self, job: VideoJob) -> set[int]:
        """Which of the job's chunks have their result stored, by an earlier delivery of the job."""
        async with self._redis.pipeline(transaction=False) as pipe:
            for chunk in job.chunks:
                pipe.getbit(keys.done(job.request), chunk.index)
            bits = await pipe.execute()
        return {chunk.index for chunk, bit in zip(job.chunks, bits, strict=True) if bit}


async def _persist(store: Callable[[], Awaitable[str]]) -> str:
    """Try again while Redis is away, for PATIENCE seconds: what was computed is worth a wait."""
    give_up = time.monotonic() + PATIENCE
    while True:
        try:
            return await store()
        except RedisError as error:
            if time.monotonic() > give_up:
                raise
            log.warning("result not stored yet: redis is away", error=str(error))
            await asyncio.sleep(RETRY_INTERVAL)
