"""Live sessions in Redis: one per stream, spread over workers, taken over, never published twice."""

import time
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from shared import keys, live_records
from shared.assets import Asset
from shared.errors import DependencyError, ServerBusy
from shared.jobs import Claim, LiveJob
from shared.redis.connection import Redis, connect, script
from shared.requests import CANCELLED, finish, request_of
from shared.results import End, Result, from_fields
from shared.settings import Settings, load
from tests.support import stream_entries, until
from worker.claims import Claims
from worker.live.session import Outage
from worker.publish.publisher import Publisher


@pytest.fixture(params=["valkey", "redis62"])
def settings(request: pytest.FixtureRequest, tmp_path: Path) -> Settings:
    server = request.getfixturevalue(request.param)
    return load(
        {
            "REDIS_URL": server.url,
            "RTEMBED_CLAIM_TIMEOUT": "1",
            "RTEMBED_MAX_LIVE_STREAMS": "4",
            "RTEMBED_LIVE_RESULTS": "100",
            "RTVI_RTSP_RECONNECTION_MAX_ATTEMPTS": "3",
            "RTVI_RTSP_RECONNECTION_WINDOW": "60.0",
        }
    )


@pytest.fixture
async def redis(settings: Settings) -> AsyncIterator[Redis]:
    client = connect(settings)
    await client.flushdb()
    yield client
    await client.aclose()


@pytest.fixture
async def workers(redis: Redis, settings: Settings) -> list[Claims]:
    made = [Claims(redis, name, settings.claim_timeout, "null") for name in ("one", "two")]
    await made[0].create_groups()
    return made


async def start(redis: Redis, settings: Settings, number: int = 1, request: str = "") -> str:
    """Start a session of stream `number`; the request that runs."""
    asset = Asset(id=f"s{number}", kind="stream", path="rtsp://h/")
    await redis.hset(keys.asset(asset.id), "id", asset.id)
    request = request or f"r{number}"
    session = live_records.LiveRecord(request=request, model="null", chunk_duration=10)
    return await live_records.start(redis, settings, request, asset, session)


def job(number: int = 1) -> LiveJob:
    asset = Asset(id=f"s{number}", kind="stream", path="rtsp://h/")
    return LiveJob(request=f"r{number}", assets=[asset], chunk_duration=10, model="null")


async def test_a_second_start_joins(redis: Redis, settings: Settings) -> None:
    assert await start(redis, settings) == "r1"
    assert await start(redis, settings, request="later") == "r1"
    assert await redis.xlen(keys.jobs("live", "null")) == 1
    assert not await redis.exists(keys.request("later"))
    (session,) = await live_records.read_sessions(redis, ["s1"])
    assert session
    assert (session.request, session.state, session.chunk_duration) == ("r1", "waiting", 10)


async def test_after_its_end_a_session_starts_anew(
    redis: Redis, settings: Settings, workers: list[Claims]
) -> None:
    await start(redis, settings)
    (claim,) = await workers[0].take_live()
    await live_records.beat(redis, settings, claim, workers[0].consumer, {"next": 7, "state": "running"})
    await finish(redis, settings, request_of(job()), CANCELLED)
    assert await live_records.read_sessions(redis, ["s1"]) == [None]
    assert await live_records.next_chunk(redis, job()) is None
    assert await start(redis, settings, request="later") == "later"
    (session,) = await live_records.read_sessions(redis, ["s1"])
    assert session
    assert session.next == 0


async def test_no_more_sessions_than_may_be(redis: Redis, settings: Settings) -> None:
    for number in range(4):
        await start(redis, settings, number)
    with pytest.raises(ServerBusy, match=r"maximum number of live streams \(4\)"):
        await start(redis, settings, 5)
    assert await live_records.read_sessions(redis, ["s5"]) == [None]
    assert await start(redis, settings, 3, request="again") == "r3"


async def test_a_stream_that_vanished_starts_nothing(redis: Redis, settings: Settings) -> None:
    session = live_records.LiveRecord(request="r1", chunk_duration=1)
    with pytest.raises(DependencyError):
        await live_records.start(redis, settings, "r1", Asset(id="gone", kind="stream"), session)
    assert await redis.xlen(keys.jobs("live", "null")) == 0


