"""A request that is sent again with its Idempotency-Key is the same request, at any gateway."""

import asyncio
from typing import Any

import pytest

from shared import keys
from shared.redis.connection import Redis
from shared.requests import CANCELLED, failed, finish, request_of
from shared.settings import Settings, load
from tests.gateway.conftest import MODEL, Gateway, Serve, StandIn
from tests.support import until

VIDEO = "/generate_video_embeddings"
TEXT = "/generate_text_embeddings"
KEY = {"Idempotency-Key": "8e03978e-40d5-43dd-bc93-6894a57f9324"}
LATER = {**KEY, "Prefer": "respond-async"}
TEXTS = {"model": "null", "text_input": ["a", "b"]}


def film_body(film: str, **more: Any) -> dict[str, Any]:
    return {"id": film, "model": "null", "chunk_duration": 1, **more}


async def finish_all(stand_in: StandIn) -> None:
    for chunk in range(3):
        await stand_in.finish(await stand_in.job(), chunk)


async def test_an_answer_that_was_missed_is_had_at_another_gateway(
    serve: Serve, settings: Settings, stand_in: StandIn, film: str, redis: Redis
) -> None:
    async with serve(settings) as one, serve(settings) as other:
        missed = asyncio.create_task(one.client.post(VIDEO, json=film_body(film), headers=KEY))
        first = await stand_in.job()
        missed.cancel()
        again = asyncio.create_task(other.client.post(VIDEO, json=film_body(film), headers=KEY))
        await stand_in.finish(first, 0)
        await stand_in.finish(await stand_in.job(), 1)
        await stand_in.finish(await stand_in.job(), 2)
        answer = (await again).json()
        assert answer["id"] == first.request
        assert [chunk["embeddings"][0] for chunk in answer["chunk_responses"]] == [0, 1, 2]
        assert await redis.xlen(keys.jobs("video", MODEL.id)) == 3, "no job was made twice"
        repeated = (await one.client.post(VIDEO, json=film_body(film), headers=KEY)).json()
        assert repeated["chunk_responses"] == answer["chunk_responses"]


async def events(gateway: Gateway, film: str) -> list[str]:
    answer = await gateway.client.post(VIDEO, json=film_body(film, stream=True), headers=KEY)
    assert answer.status_code == 200
    return [line for line in answer.text.splitlines() if line.startswith(("data", "id"))]


async def test_events_are_told_from_the_start(
    serve: Serve, settings: Settings, stand_in: StandIn, film: str, redis: Redis
) -> None:
    async with serve(settings) as one, serve(settings) as other:
        reading = asyncio.create_task(events(one, film))
        await finish_all(stand_in)
        told = await reading
        assert len(told) == 7
        assert await events(other, film) == told
        assert await redis.xlen(keys.jobs("video", MODEL.id)) == 3


@pytest.mark.parametrize(("path", "lane"), [(VIDEO, "video"), (TEXT, "text")])
async def test_a_request_that_is_answered_later_is_accepted_once(  # noqa: PLR0917 - fixtures and cases
    serve: Serve, settings: Settings, stand_in: StandIn, film: str, redis: Redis, path: str, lane: Any
) -> None:
    body = film_body(film) if lane == "video" else TEXTS
    async with serve(settings) as one, serve(settings) as other:
        answers = await asyncio.gather(*(g.client.post(path, json=body, headers=LATER) for g in (one, other)))
        third = await one.client.post(path, json=body, headers=LATER)
        assert [answer.status_code for answer in (*answers, third)] == [202] * 3
        assert len({answer.headers["location"] for answer in (*answers, third)}) == 1
        assert await redis.xlen(keys.jobs(lane, MODEL.id)) == (3 if lane == "video" else 1)


async def test_texts_are_embedded_once(
    serve: Serve, settings: Settings, stand_in: StandIn, redis: Redis
) -> None:
    async with serve(settings) as gateway:
        asking = asyncio.create_task(gateway.client.post(TEXT, json=TEXTS, headers=KEY))
        await stand_in.finish(await stand_in.job("text"), 0, 1)
        first = (await asking).json()
        assert (await gateway.client.post(TEXT, json=TEXTS, headers=KEY)).json() == first
        other = asyncio.create_task(
            gateway.client.post(TEXT, json=TEXTS, headers={"Idempotency-Key": "other"})
        )
        await stand_in.finish(await stand_in.job("text"), 0, 1)
        assert (await other).json()["id"] != first["id"]


