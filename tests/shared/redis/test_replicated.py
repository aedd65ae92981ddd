"""What was told has reached the replicas: a real primary, and a replica that is stopped and goes on."""

import asyncio
import signal
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace

import pytest
from redis import Redis as BlockingRedis

from gateway.results.follow import ResultListener
from gateway.submission import Submitter
from shared import keys
from shared.jobs import TextJob
from shared.redis.connection import Redis, connect, script
from shared.redis.failures import ReplicasBehind
from shared.requests import Request, submit
from shared.results import Entry, Result
from shared.settings import Settings
from tests.gateway.conftest import Serve, _serve
from tests.redis_servers import ReplicaPair
from tests.support import until
from worker.claims import Claims
from worker.publish.publisher import Publisher

JOB = TextJob(request="r", texts=["a", "b"])
REQUEST = Request(id="r", lane="text", planned=2)


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ReplicaPair]:
    made = ReplicaPair(tmp_path_factory.mktemp("pair"))
    made.start()
    yield made
    made.stop()


@pytest.fixture
def pair(servers: ReplicaPair) -> Iterator[ReplicaPair]:
    with BlockingRedis(port=servers.primary.port) as client:
        client.flushdb()
    yield servers
    behind(servers, on=False)


@pytest.fixture
def settings(settings: Settings, pair: ReplicaPair) -> Settings:
    return replace(settings, redis_url=pair.primary.url, redis_replicas=1)


@pytest.fixture
async def redis(settings: Settings) -> AsyncIterator[Redis]:
    client = connect(settings)
    yield client
    await client.aclose()


def behind(pair: ReplicaPair, *, on: bool) -> None:
    """Stop the replica where it is, or let it go on."""
    process = pair.replicas[0].process
    assert process is not None
    process.send_signal(signal.SIGSTOP if on else signal.SIGCONT)


async def test_what_was_accepted_is_on_the_replica(
    redis: Redis, settings: Settings, pair: ReplicaPair
) -> None:
    with BlockingRedis(port=pair.replicas[0].port) as replica:

        async def accept(number: int) -> None:
            request = Request(id=f"r{number}", lane="text", planned=1)
            await submit(redis, settings, request, [TextJob(request=request.id, texts=["a"])])
            assert replica.hget(keys.request(request.id), "state") == b"running"

        await asyncio.gather(*map(accept, range(50)))


async def test_what_the_replica_lacks_is_not_accepted(
    redis: Redis, settings: Settings, pair: ReplicaPair
) -> None:
    behind(pair, on=True)
    with pytest.raises(ReplicasBehind, match="0 replicas have the write, 1 are required"):
        await submit(redis, settings, REQUEST, [JOB])
    assert await redis.hget(keys.request("r"), "state") == b"cancelled"


async def test_those_who_wait_share_rounds(redis: Redis, pair: ReplicaPair) -> None:
    pulse = script(redis, "pulse")
    await pulse.durably(keys=[keys.PULSE])
    before = (await redis.info("commandstats"))["cmdstat_wait"]["calls"]
    behind(pair, on=True)
    waiting = [asyncio.create_task(pulse.durably(keys=[keys.PULSE])) for _ in range(100)]
    outcomes = await asyncio.gather(*waiting, return_exceptions=True)
    assert all(isinstance(outcome, ReplicasBehind) for outcome in outcomes)
    assert (await redis.info("commandstats"))["cmdstat_wait"]["calls"] - before <= 2
    behind(pair, on=False)

    async def well() -> bool:
        return not isinstance(
            (await asyncio.gather(pulse.durably(keys=[keys.PULSE]), return_exceptions=True))[0], Exception
        )

    await until(well)


async def test_a_result_is_told_when_the_replica_has_it(
    redis: Redis, settings: Settings, pair: ReplicaPair
) -> None:
    listener = ResultListener(redis, settings)
    running = asyncio.create_task(listener.run())
    heard: list[Entry] = []

    async def follow() -> None:
        async with Submitter(redis, settings, listener).submitted(REQUEST, [JOB]) as (_, follower):
            accepted.set()
            async for _, entry in follower.entries(stored=False):
                heard.append(entry)

    accepted = asyncio.Event()
    following = asyncio.create_task(follow())
    await accepted.wait()
    publisher = Publisher(redis, settings)
    await publisher.publish(JOB, [Result(chunk=0, vector=b"0000")])
    await until(lambda: len(heard) == 1)
    behind(pair, on=True)
    publishing = asyncio.create_task(publisher.publish(JOB, [Result(chunk=1, vector=b"1111")]))
    await until(lambda: stored(redis, 3))
    await asyncio.sleep(0.3)
    assert (len(heard), publishing.done()) == (1, False)
    behind(pair, on=False)
    assert await publishing == "done"
    await following
    assert [entry.chunk for entry in heard if isinstance(entry, Result)] == [0, 1]
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


async def stored(redis: Redis, count: int) -> bool:
    return await redis.xlen(keys.results("r")) == count


async def test_what_is_handed_back_reaches_the_replica_first(
    redis: Redis, settings: Settings, pair: ReplicaPair
) -> None:
    claims = Claims(redis, "w", settings.claim_timeout)
    await claims.create_groups()
    await submit(redis, settings, REQUEST, [JOB])
    await claims.take(redis, "text", 1)
    behind(pair, on=True)
    with pytest.raises(ReplicasBehind):
        await claims.hand_back()
    behind(pair, on=False)


@pytest.fixture
def serve() -> Serve:
    return _serve


async def test_ready_says_that_replicas_are_missing(
    serve: Serve, settings: Settings, pair: ReplicaPair
) -> None:
    async with serve(settings) as gateway:
        view = gateway.context.view
        assert view.redis_problem == ""
        behind(pair, on=True)
        await until(lambda: "RTEMBED_REDIS_REPLICAS" in view.redis_problem)
        behind(pair, on=False)
        await until(lambda: view.redis_problem == "")
