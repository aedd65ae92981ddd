"""Connections that cost too much are closed, and others go on meanwhile. Most tests attack over a socket."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from ipaddress import ip_network

import pytest

from gateway.access import http_protocol
from shared.settings import Settings
from tests.gateway.conftest import Gateway, Serve

GET = b"GET /v1/version HTTP/1.1\r\nHost: localhost\r\n"
POST = b"POST /v1/generate_text_embeddings HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
QUICK = 0.3
"""Seconds for a head, and the time over which a body's rate is taken."""


class Connection:
    """A client of raw bytes."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    def send(self, data: bytes) -> None:
        self._writer.write(data)

    async def pour(self, data: bytes, most: int) -> int:
        """Send `data` again and again until the other side closes; how many bytes went."""
        sent = 0
        try:
            while sent < most:
                self._writer.write(data)
                await self._writer.drain()
                sent += len(data)
        except ConnectionError:
            pass
        return sent

    async def status(self) -> int:
        """The status of the next response, whose body is left; 0 if the connection ends without one."""
        try:
            line = await self._reader.readline()
        except ConnectionError:
            return 0
        return int(line.split()[1]) if line else 0

    async def read(self, size: int) -> bytes:
        return await self._reader.readexactly(size)

    async def ended(self) -> bytes:
        """What comes until the other side closes."""
        try:
            return await self._reader.read(-1)
        except ConnectionError:
            return b""

    async def close(self) -> None:
        self._writer.close()


@asynccontextmanager
async def connected(gateway: Gateway) -> AsyncIterator[Connection]:
    connection = Connection(*await asyncio.open_connection("127.0.0.1", gateway.port))
    try:
        async with asyncio.timeout(20):
            yield connection
    finally:
        await connection.close()


@pytest.fixture
async def gateway(serve: Serve, settings: Settings) -> AsyncIterator[Gateway]:
    async with serve(replace(settings, header_timeout=QUICK)) as running:
        yield running


async def alive(gateway: Gateway) -> float:
    """How long the service takes to say that it lives."""
    began = time.monotonic()
    assert (await gateway.client.get("/live")).status_code == 200
    return time.monotonic() - began


@pytest.mark.parametrize(
    "head",
    [
        GET + b"X-Endless: ",
        GET + b"X-Y",
        GET + b"A: 1\r\n" * 100,
        POST + b"Transfer-Encoding: chunked\r\n\r\n1\r\n{\r\n0\r\nX-Trailer: ",
        POST + b"Transfer-Encoding: chunked\r\n\r\n1;extension=",
        b"\r\n",
    ],
    ids=["value", "name", "many", "trailer", "chunk extension", "nothing"],
)
async def test_an_endless_head_is_refused_after_its_limit(
    serve: Serve, settings: Settings, head: bytes
) -> None:
    """60 MiB of one header once kept the event loop busy for 16 s."""
    piece = b"\r\n" * 512 if head == b"\r\n" else b"A: 1\r\n" * 200 if b"A: 1" in head else b"x" * 1024
    async with serve(settings) as gateway, connected(gateway) as connection:
        connection.send(head)
        sent = await connection.pour(piece, 60 << 20)
        assert sent < 8 << 20, "what the system has buffered, no more"
        assert await alive(gateway) < 1


async def test_what_a_head_may_hold_and_what_not(gateway: Gateway) -> None:
    async def answer(request: bytes) -> int:
        async with connected(gateway) as connection:
            connection.send(request)
            return await connection.status()

    assert await answer(GET + b"X: " + b"x" * 15_000 + b"\r\n\r\n") == 200
    assert await answer(GET + b"X: " + b"x" * 17_000 + b"\r\n\r\n") == 431
    assert await answer(GET + b"X: " + b"x" * 17_000) == 431
    assert await answer(GET + b"A: 1\r\n" * 90 + b"\r\n") == 200
    assert await answer(GET + b"A: 1\r\n" * 110 + b"\r\n") == 431
    assert await answer(b"GET /v1/version?" + b"x" * 8_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n") == 200
    assert await answer(b"GET /v1/version?" + b"x" * 9_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n") == 414
    assert await answer(b"GET /v1/version?" + b"x" * 17_000) == 414
    assert await answer(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03") == 400


async def test_refusals_are_explained_like_all_others(gateway: Gateway) -> None:
    async with connected(gateway) as connection:
        connection.send(GET + b"X: " + b"x" * 17_000)
        head, _, body = (await connection.ended()).partition(b"\r\n\r\n")
    assert b"content-type: application/json" in head
    assert b"\r\nx-request-id: " in head
    assert json.loads(body)["code"] == "RequestHeadersTooLarge"


@pytest.mark.parametrize(
    ("rest", "status"),
    [(b"X: \x7f\r\n\r\n", 400), (b"X: " + b"x" * 17_000 + b"\r\n\r\n", 431), (b"X: ", 408)],
)
async def test_a_refusal_is_told_also_after_a_body_that_nobody_waited_for(
    gateway: Gateway, rest: bytes, status: int
) -> None:
    """The end of one request and what is wrong with the next may arrive together."""
    async with connected(gateway) as connection:
        connection.send(b"POST /v1/nowhere HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\r\n")
        assert await connection.status() == 404
        while await connection._reader.readline() != b"\r\n":
            pass
        await connection.read(len(b'{"detail":"Not Found"}'))
        connection.send(b"{}" + GET + rest)
        assert await connection.status() == status


@pytest.mark.parametrize(
    ("begin", "status"),
    [
        (b"", 0),
        (b"GET", 408),
        (GET, 408),
        (GET + b"X-Header: val", 408),
        (POST + b"Content-Length: 100\r\n\r\n", 408),
        (POST + b"Content-Length: 100\r\n\r\n{", 408),
        (POST + b"Transfer-Encoding: chunked\r\n\r\n5\r\n{", 408),
    ],
)
async def test_a_request_that_stops_in_the_middle_is_given_up(
    gateway: Gateway, begin: bytes, status: int
) -> None:
    """Connections that had sent half a head once stayed for minutes."""
    async with connected(gateway) as connection:
        connection.send(begin)
        assert await connection.status() == status
        await connection.ended()


async def test_sixty_half_open_connections_are_closed(gateway: Gateway) -> None:
    async def wait() -> None:
        async with connected(gateway) as connection:
            connection.send(GET)
            await connection.ended()

    await asyncio.gather(*(wait() for _ in range(60)))


async def test_a_head_that_comes_letter_by_letter_has_no_more_time(gateway: Gateway) -> None:
    async with connected(gateway) as connection:
        connection.send(GET + b"X-Slow: ")
        answer = asyncio.create_task(connection.status())
        while not answer.done():
            connection.send(b"x")
            await asyncio.sleep(0.02)
        assert answer.result() == 408


async def test_a_body_has_a_least_rate(serve: Serve, settings: Settings) -> None:
    limited = replace(settings, header_timeout=QUICK, least_body_rate=1000)
    async with serve(limited) as gateway, connected(gateway) as connection:
        connection.send(POST + b"Content-Length: 100000\r\n\r\n")
        answer = asyncio.create_task(connection.status())
        while not answer.done():
            connection.send(b"{")
            await asyncio.sleep(0.02)
        assert answer.result() == 408


@pytest.mark.usefixtures("worker")
async def test_a_body_that_keeps_the_rate_may_take_its_time(serve: Serve, settings: Settings) -> None:
    limited = replace(settings, header_timeout=QUICK, least_body_rate=10)
    body = b'{"model": "null", "text_input": []' + b" " * 60 + b"}"
    async with serve(limited) as gateway, connected(gateway) as connection:
        connection.send(POST + b"Content-Length: %d\r\n\r\n" % len(body))
        for start in range(0, len(body), 4):
            connection.send(body[start : start + 4])
            await asyncio.sleep(4 * QUICK / len(body) * 4)
        assert await connection.status() in (200, 400, 422)


async def test_the_rest_of_a_body_that_was_refused_is_not_awaited(gateway: Gateway) -> None:
    async with connected(gateway) as connection:
        connection.send(b"POST /v1/nowhere HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000\r\n\r\n")
        assert await connection.status() == 404
        assert await connection.pour(b"x" * 100, 1 << 30) < 1 << 30


async def test_only_so_many_requests_wait_on_one_connection(gateway: Gateway) -> None:
    async with connected(gateway) as connection:
        connection.send((GET + b"\r\n") * 3000)
        answers = await connection.ended()
    assert answers.count(b"HTTP/1.1 200") <= http_protocol.MOST_PIPELINED + 1


async def test_a_few_requests_may_be_sent_ahead(gateway: Gateway) -> None:
    async with connected(gateway) as connection:
        connection.send((GET + b"\r\n") * 4 + GET + b"Connection: close\r\n\r\n")
        answers = await connection.ended()
    assert answers.count(b"HTTP/1.1 200") == 5


async def test_a_connection_may_be_used_again_and_again(gateway: Gateway) -> None:
    async with connected(gateway) as connection:
        for _ in range(4):
            connection.send(GET + b"\r\n")
            assert await connection.status() == 200
            while await connection._reader.readline() != b"\r\n":
                pass
            await connection.read(len(b'{"release":"3.2.0","api":"3.1.0"}'))
            await asyncio.sleep(QUICK * 0.7)


async def test_a_client_that_does_not_read_is_given_up(
    serve: Serve, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_protocol, "STALLED_SECONDS", QUICK)
    request = b"GET /openapi.json HTTP/1.1\r\nHost: localhost\r\n\r\n"
    async with serve(settings) as gateway, connected(gateway) as connection:
        assert await connection.pour(request * 8, 1 << 30) < 1 << 30


async def test_connections_per_address_have_a_limit_if_one_is_set(serve: Serve, settings: Settings) -> None:
    limited = replace(settings, connections_per_address=3)
    async with serve(limited) as gateway, connected(gateway) as one, connected(gateway), connected(gateway):
        async with connected(gateway) as fourth:
            assert await fourth.status() == 429
            await fourth.ended()
        one.send(GET + b"Connection: close\r\n\r\n")
        assert (await one.ended()).startswith(b"HTTP/1.1 200")
        async with connected(gateway) as fifth:
            fifth.send(GET + b"\r\n")
            assert await fifth.status() == 200


async def test_connections_of_a_trusted_proxy_are_not_counted(serve: Serve, settings: Settings) -> None:
    trusted = replace(settings, connections_per_address=1, trusted_proxies=(ip_network("127.0.0.0/8"),))
    async with serve(trusted) as gateway, connected(gateway), connected(gateway) as second:
        second.send(GET + b"\r\n")
        assert await second.status() == 200


async def test_requests_with_a_limit_left_out_go_on(serve: Serve, settings: Settings) -> None:
    unlimited = replace(settings, header_timeout=QUICK, least_body_rate=0)
    async with serve(unlimited) as gateway, connected(gateway) as connection:
        connection.send(POST + b"Content-Length: 2\r\n\r\n{")
        await asyncio.sleep(3 * QUICK)
        connection.send(b"}")
        assert await connection.status() == 422
