from typing import Any

import pytest

from shared import jobs, keys
from shared.assets import Asset
from shared.chunks import Chunk
from shared.errors import DependencyError, ServerBusy
from shared.jobs import Job, ProbeJob, TextJob, VideoJob
from shared.redis.connection import Redis, script
from shared.requests import CANCELLED, Request, failed, finish, queue_limit, request_of, submit
from shared.results import End, from_fields, unpack
from shared.settings import Settings, load
from tests.support import stream_entries

LANES = {"text": "RTEMBED_TEXT_QUEUE_LIMIT", "probe": "RTEMBED_PROBE_QUEUE_LIMIT"} | {
    "video": "RTEMBED_VIDEO_QUEUE_LIMIT"
}


@pytest.fixture
def redis_environment(every_redis: dict[str, str]) -> dict[str, str]:
    return every_redis


def job_of(lane: str, request: str = "r1") -> Any:
    asset = Asset(id="a1")
    return {
        "text": TextJob(request=request, texts=["a"]),
        "probe": ProbeJob(request=request, asset=asset),
        "video": VideoJob(request=request, assets=[asset], chunks=[Chunk(0, 0, 1)]),
    }[lane]


async def record(redis: Redis, *assets: str) -> None:
    for asset in assets:
        await script(redis, "register_asset")(
            keys=[keys.asset(asset), keys.ASSETS, keys.AGED_OUT_ASSETS, keys.ARRIVING_ASSETS],
            args=[asset, "token", "id", asset],
        )


async def everything(redis: Redis) -> set[bytes | str]:
    return set(await redis.keys("*"))


def test_a_failure_is_the_services_own_unless_said_otherwise() -> None:
    assert failed("no") == End(state="failed", code="InternalServerError", status=500, error="no")
    assert failed("no", "InvalidFile", 400) == End(state="failed", code="InvalidFile", status=400, error="no")


@pytest.mark.parametrize(
    ("job", "request_"),
    [
        (job_of("text"), Request(id="r1", lane="text", planned=0)),
        (job_of("probe"), Request(id="r1", lane="probe", planned=0)),
        (job_of("video"), Request(id="r1", lane="video", planned=0, assets=["a1"])),
    ],
)
def test_a_worker_knows_what_it_needs_to_end_a_request(job: Job, request_: Request) -> None:
    assert request_of(job) == request_


@pytest.mark.parametrize("lane", list(LANES))
async def test_every_lane_is_full_at_its_own_limit(
    redis: Redis, redis_environment: dict[str, str], lane: Any
) -> None:
    limited = load({**redis_environment, LANES[lane]: "3"})
    assert queue_limit(limited, lane) == 3
    for name in ("r1", "r2", "r3"):
        await submit(redis, limited, Request(id=name, lane=lane, planned=1), [job_of(lane, name)])
    before = await everything(redis)
    with pytest.raises(ServerBusy, match=f"the {lane} queue is full: 3 jobs") as refused:
        await submit(redis, limited, Request(id="r4", lane=lane, planned=1), [job_of(lane, "r4")])
    assert (refused.value.status, refused.value.retry) == (503, True)
    assert await everything(redis) == before
    assert await redis.xlen(keys.jobs(lane)) == 3


async def test_a_request_is_accepted_with_all_of_its_jobs(redis: Redis, settings: Settings) -> None:
    await record(redis, "a1", "a2")
    request = Request(
        id="r1", lane="video", planned=4, model="m", assets=["a1", "a2"], options='{"stream":true}'
    )
    created = await submit(redis, settings, request, [job_of("video")] * 2, traceparent="00-ab-cd-01")
    fields = await redis.hgetall(keys.request("r1"))
    assert int(fields.pop(b"accepted_ms")) // 1000 == created
    assert fields == {
        b"state": b"running", b"created": str(created).encode(), b"done": b"0", b"kind": b"video",
        b"model": b"m", b"planned": b"4", b"assets": b"a1,a2", b"options": b'{"stream":true}',
    }  # fmt: skip
    assert abs((await redis.time())[0] - created) <= 5
    entries = [entry for _, entry in await stream_entries(redis, keys.jobs("video"))]
    assert [jobs.from_fields(entry) for entry in entries] == [job_of("video")] * 2
    assert {entry[b"traceparent"] for entry in entries} == {b"00-ab-cd-01"}
    assert await redis.zrange(keys.running("video"), 0, -1) == [b"r1"]
    for asset in ("a1", "a2"):
        assert await redis.zscore(keys.asset_users(asset), "r1") == created + settings.request_ttl


