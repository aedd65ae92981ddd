"""Connections to a real Valkey: over its socket, with a password, through TLS; and to servers that fail."""

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trustme

from shared.redis.connection import BLOCK_MS, Redis, RedisError, connect, script, single_connection
from shared.settings import Settings, load
from tests.support import RedisServer, until, valkey_binary


@asynccontextmanager
async def client(**environment: str) -> AsyncIterator[Redis]:
    opened = connect(load(environment))
    try:
        yield opened
    finally:
        await opened.aclose()


@asynccontextmanager
async def listening(answer: object, tls: ssl.SSLContext | None = None) -> AsyncIterator[int]:
    """A TCP server on a port of its own; connections still open at the end are cut."""
    ongoing: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task
        ongoing.add(task)
        try:
            await answer(reader, writer)  # type: ignore[operator]
        except (ConnectionError, asyncio.CancelledError):
            pass
        finally:
            ongoing.discard(task)
            writer.close()
            with contextlib.suppress(Exception):
                await writer.wait_closed()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=tls)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for task in ongoing.copy():
            task.cancel()
        await server.wait_closed()
        await asyncio.gather(*ongoing, return_exceptions=True)


# Addresses --------------------------------------------------------------------------------------------


async def test_a_unix_socket_with_a_password_and_a_database(tmp_path: Path) -> None:
    socket = tmp_path / "valkey.sock"
    server = RedisServer(valkey_binary(), tmp_path, "--unixsocket", str(socket))
    server.start()
    try:
        async with client(REDIS_URL=f"unix://{socket}?db=3") as redis:
            await redis.set("here", "3")
            assert (await redis.client_info())["db"] == 3
            await redis.config_set("requirepass", "p@ss/word")
        async with client(REDIS_URL=f"unix://:p%40ss%2Fword@{socket}?db=3") as redis:
            assert await redis.get("here") == b"3"
            assert await redis.multiplexed.call("GET", "here") == b"3"
        async with client(REDIS_URL=f"unix://{socket}") as redis:
            with pytest.raises(RedisError, match=r"(?i)auth"):
                await redis.ping()
    finally:
        server.stop()


async def test_the_four_variables(valkey: RedisServer) -> None:
    settings = {"REDIS_HOST": "127.0.0.1", "REDIS_PORT": str(valkey.port), "REDIS_DB": "5"}
    async with client(**settings) as redis:
        info = await redis.client_info()
    assert info["db"] == 5
    assert str(info["laddr"]).endswith(f":{valkey.port}")


async def test_a_password_from_its_variable(tmp_path: Path) -> None:
    server = RedisServer(valkey_binary(), tmp_path)
    server.start()
    try:
        settings = {"REDIS_HOST": "127.0.0.1", "REDIS_PORT": str(server.port)}
        async with client(**settings) as redis:
            await redis.config_set("requirepass", "secret")
        async with client(**settings, REDIS_PASSWORD="secret") as redis:
            assert await redis.ping()
        async with client(**settings, REDIS_PASSWORD="wrong") as redis:
            with pytest.raises(RedisError, match=r"(?i)password"):
                await redis.ping()
    finally:
        server.stop()


async def test_the_url_wins_over_the_four_variables(redis_url: str) -> None:
    async with client(REDIS_URL=redis_url, REDIS_HOST="nowhere.invalid", REDIS_PORT="1") as redis:
        assert await redis.ping()


async def test_answers_are_bytes(redis: Redis) -> None:
    await redis.set("k", b"\xff\x00")
    assert await redis.get("k") == b"\xff\x00"


# TLS --------------------------------------------------------------------------------------------------


