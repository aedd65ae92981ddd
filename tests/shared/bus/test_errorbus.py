"""Error events: their form, where they go, and that emitting neither waits nor fails."""

import asyncio
import re
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from shared.bus.errorbus import ErrorBus
from shared.bus.routes import Switch, switch_routes
from shared.redis.connection import Redis, connect
from shared.settings import Settings
from tests.brokers import INIT_PRODUCER_ID, MockCluster, Reader, Record
from tests.support import RedisServer, until, valkey_binary

TOPIC = "mdx-embed-errors"
Running = Callable[[Settings], AbstractAsyncContextManager[ErrorBus]]


@pytest.fixture
def cluster() -> Iterator[MockCluster]:
    cluster = MockCluster()
    cluster.create_topic(TOPIC)
    yield cluster
    cluster.close()


@pytest.fixture
def to_kafka(settings: Settings, cluster: MockCluster) -> Settings:
    return replace(settings, error_bus="kafka", kafka_servers=cluster.servers)


@pytest.fixture
def to_redis(settings: Settings) -> Settings:
    return replace(settings, error_bus="redis")


@pytest.fixture
def running(redis: Redis) -> Running:
    """`async with running(settings) as bus`: a bus that sends."""

    @asynccontextmanager
    async def run(settings: Settings) -> AsyncIterator[ErrorBus]:
        bus = ErrorBus(redis, settings)
        task = asyncio.create_task(bus.run())
        await asyncio.sleep(0)
        try:
            yield bus
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

    return run


@pytest.fixture
async def heard(redis: Redis) -> AsyncIterator[list[bytes]]:
    """What is published on the channel of error events."""
    messages: list[bytes] = []
    pubsub = redis.pubsub()
    await pubsub.subscribe(TOPIC)
    assert await pubsub.get_message(timeout=5)

    async def listen() -> None:
        while True:
            message = await pubsub.get_message(ignore_subscribe_messages=True, timeout=1)
            messages.extend([message["data"]] if message else [])

    task = asyncio.create_task(listen())
    yield messages
    task.cancel()
    await asyncio.wait([task])
    await pubsub.aclose()


async def records(cluster: MockCluster, count: int, topic: str = TOPIC) -> list[Record]:
    def read() -> list[Record]:
        with Reader(cluster.servers, topic) as reader:
            reader.until(lambda records: len(records) >= count)
            return reader.rest(0.2)

    return await asyncio.to_thread(read)


def texts(found: list[Record]) -> list[str]:
    return [msgspec.json.decode(value)["event"] for _, value, _ in found]


# Form ---------------------------------------------------------------------------------------------------


async def test_an_event_has_five_keys_in_their_order(
    to_redis: Settings, running: Running, heard: list[bytes]
) -> None:
    async with running(to_redis) as bus:
        bus.emit("Failed to add file a.mp4")
        bus.emit("No such live-stream x", "critical", "x")
        bus.emit("Live stream reconnection successful", type="stream_reconnection", stream_id="y")
        await until(lambda: len(heard) == 3)
    first, second, third = (msgspec.json.decode(message) for message in heard)
    assert list(first) == ["streamId", "timestamp", "type", "source", "event"]
    assert (first["streamId"], first["type"], first["event"]) == (
        "",
        "functional",
        "Failed to add file a.mp4",
    )
    assert (second["streamId"], second["type"]) == ("x", "critical")
    assert (third["streamId"], third["type"]) == ("y", "stream_reconnection")
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", first["timestamp"])
    assert first["source"]
    assert bus.counts.sent == 3


async def test_credentials_are_not_in_an_event(
    settings: Settings, running: Running, heard: list[bytes]
) -> None:
    secretive = replace(settings, error_bus="redis", kafka_password="s3cret-pw")
    async with running(secretive) as bus:
        bus.emit("Failed to add live stream rtsp://admin:hunter2@10.0.0.7/live: s3cret-pw refused")
        await until(lambda: heard)
    assert b"rtsp://10.0.0.7/live: *** refused" in heard[0]


async def test_a_very_long_text_is_cut(to_redis: Settings, running: Running, heard: list[bytes]) -> None:
    async with running(to_redis) as bus:
        bus.emit("x" * 1_000_000)
        await until(lambda: heard)
    assert len(msgspec.json.decode(heard[0])["event"]) == 16_384


# Routes -------------------------------------------------------------------------------------------------


async def test_on_kafka_an_event_has_a_header_and_no_key(
    to_kafka: Settings, cluster: MockCluster, running: Running
) -> None:
    async with running(to_kafka) as bus:
        bus.emit("first")
        bus.emit("second")
        found = await records(cluster, 2)
    assert texts(found) == ["first", "second"]
    assert [(key, headers) for key, _, headers in found] == [(None, [("message_type", b"error")])] * 2


