"""What stays in Redis after requests of every kind and deletes: the fixed keys that deploy/redis.md lists."""

import asyncio
import re
from dataclasses import replace
from pathlib import Path

from shared import keys, live_records
from shared.bus.routes import Switch, switch_routes
from shared.redis.connection import Redis
from shared.settings import Settings
from tests.gateway.conftest import Gateway, Serve, StandIn
from tests.support import until
from worker.claims import Claims

VIDEO = "/generate_video_embeddings"
PICTURE, CAMERA = "123e4567-e89b-12d3-a456-426614174009", "gate-1"
DOCUMENT = Path(__file__).parents[2] / "deploy" / "redis.md"


async def lasting(redis: Redis) -> set[str]:
    """The keys without a time to live."""
    return {key.decode() async for key in redis.scan_iter() if await redis.ttl(key) == -1}


def is_documented(key: str) -> bool:
    table = DOCUMENT.read_text().split("## Keys that stay")[1].split("An asset")[0]
    names = [re.sub("<[a-z]+>", "[^:]+", name) for name in re.findall(r"`([a-z:\-<>]+)`", table)]
    return any(re.fullmatch(re.escape(keys.PREFIX) + name, key) for name in names)


async def requests_of_every_kind(gateway: Gateway, stand_in: StandIn, film: str) -> None:
    post = gateway.client.post
    texts = {"model": "null", "text_input": "a"}
    body = {"id": film, "model": "null", "chunk_duration": 10}
    picture = {"id": PICTURE, "model": "null", "media_type": "image", "url": "data:image/png;base64,AAAA"}
    for path, sent, lane in (
        ("/generate_text_embeddings", texts, "text"),
        ("/embeddings", {"model": "null", "input": "a"}, "text"),
        (VIDEO, body, "video"),
        (VIDEO, {**body, "stream": True}, "video"),
    ):
        for headers in ({}, {"Prefer": "respond-async", "Idempotency-Key": f"{path}{len(sent)}"}):
            asking = asyncio.create_task(post(path, json=sent, headers=headers))
            await stand_in.finish(await stand_in.job(lane), 0)  # type: ignore[arg-type]
            assert (await asking).status_code in (200, 202), (await asking).text
    asking = asyncio.create_task(post(VIDEO, json=picture))
    await stand_in.fail(await stand_in.job("probe"), "no picture")
    assert (await asking).status_code == 500
    cancelled = asyncio.create_task(post("/generate_text_embeddings", json=texts))
    await stand_in.job("text")
    cancelled.cancel()


async def a_camera(gateway: Gateway, stand_in: StandIn) -> None:
    added = await gateway.client.post(
        "/streams/add",
        json={"streams": [{"liveStreamUrl": "rtsp://u:p@c/x", "description": "gate", "id": CAMERA}]},
    )
    assert added.json()["results"], added.text
    body = {"id": CAMERA, "model": "null", "stream": True, "chunk_duration": 1}
    async with gateway.client.stream("POST", VIDEO, json=body) as answer:
        await stand_in.finish(await stand_in.job("live"), 0)
        async for line in answer.aiter_lines():
            if line.startswith("data"):
                break


async def test_only_the_fixed_keys_stay(
    serve: Serve, settings: Settings, stand_in: StandIn, film: str, redis: Redis
) -> None:
    settings = replace(settings, skip_media_verification=True)
    await Claims(redis, "w", settings.claim_timeout).create_groups()
    await switch_routes(redis, settings, Switch(message_bus="redis", message_topic="s"))
    async with serve(settings) as gateway:
        await requests_of_every_kind(gateway, stand_in, film)
        await a_camera(gateway, stand_in)
        assert (await gateway.client.delete(f"/streams/delete/{CAMERA}")).status_code == 200
        await live_records.ask_to_stop(redis, CAMERA)
        await live_records.ask_to_stop(redis, "never there")

        async def deleted() -> bool:
            return (await gateway.client.delete(f"/files/{film}")).status_code == 200

        await until(deleted)
        await gateway.context.assets.sweep()
        left = await lasting(redis)
    assert [key for key in left if not is_documented(key)] == []
    assert keys.REQUEST_COUNTS in left


async def test_a_gateway_that_died_while_it_fetched_leaves_no_key(
    serve: Serve, settings: Settings, redis: Redis
) -> None:
    async with serve(settings) as gateway:
        await redis.zadd(keys.asset_users(PICTURE), {"ingestion": 1})  # its time is over
        await redis.zadd(keys.TEMPORARY_ASSETS, {PICTURE: 1})
        await gateway.context.assets.sweep()
        assert not await redis.exists(keys.asset_users(PICTURE), keys.TEMPORARY_ASSETS)
