"""Claims, results and dead letters on real servers: Valkey, and the oldest Redis that is supported."""

import asyncio
from typing import Any

import pytest

from shared import jobs, keys
from shared.assets import Asset
from shared.chunks import Chunk
from shared.errors import DependencyError, ServerBusy
from shared.jobs import Claim, TextJob, VideoJob
from shared.redis.connection import Redis, script
from shared.requests import CANCELLED, Request, failed, finish, submit
from shared.results import End, Result, from_fields, unpack
from shared.settings import Settings, load
from tests.support import stream_entries, until
from worker.claims import Claims
from worker.publish.publisher import Publisher


@pytest.fixture
def settings(every_redis: dict[str, str]) -> Settings:
    return load({**every_redis, "RTEMBED_CLAIM_TIMEOUT": "1", "RTEMBED_TEXT_QUEUE_LIMIT": "5"})


@pytest.fixture
async def claims(redis: Redis, settings: Settings) -> Claims:
    made = Claims(redis, "one", settings.claim_timeout)
    await made.create_groups()
    return made


@pytest.fixture
def other(redis: Redis, settings: Settings, claims: Claims) -> Claims:
    return Claims(redis, "two", settings.claim_timeout)


ASSET = Asset(id="a1", path="/tmp/a.mp4")


def video_job(chunks: int, request: str = "r1") -> VideoJob:
    return VideoJob(request=request, assets=[ASSET], chunks=[Chunk(i, i, i + 1) for i in range(chunks)])


async def add_asset(redis: Redis) -> None:
    await script(redis, "register_asset")(
        keys=[keys.asset(ASSET.id), keys.ASSETS, keys.AGED_OUT_ASSETS, keys.ARRIVING_ASSETS],
        args=[ASSET.id, "token", "id", ASSET.id],
    )


async def submit_video(redis: Redis, settings: Settings, chunks: int = 3) -> VideoJob:
    await add_asset(redis)
    job = video_job(chunks)
    request = Request(id="r1", lane="video", planned=chunks, assets=[ASSET.id])
    await submit(redis, settings, request, [job])
    return job


async def submit_text(redis: Redis, settings: Settings, name: str = "t1", count: int = 1) -> list[TextJob]:
    work = [TextJob(request=name, texts=["a"]) for _ in range(count)]
    await submit(redis, settings, Request(id=name, lane="text", planned=1), work)
    return work


def result(chunk: int) -> Result:
    return Result(
        chunk=chunk,
        start=chunk,
        end=chunk + 1,
        vector=b"\x00\x00\x80?",
        frame_times=[chunk],
        queue_time_s=0.0,
    )


async def stored(redis: Redis, request: str) -> list[Result | End]:
    return [from_fields(fields) for _, fields in await stream_entries(redis, keys.results(request))]


# Submitting -------------------------------------------------------------------------------------------


async def test_a_job_reads_back_as_it_was_written(redis: Redis, settings: Settings, claims: Claims) -> None:
    job = await submit_video(redis, settings)
    (claim,) = await claims.take(redis, "video", 5)
    assert claim.job == job
    assert claim.deliveries == 1
    fields = (await stream_entries(redis, keys.jobs("video")))[0][1]
    assert fields[b"kind"] == b"video"
    assert fields[b"request"] == b"r1"
    assert abs(int(fields[b"enqueued"]) - claim.enqueued_ms) <= 1


async def test_a_full_lane_accepts_nothing(redis: Redis, settings: Settings, claims: Claims) -> None:
    await submit_text(redis, settings, "t1", 3)
    with pytest.raises(ServerBusy, match="text queue is full: 3 jobs"):
        await submit_text(redis, settings, "t2", 3)
    assert await redis.xlen(keys.jobs("text")) == 3
    assert not await redis.exists(keys.request("t2"))


async def test_an_asset_that_vanished_accepts_nothing(redis: Redis, settings: Settings) -> None:
    request = Request(id="r1", lane="video", planned=1, assets=["a1"])
    with pytest.raises(DependencyError, match="a1 was deleted"):
        await submit(redis, settings, request, [video_job(1)])
    assert not await redis.exists(keys.request("r1"), keys.jobs("video"), keys.asset_users("a1"))


