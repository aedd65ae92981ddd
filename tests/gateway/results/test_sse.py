"""Event streams over real connections of a real server."""

import asyncio
import socket
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import httpx
import msgspec
import pytest
import uvicorn
from starlette.types import Message, Receive, Scope, Send

from gateway.results import sse
from gateway.results.sse import DONE, EventStream, event
from tests.support import until


class Ticker:
    """Events that a test lets go one by one, and whether their generator was closed."""

    def __init__(self) -> None:
        self.queue: asyncio.Queue[bytes | Exception | None] = asyncio.Queue()
        self.closed = False
        self.released = False

    async def events(self) -> AsyncGenerator[bytes, None]:
        try:
            while (item := await self.queue.get()) is not None:
                if isinstance(item, Exception):
                    raise item
                yield item
        finally:
            self.closed = True

    def held(self) -> AsyncExitStack:
        stack = AsyncExitStack()
        stack.callback(lambda: setattr(self, "released", True))
        return stack


@asynccontextmanager
async def serving(respond: Callable[[], EventStream]) -> AsyncIterator[int]:
    """Answer every request with what `respond` makes; gives the port."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await respond()(scope, receive, send)

    config = uvicorn.Config(
        app, host="127.0.0.1", port=0, http="httptools", lifespan="off", log_config=None, access_log=False
    )
    server = uvicorn.Server(config)
    running = asyncio.create_task(server.serve())
    await until(lambda: server.started)
    try:
        yield server.servers[0].sockets[0].getsockname()[1]
    finally:
        server.should_exit = server.force_exit = True
        await running


@pytest.fixture
def ticker() -> Ticker:
    return Ticker()


@pytest.fixture
async def port(ticker: Ticker) -> AsyncIterator[int]:
    async with serving(lambda: EventStream(ticker.events(), ticker.held())) as found:
        yield found


async def opened(port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200")
    return reader, writer


def test_an_event_is_a_data_line() -> None:
    assert event(DONE) == b"data: [DONE]\r\n\r\n"
    assert event({"text": "a\nü"}) == 'data: {"text":"a\\nü"}\r\n\r\n'.encode()


async def test_a_stream_is_sent_as_it_grows_and_ends(port: int, ticker: Ticker) -> None:
    async with httpx.AsyncClient() as client, client.stream("GET", f"http://127.0.0.1:{port}") as answer:
        assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
        assert answer.headers["cache-control"] == "no-cache"
        assert answer.headers["x-accel-buffering"] == "no"
        assert "content-length" not in answer.headers
        lines = answer.aiter_lines()
        for number in (1, 2):
            ticker.queue.put_nowait(event({"n": number}))
            assert await anext(lines) == f'data: {{"n":{number}}}'
            assert await anext(lines) == ""
        ticker.queue.put_nowait(event(DONE))
        ticker.queue.put_nowait(None)
        assert [line async for line in lines if line and not line.startswith(":")] == ["data: [DONE]"]
    await until(lambda: ticker.closed and ticker.released)


async def test_pings_fill_the_silence(port: int, ticker: Ticker, monkeypatch: pytest.MonkeyPatch) -> None:
    assert sse.PING_INTERVAL == 1
    monkeypatch.setattr(sse, "PING_INTERVAL", 0.02)
    async with httpx.AsyncClient() as client, client.stream("GET", f"http://127.0.0.1:{port}") as answer:
        lines = answer.aiter_lines()
        for _ in range(3):
            assert (await anext(lines)).startswith(": ping - 20")
            assert await anext(lines) == ""
        ticker.queue.put_nowait(event("x"))
        ticker.queue.put_nowait(None)
        assert [line async for line in lines if line.startswith("data")] == ["data: x"]


async def test_no_ping_follows_the_end(ticker: Ticker, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that is due while the last piece is being sent must not be sent after it."""
    monkeypatch.setattr(sse, "PING_INTERVAL", 0.001)
    ticker.queue.put_nowait(None)
    sent: list[bool] = []

    async def send(message: Message) -> None:
        last = not message.get("more_body", True)
        await asyncio.sleep(0.05 if last else 0)  # a ping is waiting for its turn by then
        sent.append(last)

    await EventStream(ticker.events(), ticker.held())({"type": "http"}, asyncio.Event().wait, send)  # type: ignore[arg-type]
    assert sent[-1]
    assert sent.count(True) == 1


async def test_a_client_that_goes_closes_the_events(port: int, ticker: Ticker) -> None:
    _, writer = await opened(port)
    ticker.queue.put_nowait(event("x"))
    writer.close()
    await writer.wait_closed()
    await until(lambda: ticker.closed and ticker.released, 5)


async def test_a_reader_that_is_too_slow_is_let_go(
    port: int, ticker: Ticker, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert sse.SEND_TIMEOUT == 5
    monkeypatch.setattr(sse, "SEND_TIMEOUT", 0.2)
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.setblocking(False)
        loop = asyncio.get_running_loop()
        await loop.sock_connect(connection, ("127.0.0.1", port))
        await loop.sock_sendall(connection, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        for _ in range(200):
            ticker.queue.put_nowait(event("x" * 100_000))
        await until(lambda: ticker.closed and ticker.released)
        assert ticker.queue.qsize() > 0


async def test_a_slow_reader_that_keeps_reading_is_served(
    port: int, ticker: Ticker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sse, "SEND_TIMEOUT", 5)
    reader, writer = await opened(port)
    for _ in range(20):
        ticker.queue.put_nowait(event("y" * 100_000))
    ticker.queue.put_nowait(None)
    received = bytearray()
    while not received.endswith(b"0\r\n\r\n"):
        received += await reader.read(32_768)
        await asyncio.sleep(0.001)
    assert received.count(b"y") == 2_000_000
    writer.close()
    await writer.wait_closed()


async def test_a_failure_in_the_middle_cuts_the_connection(port: int, ticker: Ticker) -> None:
    """A client must not take what came so far for the whole."""
    reader, writer = await opened(port)
    ticker.queue.put_nowait(event("x"))
    ticker.queue.put_nowait(RuntimeError("broken"))
    rest = await reader.read()
    assert b"data: x" in rest
    assert not rest.endswith(b"0\r\n\r\n")
    writer.close()
    await writer.wait_closed()
    assert ticker.closed
    assert ticker.released


async def test_the_watch_ends_the_stream(ticker: Ticker) -> None:
    stop = asyncio.Event()
    async with serving(lambda: EventStream(ticker.events(), ticker.held(), stop.wait)) as port:
        _, writer = await opened(port)
        assert not ticker.closed
        stop.set()
        await until(lambda: ticker.closed and ticker.released)
        writer.close()
        await writer.wait_closed()


async def test_events_are_closed_though_nothing_could_be_sent(ticker: Ticker) -> None:
    async def send(message: Any) -> None:
        raise OSError("gone")

    async def receive() -> Any:
        await asyncio.Event().wait()

    await EventStream(ticker.events(), ticker.held())({"type": "http"}, receive, send)
    assert ticker.released


def test_values_are_encoded_as_clients_know_them() -> None:
    class Thing(msgspec.Struct):
        a: int | None = None

    assert event(Thing()) == b'data: {"a":null}\r\n\r\n'
