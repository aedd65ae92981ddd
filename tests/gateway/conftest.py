"""A gateway of the tests' own process, for what needs no worker or plays one."""

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import replace
from struct import pack
from typing import Any

import httpx
import pytest
import structlog
import uvicorn
from structlog.testing import LogCapture

from gateway.access.http_server import server_config
from gateway.app import create_app
from gateway.context import Context
from gateway.store.asset_store import AssetStore
from shared import keys, requests
from shared.assets import Asset
from shared.chunks import SECOND
from shared.fleet import Worker, announce
from shared.jobs import from_fields
from shared.keys import Lane
from shared.redis.connection import Redis
from shared.results import Result
from shared.settings import Settings
from tests.support import served_model, stream_entries
from worker.publish.publisher import Publisher

MODEL = served_model(id="null", created=1767000000)


class Gateway:
    """A running gateway: its address, a client, and what is inside."""

    def __init__(self, app: Any, port: int) -> None:
        self.port = port
        self.url = f"http://127.0.0.1:{port}"
        self.client = httpx.AsyncClient(base_url=f"{self.url}/v1", timeout=30)
        self._app = app

    @property
    def context(self) -> Context:
        found: Context = self._app.state.context
        return found


Serve = Callable[[Settings], AbstractAsyncContextManager[Gateway]]


@asynccontextmanager
async def _serve(settings: Settings) -> AsyncIterator[Gateway]:
    app = create_app(settings)
    server = uvicorn.Server(server_config(app, replace(settings, host="127.0.0.1", port=0)))
    serving = asyncio.create_task(server.serve())
    while not server.started:
        assert not serving.done(), serving.result()
        await asyncio.sleep(0.01)
    gateway = Gateway(app, server.servers[0].sockets[0].getsockname()[1])
    try:
        yield gateway
    finally:
        await gateway.client.aclose()
        server.should_exit = True
        await serving


@pytest.fixture
def lines() -> Iterator[list[Any]]:
    """What is logged, with the context of the request."""
    capture = LogCapture()
    before = structlog.get_config()["processors"]
    structlog.configure(processors=[structlog.contextvars.merge_contextvars, capture])
    yield capture.entries
    structlog.configure(processors=before)


@pytest.fixture
def serve() -> Serve:
    """Run a gateway with settings of the test's choice."""
    return _serve


@pytest.fixture
async def worker(redis: Redis) -> Worker:
    """The record of a ready worker; the test does its work."""
    record = Worker(name="w", state="ready", model=MODEL, host="here", pid=os.getpid())
    await announce(redis, record)
    return record


class StandIn:
    """Does a worker's part with results of the test's choice."""

    def __init__(self, redis: Redis, settings: Settings) -> None:
        self._redis, self._settings = redis, settings
        self._publisher = Publisher(redis, settings)
        self._taken: set[bytes] = set()

    async def job(self, lane: Lane = "video") -> Any:
        """The next job of a lane, once there is one."""
        async with asyncio.timeout(20):
            while True:
                stream = keys.jobs(lane, "" if lane == "probe" else MODEL.id)
                for entry_id, fields in await stream_entries(self._redis, stream):
                    if entry_id not in self._taken:
                        self._taken.add(entry_id)
                        return from_fields(fields)
                await asyncio.sleep(0.01)

    async def finish(self, job: Any, *chunks: int) -> None:
        """Publish the vector (chunk, 1, 2, 3) of each chunk."""
        results = [
            Result(chunk=c, vector=pack("<4f", c, 1, 2, 3), start=c * SECOND, end=(c + 1) * SECOND)
            for c in chunks
        ]
        await self._publisher.publish(job, results)

    async def fail(self, job: Any, message: str) -> None:
        """End the job's request with an error."""
        await requests.finish(self._redis, self._settings, requests.request_of(job), requests.failed(message))


@pytest.fixture
def stand_in(redis: Redis, settings: Settings, worker: Worker) -> StandIn:
    """A worker whose work the test does."""
    return StandIn(redis, settings)


@pytest.fixture
async def film(redis: Redis, settings: Settings) -> str:
    """The id of a film of 3 s that has no bytes."""
    store = AssetStore(redis, settings)
    asset = Asset(
        id="123e4567-e89b-12d3-a456-426614174000", path="/nowhere/film.mp4", filename="film.mp4",
        duration=3 * SECOND, frame_rate="30", probed=True,
    )  # fmt: skip
    await store.register(asset)
    store.close()
    return asset.id
