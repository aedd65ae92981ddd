"""A gateway of the tests' own process, for what needs no worker or plays one."""

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import httpx
import pytest
import uvicorn

from gateway.app import create_app
from gateway.context import Context
from shared.fleet import Model, Worker, announce
from shared.redis import Redis
from shared.settings import Settings

MODEL = Model(
    id="null", owned_by="tests", api_type="custom", dimension=4, frames=8, supports_text=True, verified=True,
    created=1767000000,
)  # fmt: skip


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
    server = uvicorn.Server(
        uvicorn.Config(app, host="127.0.0.1", port=0, http="httptools", log_config=None, access_log=False)
    )
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
def serve() -> Serve:
    """Run a gateway with settings of the test's choice."""
    return _serve


@pytest.fixture
async def worker(redis: Redis) -> Worker:
    """The record of a ready worker; the test does its work."""
    record = Worker(name="w", state="ready", model=MODEL, host="here", pid=os.getpid())
    await announce(redis, record)
    return record
