"""Connections to Redis or Valkey, and the Lua scripts that change it in one step."""

import asyncio
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from hashlib import sha1
from importlib import resources
from typing import Any

import redis.asyncio
from redis.asyncio import BlockingConnectionPool, Connection, SSLConnection, UnixDomainSocketConnection
from redis.asyncio.retry import Retry
from redis.backoff import ExponentialBackoff
from redis.exceptions import (
    ConnectionError,  # noqa: A004 - redis-py's names
    NoScriptError,
    RedisError,
    TimeoutError,  # noqa: A004
)

from shared.redis.multiplexed import Argument, Channels, Multiplexed
from shared.settings import Settings

__all__ = [
    "BLOCK_MS",
    "Redis",
    "RedisError",
    "Script",
    "channels",
    "connect",
    "script",
    "single_connection",
]

BLOCK_MS = 1000
"""How long a blocking read waits; below every socket timeout, or the reply would meet a closed socket."""


class _Cancellation:
    """Makes a cancelled call end: redis-py sends with `asyncio.wait_for`, which before Python 3.12 swallows a
    cancellation that comes just when the command is sent."""

    async def send_packed_command(
        self, command: bytes | str | Iterable[bytes], check_health: bool = True
    ) -> None:
        connection: Any = super()
        task = asyncio.current_task()
        before = task.cancelling() if task else 0
        await connection.send_packed_command(command, check_health)
        if task and task.cancelling() > before:
            await connection.disconnect(nowait=True)
            raise asyncio.CancelledError

    def hand_over(self) -> asyncio.StreamWriter:
        """The open connection, which is no longer redis-py's."""
        connection: Any = self
        writer: asyncio.StreamWriter = connection._writer  # noqa: SLF001 - its own
        connection._reader = connection._writer = None  # noqa: SLF001
        return writer


class _Tcp(_Cancellation, Connection):
    pass


class _Tls(_Cancellation, SSLConnection):
    pass


class _Unix(_Cancellation, UnixDomainSocketConnection):
    pass


_KINDS: dict[type, type] = {Connection: _Tcp, SSLConnection: _Tls, UnixDomainSocketConnection: _Unix}


class Redis(redis.asyncio.Redis):
    """redis-py's client, and one more connection for what every request asks."""

    multiplexed: Multiplexed

    async def aclose(self, close_connection_pool: bool | None = None) -> None:
        """Close all connections."""
        self.multiplexed.close()
        await super().aclose(close_connection_pool)


def connect(settings: Settings) -> Redis:
    """A client over a pool that waits for a free connection instead of failing.

    Every call has a timeout and is tried twice more when the connection breaks. Replies are bytes.
    """
    return _client(settings, settings.redis_connections, settings.redis_timeout)


def single_connection(settings: Settings) -> Redis:
    """A client of one connection of its own, for blocking reads or pub/sub.

    Close it, rather than use it again, when the task that reads from it is cancelled: an answer may
    still be under way.
    """
    return _client(settings, 1, settings.redis_timeout + BLOCK_MS / 1000)


def channels(settings: Settings, heard: Callable[[bytes, bytes, Any], None]) -> Channels:
    """Pub/sub over a connection of its own, that tells `heard`."""
    return Channels(_pool(settings, 1, settings.redis_timeout).make_connection, settings.redis_timeout, heard)


def _client(settings: Settings, connections: int, timeout: float) -> Redis:
    pool = _pool(settings, connections, timeout)
    client = Redis(connection_pool=pool)
    client.auto_close_connection_pool = True
    client.multiplexed = Multiplexed(pool.make_connection, timeout)
    return client


def _pool(settings: Settings, connections: int, timeout: float) -> BlockingConnectionPool:
    common: dict[str, Any] = {
        "max_connections": connections,
        "timeout": settings.redis_timeout,
        "socket_timeout": timeout,
        "socket_connect_timeout": settings.redis_timeout,
        "retry": Retry(ExponentialBackoff(cap=0.5, base=0.05), 2),
        "retry_on_error": [ConnectionError, TimeoutError],
        "protocol": 2,
    }
    if not (settings.redis_url or "").startswith("unix:"):
        # A Unix socket tells at once that its server is gone. There, redis-py's health check of a server that
        # refuses the PING (no password) opens connection after connection inside of one another, for ever.
        common |= {"socket_keepalive": True, "health_check_interval": 15}
    if settings.redis_url:
        pool = BlockingConnectionPool.from_url(settings.redis_url, **common)
    else:
        pool = BlockingConnectionPool(
            host=settings.redis_host,
            port=settings.redis_port,
            db=settings.redis_db,
            password=settings.redis_password,
            **common,
        )
    pool.connection_class = _KINDS[pool.connection_class]
    return pool


class Script:
    """A Lua script, which the server keeps once it has seen it."""

    def __init__(self, client: Redis, source: str) -> None:
        self._multiplexed = client.multiplexed
        self._source = source
        self._sha = sha1(source.encode()).hexdigest()  # noqa: S324 - Redis's choice

    async def __call__(self, keys: Sequence[str] = (), args: Sequence[Argument] = ()) -> Any:
        """What the script returns. Raises RedisError."""
        call = self._multiplexed.call
        try:
            return await call("EVALSHA", self._sha, len(keys), *keys, *args)
        except NoScriptError:
            return await call("EVAL", self._source, len(keys), *keys, *args)


@cache
def script(client: Redis, name: str) -> Script:
    """Return the Lua script `scripts/<name>.lua`."""
    return Script(client, (resources.files("shared") / "scripts" / f"{name}.lua").read_text())
