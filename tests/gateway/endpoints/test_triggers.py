"""Triggers over HTTP, on a real index."""

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest

from search.schema import migrate
from shared.redis.connection import Redis
from shared.results import Result
from shared.search import database
from shared.search.database import Connection
from shared.settings import Settings
from tests.gateway.conftest import MODEL, Gateway, Serve, StandIn
from tests.gateway.endpoints.test_index_search import CAMERA, VECTORS, chunk, write
from worker.publish.publisher import Publisher

WANTED = VECTORS[0].tolist()
BODY: dict[str, Any] = {"name": "A dog", "vector": WANTED, "model": "null", "threshold": 0.9, "cooldown": 0}


@pytest.fixture
def searched(settings: Settings, search_url: str) -> Settings:
    """Settings of a gateway with an index."""
    return replace(settings, search_url=search_url)


@pytest.fixture
async def index(searched: Settings) -> AsyncIterator[Connection]:
    """A connection to the index."""
    connection = await database.connect(searched)
    await migrate(connection)
    yield connection
    await connection.close()


async def add(gateway: Gateway, status: int = 201, **fields: Any) -> Any:
    answer = await gateway.client.post("/triggers", json={**BODY, **fields})
    assert answer.status_code == status, answer.text
    return answer.json()


async def events(gateway: Gateway, trigger: str, count: int, **request: Any) -> list[tuple[str, Any]]:
    """The ids and contents of the first events of a stream."""
    found: list[tuple[str, Any]] = []
    async with (
        asyncio.timeout(20),
        gateway.client.stream("GET", f"/triggers/{trigger}/events", **request) as told,
    ):
        assert told.status_code == 200, await told.aread()
        data = ""
        async for line in told.aiter_lines():
            if line.startswith("data: "):
                data = line.removeprefix("data: ")
            if data == "[DONE]":
                return [*found, ("", data)]
            if line.startswith("id: "):
                found.append((line.removeprefix("id: "), json.loads(data)))
            if len(found) == count:
                break
    return found


async def test_a_trigger_is_kept_listed_and_deleted(
    serve: Serve, searched: Settings, index: Connection
) -> None:
    async with serve(searched) as gateway:
        made = await add(gateway, cameras=["gate"])
        await write(index, chunk(CAMERA, 7, VECTORS[0]), chunk(CAMERA, 8, -VECTORS[0]))
        other = await add(gateway, name="Nothing", cooldown=1.5, files=True)
        (first, second) = (await gateway.client.get("/triggers")).json()["triggers"]
        one = await gateway.client.get(f"/triggers/{made['id'].upper()}")
        gone = await gateway.client.delete(f"/triggers/{made['id']}")
        left = (await gateway.client.get("/triggers")).json()["triggers"]
        again = await gateway.client.delete(f"/triggers/{made['id']}")
        missing = await gateway.client.get(f"/triggers/{made['id']}")
        odd = await gateway.client.get("/triggers/nonsense")
    assert (made["matches"], made["last_match"], made["webhook"]) == (0, None, None)
    assert first == {**made, "matches": 1, "last_match": first["last_match"]} == one.json()
    assert first["last_match"] > "2026-"
    assert (second["cooldown"], second["files"], second["question"], second["text"]) == (
        1.5,
        True,
        "vector",
        None,
    )
    assert gone.json() == {"id": made["id"], "deleted": True}
    assert left == [other]
    assert [answer.status_code for answer in (again, missing, odd)] == [404, 404, 422]


@pytest.mark.usefixtures("index")
async def test_a_sentence_is_embedded_for_a_trigger(
    serve: Serve, searched: Settings, redis: Redis, stand_in: StandIn
) -> None:
    publisher = Publisher(redis, searched)
    publisher.model = MODEL
    async with serve(searched) as gateway:
        asking = asyncio.create_task(add(gateway, vector=None, text="a dog"))
        job = await stand_in.job("text")
        await publisher.publish(job, [Result(chunk=0, vector=VECTORS[0].astype("<f4").tobytes())])
        made = await asking
    assert (job.texts, job.query) == (["a dog"], True)
    assert (made["question"], made["text"], made["model"]) == ("text", "a dog", "null")


