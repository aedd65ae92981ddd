"""Connections to Redis or Valkey, and the Lua scripts that change it in one step."""

import re
from collections.abc import Callable, Sequence
from functools import cache, lru_cache
from hashlib import sha1
from importlib import resources
from typing import Any

import redis.asyncio
from redis.asyncio import BlockingConnectionPool, Connection, UnixDomainSocketConnection
from redis.asyncio.connection import parse_url
from redis.asyncio.retry import Retry
from redis.backoff import ExponentialBackoff, NoBackoff
from redis.exceptions import (
    ConnectionError,  # noqa: A004 - redis-py's names
    NoScriptError,
    RedisError,
    TimeoutError,  # noqa: A004
)

from shared.redis.guarded import GUARDED
from shared.redis.multiplexed import Argument, Channels, Multiplexed
from shared.redis.primary import (
    Address,
    Ask,
    ClusterPrimary,
    FixedPrimary,
    SentinelPrimary,
    parse_address,
    show,
)
from shared.redis.replicated import Replicated
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
SENTINEL_PORT = 26379
_INCLUDE = re.compile(r"^-- @include ([a-z_]+)$", re.MULTILINE)
AGREE_WITHIN = 2.0
"""Seconds that Sentinels or the nodes of a cluster have to say where the primary is."""


class Redis(redis.asyncio.Redis):
    """redis-py's client, and one more connection for what every request asks; a third for what replicas must
    have before it is acknowledged, if any must."""

    multiplexed: Multiplexed
    durable: Multiplexed

    @property
    def replicated(self) -> bool:
        """Whether `durable` waits for replicas."""
        return self.durable is not self.multiplexed

    async def aclose(self, close_connection_pool: bool | None = None) -> None:
        """Close all connections."""
        self.multiplexed.close()
        self.durable.close()
        await super().aclose(close_connection_pool)


def connect(settings: Settings) -> Redis:
    """Return a client over a pool that waits for a free connection instead of failing. Every call has a
    timeout, and is retried twice when the connection breaks. Replies are bytes.
    """
    return _client(settings, settings.redis_connections, settings.redis_timeout)


def single_connection(settings: Settings) -> Redis:
    """Return a client with its own connection, for blocking reads or pub/sub.

    Close it, rather than use it again, when the task that reads from it is cancelled: an answer may
    still be under way.
    """
    return _client(settings, 1, settings.redis_timeout + BLOCK_MS / 1000)


def channels(settings: Settings, heard: Callable[[bytes, bytes, Any], None]) -> Channels:
    """Return pub/sub over its own connection, which calls `heard`."""
    return Channels(_pool(settings, 1, settings.redis_timeout).make_connection, settings.redis_timeout, heard)


def _client(settings: Settings, connections: int, timeout: float) -> Redis:
    pool = _pool(settings, connections, timeout)
    client = Redis(connection_pool=pool)
    client.auto_close_connection_pool = True
    client.multiplexed = client.durable = Multiplexed(pool.make_connection, timeout)
    if settings.redis_replicas:
        client.durable = Replicated(pool.make_connection, timeout, settings.redis_replicas)
    return client


def _pool(settings: Settings, connections: int, timeout: float) -> BlockingConnectionPool:
    kind, options = _server(settings)
    options |= {
        "socket_timeout": timeout,
        "socket_connect_timeout": settings.redis_timeout,
        "retry": Retry(ExponentialBackoff(cap=0.5, base=0.05), 2),
        "retry_on_error": [ConnectionError, TimeoutError],
        "protocol": 2,
    }
    if kind is not UnixDomainSocketConnection:
        # A Unix socket tells at once that its server is gone. There, redis-py's health check of a server that
        # refuses the PING (no password) opens connection after connection inside of one another, without end.
        options |= {"socket_keepalive": True, "health_check_interval": 15}
    return BlockingConnectionPool(
        max_connections=connections,
        timeout=settings.redis_timeout,
        connection_class=GUARDED[kind],
        primary=primary_of(settings),
        **options,
    )


def _server(settings: Settings) -> tuple[type, dict[str, Any]]:
    """Return the kind of redis-py's connection and its options, as the variables say."""
    if settings.redis_url:
        options: dict[str, Any] = dict(parse_url(settings.redis_url))
        return options.pop("connection_class", Connection), options
    host, _, _ = settings.redis_host.partition(",")
    return Connection, {
        "host": host,
        "port": settings.redis_port,
        "db": settings.redis_db,
        "password": settings.redis_password,
    }


@lru_cache(16)
def primary_of(settings: Settings) -> FixedPrimary:
    """Return the object that knows where the primary is, one for all connections with these settings."""
    kind, options = _server(settings)
    address = options.pop("host", "localhost"), options.pop("port", 6379)
    patience = min(settings.redis_timeout, AGREE_WITHIN)
    if settings.redis_sentinels:
        credentials = {
            "username": settings.redis_sentinel_username,
            "password": settings.redis_sentinel_password,
        }
        options = {**options, "db": 0, **credentials}
        return SentinelPrimary(
            _asking(kind, options, patience),
            [parse_address(text, SENTINEL_PORT) for text in settings.redis_sentinels],
            settings.redis_sentinel_master,
            patience,
        )
    if settings.redis_cluster:
        seeds = [address]
        if not settings.redis_url:
            seeds = [parse_address(text, settings.redis_port) for text in settings.redis_host.split(",")]
        return ClusterPrimary(_asking(kind, options, patience), seeds, patience)
    return FixedPrimary(None if kind is UnixDomainSocketConnection else address)


def _asking(kind: type, options: dict[str, Any], patience: float) -> Ask:
    """Return a function that asks a Sentinel or a node of a cluster one question."""

    async def ask(address: Address, *command: str) -> Any:
        host, port = address
        limits = {"socket_timeout": patience, "socket_connect_timeout": patience, "protocol": 2}
        connection = kind(host=host, port=port, retry=Retry(NoBackoff(), 0), **limits, **options)
        try:
            await connection.connect()
            await connection.send_command(*command)
            return await connection.read_response()
        except RuntimeError as error:  # uvloop, when the connection is reset just now
            raise ConnectionError(f"{show(address)}: {error}") from error
        finally:
            await connection.disconnect(nowait=True)

    return ask


class Script:
    """A Lua script, which the server keeps once it has seen it."""

    def __init__(self, client: Redis, source: str) -> None:
        self._client = client
        self._source = source
        self._sha = sha1(source.encode()).hexdigest()  # noqa: S324 - Redis's choice

    async def __call__(self, keys: Sequence[str] = (), args: Sequence[Argument] = ()) -> Any:
        """Return what the script returns. Raises RedisError."""
        return await self._run(self._client.multiplexed, keys, args)

    async def durably(self, keys: Sequence[str] = (), args: Sequence[Argument] = ()) -> Any:
        """Return its answer, when replicas have what it wrote, if they must. Raises RedisError."""
        return await self._run(self._client.durable, keys, args)

    async def _run(self, over: Multiplexed, keys: Sequence[str], args: Sequence[Argument]) -> Any:
        try:
            return await over.call("EVALSHA", self._sha, len(keys), *keys, *args)
        except NoScriptError:
            return await over.call("EVAL", self._source, len(keys), *keys, *args)


@cache
def script(client: Redis, name: str) -> Script:
    """Return the Lua script `scripts/<name>.lua`, with what it includes."""
    return Script(client, _INCLUDE.sub(lambda line: _source(line[1]), _source(name)))


def _source(name: str) -> str:
    return (resources.files("shared") / "scripts" / f"{name}.lua").read_text()
