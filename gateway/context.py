"""What every endpoint works with, owned by the application and closed with it."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import TypeVar

import msgspec
import structlog
from prometheus_client import CollectorRegistry
from starlette.requests import Request as HttpRequest
from starlette.responses import Response

from gateway.api.schemas import Error
from gateway.fleet_view import FleetView
from gateway.intake.downloads import Downloads
from gateway.metrics_publisher import MetricsPublisher
from gateway.results.follow import Follower, ResultListener
from gateway.store.asset_store import AssetStore
from gateway.video.profiling import Profiler
from shared import requests
from shared.bus.errorbus import ErrorBus
from shared.errors import FileTooLarge, InvalidParameters, RtEmbedError, TooManyRequests, Unavailable
from shared.jobs import Job
from shared.redis.connection import Redis, RedisError, connect
from shared.redis.ending import end
from shared.results import End, Result
from shared.settings import Settings

log = structlog.get_logger(__name__)
T = TypeVar("T")

RETRY_AFTER = 5
"""Seconds that a client is asked to wait when the service is busy or away."""


class Context:
    """The gateway's connections, its view of the fleet, and its asset store."""

    def __init__(self, settings: Settings, registry: CollectorRegistry | None = None) -> None:
        self.settings = settings
        self.redis: Redis = connect(settings)
        self.notices = ResultListener(self.redis, settings)
        self.view = FleetView(self.redis)
        self.metrics = MetricsPublisher(self.redis, self.view, registry)
        self.errors = ErrorBus(self.redis, settings)
        self.assets = AssetStore(self.redis, settings)
        self.downloads = Downloads(settings, self.assets)
        self.profiler = Profiler(self.redis, self.view, settings)
        self._ending: set[asyncio.Task[None]] = set()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Run what serves all requests; end it, and what they left to do, on exit."""
        async with asyncio.TaskGroup() as group:
            parts = (self.notices, self.view, self.errors, self.assets, self.metrics, self.profiler)
            tasks = [group.create_task(part.run()) for part in parts]
            await self.view.refresh()
            await self.assets.check()
            try:
                yield
            finally:
                if self._ending:
                    await asyncio.wait(self._ending, timeout=self.settings.redis_timeout)
                await end(tasks)
        self.assets.close()
        await self.redis.aclose()

    @contextmanager
    def reported(self, stream_id: str = "") -> Iterator[None]:
        """Tell operators what fails inside, naming the asset that it is about; not what is malformed."""
        try:
            yield
        except InvalidParameters:
            raise
        except RtEmbedError as error:
            self.errors.emit(error.message, stream_id=stream_id)
            raise

    @asynccontextmanager
    async def submitted(
        self, request: requests.Request, work: list[Job], *, detached: bool = False, traceparent: str = ""
    ) -> AsyncIterator[tuple[int, Follower]]:
        """Accept a request and follow it: the second at which it was accepted, and its entries.

        Leaving early, by an error or because the client has gone, cancels the request, unless it is
        `detached`.
        """
        async with self.notices.subscribe(request.id) as follower:
            accepting = asyncio.create_task(
                requests.submit(self.redis, self.settings, request, work, traceparent)
            )
            try:
                created = await asyncio.shield(accepting)
            except asyncio.CancelledError:
                self._end(request, accepting)
                raise
            try:
                yield created, follower
            except FailedEnd:
                raise
            except BaseException:
                if not detached:
                    self._end(request)
                raise

    def _end(self, request: requests.Request, accepting: asyncio.Task[int] | None = None) -> None:
        task = asyncio.create_task(self._cancel(request, accepting))
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)

    async def _cancel(self, request: requests.Request, accepting: asyncio.Task[int] | None) -> None:
        try:
            if accepting:
                await accepting
            state = await requests.finish(self.redis, self.settings, request, requests.CANCELLED)
            log.info("request cancelled, its caller has gone", request_id=request.id, state=state)
        except (RedisError, RtEmbedError) as error:
            log.error("request not cancelled", request_id=request.id, error=str(error))


class FailedEnd(RtEmbedError):
    """A worker, or an operator, ended the request with an error."""

    def __init__(self, end: End) -> None:
        super().__init__(end.error or f"the request was {end.state}")
        self.code = end.code or "InternalServerError"
        self.status = end.status or 500


async def collect(
    follower: Follower, count: int, on_result: Callable[[Result], None] | None = None
) -> list[Result]:
    """All results of a request that was submitted after the subscription began, in order of chunks.

    `on_result` is told of each as it comes. Raises FailedEnd. Does not wait for the end entry once all
    `count` results are there.
    """
    found: dict[int, Result] = {}
    async for _, entry in follower.entries(stored=False):
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


def context(request: HttpRequest) -> Context:
    """The context of the application that serves `request`."""
    found: Context = request.app.state.context
    return found


async def read_body(request: HttpRequest) -> bytes:
    """The request's body. Raises FileTooLarge beyond the limit for bodies."""
    limit = context(request).settings.body_limit_bytes
    body = bytearray()
    async for data in request.stream():
        body += data
        if len(body) > limit:
            raise FileTooLarge(f"the request body is larger than {limit} bytes")
    return bytes(body)


async def until_gone(request: HttpRequest, answer: Awaitable[T]) -> T:
    """Wait for `answer`, but cancel it when the client disconnects. Raises ClientGone then."""
    try:
        async with asyncio.timeout(None) as patience:
            watching = asyncio.create_task(_disconnected(request, patience))
            try:
                return await answer
            finally:
                watching.cancel()
    except TimeoutError:
        if patience.expired():
            raise ClientGone from None
        raise


class ClientGone(Exception):
    """The client closed the connection before its answer was ready."""


async def _disconnected(request: HttpRequest, patience: asyncio.Timeout) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
    patience.reschedule(0)


def json(value: object, status: int = 200) -> Response:
    """A JSON response from msgspec types."""
    return Response(msgspec.json.encode(value), status, media_type="application/json")


def refusal(error: RtEmbedError) -> Response:
    """A failure as clients see it."""
    response = json(Error(code=error.code, message=error.message[:1024]), error.status)
    if error.status in {429, 503}:
        seconds = error.seconds if isinstance(error, TooManyRequests) else RETRY_AFTER
        response.headers["Retry-After"] = str(seconds)
    if error.status == 401:
        response.headers["WWW-Authenticate"] = "Bearer"
    return response


def require_service(ctx: Context) -> None:
    """Raises Unavailable, saying why, if a request sent now would not be served."""
    if problem := ctx.view.problem:
        raise Unavailable(problem)
