"""What `rt-embed inspect` shows of a service at work, and what it does to dead letters."""

import json
from typing import Any

import pytest

from rt_embed.cli import inspect
from shared import keys
from shared.assets import Asset
from shared.chunks import SECOND, Chunk
from shared.fleet import Worker, announce
from shared.jobs import TextJob, VideoJob
from shared.keys import OUTBOX, OUTBOX_COUNTS, OUTBOX_DEAD, PUBLISHERS
from shared.redis.connection import Redis, single_connection
from shared.requests import Request, failed, submit
from shared.results import Result
from shared.settings import Settings
from worker.claims import Claims
from worker.publish.publisher import Publisher

VIDEO = VideoJob(
    request="v", assets=[Asset(id="file")], chunks=[Chunk(0, 0, SECOND), Chunk(1, SECOND, 2 * SECOND)]
)


async def accept(redis: Redis, settings: Settings, job: Any, planned: int = 2) -> None:
    assets = [asset.id for asset in getattr(job, "assets", [])]
    for asset in assets:
        await redis.hset(keys.asset(asset), "id", asset)
    request = Request(id=job.request, lane=job.lane, planned=planned, model="m", assets=assets)
    await submit(redis, settings, request, [job])


async def bury(redis: Redis, settings: Settings) -> str:
    """Accept a job, claim it, and give it up as a worker does; returns its dead letter's name."""
    await accept(redis, settings, VIDEO)
    claims, reader = Claims(redis, "w", 6.0), single_connection(settings)
    await claims.create_groups()
    (claim,) = await claims.take(reader, "video", 1)
    await Publisher(redis, settings).fail(VIDEO, failed("given up"))
    await claims.bury(claim, "given up")
    await reader.aclose()
    ((entry_id, _),) = await redis.xrange(keys.JOBS_DEAD)
    return f"job:{entry_id.decode()}"


async def test_lanes_show_depth_claims_age_and_workers(redis: Redis, settings: Settings) -> None:
    for name in ("a", "b"):
        await accept(redis, settings, TextJob(request=name, texts=["x"]))
    claims, reader = Claims(redis, "worker-1", 6.0), single_connection(settings)
    await claims.create_groups()
    await claims.take(reader, "text", 1)
    await reader.aclose()
    text, *others = await inspect.lanes(redis)
    assert (text["lane"], text["depth"], text["waiting"], text["pending"]) == ("text", 2, 1, 1)
    assert 0 <= text["oldest_s"] < 60
    assert [(w["name"], w["pending"]) for w in text["workers"]] == [(claims.consumer, 1)]
    assert [row["lane"] for row in others] == list(keys.LANES[1:])
    assert {row["depth"] for row in others} == {0}
    assert {row["oldest_s"] for row in others} == {None}


async def test_a_request_shows_its_state_and_results(redis: Redis, settings: Settings) -> None:
    await accept(redis, settings, VIDEO)
    await Publisher(redis, settings).publish(VIDEO, [Result(chunk=0, end=SECOND, vector=b"\x00" * 12)])
    found = await inspect.look(redis, "request", "v")
    assert (found["request"]["state"], found["request"]["done"], found["request"]["model"]) == (
        "running",
        "1",
        "m",
    )
    (result,) = found["results"]
    assert (result["chunk"], result["vector_bytes"]) == ("0", 12)
    assert await inspect.look(redis, "request", "unknown") == {}


async def test_the_outbox_shows_what_waits_and_what_became_of_the_rest(redis: Redis) -> None:
    await redis.xadd(OUTBOX, {"key": "k"})
    await redis.xgroup_create(OUTBOX, PUBLISHERS, id="0")
    await redis.xadd(OUTBOX, {"key": "l"})
    await redis.xreadgroup(PUBLISHERS, "p", {OUTBOX: ">"}, count=1)
    await redis.hset(OUTBOX_COUNTS, mapping={"sent": 7, "dropped": 2})
    found = await inspect.outbox(redis)
    assert (found["depth"], found["waiting"], found["pending"]) == (2, 1, 1)
    assert (found["sent"], found["dropped"], found["refused"]) == (7, 2, 0)
    assert [(p["name"], p["pending"]) for p in found["publishers"]] == [("p", 1)]


async def test_live_sessions_workers_and_routes(redis: Redis) -> None:
    await redis.hset(keys.live("camera"), mapping={"owner": "w", "next": "17"})
    await announce(redis, Worker(name="w", state="ready", backend="cpu"))
    await redis.hset(keys.ROUTES, "message_bus", "redis")
    found = await inspect.look(redis, "all")
    assert found["live"] == [{"stream": "camera", "owner": "w", "next": "17"}]
    assert [(w["name"], w["state"]) for w in found["workers"]] == [("w", "ready")]
    assert found["routes"] == {"message_bus": "redis"}


async def test_looking_changes_nothing(redis: Redis, settings: Settings) -> None:
    await bury(redis, settings)
    await redis.xadd(OUTBOX, {"key": "k"})

    async def state() -> dict[bytes, bytes]:
        return {key: await redis.dump(key) for key in await redis.keys("*")}

    before = await state()
    for what in ("all", "dead"):
        await inspect.look(redis, what)
    await inspect.look(redis, "request", "v")
    assert await state() == before