async def test_without_a_bus_an_event_is_only_logged(
    settings: Settings, running: Running, heard: list[bytes], capsys: pytest.CaptureFixture[str]
) -> None:
    async with running(settings) as bus:
        bus.emit("nobody hears")
        await until(lambda: not bus._waiting)
    assert heard == []
    assert (bus.counts.sent, bus.counts.dropped) == (0, 0)


async def test_a_switch_is_followed_by_the_next_event(
    redis: Redis, to_kafka: Settings, cluster: MockCluster, running: Running, heard: list[bytes]
) -> None:
    async with running(to_kafka) as bus:
        bus.emit("to kafka")
        assert texts(await records(cluster, 1)) == ["to kafka"]
        await switch_routes(
            redis,
            to_kafka,
            Switch(message_bus="redis", message_topic="m", error_bus="redis", error_topic=TOPIC),
        )
        bus.emit("to redis")
        await until(lambda: heard)
    assert msgspec.json.decode(heard[0])["event"] == "to redis"
    assert texts(await records(cluster, 1)) == ["to kafka"]


# Failures -----------------------------------------------------------------------------------------------


async def test_events_wait_for_brokers_that_are_away_and_arrive_in_order(
    to_kafka: Settings, cluster: MockCluster, running: Running
) -> None:
    cluster.down()
    async with running(to_kafka) as bus:
        for number in range(5):
            bus.emit(str(number))
        await asyncio.sleep(0.3)
        cluster.up()
        assert texts(await records(cluster, 5)) == ["0", "1", "2", "3", "4"]


async def test_a_forbidden_topic_is_tried_again(
    to_kafka: Settings, cluster: MockCluster, running: Running
) -> None:
    cluster.fail_topic(TOPIC, 29)
    async with running(to_kafka) as bus:
        bus.emit("patience")
        await until(lambda: bus.counts.failures)
        cluster.fail_topic(TOPIC, 0)
        assert texts(await records(cluster, 1)) == ["patience"]


async def test_brokers_without_idempotence_get_events_too(
    to_kafka: Settings, cluster: MockCluster, running: Running
) -> None:
    cluster.forbid(INIT_PRODUCER_ID)
    async with running(to_kafka) as bus:
        bus.emit("plain")
        assert texts(await records(cluster, 1)) == ["plain"]


async def test_an_event_that_kafka_refuses_is_dropped_and_the_next_is_sent(
    to_kafka: Settings, cluster: MockCluster, running: Running
) -> None:
    async with running(replace(to_kafka, kafka_max_request_size=1000)) as bus:
        bus.emit("x" * 5000)
        bus.emit("small")
        assert texts(await records(cluster, 1)) == ["small"]
    assert (bus.counts.sent, bus.counts.dropped) == (1, 1)


async def test_emitting_does_not_wait_and_beyond_the_bound_new_events_are_dropped(
    to_kafka: Settings, cluster: MockCluster, running: Running
) -> None:
    cluster.down()
    bus_settings = replace(to_kafka, error_queue_limit=10)
    async with running(bus_settings) as bus:
        began = time.monotonic()
        for number in range(25):
            bus.emit(str(number))
        assert time.monotonic() - began < 5  # against the 60 s of a request
        assert bus.counts.dropped == 15
        cluster.up()
        assert texts(await records(cluster, 10)) == [str(number) for number in range(10)]


async def test_events_wait_for_redis(tmp_path: Path, settings: Settings) -> None:
    server = RedisServer(valkey_binary(), tmp_path)
    server.start()
    away = replace(settings, redis_url=server.url, error_bus="redis", redis_timeout=0.5)
    redis = connect(away)
    bus = ErrorBus(redis, away)
    server.stop()
    task = asyncio.create_task(bus.run())
    bus.emit("late")
    await until(lambda: bus.counts.failures)
    server.start()
    await until(lambda: bus.counts.sent == 1)
    task.cancel()
    await asyncio.wait([task])
    await redis.aclose()
    server.stop()


async def test_the_rest_is_sent_when_the_process_ends(
    to_kafka: Settings, cluster: MockCluster, running: Running
) -> None:
    async with running(to_kafka) as bus:
        for number in range(20):
            bus.emit(str(number))
    assert texts(await records(cluster, 20)) == [str(number) for number in range(20)]
    assert bus.counts.dropped == 0


async def test_what_cannot_be_sent_at_the_end_is_counted(
    to_kafka: Settings, cluster: MockCluster, running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shared.bus.errorbus.DRAIN_TIMEOUT", 0.2)
    cluster.down()
    async with running(to_kafka) as bus:
        bus.emit("lost")
        bus.emit("lost too")
        await asyncio.sleep(0.1)
    assert bus.counts.dropped == 2