async def silence(redis: Redis, seconds: float) -> None:
    """Let at least `seconds` pass in which Redis takes writes: it is the workers who are silent. A pause that
    a busy machine makes looks like an outage; then time counts anew."""
    begin = time.monotonic()

    async def passed() -> bool:
        steady = int(await script(redis, "pulse")(keys=[keys.PULSE]))
        return steady >= 1000 and time.monotonic() - begin >= seconds

    await until(passed)


async def test_the_worker_with_fewest_takes_the_next(
    redis: Redis, settings: Settings, workers: list[Claims]
) -> None:
    one, two = workers
    assert await one.take_live() == []
    assert await two.take_live() == []
    await start(redis, settings, 1)
    (claim,) = await one.take_live()
    assert claim.job == job(1)
    await start(redis, settings, 2)
    assert await one.take_live() == []
    assert len(await two.take_live()) == 1
    await start(redis, settings, 3)
    assert len(await one.take_live()) == 1
    await start(redis, settings, 4)
    assert await one.take_live() == []
    await silence(redis, 1.1)
    assert len(await one.take_live()) == 1, "what nobody takes for a while may be taken by anyone"


async def test_sessions_of_a_dead_worker_are_taken_one_by_one(
    redis: Redis, settings: Settings, workers: list[Claims]
) -> None:
    one, two = workers
    for number in (1, 2):
        await start(redis, settings, number)
        await one.take_live()
    assert await two.take_live() == []
    await silence(redis, 1.1)
    (first,) = await two.take_live()
    (second,) = await two.take_live()
    assert {first.job.request, second.job.request} == {"r1", "r2"}
    assert first.deliveries == 2
    assert sorted(entry for _, entry in await one.renew()) == sorted([first.id, second.id])


async def test_sessions_handed_back_are_taken_at_once_however_lately_the_fleet_has_looked(
    redis: Redis, settings: Settings, workers: list[Claims]
) -> None:
    one, two = workers
    for number in (1, 2):
        await start(redis, settings, number)
        assert len(await one.take_live()) == 1
    assert await two.take_live() == []
    await one.hand_back(["live"])
    assert len(await two.take_live()) == 1
    assert len(await two.take_live()) == 1


async def test_the_fleet_shares_a_look_for_silent_sessions(
    redis: Redis, settings: Settings, workers: list[Claims]
) -> None:
    one, two = workers
    lane = keys.jobs("live", "null")
    await start(redis, settings, 1)
    (claim,) = await one.take_live()
    while True:
        await one.hand_back(["live"])
        now = await milliseconds(redis)
        await redis.hset(keys.PULSE, mapping={f"swept {lane}": now, f"silent {lane}": ""})
        taken = await two.take_live()
        if await milliseconds(redis) < now + 100:
            break
        await two.hand_back(["live"])  # too slow: the look was too old
    assert taken == []
    await redis.hset(keys.PULSE, mapping={f"swept {lane}": now, f"silent {lane}": f"1-1 {claim.id}"})
    assert [again.id for again in await two.take_live()] == [claim.id]


async def milliseconds(redis: Redis) -> int:
    """The time of Redis's clock."""
    seconds, microseconds = await redis.time()
    return int(seconds) * 1000 + int(microseconds) // 1000


async def test_a_delivery_may_be_withheld(redis: Redis, settings: Settings, workers: list[Claims]) -> None:
    """The third of one session; another is not held up by it."""
    one, two = workers
    await start(redis, settings, 1)
    await one.take_live()
    await silence(redis, 1.1)
    (again,) = await two.take_live()
    assert again.deliveries == 2
    await start(redis, settings, 2)
    (other,) = await one.take_live()
    one.release(other)
    await silence(redis, 2.2)
    (taken,) = await one.take_live(withheld=3)
    assert (taken.id, taken.deliveries) == (other.id, 1), "an answer that was lost is no delivery"
    assert await one.take_live(withheld=3) == []
    (taken,) = await one.take_live()
    assert (taken.id, taken.deliveries) == (again.id, 3)


