"""Requests that are answered later, on any gateway."""

import asyncio
from base64 import b64decode
from struct import unpack
from typing import Any

import pytest

from shared import keys
from shared.redis.connection import Redis
from shared.settings import Settings
from tests.gateway.conftest import Gateway, Serve, StandIn

ASYNC = {"Prefer": "respond-async"}
UNKNOWN = "00000000-0000-4000-8000-000000000000"
VIDEO = "/generate_video_embeddings"
TEXT = "/generate_text_embeddings"


async def accepted(gateway: Gateway, path: str, **body: Any) -> str:
    """Ask to be answered later; where."""
    answer = await gateway.client.post(path, json={"model": "null", **body}, headers=ASYNC)
    assert answer.status_code == 202, answer.text
    assert answer.headers["preference-applied"] == "respond-async"
    location = answer.headers["location"]
    assert location == f"/v1/requests/{answer.json()['id']}"
    return location.removeprefix("/v1")


async def test_a_video_request_is_followed_on_another_gateway(
    serve: Serve, settings: Settings, stand_in: StandIn, film: str
) -> None:
    async with serve(settings) as one, serve(settings) as other:
        where = await accepted(one, VIDEO, id=film, chunk_duration=1)
        first, second, third = [await stand_in.job() for _ in range(3)]
        await stand_in.finish(first, 0)
        status = (await other.client.get(where)).json()
        assert status | {"created": 0, "id": ""} == {
            "id": "", "object": "request", "kind": "video", "status": "running", "model": "null",
            "created": 0, "finished": None, "chunks_planned": 3, "chunks_done": 1, "error": None,
        }  # fmt: skip
        early = await other.client.get(f"{where}/results")
        assert (early.status_code, early.headers["retry-after"]) == (202, "1")
        assert early.json() == status
        await stand_in.finish(third, 2)
        await stand_in.finish(second, 1)
        answer = await other.client.get(f"{where}/results")
        assert answer.status_code == 200
        assert [c["start_time"] for c in answer.json()["chunk_responses"]] == ["0.0", "1.0", "2.0"]
        assert [c["embeddings"][0] for c in answer.json()["chunk_responses"]] == [0, 1, 2]
        assert answer.json()["id"] == status["id"]
        assert answer.json()["usage"]["total_chunks_processed"] == 3
        done = (await one.client.get(where)).json()
        assert (done["status"], done["chunks_done"]) == ("done", 3)
        assert done["finished"] >= done["created"]
        assert (await one.client.get(f"{where}/results")).json() == answer.json(), "it can be read again"


async def test_texts_keep_their_order_and_form(serve: Serve, settings: Settings, stand_in: StandIn) -> None:
    async with serve(settings) as gateway:
        texts = ["a", "b", "a"]
        where = await accepted(gateway, TEXT, text_input=texts, encoding_format="base64")
        await stand_in.finish(await stand_in.job("text"), 2, 0, 1)
        answer = (await gateway.client.get(f"{where}/results")).json()
    assert list(answer) == ["id", "created", "model", "data"]
    assert [item["text_input"] for item in answer["data"]] == texts
    vectors = [unpack("<4f", b64decode(item["embeddings"])) for item in answer["data"]]
    assert vectors == [(0, 1, 2, 3), (1, 1, 2, 3), (2, 1, 2, 3)]


async def test_a_failure_is_told_and_answered(
    serve: Serve, settings: Settings, stand_in: StandIn, film: str
) -> None:
    async with serve(settings) as gateway:
        where = await accepted(gateway, VIDEO, id=film)
        await stand_in.fail(await stand_in.job(), "Decode error: broken")
        status = (await gateway.client.get(where)).json()
        assert status["status"] == "failed"
        assert status["error"] == {"code": "InternalServerError", "message": "Decode error: broken"}
        answer = await gateway.client.get(f"{where}/results")
    assert (answer.status_code, answer.json()) == (500, status["error"])


async def test_nothing_to_do_is_done_at_once(
    serve: Serve, settings: Settings, stand_in: StandIn, film: str
) -> None:
    async with serve(settings) as gateway:
        media_info = {"type": "offset", "start_offset": 100}
        where = await accepted(gateway, VIDEO, id=film, media_info=media_info)
        assert (await gateway.client.get(where)).json()["status"] == "done"
        assert (await gateway.client.get(f"{where}/results")).json()["chunk_responses"] == []
        assert (await gateway.client.delete(f"/files/{film}")).status_code == 200


async def test_the_asset_is_held_until_the_end(
    serve: Serve, settings: Settings, stand_in: StandIn, film: str
) -> None:
    async with serve(settings) as gateway:
        await accepted(gateway, VIDEO, id=film)
        refused = await gateway.client.delete(f"/files/{film}")
        assert (refused.status_code, refused.json()["code"]) == (409, "ResourceInUse")
        await stand_in.finish(await stand_in.job(), 0)
        assert (await gateway.client.delete(f"/files/{film}")).status_code == 200


@pytest.mark.parametrize("suffix", ["", "/results"])
async def test_what_is_unknown(serve: Serve, settings: Settings, suffix: str) -> None:
    async with serve(settings) as gateway:
        missing = await gateway.client.get(f"/requests/{UNKNOWN}{suffix}")
        assert (missing.status_code, missing.json()["code"]) == (404, "NotFound")
        wrong = await gateway.client.get(f"/requests/x{suffix}")
        assert (wrong.status_code, wrong.json()["code"]) == (422, "InvalidParameters")
        assert wrong.json()["message"].startswith("('path', 'request_id'): ")


async def test_an_answer_given_at_once_can_be_read_again(
    serve: Serve, settings: Settings, stand_in: StandIn, film: str, redis: Redis
) -> None:
    async with serve(settings) as gateway:
        asking = asyncio.create_task(gateway.client.post(VIDEO, json={"id": film, "model": "null"}))
        job = await stand_in.job()
        await stand_in.finish(job, 0)
        answer = (await asking).json()
        again = (await gateway.client.get(f"/requests/{job.request}/results")).json()
        assert again["chunk_responses"] == answer["chunk_responses"]
        assert await redis.ttl(keys.request(job.request)) <= settings.result_ttl


@pytest.mark.parametrize(
    "prefer", ["respond-async, wait=10", "return=minimal, Respond-Async", "wait=1;respond-async"]
)
async def test_how_the_preference_is_read(
    serve: Serve, settings: Settings, stand_in: StandIn, film: str, prefer: str
) -> None:
    async with serve(settings) as gateway:
        body = {"id": film, "model": "null", "media_info": {"type": "offset", "start_offset": 9}}
        answer = await gateway.client.post(VIDEO, json=body, headers={"Prefer": prefer})
    assert answer.status_code == (200 if ";" in prefer else 202)