async def test_a_newer_payload_with_unknown_fields_is_read() -> None:
    payload = b'{"kind":"text","request":"r","texts":["a"],"version":9,"flavour":"new"}'
    assert jobs.from_fields({b"payload": payload}) == TextJob(request="r", texts=["a"], version=9)


# Results ----------------------------------------------------------------------------------------------


async def test_every_result_appears_once_however_often_it_is_published(
    redis: Redis, settings: Settings
) -> None:
    job = await submit_video(redis, settings)
    publisher = Publisher(redis, settings)
    assert await publisher.publish(job, [result(0), result(1)]) == "running"
    assert await publisher.publish(job, [result(1), result(0)]) == "running"
    assert await publisher.chunks_done(job) == {0, 1}
    assert await publisher.publish(job, [result(0), result(2)]) == "done"
    assert await publisher.publish(job, [result(2)]) == "done"
    assert await stored(redis, "r1") == [result(0), result(1), result(2), End(state="done")]


async def test_the_last_result_frees_the_asset_and_lets_everything_expire(
    redis: Redis, settings: Settings
) -> None:
    job = await submit_video(redis, settings, chunks=1)
    assert await redis.zscore(keys.asset_users("a1"), "r1")
    await Publisher(redis, settings).publish(job, [result(0)])
    assert await redis.zscore(keys.asset_users("a1"), "r1") is None
    for key in (keys.request("r1"), keys.results("r1"), keys.done("r1")):
        assert 0 < await redis.ttl(key) <= settings.result_ttl


async def test_a_running_request_has_a_time_to_live_too(redis: Redis, settings: Settings) -> None:
    job = await submit_video(redis, settings)
    assert 0 < await redis.ttl(keys.request("r1")) <= settings.request_ttl
    await Publisher(redis, settings).publish(job, [result(0)])
    assert 0 < await redis.ttl(keys.results("r1")) <= settings.request_ttl


async def test_a_notification_carries_the_stored_entry(redis: Redis, settings: Settings) -> None:
    job = await submit_video(redis, settings, chunks=1)
    async with redis.pubsub() as listener:
        await listener.subscribe(keys.notify("r1"))
        assert await listener.get_message(timeout=5)  # the confirmation
        await Publisher(redis, settings).publish(job, [result(0)])
        heard: list[tuple[str, Result | End]] = []
        while len(heard) < 2:
            message = await listener.get_message(ignore_subscribe_messages=True, timeout=5)
            if message:
                heard += unpack(message["data"])
    kept = [(i.decode(), from_fields(f)) for i, f in await stream_entries(redis, keys.results("r1"))]
    assert heard == kept


async def test_a_failed_chunk_ends_the_request(redis: Redis, settings: Settings) -> None:
    job = await submit_video(redis, settings)
    publisher = Publisher(redis, settings)
    bad = Result(chunk=1, error="Decode error: no")
    assert await publisher.publish(job, [bad], failed("chunk 1: Decode error: no")) == "failed"
    assert await publisher.publish(job, [result(2)]) == "failed"
    assert await stored(redis, "r1") == [bad, failed("chunk 1: Decode error: no")]


async def test_publishing_for_a_request_that_has_gone_says_so(redis: Redis, settings: Settings) -> None:
    publisher = Publisher(redis, settings)
    assert await publisher.publish(video_job(1), [result(0)]) == "gone"
    assert await stored(redis, "r1") == []


async def test_a_cancelled_request_takes_no_more_results(redis: Redis, settings: Settings) -> None:
    job = await submit_video(redis, settings)
    request = Request(id="r1", lane="video", planned=3, assets=["a1"])
    assert await finish(redis, settings, request, CANCELLED) == "cancelled"
    assert await finish(redis, settings, request, failed("too late")) == "cancelled"
    assert await Publisher(redis, settings).publish(job, [result(0)]) == "cancelled"
    assert await stored(redis, "r1") == [CANCELLED]
    assert not await redis.exists(keys.asset_users("a1"))


# Claims -----------------------------------------------------------------------------------------------


async def test_only_as_many_jobs_are_claimed_as_there_are_slots(
    redis: Redis, settings: Settings, claims: Claims, other: Claims
) -> None:
    await submit_text(redis, settings, count=5)
    assert len(await claims.take(redis, "text", 2)) == 2
    assert len(await other.take(redis, "text", 9)) == 3