async def test_deliveries_of_a_harmless_session_are_counted_anew(
    redis: Redis, settings: Settings, workers: list[Claims]
) -> None:
    one, two = workers
    await start(redis, settings)
    (claim,) = await one.take_live()
    one.release(claim)
    await silence(redis, 1.1)
    (claim,) = await two.take_live()
    await one.forgive(claim)  # it is no longer one's
    ((pending),) = await redis.xpending_range(keys.jobs("live", "null"), keys.GROUP, "-", "+", 5)
    assert pending["times_delivered"] == 2
    await two.forgive(claim)
    ((pending),) = await redis.xpending_range(keys.jobs("live", "null"), keys.GROUP, "-", "+", 5)
    assert (pending["times_delivered"], pending["consumer"]) == (1, two.consumer.encode())


async def uneven(redis: Redis, settings: Settings, workers: list[Claims]) -> list[Claim]:
    """Three sessions that the first worker runs, while the second is there and has none."""
    claims = []
    for number in range(1, 4):
        await start(redis, settings, number)
        claims += await workers[0].take_live()
    for claim in claims:
        await live_records.beat(redis, settings, claim, workers[0].consumer, {"state": "running"})
    await workers[1].take_live()
    return claims


async def test_a_session_moves_to_who_asks_is_ready_and_runs_fewer(
    redis: Redis, settings: Settings, workers: list[Claims]
) -> None:
    one, two = workers
    claims = await uneven(redis, settings, workers)
    surplus = await two.surplus(0)
    assert surplus in claims
    assert surplus
    assert await two.surplus(1) is None
    assert await one.surplus(0) is None
    move = live_records.Move(f"{two.consumer}/1")
    job: Any = surplus.job
    assert await live_records.ask_to_move(redis, settings, job, move)
    assert not await live_records.ask_to_move(redis, settings, job, move), "it is asked for"
    told = {"state": "running", "move_at": f"{move.token} 77"}
    assert await live_records.beat(redis, settings, surplus, one.consumer, told) == (
        "running",
        False,
        move.token,
    )
    planned = live_records.Move(move.token, 77)
    assert await live_records.stand_by(redis, surplus, move, ready=True) == ("wait", planned)
    handed = [await live_records.hand_over(redis, settings, surplus, one.consumer, move=move, next_chunk=5)]
    assert await live_records.stand_by(redis, surplus, move, ready=True) == ("yours", move)
    assert (await live_records.beat(redis, settings, surplus, one.consumer, {}))[0] == "lost"
    handed += [await live_records.hand_over(redis, settings, surplus, one.consumer, move=move, next_chunk=6)]
    assert handed == ["moved", "lost"]
    record = await live_records.next_chunk(redis, job)
    assert record
    assert (record.owner, record.next) == (two.consumer, 5)
    pending = await redis.xpending_range(keys.jobs("live", "null"), keys.GROUP, surplus.id, surplus.id, 1)
    assert pending[0]["times_delivered"] == 1
    assert not await redis.exists(keys.LIVE_MOVES)
    assert await two.surplus(0) is None, "two and one are even enough"


@pytest.mark.parametrize("why", ["not ready", "withdrawn", "even by now", "gone"])
async def test_a_session_stays_where_it_is_otherwise(
    redis: Redis, settings: Settings, workers: list[Claims], why: str
) -> None:
    one, two = workers
    claims = await uneven(redis, settings, workers)
    move = live_records.Move(f"{two.consumer}/1")
    job: Any = claims[0].job
    await live_records.ask_to_move(redis, settings, job, move)
    await live_records.stand_by(redis, claims[0], move, ready=why != "not ready")
    if why == "withdrawn":
        await live_records.cancel_move(redis, job, move)
    elif why == "even by now":
        await one.complete(*claims[1:])
    elif why == "gone":
        await redis.xgroup_delconsumer(keys.jobs("live", "null"), keys.GROUP, two.consumer)
    hand_over = live_records.hand_over(redis, settings, claims[0], one.consumer, move=move, next_chunk=5)
    assert await hand_over == "stays"
    assert await live_records.stand_by(redis, claims[0], move, ready=True) == ("over", move)
    assert not await redis.exists(keys.LIVE_MOVES)


