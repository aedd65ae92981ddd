"""What every endpoint works with: connections, views and stores, owned by the application."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

from prometheus_client import CollectorRegistry
from starlette.requests import Request as HttpRequest

from gateway.fleet_view import FleetView
from gateway.intake.downloads import Downloads
from gateway.metrics_publisher import MetricsPublisher
from gateway.results.follow import ResultListener
from gateway.store.asset_store import AssetStore
from gateway.submission import Submitter
from gateway.video.profiling import Profiler
from shared.bus.errorbus import ErrorBus
from shared.errors import InvalidParameters, RtEmbedError, Unavailable
from shared.redis.connection import Redis, connect
from shared.redis.ending import end
from shared.settings import Settings


class Context:
    """The gateway's connections, its view of the fleet, and its asset store."""

    def __init__(self, settings: Settings, registry: CollectorRegistry | None = None) -> None:
        self.settings = settings
        self.redis: Redis = connect(settings)
        self.listener = ResultListener(self.redis, settings)
        self.submitter = Submitter(self.redis, settings, self.listener)
        self.view = FleetView(self.redis, settings.model_aliases)
        self.metrics = MetricsPublisher(self.redis, self.view, registry)
        self.errors = ErrorBus(self.redis, settings)
        self.assets = AssetStore(self.redis, settings)
        self.downloads = Downloads(settings, self.assets)
        self.profiler = Profiler(self.redis, self.view, settings)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Run the background tasks that serve all requests; on exit, end them and finish cancellations."""
        async with asyncio.TaskGroup() as group:
            parts = (self.listener, self.view, self.errors, self.assets, self.metrics, self.profiler)
            tasks = [group.create_task(part.run()) for part in parts]
            await self.view.refresh()
            await self.assets.check()
            try:
                yield
            finally:
                await self.submitter.close()
                await end(tasks)
        self.assets.close()
        await self.redis.aclose()

    @contextmanager
    def reported(self, stream_id: str = "") -> Iterator[None]:
        """Send failures inside to the error bus, naming the asset; not InvalidParameters."""
        try:
            yield
        except InvalidParameters:
            raise
        except RtEmbedError as error:
            self.errors.emit(error.message, stream_id=stream_id)
            raise

    def require_service(self) -> None:
        """Raise Unavailable, saying why, if a request sent now would not be served."""
        if problem := self.view.problem:
            raise Unavailable(problem)


def context(request: HttpRequest) -> Context:
    """Return the context of the application that serves `request`."""
    found: Context = request.app.state.context
    return found
