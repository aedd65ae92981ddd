"""What `rt-embed inspect` shows of a service at work, and what it does to dead letters."""

import json
from pathlib import Path
from typing import Any

import pytest

from rt_embed.cli import inspect
from rt_embed.cli.data_folder import (
    REDIS_VARIABLES,
    LocalService,
    announced,
    configuration_here,
    running_service,
    used_alone,
    with_redis_found,
)
from rt_embed.cli.embedded_postgres import database_url
from rt_embed.cli.main import run
from rt_embed.cli.terminal import ExitStatus
from shared import keys
from shared.assets import Asset
from shared.chunks import SECOND, Chunk
from shared.errors import SettingsError
from shared.fleet import Worker, announce
from shared.inspection import queues
from shared.inspection.dead_letters import dead, drop, requeue
from shared.jobs import TextJob, VideoJob
from shared.keys import OUTBOX, OUTBOX_COUNTS, OUTBOX_DEAD, PUBLISHERS
from shared.redis.connection import Redis, single_connection
from shared.requests import Request, failed, submit
from shared.results import Result
from shared.settings import Settings, load
from tests.support import stream_entries
from worker.claims import Claims
from worker.publish.publisher import Publisher

VIDEO = VideoJob(
    request="v",
    model="m",
    assets=[Asset(id="file")],
    chunks=[Chunk(0, 0, SECOND), Chunk(1, SECOND, 2 * SECOND)],
)


async def accept(redis: Redis, settings: Settings, job: Any, planned: int = 2) -> None:
    assets = [asset.id for asset in getattr(job, "assets", [])]
    for asset in assets:
        await redis.hset(keys.asset(asset), "id", asset)
    await redis.zadd(keys.MODELS, {"m": 1})  # as a worker does that serves it
    request = Request(id=job.request, lane=job.lane, planned=planned, model="m", assets=assets)
    await submit(redis, settings, request, [job])


async def bury(redis: Redis, settings: Settings) -> str:
    """Accept a job, claim it, and give it up as a worker does; returns its dead letter's name."""
    await accept(redis, settings, VIDEO)
    claims, reader = Claims(redis, "w", 6.0, "m"), single_connection(settings)
    await claims.create_groups()
    (claim,) = await claims.take(reader, "video", 1)
    await Publisher(redis, settings).fail(VIDEO, failed("given up"))
    await claims.bury(claim, "given up")
    await reader.aclose()
    ((entry_id, _),) = await stream_entries(redis, keys.JOBS_DEAD)
    return f"job:{entry_id.decode()}"


async def test_lanes_show_depth_claims_age_and_workers(redis: Redis, settings: Settings) -> None:
    for name in ("a", "b"):
        await accept(redis, settings, TextJob(request=name, model="m", texts=["x"]))
    claims, reader = Claims(redis, "worker-1", 6.0, "m"), single_connection(settings)
    await claims.create_groups()
    await claims.take(reader, "text", 1)
    await reader.aclose()
    text, *others = await queues.lanes(redis)
    assert (text["lane"], text["depth"], text["waiting"], text["pending"]) == ("text", 2, 1, 1)
    assert 0 <= text["oldest_s"] < 60
    assert [(w["name"], w["pending"]) for w in text["workers"]] == [(claims.consumer, 1)]
    assert [row["lane"] for row in others] == list(keys.LANES[1:])
    assert {row["depth"] for row in others} == {0}
    assert {row["oldest_s"] for row in others} == {None}


async def test_a_request_shows_its_state_and_results(redis: Redis, settings: Settings) -> None:
    await accept(redis, settings, VIDEO)
    await Publisher(redis, settings).publish(VIDEO, [Result(chunk=0, end=SECOND, vector=b"\x00" * 12)])
    found = await queues.request(redis, "v")
    assert (found["request"]["state"], found["request"]["done"], found["request"]["model"]) == (
        "running",
        "1",
        "m",
    )
    (result,) = found["results"]
    assert (result["chunk"], result["vector_bytes"]) == ("0", 12)
    assert await queues.request(redis, "unknown") == {}


async def test_the_outbox_shows_what_waits_and_what_became_of_the_rest(redis: Redis) -> None:
    await redis.xadd(OUTBOX, {"key": "k"})
    await redis.xgroup_create(OUTBOX, PUBLISHERS, id="0")
    await redis.xadd(OUTBOX, {"key": "l"})
    await redis.xreadgroup(PUBLISHERS, "p", {OUTBOX: ">"}, count=1)
    await redis.hset(OUTBOX_COUNTS, mapping={"sent": 7, "dropped": 2})
    found = await queues.outbox(redis)
    assert (found["depth"], found["waiting"], found["pending"]) == (2, 1, 1)
    assert (found["sent"], found["dropped"], found["refused"]) == (7, 2, 0)
    assert [(p["name"], p["pending"]) for p in found["publishers"]] == [("p", 1)]


