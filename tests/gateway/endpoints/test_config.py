"""Switching the message bus at run time."""

from typing import Any

import pytest

from shared.bus.routes import read_routes
from shared.redis.connection import Redis
from shared.settings import Settings
from tests.gateway.conftest import Serve


def body(metadata: dict[str, Any], **changes: Any) -> dict[str, Any]:
    event = {
        "camera_id": "", "name": "region-1--group_1", "camera_url": "",
        "change": changes.pop("change", "config"),
        "metadata": {"messagingbus": "redis", "topic-prefix": "vectors", **metadata},
        "headers": {"source": "vios", "created_at": "2023-03-10T00:45:16.417Z"},
    }  # fmt: skip
    return {
        "alert_type": "config", "created_at": "2023-03-10T00:45:16Z", "txn_id": "t1", "source": "vios",
        "event": event, **changes,
    }  # fmt: skip


async def test_a_switch_is_in_force_and_answers_without_nulls(
    serve: Serve, settings: Settings, redis: Redis
) -> None:
    async with serve(settings) as gateway:
        answer = await gateway.client.post("/config", json=body({"region": "r", "group": "g"}))
        assert answer.json() == {
            "txn_id": "t1", "status": "updated", "messagingbus": "redis", "topic": "vectors",
            "source": "vios", "created_at": "2023-03-10T00:45:16Z",
        }  # fmt: skip
        errors = {"errorbus": "redis", "error-topic-prefix": "mishaps"}
        alias = await gateway.client.post(f"{gateway.url}/api/v1/config", json=body(errors))
        assert (alias.json()["errorbus"], alias.json()["error_topic"]) == ("redis", "mishaps")
    routes = await read_routes(redis, settings)
    assert (routes.message_bus, routes.message_topic) == ("redis", "vectors")
    assert (routes.error_bus, routes.error_topic) == ("redis", "mishaps")


async def test_a_change_under_load_is_warned_of(
    serve: Serve, settings: Settings, stand_in: Any, film: str
) -> None:
    async with serve(settings) as gateway:
        headers = {"Prefer": "respond-async"}
        request = {"id": film, "model": "null"}
        assert (
            await gateway.client.post("/generate_video_embeddings", json=request, headers=headers)
        ).status_code
        answer = await gateway.client.post("/config", json=body({}))
    assert "1 job" in answer.json()["warnings"][0]


@pytest.mark.parametrize(
    ("changes", "metadata", "status", "message"),
    [
        ({"alert_type": "camera_status_change"}, {}, 400, "alert_type"),
        ({"change": "camera_add"}, {}, 400, "change"),
        ({}, {"messagingbus": "kafka"}, 400, "Kafka"),
        ({}, {"errorbus": "kafka"}, 400, "Kafka"),
        ({}, {"topic-prefix": " "}, 400, "topic"),
        ({}, {"topic-prefix": ""}, 422, "topic-prefix"),
        ({}, {"messagingbus": "nats"}, 422, "messagingbus"),
        ({}, {"topic-partition": 0}, 422, "topic-partition"),
        ({}, {"topic-partition": 100_001}, 422, "topic-partition"),
        ({}, {"colour": "red"}, 422, "colour"),
        ({"colour": "red"}, {}, 422, "colour"),
        ({"txn_id": None}, {}, 422, "txn_id"),
        ({"txn_id": "x" * 65}, {}, 422, "txn_id"),
        ({"source": "x" * 257}, {}, 422, "source"),
    ],
)
async def test_what_cannot_be_switched_changes_nothing(  # noqa: PLR0917 - fixtures and cases
    serve: Serve, settings: Settings, redis: Redis, changes: Any, metadata: Any, status: int, message: str
) -> None:
    before = await read_routes(redis, settings)
    async with serve(settings) as gateway:
        answer = await gateway.client.post("/config", json=body(metadata, **changes))
    assert answer.status_code == status, answer.text
    assert answer.json()["code"] == {400: "BadRequest", 422: "InvalidParameters"}[status]
    assert message in answer.json()["message"]
    assert await read_routes(redis, settings) == before