async def test_parts_of_a_request_in_openais_shape_are_embedded_once(
    serve: Serve, settings: Settings, stand_in: StandIn, redis: Redis
) -> None:
    body = {"model": "null", "input": ["a", "b"]}
    async with serve(settings) as gateway:
        asking = asyncio.create_task(gateway.client.post("/embeddings", json=body, headers=KEY))
        await stand_in.finish(await stand_in.job("text"), 0, 1)
        first = (await asking).json()
        assert (await gateway.client.post("/embeddings", json=body, headers=KEY)).json() == first
        assert await redis.xlen(keys.jobs("text", MODEL.id)) == 1


async def test_another_body_is_refused(
    serve: Serve, settings: Settings, stand_in: StandIn, film: str, redis: Redis
) -> None:
    async with serve(settings) as gateway:
        post = gateway.client.post
        assert (await post(TEXT, json=TEXTS, headers=LATER)).status_code == 202
        for path, body in ((TEXT, {**TEXTS, "text_input": "c"}), (VIDEO, film_body(film))):
            for headers in (KEY, LATER):
                answer = await post(path, json=body, headers=headers)
                assert (answer.status_code, answer.json()["code"]) == (422, "IdempotencyKeyReused")
        assert await redis.xlen(keys.jobs("video", MODEL.id)) == 0


@pytest.mark.parametrize(
    ("end", "anew"),
    [(CANCELLED, True), (failed("away", "ServiceUnavailable", 503), True), (failed("bad film"), False)],
    ids=["cancelled", "failed for a reason that passes", "failed"],
)
async def test_what_ended_without_use_is_done_anew(  # noqa: PLR0917 - fixtures and cases
    serve: Serve, settings: Settings, stand_in: StandIn, redis: Redis, end: Any, anew: bool
) -> None:
    async with serve(settings) as gateway:
        await gateway.client.post(TEXT, json=TEXTS, headers=LATER)
        job = await stand_in.job("text")
        await finish(redis, settings, request_of(job), end)
        asking = asyncio.create_task(gateway.client.post(TEXT, json=TEXTS, headers=KEY))
        if anew:
            await stand_in.finish(await stand_in.job("text"), 0, 1)
        answer = await asking
        assert answer.status_code == (200 if anew else 500), answer.text
        assert await redis.xlen(keys.jobs("text", MODEL.id)) == (2 if anew else 1)


@pytest.mark.parametrize("key", ["", "a b", "x" * 256, "é"])
async def test_a_key_that_is_none_is_refused(serve: Serve, settings: Settings, key: str) -> None:
    async with serve(settings) as gateway:
        headers = {"Idempotency-Key": key.encode("latin-1")}
        answer = await gateway.client.post(TEXT, json=TEXTS, headers=headers)  # type: ignore[arg-type]
        assert (answer.status_code, answer.json()["code"]) == (422, "InvalidParameters")
        assert "idempotency-key" in answer.json()["message"]


async def test_a_key_in_quotes_is_the_same_and_other_callers_have_their_own(
    serve: Serve, settings: Settings, stand_in: StandIn, redis: Redis
) -> None:
    async with serve(settings) as gateway:
        plain = await gateway.client.post(TEXT, json=TEXTS, headers=LATER)
        quoted = {**LATER, "Idempotency-Key": f'"{KEY["Idempotency-Key"]}"'}
        assert (await gateway.client.post(TEXT, json=TEXTS, headers=quoted)).json()["id"] == plain.json()[
            "id"
        ]
    named = {**LATER, "X-API-Key": "secret"}
    async with serve(_with_key(settings)) as gateway:
        answer = await gateway.client.post(TEXT, json=TEXTS, headers=named)
        assert answer.json()["id"] != plain.json()["id"]


def _with_key(settings: Settings) -> Settings:
    url = settings.redis_url or ""
    return load({"REDIS_URL": url, "RTEMBED_API_KEYS": "dock:secret", "BACKEND_PORT": "0"})


async def test_a_client_that_leaves_does_not_end_a_request_with_a_key(
    serve: Serve, settings: Settings, stand_in: StandIn, redis: Redis
) -> None:
    async with serve(settings) as gateway:
        asking = asyncio.create_task(gateway.client.post(TEXT, json=TEXTS, headers=KEY))
        job = await stand_in.job("text")
        asking.cancel()
        await until(lambda: not gateway.context.listener._queues)
        assert await redis.hget(keys.request(job.request), "state") == b"running"