async def test_a_completed_job_is_gone(redis: Redis, settings: Settings, claims: Claims) -> None:
    await submit_text(redis, settings)
    (claim,) = await claims.take(redis, "text", 1)
    await Publisher(redis, settings).publish(claim.job, [result(0)])
    await claims.complete(claim)
    assert await redis.xlen(keys.jobs("text")) == 0
    assert (await redis.xpending(keys.jobs("text"), keys.GROUP))["pending"] == 0


async def test_a_job_whose_results_a_failover_has_lost_is_done_again(
    redis: Redis, settings: Settings, claims: Claims, other: Claims
) -> None:
    await submit_video(redis, settings, chunks=2)
    (claim,) = await claims.take(redis, "video", 1)
    publisher = Publisher(redis, settings)
    await publisher.publish(claim.job, [result(0)])
    before = {key: await redis.dump(key) for key in (keys.request("r1"), keys.done("r1"), keys.results("r1"))}
    assert await publisher.publish(claim.job, [result(1)]) == "done"
    for key, value in before.items():
        assert value
        await redis.restore(key, 0, value, replace=True)
    await claims.complete(claim)
    claims.release(claim)
    taken: list[Claim] = []

    async def taken_over() -> bool:
        taken.extend(await other.take_over("video", 1))
        return bool(taken)

    await until(taken_over)
    (again,) = taken
    assert (again.job, again.deliveries) == (claim.job, 2)
    assert await publisher.publish(again.job, [result(0), result(1)]) == "done"
    await other.complete(again)
    assert await redis.xlen(keys.jobs("video")) == 0
    assert await stored(redis, "r1") == [result(0), result(1), End(state="done")]


async def test_a_silent_workers_job_goes_to_another_and_counts(
    redis: Redis, settings: Settings, claims: Claims, other: Claims
) -> None:
    await submit_text(redis, settings)
    (claim,) = await claims.take(redis, "text", 1)
    assert await other.take_over("text", 5) == []
    (taken,) = await taken_over(other)
    assert taken == Claim("text", claim.id, claim.job, deliveries=2)
    assert await claims.renew() == [("text", claim.id)]
    assert await other.renew() == []


async def test_a_renewed_claim_stays(redis: Redis, settings: Settings, claims: Claims, other: Claims) -> None:
    await submit_text(redis, settings)
    (claim,) = await claims.take(redis, "text", 1)
    for _ in range(5):
        await asyncio.sleep(0.3)
        assert await claims.renew() == []
    assert await other.take_over("text", 5) == []
    pending = await waiting(redis)
    assert pending[0]["times_delivered"] == 1
    assert pending[0]["message_id"].decode() == claim.id


async def test_a_job_still_held_is_not_taken_over_by_its_own_worker(
    redis: Redis, settings: Settings, claims: Claims
) -> None:
    await submit_text(redis, settings)
    (claim,) = await claims.take(redis, "text", 1)
    await until(lambda: _idle(redis, 1000))
    assert await claims.take_over("text", 5) == []
    claims.release(claim)
    (again,) = await taken_over(claims)
    assert again.deliveries == 1, "an answer that was lost, no worker that died"


async def test_what_a_living_worker_has_lost_sight_of_is_left_to_it_for_a_while(
    redis: Redis, settings: Settings, claims: Claims, other: Claims
) -> None:
    await submit_text(redis, settings, count=2)
    first, second = await claims.take(redis, "text", 2)
    claims.release(first)

    async def silent(milliseconds: int) -> bool:
        await claims.renew()
        pending = [entry for entry in await waiting(redis) if entry["message_id"].decode() == first.id]
        return bool(pending[0]["time_since_delivered"] >= milliseconds)

    await until(lambda: silent(1000))
    assert await other.take_over("text", 5) == []
    await until(lambda: silent(2000))
    assert [claim.id for claim in await taken_over(other, alive=claims)] == [first.id]
    assert await claims.renew() == []
    assert second.id in claims.held["text"]


