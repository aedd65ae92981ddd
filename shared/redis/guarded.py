"""redis-py's connections, guarded: they lead to the primary, and what goes wrong is one of Redis's errors."""

import asyncio
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from redis.asyncio import Connection, SSLConnection, UnixDomainSocketConnection
from redis.exceptions import ConnectionError, ResponseError  # noqa: A004 - redis-py's names

from shared.redis.failures import OUTAGES, NotPrimary, error_of
from shared.redis.primary import FixedPrimary


class GuardedConnection:
    """What redis-py's connections lack: they lead to the primary, end a cancelled call, fail as RedisError.

    redis-py sends with `asyncio.wait_for`, which before Python 3.12 swallows a cancellation that comes just
    when the command is sent. uvloop raises RuntimeError for a transport that the server has reset meanwhile.
    """

    def __init__(self, *, primary: FixedPrimary, **options: Any) -> None:
        self.primary = primary
        self.epoch = primary.epoch
        self._ready = False
        super().__init__(**options)

    @property
    def stale(self) -> bool:
        """Whether it leads to where the primary was."""
        return self._ready and self.epoch != self.primary.epoch

    async def _connect(self) -> None:
        connection: Any = super()
        self._ready, self.epoch = False, self.primary.epoch
        if address := await self.primary.address():
            self.host, self.port = address
        await connection._connect()  # noqa: SLF001 - its own

    async def connect_check_health(
        self, check_health: bool = True, retry_socket_connect: bool = True
    ) -> None:
        connection: Any = super()
        with self._understood():
            await connection.connect_check_health(check_health, retry_socket_connect)

    async def on_connect_check_health(self, check_health: bool = True) -> None:
        """Log in, then make sure that this is the primary."""
        connection: Any = super()
        await connection.on_connect_check_health(check_health)
        await connection.send_command("ROLE", check_health=False)
        try:
            role, *_ = await connection.read_response()
        except ResponseError:  # the command is not allowed here: writes will tell
            role = b"master"
        if role != b"master":
            raise NotPrimary(f"the server is a {role.decode()}, not a primary")
        self._ready = True

    async def send_packed_command(
        self, command: bytes | str | Iterable[bytes], check_health: bool = True
    ) -> None:
        connection: Any = super()
        if self.stale:
            await connection.disconnect(nowait=True)
        task = asyncio.current_task()
        before = task.cancelling() if task else 0
        with self._understood():
            await connection.send_packed_command(command, check_health)
        if task and task.cancelling() > before:
            await connection.disconnect(nowait=True)
            raise asyncio.CancelledError

    async def read_response(self, *arguments: Any, **options: Any) -> Any:
        connection: Any = super()
        try:
            with self._understood():
                return await connection.read_response(*arguments, **options)
        except NotPrimary:
            await connection.disconnect(nowait=True)
            raise

    @contextmanager
    def _understood(self) -> Iterator[None]:
        """Raise the exception for an error, and remember if this server is not the primary."""
        try:
            yield
        except RuntimeError as error:
            raise ConnectionError(f"the connection to Redis was lost: {error}") from error
        except NotPrimary:
            self.primary.disown(self.epoch)
            raise
        except ResponseError as error:
            known = error_of(f"{error.status_code} {error}" if error.status_code else str(error))
            if isinstance(known, NotPrimary):
                self.primary.disown(self.epoch)
            if isinstance(known, OUTAGES):
                raise known from error
            raise

    def hand_over(self) -> asyncio.StreamWriter:
        """Return the open connection, which is no longer redis-py's."""
        connection: Any = self
        writer: asyncio.StreamWriter = connection._writer  # noqa: SLF001 - its own
        connection._reader = connection._writer = None  # noqa: SLF001
        return writer


class _Tcp(GuardedConnection, Connection):
    pass


class _Tls(GuardedConnection, SSLConnection):
    pass


class _Unix(GuardedConnection, UnixDomainSocketConnection):
    pass


GUARDED: dict[type, type] = {Connection: _Tcp, SSLConnection: _Tls, UnixDomainSocketConnection: _Unix}
"""By the kind that redis-py chooses for a URL."""
