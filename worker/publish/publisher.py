"""Stores results in Redis. Every call is atomic and idempotent."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import structlog

from shared import keys
from shared.bus.errorbus import ErrorBus
from shared.bus.routes import configured_routes
from shared.fleet import ServedModel
from shared.jobs import Job, LiveJob, ProbeJob, TextJob, UnreadableJob, VideoJob
from shared.redis.connection import Redis
from shared.redis.failures import through_outages
from shared.requests import Delivery, Outcome, finish, publish, request_of
from shared.results import End, Result
from shared.settings import Settings
from shared.telemetry.export import traceparent
from worker.publish.messages import MESSAGE_TYPE, build_message, message_key

log = structlog.get_logger(__name__)

DONE = End(state="done")
ALARM_INTERVAL = 10.0
"""Seconds between error events about a full outbox."""


@dataclass
class PublisherCounts:
    """What this worker's publisher has done since it started."""

    messages_stored: int = 0
    messages_dropped: int = 0
    messages_not_built: int = 0


class Publisher:
    """Publishes the results of jobs, and their messages if a bus is configured.

    `publish` and `fail` return the request's state afterwards: `running`, `done`, `failed`, `cancelled`, or
    `gone` when Redis no longer has the request. Messages name `model`, so set it before the first result.
    """

    model: ServedModel | None = None

    def __init__(self, redis: Redis, settings: Settings, errors: ErrorBus | None = None) -> None:
        self._redis = redis
        self._settings = settings
        self._errors = errors
        self._configured = self._messages_wanted = configured_routes(settings).message_bus != "off"
        self._next_alarm = 0.0
        self.counts = PublisherCounts()

    async def publish(self, job: Job, finished: Sequence[Result], end: End = DONE) -> str:
        """Store and announce results. The request ends with `end` after its last chunk, or at once if
        `end` is a failure."""
        while (outcome := await self._store(job, finished, end)) is None:
            self._messages_wanted = not self._messages_wanted
        self.counts.messages_stored += outcome.queued
        self.counts.messages_dropped += outcome.dropped
        if outcome.dropped:
            self._alarm(job, outcome.dropped)
        if outcome.stored and not isinstance(job, ProbeJob):
            for result in finished:
                if result.error:
                    self.report(result.error, job)
        return outcome.state

    async def _store(self, job: Job, finished: Sequence[Result], end: End) -> Outcome | None:
        """Store results; None, with nothing done, if messages were switched on or off since the last read."""
        deliveries = [Delivery(result, self._message(job, result)) for result in finished]
        request, configured, believed = request_of(job), self._configured, self._messages_wanted
        return await through_outages(
            lambda: publish(
                self._redis,
                self._settings,
                request,
                end,
                deliveries,
                configured=configured,
                believed=believed,
            ),
            "results to be stored",
        )

    def _message(self, job: Job, result: Result) -> list[bytes | str]:
        """Return the fields of the result's outbox entry; none if it gets no message."""
        if not self._messages_wanted or self.model is None:
            return []
        if isinstance(job, ProbeJob | UnreadableJob):
            return []
        if isinstance(job, TextJob | VideoJob) and job.query:
            return []
        if isinstance(job, TextJob) and not self._settings.text_messages:
            return []
        try:
            value = build_message(self.model, job, result)
        except (ValueError, OverflowError, TypeError) as error:
            self.counts.messages_not_built += 1
            reason = f"Failed to build VisionLLM protobuf for chunk {result.chunk}: {error}"
            log.error("message not built", request_id=job.request, chunk=result.chunk, error=str(error))
            self.report(reason, job)
            return []
        key = message_key(job.request, result.chunk)
        fields: list[bytes | str] = ["key", key, "type", MESSAGE_TYPE, "stream", _stream(job), "value", value]
        parent = traceparent()
        return [*fields, "traceparent", parent] if parent else fields

    def _alarm(self, job: Job, dropped: int) -> None:
        """Log what did not fit into the outbox, and report it on the error bus now and then."""
        limits = {"messages": self._settings.outbox_limit, "bytes": self._settings.outbox_bytes}
        log.error("messages dropped: the outbox is full", request_id=job.request, dropped=dropped, **limits)
        if time.monotonic() >= self._next_alarm:
            self._next_alarm = time.monotonic() + ALARM_INTERVAL
            most = ", ".join(f"{bound} {what}" for what, bound in limits.items() if bound)
            self.report(f"Embedding messages are dropped: the outbox is full (at most {most})", job)

    def report(self, event: str, job: Job) -> None:
        """Report an error on the error bus."""
        if self._errors:
            self._errors.emit(event, stream_id=_stream(job))

    async def fail(self, job: Job, end: End) -> str:
        """End the request without a result."""
        return await through_outages(
            lambda: finish(self._redis, self._settings, request_of(job), end), "an end to be stored"
        )

    async def state(self, job: Job) -> str:
        """Return the request's current state. Callers get their answers in the order of their calls."""
        state: Any = await self._redis.multiplexed.call("HGET", keys.request(job.request), "state")
        return state.decode() if state else "gone"

    async def chunks_done(self, job: VideoJob) -> set[int]:
        """Return the job's chunks whose results an earlier delivery has stored."""
        async with self._redis.pipeline(transaction=False) as pipe:
            for chunk in job.chunks:
                pipe.getbit(keys.done(job.request), chunk.index)
            bits = await pipe.execute()
        return {chunk.index for chunk, bit in zip(job.chunks, bits, strict=True) if bit}


def _stream(job: Job) -> str:
    """Return the id of the job's file or stream; empty for texts."""
    return job.assets[0].id if isinstance(job, VideoJob | LiveJob) else ""