async def test_matches_are_events_that_can_be_resumed(
    serve: Serve, searched: Settings, index: Connection
) -> None:
    async with serve(searched) as gateway:
        trigger = (await add(gateway))["id"]
        await write(index, *(chunk(CAMERA, number, VECTORS[0]) for number in range(3)))
        following = asyncio.create_task(events(gateway, trigger, 2, params={"last": 1}))
        await asyncio.sleep(0.05)
        await write(index, chunk(CAMERA, 3, VECTORS[0]))
        lately = await following
        everything = await events(gateway, trigger, 4, params={"last": 1000})
        resumed = await events(gateway, trigger, 2, headers={"Last-Event-ID": everything[1][0]})
        ending = asyncio.create_task(events(gateway, trigger, 9))
        await asyncio.sleep(0.05)
        await gateway.client.delete(f"/triggers/{trigger}")
        ended = await ending
    assert [event["chunk"] for _, event in lately] == [2, 3]
    assert [event["chunk"] for _, event in everything] == [0, 1, 2, 3]
    assert [event["chunk"] for _, event in resumed] == [2, 3]
    assert ended == [("", "[DONE]")]
    key, event = everything[3]
    assert (event["id"], event["trigger"], event["trigger_name"]) == (key, trigger, "A dog")
    assert (event["camera"], event["kind"], event["start_time"]) == (
        "gate",
        "stream",
        "1970-01-01T00:00:30.000Z",
    )
    assert event["score"] == pytest.approx(1, abs=1e-3)


@pytest.mark.usefixtures("worker", "index")
async def test_what_makes_no_trigger_is_refused(serve: Serve, searched: Settings) -> None:
    cases: list[tuple[dict[str, Any], int, str]] = [
        ({"vector": None}, 422, "('body', 'text'): Give one of text, image, vector and like, not none"),
        ({"name": ""}, 422, "('body', 'name'): Must have at least 1 characters"),
        ({"name": "x" * 201}, 422, "('body', 'name'): Must have at most 200 characters"),
        ({"name": "a\nb"}, 422, "('body', 'name'): Must be printable characters"),
        ({"threshold": 1.5}, 422, "('body', 'threshold'): Must be at most 1"),
        ({"threshold": None}, 422, "('body', 'threshold'): "),
        ({"cameras": []}, 422, "('body', 'cameras'): Must have at least 1 items"),
        ({"cooldown": -1}, 422, "('body', 'cooldown'): Must be at least 0"),
        ({"vector": [1.0, 0.0]}, 400, "null makes vectors of 4 values, not 2"),
        ({"model": "nobody", "vector": None, "text": "a"}, 400, "No such model nobody"),
        ({"webhook": "ftp://a.example/"}, 422, "('body', 'webhook'): Must be an http:// or https:// URL"),
        ({"webhook": "https://a.example:99999/"}, 422, "('body', 'webhook'): Must be an http:// or"),
        ({"webhook": "https://u:p@a.example/"}, 422, "('body', 'webhook'): Must hold no user name"),
        ({"webhook": "http://169.254.169.254/"}, 422, "('body', 'webhook'): The host 169.254.169.254 has an"),
        ({"webhook": "http://localhost:1/"}, 422, "('body', 'webhook'): The host localhost is not allowed"),
        ({"webhook_secret": "s"}, 422, "('body', 'webhook_secret'): Give a webhook, too"),
        ({"colour": 1}, 422, "('body', 'colour'): No such field"),
    ]
    async with serve(searched) as gateway:
        for fields, status, message in cases:
            refused = await add(gateway, status, **fields)
            assert message in refused["message"], fields
        kept = (await gateway.client.get("/triggers")).json()
    assert kept == {"triggers": []}


@pytest.mark.usefixtures("index")
async def test_triggers_are_bounded_and_their_webhooks_stay_secret(serve: Serve, searched: Settings) -> None:
    async with serve(replace(searched, max_triggers=1)) as gateway:
        made = await add(gateway, webhook="https://93.184.216.34/token?key=k", webhook_secret="s")
        full = await add(gateway, 409)
        wrong = await gateway.client.get(f"/triggers/{made['id']}/events", headers={"Last-Event-ID": "x"})
        unknown = await gateway.client.get("/triggers/5b1c0000-0000-0000-0000-0000000000ff/events")
    assert made["webhook"] == {
        "host": "https://93.184.216.34", "signed": True, "waiting": 0, "given_up": 0, "error": "",
    }  # fmt: skip
    assert "there are 1 triggers, the maximum" in full["message"]
    assert (wrong.status_code, unknown.status_code) == (422, 404)


@pytest.mark.usefixtures("worker")
async def test_without_an_index_there_are_no_triggers(serve: Serve, settings: Settings) -> None:
    async with serve(settings) as gateway:
        answer = await add(gateway, 501)
        listed = await gateway.client.get("/triggers")
    assert "RTEMBED_SEARCH_URL" in answer["message"]
    assert listed.status_code == 501