async def test_live_sessions_workers_and_routes(redis: Redis) -> None:
    await redis.hset(keys.live("camera"), mapping={"owner": "w", "next": "17"})
    await announce(redis, Worker(name="w", state="ready", backend="cpu"))
    await redis.hset(keys.ROUTES, "message_bus", "redis")
    found = await inspect.look_at_all(redis)
    assert found["live"] == [{"stream": "camera", "owner": "w", "next": "17"}]
    assert [(w["name"], w["state"]) for w in found["workers"]] == [("w", "ready")]
    assert found["routes"] == {"message_bus": "redis"}


async def test_looking_changes_nothing(redis: Redis, settings: Settings) -> None:
    await bury(redis, settings)
    await redis.xadd(OUTBOX, {"key": "k"})

    async def state() -> dict[bytes | str, bytes | None]:
        return {key: await redis.dump(key) for key in await redis.keys("*")}

    before = await state()
    await inspect.look_at_all(redis)
    await queues.requests(redis)
    await queues.request(redis, "v")
    assert await state() == before


# Dead letters -------------------------------------------------------------------------------------------


async def test_a_dead_job_is_shown_with_its_error(redis: Redis, settings: Settings) -> None:
    letter = await bury(redis, settings)
    (row,) = await dead(redis)
    assert (row["id"], row["request"], row["lane"], row["error"]) == (letter, "v", "video", "given up")
    assert row["deliveries"] == "1"


async def test_a_requeued_job_runs_again_and_its_request_is_open(redis: Redis, settings: Settings) -> None:
    letter = await bury(redis, settings)
    assert await requeue(redis, settings, letter) == "requeued"
    assert await dead(redis) == []
    assert await redis.hget(keys.request("v"), "state") == b"running"
    assert await redis.zscore(keys.running("video"), "v")
    assert await redis.zscore(keys.asset_users("file"), "v")
    assert await redis.xlen(keys.results("v")) == 0  # the end is taken back

    claims, reader = Claims(redis, "w", 6.0, "m"), single_connection(settings)
    (claim,) = await claims.take(reader, "video", 1)
    await reader.aclose()
    assert (claim.job, claim.deliveries) == (VIDEO, 1)
    results = [Result(chunk=n, vector=b"1234") for n in range(2)]
    assert await Publisher(redis, settings).publish(VIDEO, results) == "done"
    assert await requeue(redis, settings, letter) == "not there"


async def test_a_job_is_not_requeued_without_its_request_or_its_file(
    redis: Redis, settings: Settings
) -> None:
    letter = await bury(redis, settings)
    await redis.delete(keys.asset("file"))
    assert await requeue(redis, settings, letter) == "refused: its file file was deleted"
    await redis.delete(keys.request("v"))
    assert await requeue(redis, settings, letter) == "refused: its request is forgotten"
    assert [row["id"] for row in await dead(redis)] == [letter]


async def test_a_refused_message_is_requeued_whole_or_dropped(redis: Redis, settings: Settings) -> None:
    message: dict[Any, Any] = {"key": "r:0", "type": "vision_llm", "stream": "s", "value": b"\x00\xff"}
    first: Any = await redis.xadd(OUTBOX_DEAD, {**message, "error": "too large"})
    second: Any = await redis.xadd(OUTBOX_DEAD, {**message, "error": "too large"})
    rows = await dead(redis)
    assert [(row["key"], row["value_bytes"], row["error"]) for row in rows] == [("r:0", 2, "too large")] * 2
    assert await requeue(redis, settings, f"message:{first.decode()}") == "requeued"
    ((_, fields),) = await stream_entries(redis, OUTBOX)
    assert fields == {b"key": b"r:0", b"type": b"vision_llm", b"stream": b"s", b"value": b"\x00\xff"}
    assert await drop(redis, f"message:{second.decode()}") == "dropped"
    assert await drop(redis, f"message:{second.decode()}") == "not there"
    assert await redis.xlen(OUTBOX_DEAD) == 0


@pytest.mark.parametrize("letter", ["", "job:", "job:x", "nothing:1-0", "1-0"])
async def test_letters_that_are_not_there(redis: Redis, settings: Settings, letter: str) -> None:
    assert await requeue(redis, settings, letter) == "not there"
    assert await drop(redis, letter) == "not there"


# The command --------------------------------------------------------------------------------------------


