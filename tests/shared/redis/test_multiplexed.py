"""Many commands over one connection to a real Valkey, also when it breaks."""

import asyncio
import signal
from pathlib import Path
from typing import Any

import pytest
from redis.exceptions import ConnectionError, ResponseError, TimeoutError  # noqa: A004 - redis-py's names

from shared.redis.connection import Redis, channels, connect
from shared.redis.multiplexed import Multiplexed
from shared.settings import Settings, load
from tests.support import RedisServer, until, valkey_binary


@pytest.fixture
def calls(redis: Redis) -> Multiplexed:
    return redis.multiplexed


async def identity(calls: Multiplexed) -> int:
    return int(await calls.call("CLIENT", "ID"))


async def test_every_caller_gets_its_own_answer(calls: Multiplexed) -> None:
    texts = [f"{n}" * (n % 7 * 500) for n in range(300)]
    answers = await asyncio.gather(*(calls.call("ECHO", text) for text in texts))
    assert answers == [text.encode() for text in texts]


async def test_all_of_them_use_one_connection(calls: Multiplexed, redis: Redis) -> None:
    identities = await asyncio.gather(*(identity(calls) for _ in range(50)))
    assert len(set(identities)) == 1
    mine = [c for c in await redis.client_list() if int(c["id"]) == identities[0]]
    assert len(mine) == 1


async def test_answers_of_every_kind(calls: Multiplexed) -> None:
    assert await calls.call("SET", "k", b"\xff\x00") == b"OK"
    assert await calls.call("GET", "k") == b"\xff\x00"
    assert await calls.call("GET", "nothing") is None
    assert await calls.call("APPEND", "k", 1.5) == 5
    assert await calls.call("EVAL", "return {1, 'a', false, {2}}", 0) == [1, b"a", None, [2]]


async def test_an_error_is_that_of_its_caller_alone(calls: Multiplexed) -> None:
    await calls.call("SET", "k", "text")
    before = await identity(calls)
    answers: tuple[Any, ...] = await asyncio.gather(
        calls.call("ECHO", "a"), calls.call("INCR", "k"), calls.call("ECHO", "b"), return_exceptions=True
    )
    fine, wrong, fine_too = answers
    assert (fine, fine_too) == (b"a", b"b")
    assert isinstance(wrong, ResponseError)
    assert "not an integer" in str(wrong)
    assert await identity(calls) == before


async def test_an_answer_that_nobody_waits_for_is_dropped(calls: Multiplexed) -> None:
    await calls.call("PING")
    for turn in range(60):
        task = asyncio.create_task(calls.call("ECHO", "forgotten"))
        for _ in range(turn % 6):
            await asyncio.sleep(0)
        if task.cancel():
            await asyncio.wait([task])
            assert task.cancelled()
        assert await calls.call("ECHO", f"{turn}") == f"{turn}".encode()


async def test_commands_under_way_are_sent_again_when_the_connection_breaks(
    calls: Multiplexed, redis: Redis
) -> None:
    first = await identity(calls)
    waiting = [asyncio.create_task(calls.call("BLPOP", "list", 0)) for _ in range(2)]
    await asyncio.sleep(0.05)
    await redis.client_kill_filter(_id=str(first))
    await redis.rpush("list", "x", "y")
    answers = await asyncio.wait_for(asyncio.gather(*waiting), 10)
    assert sorted(value for _, value in answers) == [b"x", b"y"]
    assert await identity(calls) != first


async def test_a_command_that_gets_no_answer_fails_and_takes_the_connection_with_it(redis_url: str) -> None:
    client = connect(load({"REDIS_URL": redis_url, "RTEMBED_REDIS_TIMEOUT": "0.2"}))
    first = await identity(client.multiplexed)
    with pytest.raises(TimeoutError, match=r"did not answer within 0\.2 s"):
        await asyncio.wait_for(client.multiplexed.call("BLPOP", "list", 0), 15)
    assert await identity(client.multiplexed) != first
    await client.aclose()


async def test_slow_answers_that_come_in_time_are_no_silence(redis_url: str) -> None:
    client = connect(load({"REDIS_URL": redis_url, "RTEMBED_REDIS_TIMEOUT": "1"}))
    first = await identity(client.multiplexed)
    for _ in range(3):
        assert await client.multiplexed.call("BLPOP", "list", 0.6) is None  # after up to 0.1 s more
    assert await identity(client.multiplexed) == first
    await client.aclose()


async def test_closing_ends_those_who_wait_and_the_connection(redis: Redis, redis_url: str) -> None:
    client = connect(load({"REDIS_URL": redis_url}))
    mine = await identity(client.multiplexed)
    replies = client.multiplexed._replies
    assert replies
    waiting = replies.to(("BLPOP", "list", 0))
    await client.aclose()
    with pytest.raises(ConnectionError, match="closed"):
        await waiting

    async def gone() -> bool:
        return all(int(c["id"]) != mine for c in await redis.client_list())

    await until(gone)


async def test_a_command_that_meets_a_connection_just_closed_opens_another(calls: Multiplexed) -> None:
    first = await identity(calls)
    replies = calls._replies
    assert replies
    replies.close()
    with pytest.raises(ConnectionError, match="lost"):
        replies.to(("PING",))
    assert await identity(calls) != first


# Pub/sub ----------------------------------------------------------------------------------------------


async def test_channels_are_heard_until_the_listener_is_cancelled(redis: Redis, settings: Settings) -> None:
    heard: list[tuple[bytes, bytes, object]] = []
    listener = channels(settings, lambda *what: heard.append(what))
    listener.subscribe(b"too early")
    listening = asyncio.create_task(listener.listen(lambda: [b"a"]))
    await until(lambda: heard == [(b"subscribe", b"a", 1)])
    listener.subscribe(b"b")
    await until(lambda: len(heard) == 2)
    await redis.publish("a", b"\xff")
    await redis.publish("b", "text")
    listener.unsubscribe(b"a")
    await until(lambda: len(heard) == 5)
    assert heard[2:] == [
        (b"message", b"a", b"\xff"), (b"message", b"b", b"text"), (b"unsubscribe", b"a", 1),
    ]  # fmt: skip
    listening.cancel()
    await asyncio.wait([listening])
    assert listening.cancelled()

    async def deserted() -> bool:
        return (await redis.pubsub_numsub("b"))[0][1] == 0

    await until(deserted)


async def test_a_listener_whose_connection_is_cut_says_so(redis: Redis, settings: Settings) -> None:
    heard: list[bytes] = []
    listening = asyncio.create_task(
        channels(settings, lambda kind, *_: heard.append(kind)).listen(lambda: [b"a"])
    )
    await until(lambda: heard)
    await redis.client_kill_filter(_type="pubsub")
    with pytest.raises(ConnectionError, match="lost"):
        await asyncio.wait_for(listening, 5)


async def test_a_listener_notices_that_the_server_is_silent(tmp_path: Path) -> None:
    server = RedisServer(valkey_binary(), tmp_path)
    server.start()
    heard: list[bytes] = []
    settings = load({"REDIS_URL": server.url, "RTEMBED_REDIS_TIMEOUT": "0.2"})
    listening = asyncio.create_task(
        channels(settings, lambda kind, *_: heard.append(kind)).listen(lambda: [b"a"])
    )
    try:
        await until(lambda: heard)
        await asyncio.sleep(0.5)
        assert not listening.done()
        assert server.process
        server.process.send_signal(signal.SIGSTOP)
        with pytest.raises(TimeoutError, match="sign of life"):
            await asyncio.wait_for(listening, 5)
    finally:
        server.stop()
