"""The Lua scripts: each declares every key that it touches, as a cluster-mode server demands."""

import asyncio
import re
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from shared import keys
from shared.assets import NEW_ASSETS, Asset
from shared.chunks import Chunk
from shared.fleet import Worker, announce
from shared.jobs import LiveJob, TextJob, VideoJob
from shared.live_records import LiveRecord, beat, start
from shared.redis.connection import Redis, script, single_connection
from shared.requests import CANCELLED, Request, finish, request_of, submit
from shared.results import Result
from shared.settings import Settings
from tests.support import RedisServer, served_model
from worker.claims import Claims
from worker.publish.outbox import Outbox
from worker.publish.publisher import Publisher

FILE, CAMERA = Asset(id="f", path="/f.mp4"), Asset(id="c", kind="stream", path="rtsp://c")
CHUNKS = [Chunk(0, 0, 5), Chunk(1, 5, 9)]
MODEL = served_model(dimension=1)
KEY = re.compile(r'"(\{rtembed\}:[^"]*)"')


@pytest.fixture
async def commands(valkey: RedisServer, redis: Redis) -> AsyncIterator[list[str]]:
    """Every command that the server gets, as MONITOR shows it; complete after `shown`."""
    lines: list[str] = []
    reader, writer = await asyncio.open_connection("127.0.0.1", valkey.port)
    writer.write(b"MONITOR\r\n")
    await reader.readline()

    async def listen() -> None:
        while line := await reader.readline():
            lines.append(line.decode("latin-1"))

    listening = asyncio.create_task(listen())
    yield lines
    listening.cancel()
    writer.close()


async def shown(redis: Redis, commands: list[str]) -> list[str]:
    await redis.echo("that was all")
    while not any("that was all" in line for line in commands):  # noqa: ASYNC110 - the server says when
        await asyncio.sleep(0.01)
    return commands


def undeclared(commands: list[str]) -> list[str]:
    """The commands of scripts that touch a key which their call did not name."""
    declared: set[str] = set()
    found = []
    for line in commands:
        touched = KEY.findall(line)
        if " lua]" not in line:
            declared = set(touched)
        elif "PUBLISH" not in line and not set(touched) <= declared:
            found.append(line)
    return found


async def register(redis: Redis, asset: Asset) -> None:
    await script(redis, "register_asset")(
        keys=[keys.asset(asset.id), keys.ASSETS, keys.AGED_OUT_ASSETS, keys.ARRIVING_ASSETS],
        args=[asset.id, "token", *NEW_ASSETS.fields(asset)],
    )


async def serve_files_and_texts(redis: Redis, settings: Settings, claims: Claims, reader: Redis) -> None:
    """A video and a text that are embedded, one that is cancelled, and one whose worker dies."""
    publisher = Publisher(redis, settings)
    publisher.model = MODEL
    video = VideoJob(request="v", assets=[FILE], chunks=CHUNKS)
    await submit(redis, settings, Request(id="v", lane="video", planned=2, assets=["f"]), [video])
    for name in ("t", "u"):
        await submit(
            redis, settings, Request(id=name, lane="text", planned=1), [TextJob(request=name, texts=["a"])]
        )
    (claim,) = await claims.take(reader, "video", 1)
    await claims.renew()
    await claims.hand_back()
    claims.release(claim)
    (claim,) = await claims.take_over("video", 1)
    assert await publisher.publish(claim.job, [Result(chunk=0, vector=b"1234")]) == "running"
    assert await publisher.publish(claim.job, [Result(chunk=1, vector=b"1234")]) == "done"
    await claims.complete(claim)
    first, second = await claims.take(reader, "text", 2)
    assert await publisher.publish(first.job, [Result(chunk=0)]) == "done"
    assert await finish(redis, settings, request_of(second.job), CANCELLED) == "cancelled"
    await claims.bury(second, "why")


async def embed_a_camera(redis: Redis, settings: Settings, claims: Claims) -> None:
    """A session that a second client joins, and a new one once it has ended."""
    session = LiveRecord(request="l", chunk_duration=10)
    assert await start(redis, settings, "l", CAMERA, session) == "l"
    assert await start(redis, settings, "m", CAMERA, replace_request(session, "m")) == "l"
    (claim,) = await claims.take_live()
    assert isinstance(claim.job, LiveJob)
    assert await beat(redis, settings, claim, claims.consumer, {"state": "running"}) == ("running", False, "")
    await claims.forgive(claim)
    await Publisher(redis, settings).publish(claim.job, [Result(chunk=0)])
    await finish(redis, settings, request_of(claim.job), CANCELLED)
    assert await start(redis, settings, "n", CAMERA, replace_request(session, "n")) == "n"


def replace_request(session: LiveRecord, request: str) -> LiveRecord:
    return LiveRecord(request=request, chunk_duration=session.chunk_duration)


async def test_scripts_touch_only_the_keys_that_they_are_given(
    redis: Redis, settings: Settings, commands: list[str]
) -> None:
    settings = replace(settings, message_bus="redis", claim_timeout=0.0)
    claims, reader = Claims(redis, "one", 0.0), single_connection(settings)
    try:
        await claims.create_groups()
        await register(redis, FILE)
        await register(redis, CAMERA)
        await serve_files_and_texts(redis, settings, claims, reader)
        await embed_a_camera(redis, settings, claims)
        outbox = Outbox(redis, settings, "one")
        assert await outbox.take(reader, 9) == []  # its group was missing
        first, second, *_ = await outbox.take(reader, 9)
        await outbox.adopt(9, [])
        await outbox.relay([first.id], "messages")
        await outbox.sent([second.id])
        await announce(redis, Worker(name="w", state="ready", model=MODEL))
    finally:
        await reader.aclose()
    seen = await shown(redis, commands)
    assert sum("EVAL" in line for line in seen) > 25
    assert sum(" lua]" in line for line in seen) > 100
    assert undeclared(seen) == []