@pytest.fixture
async def tls(valkey: RedisServer, tmp_path: Path) -> AsyncIterator[tuple[int, Path]]:
    """A port on which TLS ends in front of Valkey, whose wheel is built without it; and the authority."""
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")

    async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        inner_reader, inner_writer = await asyncio.open_connection("127.0.0.1", valkey.port)

        async def copy(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
            while data := await source.read(65536):
                target.write(data)
                await target.drain()
            target.close()

        try:
            await asyncio.gather(copy(reader, inner_writer), copy(inner_reader, writer))
        finally:
            inner_writer.close()

    async with listening(relay, context) as port:
        yield port, tmp_path / "ca.pem"


async def test_tls_with_an_authority_of_ones_own(tls: tuple[int, Path]) -> None:
    port, authority = tls
    async with client(REDIS_URL=f"rediss://127.0.0.1:{port}/2?ssl_ca_certs={authority}") as redis:
        assert await redis.ping()
        assert (await redis.client_info())["db"] == 2
        assert b"db=2 " in await redis.multiplexed.call("CLIENT", "INFO")


async def test_tls_with_a_certificate_that_nobody_vouches_for_is_refused(tls: tuple[int, Path]) -> None:
    async with client(REDIS_URL=f"rediss://127.0.0.1:{tls[0]}/0", RTEMBED_REDIS_TIMEOUT="2") as redis:
        with pytest.raises(RedisError, match="certificate"):
            await redis.ping()


async def test_tls_for_a_connection_of_its_own(tls: tuple[int, Path]) -> None:
    port, authority = tls
    reader = single_connection(load({"REDIS_URL": f"rediss://127.0.0.1:{port}?ssl_ca_certs={authority}"}))
    assert await reader.xread({"nothing": "$"}, block=BLOCK_MS) in ([], {}, None)
    await reader.aclose()


# The pool ---------------------------------------------------------------------------------------------


async def busy(redis: Redis, count: int) -> list[asyncio.Future[Any]]:
    """Hold `count` connections by waiting for lists that nobody fills."""
    held: list[asyncio.Future[Any]] = [
        asyncio.ensure_future(redis.blpop([f"list{i}"], timeout=3)) for i in range(count)
    ]

    async def all_wait() -> bool:
        await asyncio.sleep(0)
        return redis.connection_pool._in_use_connections.__len__() == count

    await until(all_wait)
    return held


async def test_a_call_waits_for_a_free_connection(redis: Redis, redis_url: str) -> None:
    async with client(REDIS_URL=redis_url, RTEMBED_REDIS_CONNECTIONS="2") as small:
        held = await busy(small, 2)
        waiting: asyncio.Future[bool] = asyncio.ensure_future(small.ping())
        await asyncio.sleep(0.1)
        assert not waiting.done()
        await redis.rpush("list0", "x")
        assert await asyncio.wait_for(waiting, 5)
        await redis.rpush("list1", "x")
        assert await asyncio.gather(*held) == [(b"list0", b"x"), (b"list1", b"x")]


async def test_a_call_does_not_wait_for_ever(redis: Redis, redis_url: str) -> None:
    settings = {"REDIS_URL": redis_url, "RTEMBED_REDIS_CONNECTIONS": "2", "RTEMBED_REDIS_TIMEOUT": "5"}
    async with client(**settings) as small:
        held = await busy(small, 2)
        pool: Any = small.connection_pool
        pool.timeout = 0.2
        with pytest.raises(RedisError, match=r"[Cc]onnection"):
            await asyncio.wait_for(small.ping(), 10)
        for i in range(2):
            await redis.rpush(f"list{i}", "x")
        await asyncio.gather(*held)
        assert await small.ping()


async def test_many_calls_share_few_connections(redis: Redis, redis_url: str) -> None:
    async with client(REDIS_URL=redis_url, RTEMBED_REDIS_CONNECTIONS="3") as small:
        await asyncio.gather(*(small.incr("count") for _ in range(300)))
        assert await small.get("count") == b"300"
        names = {entry["id"] for entry in await redis.client_list()}
        assert len(names) <= 3 + 2


async def test_a_cancelled_call_ends_whenever_the_cancellation_comes(redis: Redis) -> None:
    async def call() -> None:
        async with redis.pipeline(transaction=False) as pipe:
            pipe.get("a")
            pipe.get("b")
            await pipe.execute()

    cancelled = 0
    for turn in range(400):
        task = asyncio.create_task(call())
        for _ in range(turn % 30):
            await asyncio.sleep(0)
        if task.cancel():
            cancelled += 1
            await asyncio.wait([task])
            assert task.cancelled(), f"the call went on after {turn % 30} steps"
    assert cancelled > 20
    await redis.set("a", "1")
    assert await redis.get("a") == b"1"


# Servers that fail ------------------------------------------------------------------------------------


def impatient(port: int) -> Settings:
    return load({"REDIS_URL": f"redis://127.0.0.1:{port}", "RTEMBED_REDIS_TIMEOUT": "0.1"})


@pytest.mark.parametrize("opener", [connect, single_connection])
async def test_a_server_that_accepts_and_never_answers(
    opener: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shared.redis.connection.BLOCK_MS", 100)

    async def silence(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.read(4096):
            pass

    async with listening(silence) as port:
        redis: Redis = opener(impatient(port))  # type: ignore[operator]
        for ask in (redis.get("k"), redis.multiplexed.call("GET", "k")):
            with pytest.raises(RedisError, match=r"(?i)timeout"):
                await asyncio.wait_for(ask, 15)
        await redis.aclose()


async def test_a_server_that_hangs_up(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = 0

    async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal calls
        calls += 1
        await reader.read(1)

    async with listening(hang_up) as port:
        redis = connect(impatient(port))
        for ask in (redis.get("k"), redis.multiplexed.call("GET", "k")):
            calls = 0
            with pytest.raises(RedisError):
                await asyncio.wait_for(ask, 15)
            assert calls >= 3
        await redis.aclose()


async def test_a_server_that_is_not_there() -> None:
    async with listening(None) as port:
        pass
    redis = connect(impatient(port))
    with pytest.raises(RedisError, match=str(port)):
        await asyncio.wait_for(redis.ping(), 15)
    await redis.aclose()


async def test_a_connection_that_broke_is_replaced_within_the_call(redis: Redis, redis_url: str) -> None:
    async with client(REDIS_URL=redis_url) as other:
        mine = await other.client_id()
        await redis.client_kill_filter(_id=str(mine))
        assert await other.ping()
        assert await other.client_id() != mine


async def test_a_blocking_read_ends_before_its_socket_gives_up(redis_url: str) -> None:
    reader = single_connection(load({"REDIS_URL": redis_url, "RTEMBED_REDIS_TIMEOUT": "0.1"}))
    first = await reader.client_id()
    assert await reader.xread({"nothing": "$"}, block=BLOCK_MS) in ([], {}, None)
    assert await reader.client_id() == first
    await reader.aclose()


# Scripts ----------------------------------------------------------------------------------------------


async def test_a_script_is_loaded_again_when_the_server_forgot_it(redis: Redis) -> None:
    withdraw = script(redis, "release_reader")
    await redis.set("reader", "me")
    assert await withdraw(keys=["reader"], args=["somebody else"]) in (0, None)
    await redis.script_flush()
    await withdraw(keys=["reader"], args=["me"])
    assert not await redis.exists("reader")


async def test_every_script_compiles(redis: Redis) -> None:
    folder = Path(__file__).parents[3] / "shared" / "scripts"
    for path in sorted(folder.glob("*.lua")):
        assert len(await redis.script_load(path.read_text())) == 40, path.name
