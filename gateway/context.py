"""What every endpoint works with: connections, views and stores, owned by the application."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from importlib.util import find_spec
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry
from starlette.requests import Request as HttpRequest

from gateway.fleet_view import FleetView
from gateway.intake.downloads import Downloads
from gateway.intake.http_source import HttpNetwork
from gateway.metrics_publisher import MetricsPublisher
from gateway.results.follow import ResultListener
from gateway.store.asset_store import AssetStore
from gateway.submission import Submitter
from gateway.video.profiling import Profiler
from shared.bus.errorbus import ErrorBus
from shared.errors import InvalidParameters, NotSupported, RtEmbedError, SettingsError, Unavailable
from shared.redis.connection import Redis, connect
from shared.redis.ending import end
from shared.settings import Settings

if TYPE_CHECKING:
    from gateway.search.search_index import SearchIndex
    from gateway.triggers.trigger_store import TriggerStore
    from gateway.triggers.webhooks import Webhooks

NO_INDEX = (
    "this service has no search index: start it with `rt-embed up --search`, or set RTEMBED_SEARCH_URL to a "
    "PostgreSQL with pgvector for gateways and run `rt-embed indexer`"
)


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
        network = HttpNetwork()
        self.downloads = Downloads(settings, self.assets, network)
        self.profiler = Profiler(self.redis, self.view, settings)
        self._index = _open_index(self.redis, settings)
        self._triggers, self._webhooks = _open_triggers(self._index, settings, self.errors, network)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Run the background tasks that serve all requests; on exit, end them and finish cancellations."""
        async with asyncio.TaskGroup() as group:
            parts = (self.listener, self.view, self.errors, self.assets, self.metrics, self.profiler)
            tasks = [group.create_task(part.run()) for part in parts]
            if self._index:
                tasks.append(group.create_task(self._index.run()))
            if self._webhooks:
                tasks.append(group.create_task(self._webhooks.run()))
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

    @property
    def index(self) -> "SearchIndex":
        """The search index. Raises NotSupported where there is none."""
        if self._index is None:
            raise NotSupported(NO_INDEX)
        return self._index

    @property
    def triggers(self) -> "TriggerStore":
        """The triggers, which the search index holds. Raises NotSupported where there is none."""
        if self._triggers is None:
            raise NotSupported(NO_INDEX)
        return self._triggers

    @property
    def webhooks(self) -> "Webhooks":
        """What sends events of triggers. Raises NotSupported where there is no index."""
        if self._webhooks is None:
            raise NotSupported(NO_INDEX)
        return self._webhooks

    def require_service(self) -> None:
        """Raise Unavailable, saying why, if a request sent now would not be served."""
        if problem := self.view.problem:
            raise Unavailable(problem)


def require_packages(settings: Settings) -> None:
    """Raise SettingsError if the settings ask for an index and its packages are missing."""
    missing = [name for name in ("psycopg", "psycopg_pool", "pgvector") if find_spec(name) is None]
    if settings.search_url and missing:
        raise SettingsError(
            f"RTEMBED_SEARCH_URL needs the extra [search] ({', '.join(missing)} not installed): "
            "pip install 'rt-embed[search]'"
        )


def _open_index(redis: Redis, settings: Settings) -> "SearchIndex | None":
    if settings.search_url is None:
        return None
    # Only who has an index needs its packages.
    from gateway.search.search_index import SearchIndex  # noqa: PLC0415

    return SearchIndex(redis, settings)


def _open_triggers(
    index: "SearchIndex | None", settings: Settings, errors: ErrorBus, network: HttpNetwork
) -> "tuple[TriggerStore | None, Webhooks | None]":
    if index is None:
        return None, None
    from gateway.triggers.trigger_store import TriggerStore  # noqa: PLC0415 - as above
    from gateway.triggers.webhooks import Webhooks  # noqa: PLC0415 - as above

    return TriggerStore(index), Webhooks(index, settings, errors, network)


def context(request: HttpRequest) -> Context:
    """Return the context of the application that serves `request`."""
    found: Context = request.app.state.context
    return found