async def test_no_more_sessions_move_than_may(
    redis: Redis, settings: Settings, workers: list[Claims]
) -> None:
    claims = await uneven(redis, settings, workers)
    two = replace(settings, live_moves=2)
    jobs: list[Any] = [claim.job for claim in claims]
    asked = [await live_records.ask_to_move(redis, two, job, live_records.Move("w/1")) for job in jobs]
    assert asked == [True, True, False]
    await live_records.cancel_move(redis, jobs[0], live_records.Move("w/1"))
    assert await live_records.ask_to_move(redis, two, jobs[2], live_records.Move("w/1"))


async def test_what_is_handed_over_is_free_at_once(
    redis: Redis, settings: Settings, workers: list[Claims]
) -> None:
    one, two = workers
    await start(redis, settings)
    await one.take_live()
    assert await one.hand_back(["live"]) == 1
    (claim,) = await two.take_live()
    assert claim.deliveries == 1


async def test_results_are_bounded_ascending_and_never_the_end(redis: Redis, settings: Settings) -> None:
    await start(redis, settings)
    publisher = Publisher(redis, settings)
    for chunk in range(450):
        assert await publisher.publish(job(), [Result(chunk=chunk, wall_start=1, wall_end=2)]) == "running"
    assert await redis.xlen(keys.results("r1")) <= 300
    for stale in (0, 449):
        assert await publisher.publish(job(), [Result(chunk=stale)]) == "running"
    last = (await stream_entries(redis, keys.results("r1")))[-1][1]
    assert from_fields(last) == Result(chunk=449, wall_start=1, wall_end=2)
    assert not await redis.exists(keys.done("r1"))
    session = await live_records.next_chunk(redis, job())
    assert session
    assert session.next == 450
    await finish(redis, settings, request_of(job()), End(state="done"))
    assert await publisher.publish(job(), [Result(chunk=450)]) == "done"


async def test_a_beat_tells_of_the_stop_and_of_the_end(
    redis: Redis, settings: Settings, workers: list[Claims]
) -> None:
    one, two = workers
    await start(redis, settings)
    (claim,) = await one.take_live()

    async def beat(worker: Claims) -> tuple[str, bool, str]:
        return await live_records.beat(redis, settings, claim, worker.consumer, {"state": "running"})

    assert await beat(one) == ("running", False, "")
    assert await beat(two) == ("lost", False, "")
    (session,) = await live_records.read_sessions(redis, ["s1"])
    assert session
    assert session.owner == one.consumer
    await live_records.ask_to_stop(redis, "s1")
    assert await beat(one) == ("running", True, "")
    await finish(redis, settings, request_of(job()), CANCELLED)
    assert await beat(one) == ("cancelled", False, "")


async def test_logins_expire_unless_they_are_kept(redis: Redis, settings: Settings) -> None:
    login = live_records.CameraLogin(username="u", password="hidden-one", place='{"place_name":"x"}')
    await live_records.write_login(redis, "s1", login, expires=100)
    assert 0 < await redis.ttl(keys.camera("s1")) <= 100
    await live_records.write_login(redis, "s1", login)
    assert await redis.ttl(keys.camera("s1")) == -1
    assert await live_records.read_logins(redis, ["s1", "s2"]) == [login, live_records.CameraLogin()]
    assert "hidden-one" not in repr(login)


def test_an_outage_has_so_many_attempts(settings: Settings) -> None:
    outage = Outage(settings)
    assert [outage.failed("x", now) for now in (0, 1, 2, 3)] == [True, True, True, False]
    outage.over()
    assert not outage.lasts
    assert outage.failed("x", 4)


def test_an_outage_has_a_window(settings: Settings) -> None:
    outage = Outage(settings)
    assert [outage.failed("x", now) for now in (0, 59, 61)] == [True, True, False]
