"""What operators are told of on the error bus, and about which asset."""

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest

from shared.assets import Asset
from shared.redis.connection import Redis
from shared.settings import Settings
from tests.gateway.conftest import Gateway, Serve, StandIn

UNKNOWN = "00000000-0000-4000-8000-000000000000"
CAMERA = "00000000-0000-4000-8000-00000000cafe"
FORM = {"purpose": "vision", "media_type": "video", "id": UNKNOWN}
VIDEO = "/generate_video_embeddings"


@pytest.fixture
async def gateway(serve: Serve, settings: Settings, stand_in: StandIn) -> AsyncIterator[Gateway]:
    bus = replace(
        settings, error_bus="redis", error_topic="mishaps", upload_limit_bytes=100, video_queue_limit=2
    )
    async with serve(bus) as running:
        await running.context.assets.register(Asset(id=CAMERA, kind="stream", path="rtsp://camera/x"))
        yield running


@pytest.fixture
async def told(gateway: Gateway, redis: Redis) -> AsyncIterator[Any]:
    """Waits for the next event: its asset and text."""
    async with redis.pubsub() as pubsub:
        await pubsub.subscribe("mishaps")
        assert await pubsub.get_message(timeout=5)

        async def next_event() -> tuple[str, str]:
            message = await pubsub.get_message(timeout=5)
            assert message, "no event"
            event = json.loads(message["data"])
            assert event["type"] == "functional"
            return event["streamId"], event["event"]

        yield next_event


async def test_a_file_that_could_not_be_stored(gateway: Gateway, told: Any) -> None:
    answer = await gateway.client.post("/files", data=FORM, files={"file": ("a.mp4", bytes(101))})
    assert answer.status_code == 413
    assert await told() == ("", answer.json()["message"])


async def test_a_file_that_is_not_what_it_claims_to_be(
    gateway: Gateway, told: Any, stand_in: StandIn
) -> None:
    asking = asyncio.create_task(
        gateway.client.post("/files", data=FORM, files={"file": ("a.mp4", bytes(100))})
    )
    await stand_in.fail(await stand_in.job("probe"), "no video track")
    assert (await asking).status_code >= 400
    assert await told() == (UNKNOWN, "no video track")


@pytest.mark.parametrize("asset_id", [UNKNOWN, CAMERA])
async def test_an_id_that_is_no_files(gateway: Gateway, told: Any, asset_id: str) -> None:
    for method in ("GET", "DELETE"):
        answer = await gateway.client.request(method, f"/files/{asset_id}")
        assert answer.status_code == 400
        assert await told() == (asset_id, answer.json()["message"])


async def test_a_video_request_that_cannot_start(gateway: Gateway, told: Any, film: str) -> None:
    answer = await gateway.client.post(VIDEO, json={"id": UNKNOWN, "model": "null"})
    assert await told() == (UNKNOWN, answer.json()["message"])
    for stream in (False, True):
        body = {"id": film, "model": "null", "chunk_duration": 1, "stream": stream}
        answer = await gateway.client.post(VIDEO, json=body)
        assert answer.status_code == 503
        assert await told() == (film, answer.json()["message"])


async def test_a_video_request_that_fails(gateway: Gateway, told: Any, film: str, stand_in: StandIn) -> None:
    asking = asyncio.create_task(gateway.client.post(VIDEO, json={"id": film, "model": "null"}))
    await stand_in.fail(await stand_in.job(), "Decode error: broken")
    assert (await asking).status_code == 500
    assert await told() == (film, "Decode error: broken")


async def test_a_text_that_fails(gateway: Gateway, told: Any, stand_in: StandIn) -> None:
    body = {"text_input": "a", "model": "null"}
    asking = asyncio.create_task(gateway.client.post("/generate_text_embeddings", json=body))
    await stand_in.fail(await stand_in.job("text"), "the model broke")
    assert (await asking).status_code == 500
    assert await told() == ("", "the model broke")


async def test_what_is_malformed_is_nobodys_concern(gateway: Gateway, told: Any) -> None:
    await gateway.client.post(VIDEO, json={"id": 7, "model": "null"})
    await gateway.client.post("/files", data={"purpose": "vision"})
    await gateway.client.get(f"/files/{UNKNOWN}")
    assert (await told())[0] == UNKNOWN, "the first event is the third request's"
