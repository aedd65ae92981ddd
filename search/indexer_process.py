"""An indexer process from its settings to its exit status."""

import asyncio
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import structlog
import uvloop

from search.indexer import Indexer
from shared import settings
from shared.errors import IndexUnusable, SettingsError
from shared.lifecycle.heartbeat import beating
from shared.redis.ending import end
from shared.settings import Settings
from shared.telemetry import export, logs
from shared.telemetry.health_page import HealthPage

log = structlog.get_logger(__name__)

BAD_SETTING = 2
CANNOT_START = 4


async def serve(configuration: Settings) -> None:
    """Run one indexer until SIGTERM or SIGINT. Raises IndexUnusable."""
    measuring = export.configure(configuration)
    indexer = Indexer(configuration, measuring.registry)
    running = asyncio.create_task(indexer.run())
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    waiting = asyncio.create_task(stopping.wait())
    page = HealthPage(measuring.registry, lambda: "", indexer.trouble)
    try:
        async with beating(configuration.stall_timeout), _health_page(configuration, indexer, page):
            await asyncio.wait([running, waiting], return_when=asyncio.FIRST_COMPLETED)
    finally:
        await end([running, waiting])
        await asyncio.to_thread(measuring.close)
    if not running.cancelled():
        running.result()


@asynccontextmanager
async def _health_page(configuration: Settings, indexer: Indexer, page: HealthPage) -> AsyncIterator[None]:
    """Serve /metrics, /live and /ready, if a port is set."""
    if configuration.metrics_port is None:
        yield
        return
    port, close = page.serve(configuration.host, configuration.metrics_port)
    indexer.tell_port(port)
    log.info("health page", port=port)
    try:
        yield
    finally:
        await asyncio.to_thread(close)


def main() -> int:
    """Exit status: 0 after a clean stop, 2 for a bad setting, 4 for a database that cannot hold the index."""
    try:
        configuration = settings.load()
        if configuration.search_url is None:
            raise SettingsError("RTEMBED_SEARCH_URL is unset: give the PostgreSQL that holds the index")
    except SettingsError as error:
        print(f"rt-embed indexer: {error}", file=sys.stderr)
        return BAD_SETTING
    logs.configure(configuration, process="indexer", worker=settings.worker_name(configuration))
    status = 0
    try:
        uvloop.run(serve(configuration))
    except* IndexUnusable as group:
        log.critical("indexer cannot start", error=str(group.exceptions[0]))
        status = CANNOT_START
    return status
