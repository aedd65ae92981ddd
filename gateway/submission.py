"""Submitting requests to the workers, and collecting their results."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import structlog

from gateway.results.follow import Follower, ResultListener
from shared import requests
from shared.errors import RtEmbedError
from shared.jobs import Job
from shared.redis.connection import Redis, RedisError
from shared.requests import Request
from shared.results import End, Result
from shared.settings import Settings

log = structlog.get_logger(__name__)


class FailedEnd(RtEmbedError):
    """A worker, or an operator, ended the request with an error."""

    def __init__(self, end: End) -> None:
        super().__init__(end.error or f"the request was {end.state}")
        self.code = end.code or "InternalServerError"
        self.status = end.status or 500


class Submitter:
    """Submits requests, and cancels those whose caller leaves before they end."""

    def __init__(self, redis: Redis, settings: Settings, listener: ResultListener) -> None:
        self._redis, self._settings, self._listener = redis, settings, listener
        self._cancellations: set[asyncio.Task[None]] = set()

    @asynccontextmanager
    async def submitted(
        self, request: Request, jobs: list[Job], *, detached: bool = False, traceparent: str = ""
    ) -> AsyncIterator[tuple[int, Follower]]:
        """Submit a request and follow it: yields the second at which it was accepted, and its follower.

        Leaving early, by an error or because the client has gone, cancels the request, unless it is
        `detached`. Raises as `shared.requests.submit`.
        """
        async with self._listener.subscribe(request.id) as follower:
            try:
                created = await requests.submit(self._redis, self._settings, request, jobs, traceparent)
            except asyncio.CancelledError:
                self._cancel_soon(request)  # Redis may have got it; what cancels it comes after it
                raise
            try:
                yield created, follower
            except FailedEnd:
                raise
            except BaseException:
                if not detached:
                    self._cancel_soon(request)
                raise

    async def close(self) -> None:
        """Wait for cancellations in progress, at most as long as Redis may take to answer."""
        if self._cancellations:
            await asyncio.wait(self._cancellations, timeout=self._settings.redis_timeout)

    def _cancel_soon(self, request: Request) -> None:
        task = asyncio.create_task(self._cancel(request))
        self._cancellations.add(task)
        task.add_done_callback(self._cancellations.discard)

    async def _cancel(self, request: Request) -> None:
        try:
            state = await requests.finish(self._redis, self._settings, request, requests.CANCELLED)
            log.debug("request cancelled: its client disconnected", request_id=request.id, state=state)
        except (RedisError, RtEmbedError) as error:
            log.error("request not cancelled", request_id=request.id, error=str(error))


async def collect(
    follower: Follower,
    count: int,
    on_result: Callable[[Result], None] | None = None,
    *,
    stored: bool = False,
) -> list[Result]:
    """Return all results of a request, in order of chunks; `stored`: there may have been some before the
    subscription began.

    `on_result` is called with each as it comes. Raises FailedEnd. Does not wait for the end entry once all
    `count` results are there.
    """
    found: dict[int, Result] = {}
    async for _, entry in follower.entries(stored=stored):
        match entry:
            case Result():
                found[entry.chunk] = entry
                if on_result:
                    on_result(entry)
                if len(found) == count and not entry.error:
                    break
            case End(state="done"):
                break
            case End():
                raise FailedEnd(entry)
    return [found[index] for index in sorted(found)]
