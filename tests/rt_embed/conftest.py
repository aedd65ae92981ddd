"""Both clients, driven alike, on a running service, and a connection that breaks where a test wants it."""

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from anyio.from_thread import BlockingPortal, start_blocking_portal

from rt_embed import AsyncClient, Client
from tests.e2e.conftest import Stack
from tests.e2e.media import colour_film
from tests.support import RedisServer, free_port


class Awaited:
    """An object of the asynchronous client, with methods that wait."""

    def __init__(self, portal: BlockingPortal, inner: Any) -> None:
        self._portal, self._inner = portal, inner

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._inner, "aclose" if name == "close" else name)
        if name in {"embed_video", "live", "matches"}:
            return lambda *args, **kwargs: Awaited(self._portal, found(*args, **kwargs))
        if callable(found):
            return lambda *args, **kwargs: self._portal.call(lambda: found(*args, **kwargs))
        return Awaited(self._portal, found) if name in {"files", "streams", "triggers"} else found

    def __iter__(self) -> Iterator[Any]:
        while True:
            try:
                yield self._portal.call(self._inner.__anext__)
            except StopAsyncIteration:
                return

    def __next__(self) -> Any:
        return self._portal.call(self._inner.__anext__)


Connect = Callable[..., Any]


@pytest.fixture(params=["sync", "async"])
def connect(request: pytest.FixtureRequest) -> Iterator[Connect]:
    """Makes a client of each kind; all are closed at the end."""
    with ExitStack() as stack:
        portal = stack.enter_context(start_blocking_portal()) if request.param == "async" else None

        def make(url: str, **options: Any) -> Any:
            client: Any
            if portal is None:
                client = Client(url, **options)
            else:
                client = Awaited(portal, AsyncClient(url, **options))
            stack.callback(client.close)
            return client

        yield make


@pytest.fixture(scope="module")
def service(valkey: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A running service with one worker."""
    stack = Stack(tmp_path_factory.mktemp("service"), f"redis://127.0.0.1:{valkey.port}/2")
    try:
        stack.start()
        yield stack
    finally:
        stack.stop()


@contextmanager
def serve(handler: type[BaseHTTPRequestHandler]) -> Iterator[str]:
    """An HTTP server of a test's own for as long as the context lasts; gives its address."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture(scope="module")
def colours(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """25 s of H.264; each 5 s have a colour of their own."""
    return colour_film(tmp_path_factory.mktemp("film") / "film.mp4")


class Wire:
    """A TCP proxy in front of the service, which cuts answers off after so many bytes."""

    def __init__(self, port: int) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.connections = 0
        self.cuts: list[int] = []
        """Bytes of answer after which each of the next connections breaks; none: they hold."""
        self._target = port
        self._server = socket.create_server(("127.0.0.1", self.port))
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._server.accept()
                self.connections += 1
                left = self.cuts.pop(0) if self.cuts else None
                server = socket.create_connection(("127.0.0.1", self._target))
                threading.Thread(target=self._pump, args=(client, server, None), daemon=True).start()
                threading.Thread(target=self._pump, args=(server, client, left), daemon=True).start()

    @staticmethod
    def _pump(source: socket.socket, target: socket.socket, left: int | None) -> None:
        with suppress(OSError):
            while left != 0:
                data = source.recv(65536 if left is None else min(left, 65536))
                if not data:
                    break
                target.sendall(data)
                left = None if left is None else left - len(data)
        for end in (source, target):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()

    def close(self) -> None:
        self._server.close()


@pytest.fixture
def wire(service: Stack) -> Iterator[Wire]:
    proxy = Wire(service.port)
    yield proxy
    proxy.close()
