"""A Redis that refuses writes, as clients see it: 503 with the reason, nothing left, and well again."""

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gateway.fleet_view import FleetView
from shared import keys
from shared.assets import Asset
from shared.fleet import Worker, announce
from shared.redis.connection import Redis, connect
from shared.settings import Settings
from tests.gateway.conftest import Serve
from tests.support import RedisServer, until, valkey_binary

CAMERA = "123e4567-e89b-12d3-a456-426614174001"
TEXT = {"model": "null", "text_input": "a"}


@pytest.fixture(params=["full", "short of replicas"])
async def redis(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Redis]:
    """A client of a server of its own."""
    server = RedisServer(valkey_binary(), tmp_path_factory.mktemp("own"))
    server.start()
    client = connect(replace(Settings(), redis_url=server.url))
    yield client
    await client.aclose()
    server.stop()


@pytest.fixture
def settings(redis: Redis, tmp_path: Path) -> Settings:
    kwargs: Any = redis.connection_pool.connection_kwargs
    return Settings(redis_url=f"redis://127.0.0.1:{kwargs['port']}", asset_dir=tmp_path / "assets", port=0)


async def refuse(redis: Redis, cause: str) -> None:
    name = "maxmemory" if cause == "full" else "min-replicas-to-write"
    await redis.config_set(name, "1")


async def accept(redis: Redis) -> None:
    await redis.config_set("maxmemory", "0")
    await redis.config_set("min-replicas-to-write", "0")


async def test_ready_says_it_and_requests_get_503(
    serve: Serve, settings: Settings, redis: Redis, request: pytest.FixtureRequest, worker: Worker
) -> None:
    cause = request.node.callspec.params["redis"]
    async with serve(settings) as gateway:
        view = gateway.context.view
        assert (await gateway.client.get("/ready")).status_code == 200
        await refuse(redis, cause)
        await until(lambda: bool(view.redis_problem))
        health = await gateway.client.get("/ready", params={"detailed": "true"})
        assert health.status_code == 503
        reason = "it is full" if cause == "full" else "too few of its replicas answer"
        assert f"{reason}: it refuses writes" in health.json()["checks"][0]["message"]
        answer = await gateway.client.post("/generate_text_embeddings", json=TEXT)
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")
        assert reason in answer.json()["message"]
        await accept(redis)
        await announce(redis, worker)
        await until(lambda: not view.problem)


async def test_what_is_refused_in_the_middle_is_503_too(  # noqa: PLR0917 - fixtures
    serve: Serve, settings: Settings, film: str, redis: Redis, request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch, worker: Worker,
) -> None:  # fmt: skip
    """The gateway has not noticed yet."""

    async def unnoticed(_: FleetView) -> str:
        return ""

    monkeypatch.setattr(FleetView, "_refused", unnoticed)
    async with serve(settings) as gateway:
        post = gateway.client.post
        await gateway.context.assets.register(Asset(id=CAMERA, kind="stream", path="rtsp://c/x"))
        await refuse(redis, request.node.callspec.params["redis"])
        before = await redis.dbsize()
        video = {"id": film, "model": "null"}
        upload = {"file": ("a.mp4", b"x" * 100)}
        form = {"purpose": "vision", "media_type": "video"}
        answers = [
            await post("/generate_text_embeddings", json=TEXT),
            await post("/generate_text_embeddings", json=TEXT, headers={"Prefer": "respond-async"}),
            await post("/generate_video_embeddings", json=video),
            await post("/generate_video_embeddings", json={**video, "stream": True}),
            await post("/generate_video_embeddings", json={"id": CAMERA, "model": "null", "stream": True}),
            await post("/embeddings", json={"input": "a", "model": "null"}),
            await post("/files", files=upload, data=form),
        ]
        for answer in answers:
            assert answer.status_code == 503, answer.text
            assert answer.headers["retry-after"] == "5"
            assert "it refuses writes" in answer.json()["message"]
        assert (await gateway.client.get("/files", params={"purpose": "vision"})).status_code == 200
        assert await redis.dbsize() == before
        assert await redis.xlen(keys.jobs("text", "null")) == 0
        await accept(redis)
        later = await post("/generate_text_embeddings", json=TEXT, headers={"Prefer": "respond-async"})
        assert later.status_code == 202
        assert not list((settings.asset_dir / ".incoming").glob("*"))
