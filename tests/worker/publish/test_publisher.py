"""Results and their messages are stored together, once, within the bound, and only where they are wanted."""

import asyncio
import struct
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest

from shared import keys
from shared.assets import Asset
from shared.bus.errorbus import ErrorBus
from shared.bus.routes import Switch, switch_routes
from shared.chunks import SECOND, Chunk
from shared.jobs import ProbeJob, TextJob, VideoJob
from shared.keys import OUTBOX, OUTBOX_COUNTS
from shared.redis.connection import Redis, connect
from shared.requests import Request, failed, submit
from shared.results import Result
from shared.settings import Settings, load
from tests.proto import schema
from tests.support import RedisServer, served_model, stream_entries, valkey_binary
from worker.publish.publisher import Publisher

VisionLLM: Any = schema.classes()["VisionLLM"]
MODEL = served_model(id="model", owned_by="nvidia", dimension=2)
ASSET = Asset(id="asset", path="/videos/a.mp4", frame_rate="25")
VIDEO = VideoJob(request="r", assets=[ASSET], chunks=[Chunk(0, 0, SECOND)], model="asked")
TEXT = TextJob(request="r", texts=["a dog", "a cat"])
VECTOR = struct.pack("<2f", 0.6, 0.8)


@pytest.fixture
def redis_environment(every_redis: dict[str, str]) -> dict[str, str]:
    return every_redis


def chunk(index: int, **changes: Any) -> Result:
    return Result(chunk=index, start=index * SECOND, end=(index + 1) * SECOND, vector=VECTOR, **changes)


@pytest.fixture
def errors(redis: Redis, settings: Settings) -> ErrorBus:
    return ErrorBus(redis, settings)


@pytest.fixture
def on(settings: Settings) -> Settings:
    """Messages are wanted."""
    return replace(settings, kafka_enabled=True, kafka_servers="127.0.0.1:1")


async def publisher(
    redis: Redis, settings: Settings, errors: ErrorBus, job: Any = VIDEO, planned: int = 5
) -> Publisher:
    """A publisher, and the request of the job accepted."""
    await submit(redis, settings, Request(id="r", lane=job.lane, planned=planned), [job])
    publisher = Publisher(redis, settings, errors)
    publisher.model = MODEL
    return publisher


def event_texts(errors: ErrorBus) -> list[str]:
    return [entry.decode() for entry in errors._waiting]


async def outbox(redis: Redis) -> list[dict[bytes, bytes]]:
    return [fields for _, fields in await stream_entries(redis, OUTBOX)]


async def test_a_chunk_and_its_message_are_stored_together(
    redis: Redis, on: Settings, errors: ErrorBus
) -> None:
    publishing = await publisher(redis, on, errors)
    assert await publishing.publish(VIDEO, [chunk(0), chunk(1)]) == "running"
    assert await redis.xlen(keys.results("r")) == 2
    first, second = await outbox(redis)
    assert (first[b"key"], first[b"type"], first[b"stream"]) == (b"r:0", b"vision_llm", b"asset")
    message = VisionLLM.FromString(second[b"value"])
    assert (message.version, message.info["chunkIdx"], message.timestamp.seconds) == ("model", "1", 1)
    assert message.llm.info["requestedModel"] == "asked"
    assert publishing.counts.messages_stored == 2


async def test_a_repeated_chunk_gets_no_second_message(redis: Redis, on: Settings, errors: ErrorBus) -> None:
    publishing = await publisher(redis, on, errors)
    await publishing.publish(VIDEO, [chunk(0)])
    await publishing.publish(VIDEO, [chunk(0), chunk(1)])
    assert [fields[b"key"] for fields in await outbox(redis)] == [b"r:0", b"r:1"]
    assert publishing.counts.messages_stored == 2


async def test_an_ended_request_gets_no_message(redis: Redis, on: Settings, errors: ErrorBus) -> None:
    publishing = await publisher(redis, on, errors)
    await publishing.fail(VIDEO, failed("over"))
    assert await publishing.publish(VIDEO, [chunk(0)]) == "failed"
    assert await outbox(redis) == []


async def test_a_failed_chunk_has_a_message_and_an_event(
    redis: Redis, on: Settings, errors: ErrorBus
) -> None:
    publishing = await publisher(redis, on, errors)
    result = Result(chunk=0, end=SECOND, error="Decode error: truncated")
    assert await publishing.publish(VIDEO, [result], failed("Decode error: truncated")) == "failed"
    await publishing.publish(VIDEO, [result], failed("Decode error: truncated"))
    (fields,) = await outbox(redis)
    assert VisionLLM.FromString(fields[b"value"]).info["error"] == "Decode error: truncated"
    (event,) = event_texts(errors)
    assert '"streamId":"asset"' in event
    assert '"event":"Decode error: truncated"' in event


async def test_without_a_bus_there_are_no_messages(
    redis: Redis, settings: Settings, errors: ErrorBus
) -> None:
    publishing = await publisher(redis, settings, errors)
    assert await publishing.publish(VIDEO, [chunk(0)]) == "running"
    assert await outbox(redis) == []


async def test_a_probe_has_no_message(redis: Redis, on: Settings, errors: ErrorBus) -> None:
    job = ProbeJob(request="r", asset=ASSET)
    publishing = await publisher(redis, on, errors, job, planned=1)
    assert await publishing.publish(job, [Result(chunk=0, facts="{}")]) == "done"
    assert await outbox(redis) == []


