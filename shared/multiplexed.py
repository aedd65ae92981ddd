"""Many commands at a time over one connection to Redis, for what every request and every result asks.

redis-py opens, authenticates and secures the connection, and hiredis writes and reads it. What is left out in
between, a pool and a task switch or more per command, takes several times as long as all the rest
(`python -m tests.bench.redis_calls`).
"""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any, Protocol

import hiredis
from redis.exceptions import (
    BusyLoadingError,
    ConnectionError,  # noqa: A004 - redis-py's names
    MasterDownError,
    NoScriptError,
    ReadOnlyError,
    ResponseError,
    TimeoutError,  # noqa: A004
)

Argument = bytes | str | int | float
Command = tuple[Any, ...]
"""Of Arguments; not said so because hiredis's own type is neither covariant nor complete."""

PAUSES = (0.05, 0.1)
"""Seconds before each further attempt when the connection breaks."""
_NOTHING = object()
_ERRORS: dict[str, type[Exception]] = {
    "LOADING": BusyLoadingError,
    "MASTERDOWN": MasterDownError,
    "NOSCRIPT": NoScriptError,
    "READONLY": ReadOnlyError,
}


class Opener(Protocol):
    """A connection of redis-py that can be handed over."""

    async def connect(self) -> None:
        """Open it. Raises RedisError."""

    async def disconnect(self, nowait: bool = False) -> None:
        """Close it."""

    def hand_over(self) -> asyncio.StreamWriter:
        """It is somebody else's now."""


class Multiplexed:
    """Sends commands as they come and gives each its answer.

    Opens its connection when it is first needed, and again when it has broken; the commands that waited are
    then sent again, so they must do no harm twice.
    """

    def __init__(self, make_connection: Callable[[], Any], timeout: float) -> None:
        self._make_connection: Callable[[], Opener] = make_connection
        self._timeout = timeout
        self._opening = asyncio.Lock()
        self._replies: Replies | None = None

    async def call(self, *command: Argument) -> Any:
        """The answer, strings as bytes. Raises ResponseError, ConnectionError, TimeoutError of redis-py."""
        for pause in PAUSES:
            replies = await self._connected()
            try:
                return await replies.to(command)
            except (ConnectionError, TimeoutError):
                await asyncio.sleep(pause)
        return await (await self._connected()).to(command)

    async def _connected(self) -> "Replies":
        if self._replies is None or self._replies.closed:
            return await self._open()
        return self._replies

    async def _open(self) -> "Replies":
        async with self._opening:
            if self._replies is None or self._replies.closed:
                connection = self._make_connection()
                try:
                    await connection.connect()
                    self._replies = Replies(connection.hand_over(), self._timeout)
                except BaseException:
                    await connection.disconnect(nowait=True)
                    raise
            return self._replies

    def close(self) -> None:
        """Close the connection. Commands that wait raise ConnectionError."""
        if self._replies:
            self._replies.close()


class Replies(asyncio.Protocol):
    """The answers of one connection, in the order of its commands."""

    def __init__(self, writer: asyncio.StreamWriter, timeout: float) -> None:
        self.closed = False
        self._loop = asyncio.get_running_loop()
        self._timeout = timeout
        self._waiting: deque[tuple[float, asyncio.Future[Any]]] = deque()
        self._watch: asyncio.TimerHandle | None = None
        self._reader = hiredis.Reader(replyError=_error, notEnoughData=_NOTHING)
        self._writer = writer  # which would close the transport if it went
        self._transport = writer.transport
        self._transport.set_protocol(self)

    def to(self, command: Command) -> asyncio.Future[Any]:
        """Send a command; its answer."""
        future: asyncio.Future[Any] = self._loop.create_future()
        self._transport.write(hiredis.pack_command(command))
        self._waiting.append((self._loop.time(), future))
        if self._watch is None:
            self._watch = self._loop.call_later(self._timeout, self._look)
        return future

    def close(self, error: Exception | None = None) -> None:
        """Close the connection. Commands that wait raise `error`, or ConnectionError."""
        if self.closed:
            return
        self.closed = True
        if self._watch:
            self._watch.cancel()
        self._transport.abort()
        while self._waiting:
            _, future = self._waiting.popleft()
            if not future.done():
                future.set_exception(error or ConnectionError("the connection to Redis was closed"))

    def data_received(self, data: bytes) -> None:
        """Give answers to whom they belong."""
        self._reader.feed(data)
        while (answer := self._reader.gets()) is not _NOTHING:
            _, future = self._waiting.popleft()
            if future.done():  # nobody waits any more
                continue
            if isinstance(answer, Exception):
                future.set_exception(answer)
            else:
                future.set_result(answer)

    def connection_lost(self, error: Exception | None) -> None:
        """The server has gone."""
        self.close(ConnectionError(f"the connection to Redis was lost: {error or 'closed by the server'}"))

    def _look(self) -> None:
        """Whether the command that has waited longest has waited too long."""
        self._watch = None
        if self._waiting:
            left = self._waiting[0][0] + self._timeout - self._loop.time()
            if left <= 0:
                self.close(TimeoutError(f"Redis did not answer within {self._timeout:g} s"))
            else:
                self._watch = self._loop.call_later(left, self._look)


def _error(message: str) -> Exception:
    kind, _, _ = message.partition(" ")
    return _ERRORS.get(kind, ResponseError)(message)
