"""Brokers, results to publish, and a publisher that forwards while a test looks on."""

import asyncio
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from dataclasses import replace

import pytest

from shared.assets import Asset
from shared.bus.errorbus import ErrorBus
from shared.chunks import SECOND, Chunk
from shared.jobs import VideoJob
from shared.redis.connection import Redis
from shared.requests import Request, submit
from shared.results import Result
from shared.settings import Settings
from tests.brokers import MockCluster, Tansu
from tests.support import served_model
from worker.publish.forward import Forwarder
from worker.publish.publisher import Publisher

TOPIC = "mdx-embed"
MODEL = served_model(id="cosmos-embed1-448p", owned_by="nvidia")
Forwarding = Callable[[Settings], AbstractAsyncContextManager[Forwarder]]
Store = Callable[..., Awaitable[list[bytes]]]


@pytest.fixture
def cluster() -> Iterator[MockCluster]:
    """Three brokers with the topic of embedding messages."""
    cluster = MockCluster()
    cluster.create_topic(TOPIC, partitions=4)
    yield cluster
    cluster.close()


@pytest.fixture
def tansu() -> Iterator[Tansu]:
    """A broker in a process of its own."""
    broker = Tansu(TOPIC)
    broker.start()
    yield broker
    broker.stop()


@pytest.fixture
def to_kafka(settings: Settings, cluster: MockCluster) -> Settings:
    """Messages go to the cluster, error events to Redis."""
    return replace(
        settings,
        kafka_enabled=True,
        kafka_servers=cluster.servers,
        kafka_topic=TOPIC,
        error_bus="redis",
    )


@pytest.fixture
def impatient(to_kafka: Settings) -> Settings:
    """As `to_kafka`; a publisher that is silent for a second is given up, also for a pause of the machine."""
    return replace(to_kafka, claim_timeout=1.0)


@pytest.fixture
def to_redis(settings: Settings) -> Settings:
    """Messages go to a Redis stream."""
    return replace(settings, message_bus="redis", message_topic=TOPIC)


@pytest.fixture
def store(redis: Redis) -> Store:
    """`await store(settings, "request", chunks)` accepts a request and publishes these chunks of it.

    Returns the keys of their messages.
    """

    async def publish(settings: Settings, request: str, chunks: range, planned: int = 10_000) -> list[bytes]:
        asset = Asset(id="file", path="/videos/film.mp4")
        job = VideoJob(request=request, assets=[asset], chunks=[Chunk(0, 0, SECOND)])
        if chunks.start == 0:
            await submit(redis, settings, Request(id=request, lane="video", planned=planned), [job])
        publisher = Publisher(redis, settings)
        publisher.model = MODEL
        for chunk in chunks:
            vector = struct.pack("<4f", chunk, 0.5, 0.25, -1.0)
            start = chunk * SECOND
            await publisher.publish(
                job, [Result(chunk=chunk, start=start, end=start + SECOND, vector=vector)]
            )
        return [f"{request}:{chunk}".encode() for chunk in chunks]

    return publish


@pytest.fixture
def forwarding(redis: Redis) -> Forwarding:
    """`async with forwarding(settings) as forwarder`: a publisher at work, with its error bus."""

    @asynccontextmanager
    async def run(settings: Settings) -> AsyncIterator[Forwarder]:
        errors = ErrorBus(redis, settings)
        forwarder = Forwarder(redis, settings, "worker", errors)
        tasks = [asyncio.create_task(forwarder.run()), asyncio.create_task(errors.run())]
        try:
            yield forwarder
        finally:
            for task in tasks:
                task.cancel()
                with suppress(asyncio.CancelledError):
                    await task

    return run