async def test_what_is_handed_back_is_free_at_once_and_not_counted(
    redis: Redis, settings: Settings, claims: Claims, other: Claims
) -> None:
    await submit_text(redis, settings, count=3)
    await claims.take(redis, "text", 3)
    assert await claims.hand_back() == 3
    taken = await other.take_over("text", 5)
    assert [claim.deliveries for claim in taken] == [1, 1, 1]


async def test_a_buried_job_lies_in_the_dead_letters_with_its_reason(
    redis: Redis, settings: Settings, claims: Claims
) -> None:
    (job,) = await submit_text(redis, settings)
    (claim,) = await claims.take(redis, "text", 1)
    await claims.bury(claim, "it killed three workers")
    ((_, letter),) = await stream_entries(redis, keys.JOBS_DEAD)
    assert jobs.from_fields(letter) == job
    assert letter[b"error"] == b"it killed three workers"
    assert letter[b"deliveries"] == b"1"
    assert letter[b"lane"] == b"text"
    assert await redis.xlen(keys.jobs("text")) == 0


async def taken_over(claims: Claims, *, alive: Claims | None = None) -> list[Claim]:
    """Return what `claims` takes over, once it may: not soon after a pause of all workers, as a busy machine
    makes one. Meanwhile the worker `alive` renews its own."""
    taken: list[Claim] = []

    async def took() -> bool:
        if alive:
            await alive.renew()
        taken.extend(await claims.take_over("text", 5))
        return bool(taken)

    await until(took)
    return taken


async def waiting(redis: Redis) -> list[dict[str, Any]]:
    """Return what Redis says of the text jobs that are delivered and not acknowledged."""
    found: Any = await redis.xpending_range(keys.jobs("text"), keys.GROUP, "-", "+", 5)
    return list(found)


async def outage(redis: Redis, seconds: float = 60) -> None:
    """As if Redis took no writes for so long: no worker could renew its claims, nor write the pulse."""
    last = int(await redis.hget(keys.PULSE, "last") or 0)
    await redis.hset(keys.PULSE, "last", last - int(seconds * 1000))
    for entry in await waiting(redis):
        owner, ids, idle = entry["consumer"], [entry["message_id"]], int(seconds * 1000)
        await redis.xclaim(keys.jobs("text"), keys.GROUP, owner, 0, ids, idle=idle, justid=True)


async def test_an_outage_takes_no_job_from_a_worker_that_lives(
    redis: Redis, settings: Settings, claims: Claims, other: Claims
) -> None:
    await submit_text(redis, settings)
    await claims.take(redis, "text", 1)
    assert await other.take_over("text", 5) == []
    for _ in range(5):
        await outage(redis)
        assert await other.take_over("text", 5) == []
        assert await claims.renew() == []
    (pending,) = await waiting(redis)
    assert (pending["consumer"].decode(), pending["times_delivered"]) == (claims.consumer, 1)


async def test_after_an_outage_the_jobs_of_the_dead_are_taken_over(
    redis: Redis, settings: Settings, claims: Claims, other: Claims
) -> None:
    await submit_text(redis, settings, count=2)
    await claims.take(redis, "text", 1)
    assert await other.take_over("text", 5) == []
    await outage(redis)
    assert await other.take_over("text", 5) == []
    assert [claim.deliveries for claim in await taken_over(other)] == [2]
    assert int(await redis.hget(keys.PULSE, "since") or 0) > 0


async def test_what_is_handed_back_does_not_wait_for_an_outage_to_pass(
    redis: Redis, settings: Settings, claims: Claims, other: Claims
) -> None:
    await submit_text(redis, settings)
    await claims.take(redis, "text", 1)
    assert await other.take_over("text", 5) == []
    await outage(redis)
    await claims.hand_back()
    assert [claim.deliveries for claim in await other.take_over("text", 5)] == [1]


async def test_lanes_come_back_after_redis_lost_everything(
    redis: Redis, settings: Settings, claims: Claims
) -> None:
    await redis.flushdb()
    assert await claims.take(redis, "text", 1) == []
    await submit_text(redis, settings)
    assert len(await claims.take(redis, "text", 1)) == 1


async def _idle(redis: Redis, milliseconds: int) -> bool:
    return all(entry["time_since_delivered"] >= milliseconds for entry in await waiting(redis))
