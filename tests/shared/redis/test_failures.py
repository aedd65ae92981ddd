"""What Redis's errors mean, said by real servers: full, unable to save, short of replicas."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest
from redis.exceptions import BusyLoadingError, ConnectionError, NoScriptError, ResponseError  # noqa: A004

from shared import keys
from shared.jobs import TextJob
from shared.redis.connection import Redis, connect
from shared.redis.failures import NotPrimary, WritesRefused, error_of, through_outages
from shared.requests import Delivery, Outcome, Request, publish, submit
from shared.results import End, Result
from shared.settings import Settings
from tests.support import RedisServer, redis62_binary, valkey_binary


@pytest.fixture(params=["valkey", "redis62"])
async def redis(
    request: pytest.FixtureRequest, settings: Settings, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Redis]:
    """A client of a server of its own, whose configuration may be changed."""
    binary = valkey_binary() if request.param == "valkey" else redis62_binary()
    server = RedisServer(binary, tmp_path_factory.mktemp("own"))
    server.start()
    client = connect(replace(settings, redis_url=server.url))
    yield client
    await client.aclose()
    server.stop()


@pytest.mark.parametrize(
    ("text", "kind", "says"),
    [
        ("OOM command not allowed when used memory > 'maxmemory'.", WritesRefused, "it is full"),
        (
            "ERR Error running script (call to f_1): @user_script:9: @user_script: 9: -OOM command not ...",
            WritesRefused,
            "it is full",
        ),
        ("MISCONF Errors writing to the AOF file", WritesRefused, "cannot save"),
        ("NOREPLICAS Not enough good replicas to write.", WritesRefused, "too few of its replicas"),
        ("READONLY You can't write against a read only replica.", NotPrimary, "READONLY"),
        ("MOVED 7 127.0.0.1:7001", NotPrimary, "MOVED 7"),
        ("CLUSTERDOWN The cluster is down", NotPrimary, "CLUSTERDOWN"),
        ("MASTERDOWN Link with MASTER is down", NotPrimary, "MASTERDOWN"),
        ("UNBLOCKED force unblock from blocking operation", NotPrimary, "UNBLOCKED"),
        ("LOADING Redis is loading the dataset in memory", BusyLoadingError, "LOADING"),
        ("NOSCRIPT No matching script.", NoScriptError, "NOSCRIPT"),
        ("WRONGTYPE Operation against a key", ResponseError, "WRONGTYPE"),
        ("ERR Error running script -OOM", ResponseError, "-OOM"),
    ],
)
def test_an_error_is_told_by_its_code(text: str, kind: type[Exception], says: str) -> None:
    error = error_of(text)
    assert type(error) is kind
    assert says in str(error)


async def refuse(redis: Redis, cause: str) -> None:
    if cause == "full":
        await redis.config_set("maxmemory", "1")
    elif cause == "no replica":
        await redis.config_set("min-replicas-to-write", "1")
    else:
        await redis.config_set("appendonly", "no")
        await redis.config_set("save", "1 1")
        await redis.set("k", "v")
        await redis.config_set("dir", "/proc")
        with pytest.raises(ResponseError):
            await redis.execute_command("SAVE")  # type: ignore[no-untyped-call]


@pytest.mark.parametrize(
    ("cause", "says"), [("full", "it is full"), ("no replica", "too few of its replicas")]
)
async def test_every_way_to_write_is_refused_with_the_reason(
    redis: Redis, settings: Settings, cause: str, says: str
) -> None:
    await redis.set("here", "1")
    await refuse(redis, cause)
    job = TextJob(request="r", texts=["a"])
    with pytest.raises(WritesRefused, match=says):
        await redis.set("k", "v")
    with pytest.raises(WritesRefused, match=says):
        await redis.multiplexed.call("SET", "k", "v")
    with pytest.raises(WritesRefused, match=says):
        await submit(redis, settings, Request(id="r", lane="text", planned=1), [job])
    async with redis.pipeline() as pipe:
        pipe.set("k", "v")
        with pytest.raises(WritesRefused, match=says):
            await pipe.execute()
    assert await redis.get("here") == b"1"
    assert await redis.multiplexed.call("GET", "here") == b"1"
    await redis.config_set("maxmemory", "0")
    await redis.config_set("min-replicas-to-write", "0")
    assert await submit(redis, settings, Request(id="r", lane="text", planned=1), [job])
    assert await redis.xlen(keys.jobs("text")) == 1


async def test_a_call_goes_on_when_writes_are_taken_again(redis: Redis) -> None:
    await redis.config_set("maxmemory", "1")
    writing = asyncio.create_task(through_outages(lambda: redis.set("k", "v"), "a test"))
    await asyncio.sleep(0.7)
    assert not writing.done()
    await redis.config_set("maxmemory", "0")
    assert await asyncio.wait_for(writing, 5)


async def test_errors_that_do_not_pass_are_raised(redis: Redis) -> None:
    await redis.set("k", "v")
    with pytest.raises(ResponseError, match="WRONGTYPE"):
        await through_outages(lambda: redis.lpush("k", "v"), "a test")


async def test_a_result_that_is_refused_may_come_again(redis: Redis, settings: Settings) -> None:
    request, delivery = Request(id="r", lane="text", planned=1), Delivery(Result(chunk=0))
    await submit(redis, settings, request, [TextJob(request="r", texts=["a"])])
    await redis.config_set("maxmemory", "1")
    with pytest.raises(WritesRefused):
        await publish(redis, settings, request, End(state="done"), [delivery])
    await redis.config_set("maxmemory", "0")
    outcome = await publish(redis, settings, request, End(state="done"), [delivery])
    assert outcome == Outcome("done", 1, 0, 0)


def test_what_passes_by_itself_counts_as_away() -> None:
    assert issubclass(NotPrimary, ConnectionError)