@pytest.fixture
def command(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REDIS_URL", redis_url)


@pytest.mark.usefixtures("command")
@pytest.mark.parametrize("arguments", [["--json"], ["--json", "lanes"], ["lanes", "--json"]])
def test_json_is_json(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["inspect", *arguments]) == ExitStatus.DONE
    assert [row["lane"] for row in json.loads(capsys.readouterr().out)["lanes"]] == ["probe"]


@pytest.mark.usefixtures("command")
def test_people_get_tables(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["inspect"]) == ExitStatus.DONE
    shown = capsys.readouterr().out
    assert all(
        name in shown for name in ("lanes", "outbox", "live: none", "workers: none", "dead: none", "probe")
    )


@pytest.mark.usefixtures("command")
def test_what_is_not_there_is_a_failure(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["inspect", "request", "unknown"]) == ExitStatus.FAILED
    assert run(["inspect", "dead", "drop", "job:1-0"]) == ExitStatus.FAILED
    assert run(["inspect", "dead", "requeue", "--all"]) == ExitStatus.FAILED
    shown = capsys.readouterr()
    assert "job:1-0: not there" in shown.out
    assert shown.err.splitlines() == [
        "rt-embed inspect request: there is no such request, or it has expired",
        "rt-embed inspect dead: no dead letters named; see `rt-embed inspect dead`",
    ]


def test_no_redis_is_said(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("REDIS_URL", "redis://user:secret@127.0.0.1:1/0")
    assert run(["inspect"]) == ExitStatus.UNREACHABLE
    said = capsys.readouterr().err
    assert said.startswith("rt-embed inspect: Redis at redis://127.0.0.1:1/0 does not answer: ")
    assert "secret" not in said


@pytest.mark.usefixtures("command")
def test_watching_repeats(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    looks = 0
    read = queues.requests

    async def counted(*arguments: Any) -> list[dict[str, Any]]:
        nonlocal looks
        looks += 1
        if looks == 3:
            raise KeyboardInterrupt
        return await read(*arguments)

    monkeypatch.setattr(queues, "requests", counted)
    assert run(["inspect", "requests", "--watch", "--every", "0.01"]) == ExitStatus.DONE
    assert capsys.readouterr().out.count("requests: none") == 2


# Requests -----------------------------------------------------------------------------------------------


async def test_requests_are_listed_newest_first(redis: Redis, settings: Settings) -> None:
    for name in ("first", "second", "third"):
        await accept(redis, settings, TextJob(request=name, model="m", texts=["x"]), planned=1)
    await redis.hset(
        keys.request("first"), mapping={"created": 100, "finished": 130, "state": "done", "done": 1}
    )
    await redis.hset(keys.request("second"), "created", 200)
    await redis.set(keys.done("first"), "x")  # no request, though its key begins like one
    found = await queues.requests(redis)
    assert [(row["request"], row["state"], row["chunks"]) for row in found] == [
        ("third", "running", "0/1"), ("second", "running", "0/1"), ("first", "done", "1/1"),
    ]  # fmt: skip
    assert found[2]["ran_s"] == 30
    assert 0 <= found[0]["age_s"] < 60
    assert [row["request"] for row in await queues.requests(redis, limit=1)] == ["third"]
    assert [row["request"] for row in await queues.requests(redis, state="done")] == ["first"]


async def test_many_requests_are_read_in_pages(redis: Redis) -> None:
    for number in range(queues.SCAN_PAGE + 5):
        await redis.hset(keys.request(str(number)), mapping={"state": "done", "created": 1_000_000 + number})
    found = await queues.requests(redis, limit=10_000)
    assert [row["request"] for row in found] == [str(n) for n in reversed(range(queues.SCAN_PAGE + 5))]


# The service of `rt-embed up` ---------------------------------------------------------------------------


def test_it_finds_the_service_of_the_data_folder(
    redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in REDIS_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    configuration = load({"RTEMBED_DATA_DIR": str(tmp_path)})
    service = LocalService("http://localhost:8123", redis_url)
    assert with_redis_found(configuration).redis_url is None
    with used_alone(tmp_path), announced(tmp_path, service):
        assert running_service(tmp_path) == service
        assert with_redis_found(configuration).redis_url == redis_url
        assert (tmp_path / "service.json").stat().st_mode & 0o777 == 0o600
        monkeypatch.setenv("REDIS_HOST", "elsewhere")
        assert with_redis_found(configuration).redis_url is None
        with pytest.raises(SettingsError, match="another rt-embed up uses"), used_alone(tmp_path):
            pass
    assert running_service(tmp_path) is None


def test_a_record_that_a_killed_service_left_is_ignored(tmp_path: Path) -> None:
    with used_alone(tmp_path):
        pass
    (tmp_path / "service.json").write_text('{"url": "http://localhost:1", "redis": ""}')
    assert running_service(tmp_path) is None


def test_the_index_of_a_service_in_this_folder_is_found_by_its_socket(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = Path("data")
    (folder / "postgres").mkdir(parents=True)
    (folder / "postgres" / "postmaster.pid").touch()
    with used_alone(folder), announced(folder, LocalService("http://127.0.0.1:1", "")):
        found = configuration_here({"RTEMBED_DATA_DIR": str(folder)})
    assert found.search_url == database_url(tmp_path / "data" / "postgres")
    assert "host=%2F" in found.search_url
    assert found.message_bus == "redis"
