"""Many commands at a time over one connection to Redis, for what every request and every result asks; and
pub/sub over another.

redis-py opens, authenticates and secures the connection, and hiredis writes and reads it. What is left out in
between, a pool and a task switch or more per command, takes twice the processor time of all the rest
(`python -m tests.bench.redis_calls`).
"""

import asyncio
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, Protocol

import hiredis
from redis.exceptions import ConnectionError, TimeoutError  # noqa: A004 - redis-py's names

from shared.redis.failures import NotPrimary, error_of
from shared.redis.primary import FixedPrimary

Argument = bytes | str | int | float
Command = tuple[Any, ...]
"""Of Arguments; not said so because hiredis's own type is neither covariant nor complete."""

PAUSES = (0.05, 0.1)
"""Seconds before each further attempt when the connection breaks."""
_NOTHING = object()


class Opener(Protocol):
    """A connection of redis-py that can be handed over."""

    primary: FixedPrimary
    epoch: int

    @property
    def stale(self) -> bool:
        """Whether it leads to where the primary was."""

    async def connect(self) -> None:
        """Open it. Raises RedisError."""

    async def disconnect(self, nowait: bool = False) -> None:
        """Close it."""

    def hand_over(self) -> asyncio.StreamWriter:
        """Detach it: another owner closes it."""


class Multiplexed:
    """Sends commands as they come and gives each its answer.

    Opens its connection when it is first needed, and again when it has broken; the commands that waited are
    then sent again, so they must be safe to repeat.
    """

    def __init__(self, make_connection: Callable[[], Any], timeout: float) -> None:
        self._make_connection = make_connection
        self._timeout = timeout
        self._opening: asyncio.Task[Replies] | None = None
        self._replies: Replies | None = None

    async def call(self, *command: Argument) -> Any:
        """Return the answer, strings as bytes. Raises ResponseError, ConnectionError, TimeoutError of
        redis-py."""
        for pause in PAUSES:
            replies = await self._connected()
            try:
                return await replies.to(command)
            except (ConnectionError, TimeoutError):
                await asyncio.sleep(pause)
        return await (await self._connected()).to(command)

    async def _connected(self) -> "Replies":
        if self._replies and self._replies.stale:
            self._replies.close(NotPrimary("the primary has moved"))
        if self._replies and not self._replies.closed:
            return self._replies
        if self._opening is None:
            self._opening = asyncio.create_task(self._open())
            self._opening.add_done_callback(self._opened)
        opening = self._opening
        await asyncio.wait([opening])
        if opening.cancelled():
            raise _lost(None)
        return opening.result()

    async def _open(self) -> "Replies":
        self._replies = Replies(await _opened(self._make_connection), self._timeout)
        return self._replies

    def _opened(self, opening: "asyncio.Task[Replies]") -> None:
        """All waiting callers share one attempt to connect, even a failed one."""
        self._opening = None
        if not opening.cancelled():
            opening.exception()  # nobody may be waiting any more

    def close(self) -> None:
        """Close the connection. Commands that wait raise ConnectionError."""
        if self._opening:
            self._opening.cancel()
        if self._replies:
            self._replies.close()


class Replies(asyncio.Protocol):
    """The answers of one connection, in the order of its commands."""

    def __init__(self, connection: Opener, timeout: float) -> None:
        self.closed = False
        self._connection = connection
        self._loop = asyncio.get_running_loop()
        self._timeout = timeout
        self._waiting: deque[tuple[float, asyncio.Future[Any]]] = deque()
        self._unsent: list[bytes] = []
        self._watch: asyncio.TimerHandle | None = None
        self._reader = hiredis.Reader(replyError=error_of, notEnoughData=_NOTHING)
        self._writer = connection.hand_over()  # which would close the transport if it went
        self._transport = self._writer.transport
        _give(self._transport, self)

    @property
    def stale(self) -> bool:
        """Whether the primary is elsewhere by now."""
        return not self.closed and self._connection.stale

    def to(self, command: Command) -> asyncio.Future[Any]:
        """Send a command; its answer. Raises ConnectionError once the connection is closed."""
        if self.closed:
            raise _lost(None)
        future: asyncio.Future[Any] = self._loop.create_future()
        if not self._unsent:
            self._loop.call_soon(self._send)
        self._unsent.append(hiredis.pack_command(command))
        self._waiting.append((self._loop.time(), future))
        if self._watch is None:
            self._watch = self._loop.call_later(self._timeout, self._look)
        return future

    def _send(self) -> None:
        """Write the commands of one turn of the event loop together: a write costs more than a command."""
        unsent, self._unsent = self._unsent, []
        if self.closed:
            return
        try:
            self._transport.write(b"".join(unsent))
        except RuntimeError as error:  # uvloop, when the server has just reset the connection
            self.close(_lost(error))

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
        """Give each answer to the command that waits for it."""
        self._reader.feed(data)
        while (answer := self._reader.gets()) is not _NOTHING:
            if isinstance(answer, NotPrimary):
                self._connection.primary.disown(self._connection.epoch)
                self.close(answer)
                return
            _, future = self._waiting.popleft()
            if future.done():  # nobody waits any more
                continue
            if isinstance(answer, Exception):
                future.set_exception(answer)
            else:
                future.set_result(answer)

    def connection_lost(self, error: Exception | None) -> None:
        """The server has closed the connection."""
        self.close(_lost(error))

    def _look(self) -> None:
        """Whether the command that has waited longest has waited too long."""
        self._watch = None
        if self._waiting:
            left = self._waiting[0][0] + self._timeout - self._loop.time()
            if left <= 0:
                self.close(TimeoutError(f"Redis did not answer within {self._timeout:g} s"))
            else:
                self._watch = self._loop.call_later(left, self._look)


