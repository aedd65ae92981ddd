"""A client that costs little: a few requests again and again over kept-alive connections."""

import asyncio
import itertools
import time
from collections.abc import Iterator, Sequence
from typing import cast

import msgspec
import uvloop


class Load(msgspec.Struct, frozen=True):
    """Answers a second, and milliseconds: median, 99th percentile, largest."""

    rate: float
    p50: float
    p99: float
    largest: float


class _Connection(asyncio.Protocol):
    """Sends a request, reads the answer to its Content-Length, and sends the next."""

    def __init__(
        self, requests: Iterator[bytes], until: float, times: list[float], done: asyncio.Event
    ) -> None:
        self._requests, self._until, self._times, self._done = requests, until, times, done
        self._buffer = b""
        self._missing = -1

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is none by its bases
        self._send()

    def data_received(self, data: bytes) -> None:
        if self._missing < 0:
            self._buffer += data
            head, found, rest = self._buffer.partition(b"\r\n\r\n")
            if not found:
                return
            if not head.startswith(b"HTTP/1.1 200"):
                raise RuntimeError(self._buffer[:500].decode(errors="replace"))
            length = next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
            self._missing = int(length[15:]) - len(rest)
        else:
            self._missing -= len(data)
        if self._missing == 0:
            now = time.perf_counter()
            self._times.append(now - self._began)
            if now < self._until:
                self._send()
            else:
                self._transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self._done.set()

    def _send(self) -> None:
        self._buffer, self._missing, self._began = b"", -1, time.perf_counter()
        self._transport.write(next(self._requests))


def load(port: int, path: str, bodies: Sequence[bytes], clients: int, seconds: float) -> Load:
    """Ask for `seconds` with so many clients, each of which waits for its answer and then takes the next of
    the `bodies`, the first again after the last."""

    async def run() -> list[float]:
        head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        requests = itertools.cycle(
            f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body for body in bodies
        )
        until, times = time.perf_counter() + seconds, list[float]()
        ends = [asyncio.Event() for _ in range(clients)]
        for end in ends:
            await asyncio.get_running_loop().create_connection(
                lambda end=end: _Connection(requests, until, times, end),  # type: ignore[misc]
                "127.0.0.1",
                port,
            )
        for end in ends:
            await end.wait()
        return times

    times = sorted(uvloop.run(run()))
    milliseconds = [round(1000 * value, 2) for value in times]
    at = len(times) - 1
    return Load(
        round(len(times) / seconds, 1), milliseconds[at // 2], milliseconds[at * 99 // 100], milliseconds[at]
    )