async def test_the_asset_that_vanished_is_named(redis: Redis, settings: Settings) -> None:
    await record(redis, "a1", "a3")
    before = await everything(redis)
    request = Request(id="r1", lane="video", planned=1, assets=["a1", "a2", "a3"])
    with pytest.raises(DependencyError, match="the asset a2 was deleted meanwhile"):
        await submit(redis, settings, request, [job_of("video")])
    assert await everything(redis) == before


async def test_a_submission_that_is_sent_again_changes_nothing(redis: Redis, settings: Settings) -> None:
    """redis-py repeats a call whose connection broke before the answer came."""
    request = Request(id="r1", lane="text", planned=2)
    created = await submit(redis, settings, request, [job_of("text")])
    await redis.hset(keys.request("r1"), mapping={"done": "1", "created": str(created - 7)})
    assert await submit(redis, settings, request, [job_of("text")]) == created - 7
    assert await redis.xlen(keys.jobs("text")) == 1
    assert await redis.hget(keys.request("r1"), "done") == b"1"


async def test_a_thousand_jobs_are_one_step(redis: Redis, settings: Settings) -> None:
    request = Request(id="r1", lane="video", planned=1000)
    await submit(redis, settings, request, [job_of("video")] * 1000)
    assert await redis.xlen(keys.jobs("video")) == 1000


async def test_ending_a_request_tells_its_readers_and_frees_its_assets(
    redis: Redis, settings: Settings
) -> None:
    await record(redis, "a1")
    request = Request(id="r1", lane="video", planned=1, assets=["a1"])
    await submit(redis, settings, request, [job_of("video")])
    end = failed("no ünïcode\nproblem", "InvalidFile", 400)
    async with redis.pubsub() as listener:
        await listener.subscribe(keys.notify("r1"))
        await listener.get_message(timeout=5)
        assert await finish(redis, settings, request, end) == "failed"
        message = await listener.get_message(timeout=5)
    ((entry_id, stored),) = await stream_entries(redis, keys.results("r1"))
    assert from_fields(stored) == end
    assert unpack(message["data"]) == [(entry_id.decode(), end)]
    assert await redis.hget(keys.request("r1"), "state") == b"failed"
    assert await redis.hget(keys.request("r1"), "finished")
    assert not await redis.exists(keys.asset_users("a1"), keys.running("video"))
    assert await redis.hgetall(keys.REQUEST_COUNTS) == {b"video:failed": b"1"}


async def test_only_the_first_end_counts(redis: Redis, settings: Settings) -> None:
    request = Request(id="r1", lane="text", planned=1)
    await submit(redis, settings, request, [job_of("text")])
    assert await finish(redis, settings, request, CANCELLED) == "cancelled"
    assert await finish(redis, settings, request, failed("too late")) == "cancelled"
    assert len(await stream_entries(redis, keys.results("r1"))) == 1
    assert await redis.hgetall(keys.REQUEST_COUNTS) == {b"text:cancelled": b"1"}


async def test_ending_an_unknown_request_leaves_nothing(redis: Redis, settings: Settings) -> None:
    assert await finish(redis, settings, Request(id="r9", lane="text", planned=1), CANCELLED) == "gone"
    assert await everything(redis) == set()


async def test_everything_of_an_ended_request_expires(redis: Redis, settings: Settings) -> None:
    request = Request(id="r1", lane="text", planned=1)
    await submit(redis, settings, request, [job_of("text")])
    await finish(redis, settings, request, CANCELLED)
    for key in (keys.request("r1"), keys.results("r1")):
        assert 0 < await redis.ttl(key) <= settings.result_ttl
