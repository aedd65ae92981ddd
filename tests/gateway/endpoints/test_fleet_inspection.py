"""The fleet as clients see it: workers, queues, requests, and dead letters put back or deleted."""

from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from gateway.api.fleet_schemas import MOST_LETTERS
from shared import keys
from shared.jobs import TextJob
from shared.redis.connection import Redis, single_connection
from shared.requests import Request, failed, submit
from shared.settings import Settings
from shared.settings.setting_types import NamedKey
from tests.gateway.conftest import Gateway, Serve, StandIn
from tests.support import stream_entries
from worker.claims import Claims
from worker.publish.publisher import Publisher

JOB = TextJob(request="r1", texts=["a"], model="null")


@pytest.fixture
async def gateway(serve: Serve, settings: Settings, stand_in: StandIn) -> AsyncIterator[Gateway]:
    async with serve(settings) as running:
        yield running


async def bury(redis: Redis, settings: Settings, error: str = "given up") -> str:
    """Accept a job, claim it, and give it up as a worker does; its dead letter's id."""
    await submit(redis, settings, Request(id=JOB.request, lane="text", planned=1, model="null"), [JOB])
    claims, reader = Claims(redis, "w", 6.0, "null"), single_connection(settings)
    await claims.create_groups()
    (claim,) = await claims.take(reader, "text", 1)
    await Publisher(redis, settings).fail(JOB, failed(error))
    await claims.bury(claim, error)
    await reader.aclose()
    ((entry_id, _),) = await stream_entries(redis, keys.JOBS_DEAD)
    return f"job:{entry_id.decode()}"


async def test_the_fleet_and_its_queues(gateway: Gateway, redis: Redis, settings: Settings) -> None:
    await submit(redis, settings, Request(id=JOB.request, lane="text", planned=1, model="null"), [JOB])
    fleet = (await gateway.client.get("/fleet")).json()
    assert (fleet["ready"], fleet["problem"], fleet["models"]) == (True, "", ["null"])
    assert [(w["name"], w["state"], w["model"]) for w in fleet["workers"]] == [("w", "ready", "null")]
    assert {lane["lane"]: lane["waiting"] for lane in fleet["lanes"]} == {
        "text": 1, "probe": 0, "video": 0, "live": 0,
    }  # fmt: skip
    assert (fleet["outbox"]["waiting"], fleet["dead_letters"]) == (0, 0)


async def test_requests_are_listed_newest_first(gateway: Gateway, redis: Redis, settings: Settings) -> None:
    for name, lane in (("r1", "text"), ("r2", "video")):
        await redis.hset(keys.asset("a"), "id", "a")
        request = Request(id=name, lane=lane, planned=3, model="null", assets=["a"])  # type: ignore[arg-type]
        await submit(redis, settings, request, [JOB])
    await redis.hincrby(keys.request("r1"), "created", -60)
    await redis.hset(keys.request("r2"), "done", 2)
    (newest, older) = (await gateway.client.get("/fleet/requests")).json()["data"]
    assert (newest["id"], newest["lane"], newest["assets"]) == ("r2", "video", ["a"])
    assert (newest["chunks_done"], newest["chunks_planned"], newest["state"]) == (2, 3, "running")
    assert older["id"] == "r1"
    assert older["age_s"] >= 60
    assert (await gateway.client.get("/fleet/requests?state=failed")).json() == {"data": []}
    assert len((await gateway.client.get("/fleet/requests?limit=1")).json()["data"]) == 1


async def test_a_dead_letter_is_shown_with_its_reason_and_put_back(
    gateway: Gateway, redis: Redis, settings: Settings
) -> None:
    letter = await bury(redis, settings, "<b>no</b> worker survived" + "x" * 5000)
    found = (await gateway.client.get("/fleet/dead-letters")).json()
    assert found["total"] == 1
    (row,) = found["data"]
    assert (row["id"], row["kind"], row["lane"], row["request"]) == (letter, "job", "text", "r1")
    assert row["error"].startswith("<b>no</b> worker survived")
    assert len(row["error"]) == 2000
    unknown = "message:1-1"
    answer = await gateway.client.post("/fleet/dead-letters/requeue", json={"ids": [letter, unknown]})
    assert answer.json()["results"] == [
        {"id": letter, "done": True, "outcome": "requeued"},
        {"id": unknown, "done": False, "outcome": "not there"},
    ]
    assert await redis.xlen(keys.jobs("text", "null")) == 1
    assert (await gateway.client.get("/fleet/dead-letters")).json() == {"data": [], "total": 0}


async def test_a_dead_letter_is_dropped(gateway: Gateway, redis: Redis, settings: Settings) -> None:
    letter = await bury(redis, settings)
    answer = await gateway.client.post("/fleet/dead-letters/drop", json={"ids": [letter]})
    assert answer.json()["results"] == [{"id": letter, "done": True, "outcome": "dropped"}]
    assert await redis.xlen(keys.JOBS_DEAD) == 0


@pytest.mark.parametrize("ids", [[], ["job:x"], ["live:1-1"], ["job:1-1"] * (MOST_LETTERS + 1)])
async def test_what_is_no_dead_letter_is_refused(gateway: Gateway, ids: list[str]) -> None:
    answer = await gateway.client.post("/fleet/dead-letters/drop", json={"ids": ids})
    assert (answer.status_code, answer.json()["code"]) == (422, "InvalidParameters")


async def test_looking_takes_a_key_and_acting_an_administrators(serve: Serve, settings: Settings) -> None:
    keyed = replace(settings, api_keys=(NamedKey("", "user"),), admin_keys=(NamedKey("", "chief"),))
    async with serve(keyed) as gateway:
        assert (await gateway.client.get("/fleet")).status_code == 401
        user = {"X-API-Key": "user"}
        assert (await gateway.client.get("/fleet/dead-letters", headers=user)).status_code == 200
        for action in ("requeue", "drop"):
            path, body = f"/fleet/dead-letters/{action}", {"ids": ["job:1-1"]}
            assert (await gateway.client.post(path, json=body, headers=user)).status_code == 403
            chief = {"X-API-Key": "chief"}
            assert (await gateway.client.post(path, json=body, headers=chief)).status_code == 200