@pytest.mark.parametrize("wanted", [False, True])
async def test_texts_have_messages_only_when_asked_for(
    redis: Redis, on: Settings, errors: ErrorBus, wanted: bool
) -> None:
    publishing = await publisher(redis, replace(on, text_messages=wanted), errors, TEXT, planned=2)
    assert (
        await publishing.publish(TEXT, [Result(chunk=0, vector=VECTOR), Result(chunk=1, vector=VECTOR)])
        == "done"
    )
    stored = await outbox(redis)
    assert [fields[b"key"] for fields in stored] == ([b"r:0", b"r:1"] if wanted else [])
    if wanted:
        message = VisionLLM.FromString(stored[1][b"value"])
        assert message.llm.queries[0].prompts == {"text": "a cat"}
        assert stored[1][b"stream"] == b""


# The bound ----------------------------------------------------------------------------------------------


async def test_beyond_the_bound_messages_are_dropped_counted_logged_and_reported(
    redis: Redis, on: Settings, errors: ErrorBus
) -> None:
    publishing = await publisher(redis, replace(on, outbox_limit=3), errors)
    assert await publishing.publish(VIDEO, [chunk(n) for n in range(4)]) == "running"
    assert await publishing.publish(VIDEO, [chunk(4)]) == "done"
    assert [fields[b"key"] for fields in await outbox(redis)] == [b"r:0", b"r:1", b"r:2"]
    assert await redis.xlen(keys.results("r")) == 6  # every result, and the end
    assert (publishing.counts.messages_stored, publishing.counts.messages_dropped) == (3, 2)
    assert await redis.hget(OUTBOX_COUNTS, "dropped") == b"2"
    (event,) = event_texts(errors)  # one, however many are dropped in a row
    assert (
        "Embedding messages are dropped: the outbox is full (at most 3 messages, 1073741824 bytes)" in event
    )


async def test_the_outbox_is_bounded_in_bytes_too(redis: Redis, on: Settings, errors: ErrorBus) -> None:
    publishing = await publisher(redis, replace(on, outbox_bytes=50_000), errors)
    for n in range(5):  # its message takes about 20,000 bytes
        await publishing.publish(VIDEO, [msgspec.structs.replace(chunk(n), vector=bytes(20_000))])
    stored = await redis.xlen(keys.OUTBOX)
    assert 2 <= stored <= 4
    assert (publishing.counts.messages_stored, publishing.counts.messages_dropped) == (stored, 5 - stored)


# Changes at run time ------------------------------------------------------------------------------------


async def test_a_bus_that_is_switched_on_gets_the_very_next_chunk(
    redis: Redis, settings: Settings, errors: ErrorBus
) -> None:
    publishing = await publisher(redis, settings, errors)
    await publishing.publish(VIDEO, [chunk(0)])
    await switch_routes(redis, settings, Switch(message_bus="redis", message_topic="stream-{rtembed}"))
    await publishing.publish(VIDEO, [chunk(1)])
    assert [fields[b"key"] for fields in await outbox(redis)] == [b"r:1"]
    assert await redis.xlen(keys.results("r")) == 2


async def test_a_bus_that_is_switched_off_gets_nothing_more(
    redis: Redis, on: Settings, errors: ErrorBus
) -> None:
    publishing = await publisher(redis, on, errors)
    await publishing.publish(VIDEO, [chunk(0)])
    await switch_routes(redis, on, Switch(message_bus="off", message_topic=""))
    await publishing.publish(VIDEO, [chunk(1)])
    assert [fields[b"key"] for fields in await outbox(redis)] == [b"r:0"]
    assert await redis.xlen(keys.results("r")) == 2


# Messages that cannot be made ---------------------------------------------------------------------------


async def test_a_message_that_cannot_be_built_is_reported_and_its_result_is_stored(
    redis: Redis, on: Settings, errors: ErrorBus
) -> None:
    job = VideoJob(request="r", assets=[Asset(id="asset", creation_time="soon")], chunks=[])
    publishing = await publisher(redis, on, errors, job)
    assert await publishing.publish(job, [chunk(3)]) == "running"
    assert await redis.xlen(keys.results("r")) == 1
    assert await outbox(redis) == []
    (event,) = event_texts(errors)
    assert "Failed to build VisionLLM protobuf for chunk 3: " in event
    assert publishing.counts.messages_not_built == 1


async def test_states_come_in_the_order_in_which_they_are_asked_for(
    redis: Redis, settings: Settings, errors: ErrorBus
) -> None:
    results = await publisher(redis, settings, errors)
    answered: list[int] = []

    async def ask(number: int) -> None:
        assert await results.state(VIDEO) == "running"
        answered.append(number)

    await asyncio.gather(*map(ask, range(20)))
    assert answered == list(range(20))


async def test_a_result_waits_while_redis_is_full_and_is_stored_once(tmp_path: Path) -> None:
    server = RedisServer(valkey_binary(), tmp_path)
    server.start()
    settings = load({"REDIS_URL": server.url})
    redis = connect(settings)
    try:
        publishing = await publisher(redis, settings, ErrorBus(redis, settings), TEXT, planned=2)
        await redis.config_set("maxmemory", "1")
        storing = asyncio.create_task(publishing.publish(TEXT, [chunk(0)]))
        await asyncio.sleep(0.7)
        assert not storing.done()
        await redis.config_set("maxmemory", "0")
        assert await asyncio.wait_for(storing, 10) == "running"
        assert await redis.xlen(keys.results("r")) == 1
    finally:
        await redis.aclose()
        server.stop()
