"""Where the primary is: real replica pairs, Sentinels and clusters, whose primary moves while we look on."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import uvloop
from redis.exceptions import ConnectionError, RedisError  # noqa: A004

from shared.redis.connection import Redis, channels, connect, script, single_connection
from shared.redis.failures import NotPrimary, through_outages
from shared.redis.primary import agreed, parse_address, show
from shared.settings import load
from tests.redis_servers import Cluster, ReplicaPair, SentinelPair, ask, role, wait
from tests.support import until

KEY = "{rtembed}:test"


@asynccontextmanager
async def client(**environment: str) -> AsyncIterator[Redis]:
    opened = connect(load({"RTEMBED_REDIS_TIMEOUT": "1", **environment}))
    try:
        yield opened
    finally:
        await opened.aclose()


async def port_of(redis: Redis) -> tuple[int, int]:
    """The ports of the servers behind the pool and behind the multiplexed connection."""
    info = await redis.multiplexed.call("INFO", "server")
    tcp = next(line for line in info.splitlines() if line.startswith(b"tcp_port:"))
    return int((await redis.info("server"))["tcp_port"]), int(tcp.partition(b":")[2])


async def write(redis: Redis, value: str) -> None:
    async def both() -> None:
        await redis.set(KEY, value)
        await redis.multiplexed.call("SET", KEY, value)

    await asyncio.wait_for(through_outages(both, "a test"), 30)


# A fixed address ----------------------------------------------------------------------------------------


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[ReplicaPair]:
    servers = ReplicaPair(tmp_path)
    servers.start()
    yield servers
    servers.stop()


class Relay:
    """A port that leads to one server, and to another from then on: what a managed service's name does."""

    def __init__(self) -> None:
        self.target = 0
        self.accepted = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        inner_reader, inner = await asyncio.open_connection("127.0.0.1", self.target)

        async def copy(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
            while data := await source.read(65536):
                target.write(data)
            target.close()

        await asyncio.gather(copy(reader, inner), copy(inner_reader, writer), return_exceptions=True)


@asynccontextmanager
async def relay(target: int) -> AsyncIterator[tuple[Relay, dict[str, str]]]:
    relaying = Relay()
    relaying.target = target
    server = await asyncio.start_server(relaying.serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    yield relaying, {"REDIS_HOST": "127.0.0.1", "REDIS_PORT": str(port)}
    server.close()


async def test_a_demoted_primary_that_keeps_its_connections_open_is_left(pair: ReplicaPair) -> None:
    async with relay(pair.primary.port) as (relaying, environment), client(**environment) as redis:
        old = pair.primary.port
        await write(redis, "before")
        assert await port_of(redis) == (old, old)
        heard: list[Any] = []
        listener = channels(
            load({"RTEMBED_REDIS_TIMEOUT": "0.2", **environment}), lambda *what: heard.append(what)
        )
        listening = asyncio.create_task(listener.listen(lambda: [b"news"]))
        await until(lambda: heard)
        pair.switch()
        with pytest.raises(NotPrimary):
            await redis.multiplexed.call("SET", KEY, "refused")
        relaying.target = pair.primary.port
        await write(redis, "after")
        assert await port_of(redis) == (pair.primary.port, pair.primary.port)
        assert ask(pair.primary, "GET", KEY) == b"after"
        listening.cancel()
        await asyncio.gather(listening, return_exceptions=True)


async def test_one_refusal_gives_up_all_connections(pair: ReplicaPair) -> None:
    """A reader of the same process does not go on reading what is stale."""
    async with relay(pair.primary.port) as (relaying, environment):
        settings = load({"RTEMBED_REDIS_TIMEOUT": "0.2", **environment})
        redis, reader = connect(settings), single_connection(settings)
        heard: list[Any] = []
        listening = asyncio.create_task(
            channels(settings, lambda *what: heard.append(what)).listen(lambda: [b"news"])
        )
        try:
            await until(lambda: heard)
            assert await reader.get(KEY) is await redis.get(KEY) is None
            pair.switch()
            relaying.target = pair.primary.port
            await write(redis, "after")
            assert await reader.get(KEY) == b"after"
            assert (await port_of(reader))[0] == pair.primary.port
            with pytest.raises(NotPrimary):
                await asyncio.wait_for(listening, 5)
        finally:
            await redis.aclose()
            await reader.aclose()


async def test_a_blocking_read_ends_when_its_server_is_demoted(pair: ReplicaPair) -> None:
    async with relay(pair.primary.port) as (relaying, environment), client(**environment) as redis:
        await redis.xgroup_create(KEY, "group", mkstream=True)
        reading = asyncio.create_task(
            redis.multiplexed.call("XREADGROUP", "GROUP", "group", "me", "BLOCK", 700, "STREAMS", KEY, ">")
        )
        await asyncio.sleep(0.2)
        pair.switch()
        relaying.target = pair.primary.port
        assert await asyncio.wait_for(reading, 10) is None
        assert (await port_of(redis))[1] == pair.primary.port


async def test_a_replica_is_refused_when_it_is_met(pair: ReplicaPair) -> None:
    (replica,) = pair.replicas
    async with client(REDIS_HOST="127.0.0.1", REDIS_PORT=str(replica.port)) as redis:
        for call in (redis.get(KEY), redis.multiplexed.call("GET", KEY)):
            with pytest.raises(NotPrimary, match="is a slave, not a primary"):
                await call


async def test_a_server_that_hides_its_role_is_taken_for_the_primary(redis: Redis, redis_url: str) -> None:
    await redis.execute_command("ACL", "SETUSER", "plain", "on", ">p", "~*", "&*", "+@all", "-role")  # type: ignore[no-untyped-call]
    try:
        async with client(REDIS_URL=redis_url.replace("//", "//plain:p@")) as limited:
            assert await limited.ping()
    finally:
        await redis.execute_command("ACL", "DELUSER", "plain")  # type: ignore[no-untyped-call]


# A port that accepts and resets ---------------------------------------------------------------------------


def test_a_port_that_accepts_and_resets_is_a_connection_error() -> None:
    """With uvloop, whose transports raise RuntimeError then."""

    async def reset() -> None:
        def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.transport.abort()

        server = await asyncio.start_server(accept, "127.0.0.1", 0)
        port = str(server.sockets[0].getsockname()[1])
        settings = load({"REDIS_HOST": "127.0.0.1", "REDIS_PORT": port, "RTEMBED_REDIS_TIMEOUT": "1"})
        failed = 0
        for password in (None, "p"):
            redis = connect(settings.__class__(**{**vars(settings), "redis_password": password}))
            calls = [redis.get("k") for _ in range(5)]
            calls += [redis.multiplexed.call("GET", "k") for _ in range(5)]
            calls += [channels(settings, lambda *_: None).listen(lambda: [b"c"]) for _ in range(5)]
            for outcome in await asyncio.gather(*calls, return_exceptions=True):
                assert isinstance(outcome, RedisError), repr(outcome)
                failed += 1
            await redis.aclose()
        assert failed == 30
        server.close()

    uvloop.run(reset())


# Sentinel -----------------------------------------------------------------------------------------------


async def test_sentinels_lead_to_the_new_primary_when_the_old_one_dies(tmp_path: Path) -> None:
    servers = SentinelPair(tmp_path)
    servers.start()
    try:
        async with client(REDIS_HOST="nowhere.invalid", **servers.environment) as redis:
            await write(redis, "before")
            old = servers.primary
            assert await port_of(redis) == (old.port, old.port)
            wait(lambda: ask(servers.replicas[0], "GET", KEY) == b"before", "the replica to have it")
            old.stop()
            began = time.monotonic()
            await write(redis, "after")
            new = servers.replicas[0]
            assert await port_of(redis) == (new.port, new.port)
            assert time.monotonic() - began < 30
            old.start()
            wait(lambda: role(old) == "slave", "the old primary to follow the new one")
            assert await redis.get(KEY) == b"after"
    finally:
        servers.stop()


async def test_a_majority_of_sentinels_is_enough_and_their_login_is_their_own(tmp_path: Path) -> None:
    servers = SentinelPair(tmp_path)
    servers.start()
    try:
        for sentinel in servers.sentinels:
            ask(sentinel, "ACL", "SETUSER", "watcher", "on", ">sesame", "+@all", "&*")
        ask(servers.primary, "CONFIG", "SET", "requirepass", "of the primary")
        servers.sentinels[0].stop()
        login = {"REDIS_SENTINEL_USERNAME": "watcher", "REDIS_SENTINEL_PASSWORD": "sesame"}
        environment = {**servers.environment, **login, "REDIS_PASSWORD": "of the primary"}
        async with client(**environment) as redis:
            assert await redis.ping()
        async with client(**{**environment, "REDIS_SENTINEL_PASSWORD": "wrong"}) as redis:
            with pytest.raises(ConnectionError, match=r"no server says where the primary is.*(?i:password)"):
                await redis.ping()
        async with client(**{**environment, "REDIS_SENTINEL_MASTER": "other"}) as redis:
            with pytest.raises(ConnectionError, match="knows no primary 'other'"):
                await redis.ping()
    finally:
        servers.stop()


# Cluster mode -------------------------------------------------------------------------------------------


async def test_the_owner_of_our_slot_is_found_and_followed(tmp_path: Path) -> None:
    servers = Cluster(tmp_path)
    servers.start()
    try:
        async with client(**servers.environment) as redis:
            await write(redis, "before")
            old = servers.owner()
            assert await port_of(redis) == (old.port, old.port)
            replica = servers.servers[3]
            wait(lambda: ask(replica, "ROLE")[3] == b"connected", "the replica")
            ask(replica, "CLUSTER", "FAILOVER")
            wait(lambda: role(replica) == "master", "the replica to be promoted")
            await write(redis, "moved")
            assert await port_of(redis) == (replica.port, replica.port)
            withdraw = script(redis, "release_reader")
            await withdraw(keys=[KEY], args=["moved"])
            assert await redis.get(KEY) is None
            wait(lambda: role(old) == "slave", "the old owner to follow")
            replica.stop()
            await write(redis, "after")
            assert await port_of(redis) == (old.port, old.port)
    finally:
        servers.stop()


# Agreeing -----------------------------------------------------------------------------------------------


async def say(address: tuple[str, int] | None, after: float = 0.0) -> tuple[str, int]:
    await asyncio.sleep(after)
    if address is None:
        raise ConnectionError("away")
    return address


A, B = ("a", 1), ("b", 2)


async def test_the_majority_wins_without_waiting_for_the_rest() -> None:
    assert await asyncio.wait_for(agreed([say(B), say(A, 0.01), say(A, 0.02), say(B, 60)], 0.2), 20) == A
    assert await asyncio.wait_for(agreed([say(B), say(A, 0.01), say(A, 0.02)], 60), 5) == A


async def test_those_that_answer_in_time_decide() -> None:
    assert await agreed([say(A), say(None), say(A, 60)], 0.1) == A
    with pytest.raises(ConnectionError, match="no server says where the primary is: away"):
        await agreed([say(None), say(A, 60)], 0.1)
    with pytest.raises(ConnectionError, match="no answer"):
        await agreed([say(A, 60)], 0.1)


def test_addresses() -> None:
    assert parse_address("host:1", 5) == ("host", 1)
    assert parse_address("host", 5) == ("host", 5)
    assert parse_address("[::1]:7", 5) == ("::1", 7)
    assert show(("::1", 7)) == "[::1]:7"
    with pytest.raises(ValueError, match="x"):
        parse_address(":x", 5)