class Channels(asyncio.Protocol):
    """Pub/sub over one connection: `heard` is called, in the event loop, with what comes from the channels:
    kind (`message`, `subscribe`, `unsubscribe`), channel, and payload."""

    def __init__(
        self,
        make_connection: Callable[[], Any],
        timeout: float,
        heard: Callable[[bytes, bytes, Any], None],
    ) -> None:
        self._make_connection = make_connection
        self._timeout = timeout
        self._heard = heard
        self._transport: asyncio.WriteTransport | None = None
        self._silent = False

    async def listen(self, channels: Callable[[], Iterable[bytes]]) -> None:
        """Connect, subscribe to what `channels` says then, and receive until cancelled.

        Raises ConnectionError, TimeoutError of redis-py.
        """
        connection = await _opened(self._make_connection)
        writer = connection.hand_over()  # which would close the transport if it went
        self._reader = hiredis.Reader(replyError=error_of, notEnoughData=_NOTHING)
        self._lost = asyncio.get_running_loop().create_future()
        transport = self._transport = writer.transport
        try:
            _give(transport, self)
            self.subscribe(*channels())
            await self._stay(connection)
        finally:
            self._transport = None
            transport.abort()

    async def _stay(self, connection: Opener) -> None:
        """Ask for a sign of life now and then, until the connection is lost or the primary has moved."""
        while not connection.stale:
            self._silent = True
            self._send("PING")
            await asyncio.wait([self._lost], timeout=self._timeout)
            if self._lost.done():
                raise self._lost.result()
            if self._silent:
                raise TimeoutError(f"Redis sent no sign of life for {self._timeout:g} s")
        raise NotPrimary("the primary has moved")

    def subscribe(self, *channels: bytes) -> None:
        """Ask for the channels; their confirmations will be heard. Nothing happens while not connected."""
        if channels:
            self._send("SUBSCRIBE", *channels)

    def unsubscribe(self, *channels: bytes) -> None:
        """Leave the channels."""
        if channels:
            self._send("UNSUBSCRIBE", *channels)

    def _send(self, *command: Argument) -> None:
        whole: Command = command
        if self._transport:
            try:
                self._transport.write(hiredis.pack_command(whole))
            except RuntimeError as error:  # uvloop, when the server has just reset the connection
                self.connection_lost(error)

    def data_received(self, data: bytes) -> None:
        """Pass received messages on."""
        self._silent = False
        self._reader.feed(data)
        while (answer := self._reader.gets()) is not _NOTHING:
            if isinstance(answer, Exception):
                self.connection_lost(answer)
            elif isinstance(answer, list) and answer[0] != b"pong":
                self._heard(*answer)

    def connection_lost(self, error: Exception | None) -> None:
        """The server has gone."""
        if not self._lost.done():
            self._lost.set_result(_lost(error))


async def _opened(make_connection: Callable[[], Any]) -> Opener:
    """Return a connection that redis-py has opened. Raises what redis-py raises."""
    connection: Opener = make_connection()
    try:
        await connection.connect()
    except BaseException:
        await connection.disconnect(nowait=True)
        raise
    return connection


def _give(transport: asyncio.WriteTransport, protocol: asyncio.Protocol) -> None:
    try:
        transport.set_protocol(protocol)
    except RuntimeError as error:  # uvloop, when the server has just reset the connection
        raise _lost(error) from error


def _lost(error: Exception | None) -> ConnectionError:
    return ConnectionError(f"the connection to Redis was lost: {error or 'closed by the server'}")