# Dead letters -------------------------------------------------------------------------------------------


async def test_a_dead_job_is_shown_with_its_error(redis: Redis, settings: Settings) -> None:
    letter = await bury(redis, settings)
    (row,) = await inspect.dead(redis)
    assert (row["id"], row["request"], row["lane"], row["error"]) == (letter, "v", "video", "given up")
    assert row["deliveries"] == "1"


async def test_a_requeued_job_runs_again_and_its_request_is_open(redis: Redis, settings: Settings) -> None:
    letter = await bury(redis, settings)
    assert await inspect.requeue(redis, settings, letter) == "requeued"
    assert await inspect.dead(redis) == []
    assert await redis.hget(keys.request("v"), "state") == b"running"
    assert await redis.zscore(keys.running("video"), "v")
    assert await redis.zscore(keys.asset_users("file"), "v")
    assert await redis.xlen(keys.results("v")) == 0  # the end is taken back

    claims, reader = Claims(redis, "w", 6.0), single_connection(settings)
    (claim,) = await claims.take(reader, "video", 1)
    await reader.aclose()
    assert (claim.job, claim.deliveries) == (VIDEO, 1)
    results = [Result(chunk=n, vector=b"1234") for n in range(2)]
    assert await Publisher(redis, settings).publish(VIDEO, results) == "done"
    assert await inspect.requeue(redis, settings, letter) == "not there"


async def test_a_job_is_not_requeued_without_its_request_or_its_file(
    redis: Redis, settings: Settings
) -> None:
    letter = await bury(redis, settings)
    await redis.delete(keys.asset("file"))
    assert await inspect.requeue(redis, settings, letter) == "refused: its file file was deleted"
    await redis.delete(keys.request("v"))
    assert await inspect.requeue(redis, settings, letter) == "refused: its request is forgotten"
    assert [row["id"] for row in await inspect.dead(redis)] == [letter]


async def test_a_refused_message_is_requeued_whole_or_dropped(redis: Redis, settings: Settings) -> None:
    message: dict[Any, Any] = {"key": "r:0", "type": "vision_llm", "stream": "s", "value": b"\x00\xff"}
    first = await redis.xadd(OUTBOX_DEAD, {**message, "error": "too large"})
    second = await redis.xadd(OUTBOX_DEAD, {**message, "error": "too large"})
    rows = await inspect.dead(redis)
    assert [(row["key"], row["value_bytes"], row["error"]) for row in rows] == [("r:0", 2, "too large")] * 2
    assert await inspect.requeue(redis, settings, f"message:{first.decode()}") == "requeued"
    ((_, fields),) = await redis.xrange(OUTBOX)
    assert fields == {b"key": b"r:0", b"type": b"vision_llm", b"stream": b"s", b"value": b"\x00\xff"}
    assert await inspect.drop(redis, f"message:{second.decode()}") == "dropped"
    assert await inspect.drop(redis, f"message:{second.decode()}") == "not there"
    assert await redis.xlen(OUTBOX_DEAD) == 0


@pytest.mark.parametrize("letter", ["", "job:", "job:x", "nothing:1-0", "1-0"])
async def test_letters_that_are_not_there(redis: Redis, settings: Settings, letter: str) -> None:
    assert await inspect.requeue(redis, settings, letter) == "not there"
    assert await inspect.drop(redis, letter) == "not there"


# The command --------------------------------------------------------------------------------------------


@pytest.fixture
def command(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REDIS_URL", redis_url)


@pytest.mark.usefixtures("command")
@pytest.mark.parametrize("arguments", [["--json"], ["--json", "lanes"], ["lanes", "--json"]])
def test_json_is_json(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert inspect.main(arguments) == 0
    assert [row["lane"] for row in json.loads(capsys.readouterr().out)["lanes"]] == list(keys.LANES)


@pytest.mark.usefixtures("command")
def test_people_get_tables(capsys: pytest.CaptureFixture[str]) -> None:
    assert inspect.main([]) == 0
    shown = capsys.readouterr().out
    assert all(
        name in shown for name in ("lanes", "outbox", "live: none", "workers: none", "dead: none", "video")
    )


@pytest.mark.usefixtures("command")
def test_what_is_not_there_is_a_failure(capsys: pytest.CaptureFixture[str]) -> None:
    assert inspect.main(["request", "unknown"]) == 1
    assert inspect.main(["dead", "drop", "job:1-0"]) == 1
    assert inspect.main(["dead", "requeue", "--all"]) == 1
    assert "job:1-0: not there" in capsys.readouterr().out


def test_no_redis_is_said(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("REDIS_URL", "redis://127.0.0.1:1/0")
    assert inspect.main([]) == 2
    assert "rt-embed inspect: " in capsys.readouterr().err


@pytest.mark.usefixtures("command")
def test_watching_repeats(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    looks = 0
    look = inspect.look

    async def counted(*arguments: Any) -> dict[str, Any]:
        nonlocal looks
        looks += 1
        if looks == 3:
            raise KeyboardInterrupt
        return await look(*arguments)

    monkeypatch.setattr(inspect, "look", counted)
    assert inspect.main(["routes", "--watch", "0.01"]) == 0
    assert capsys.readouterr().out.count("routes: none") == 2
