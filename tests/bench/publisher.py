"""How fast the outbox's publisher is, against a bare aiokafka loop with the same settings in the same run.

Also whether storing results is slower while Kafka is away.

    .venv/bin/python -m tests.bench.publisher [--messages 20000] [--rounds 7]
"""

import argparse
import asyncio
import contextlib
import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import uvloop

from shared.assets import Asset
from shared.bus.errorbus import ErrorBus
from shared.bus.kafka import connect as connect_to_kafka
from shared.jobs import VideoJob
from shared.keys import OUTBOX
from shared.redis.connection import Redis, connect
from shared.requests import Request, submit
from shared.results import Result
from shared.settings import Settings, load
from tests.brokers import MockCluster
from tests.support import RedisServer, served_model, until, valkey_binary
from worker.publish.forward import Forwarder
from worker.publish.messages import build_message
from worker.publish.publisher import Publisher

TOPIC, PARTITIONS, BARE_WINDOW = "mdx-embed", 6, 1000
MODEL = served_model(id="cosmos-embed1-448p", owned_by="nvidia", dimension=768)
JOB = VideoJob(request="bench", assets=[Asset(id="film", path="/films/film.mp4", frame_rate="30")], chunks=[])
RESULT = Result(
    chunk=0, end=10**10, vector=np.random.default_rng(1).random(768, np.float32).tobytes(),
    frame_times=[n * 10**9 for n in range(8)],
)  # fmt: skip
VALUE = build_message(MODEL, JOB, RESULT)


Rate = tuple[float, float]
"""Messages per second, and microseconds of this thread's processor time for each."""


def _rate(count: int, began: float, used: float) -> Rate:
    return count / (time.perf_counter() - began), (time.thread_time() - used) / count * 1e6


async def bare(settings: Settings, count: int) -> Rate:
    """How fast `send` in a loop is, with as many under way as the publisher may hold."""
    producer = await connect_to_kafka(settings)
    began, used = time.perf_counter(), time.thread_time()
    under_way: list[asyncio.Future[object]] = []
    for number in range(count):
        key = f"bench:{number}".encode()
        under_way.append(await producer.send(TOPIC, VALUE, key, {"message_type": b"vision_llm"}))
        if len(under_way) == BARE_WINDOW:
            await asyncio.gather(*under_way)
            under_way.clear()
    await asyncio.gather(*under_way)
    rate = _rate(count, began, used)
    await producer.close(5)
    return rate


async def published(redis: Redis, settings: Settings, count: int) -> Rate:
    """How fast messages go from a full outbox until it is empty."""
    async with redis.pipeline(transaction=False) as pipe:
        for number in range(count):
            fields: Any = {"key": f"bench:{number}", "type": "vision_llm", "stream": "film", "value": VALUE}
            pipe.xadd(OUTBOX, fields)
        await pipe.execute()
    forwarder = Forwarder(redis, settings, "bench", ErrorBus(redis, settings))
    task = asyncio.create_task(forwarder.run())
    await until(lambda: forwarder.counts.sent)
    began, used, first = time.perf_counter(), time.thread_time(), forwarder.counts.sent
    await until(lambda: forwarder.counts.sent >= count, timeout=600)
    rate = _rate(count - first, began, used)
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
    return rate


async def stored(redis: Redis, settings: Settings, count: int) -> float:
    """Results per second that a worker stores, one after the other, while a publisher is at work."""
    await redis.flushall()
    await submit(redis, settings, Request(id="bench", lane="video", planned=count + 1), [JOB])
    forwarder = Forwarder(redis, settings, "bench", ErrorBus(redis, settings))
    task = asyncio.create_task(forwarder.run())
    publisher = Publisher(redis, settings)
    publisher.model = MODEL
    began = time.perf_counter()
    for number in range(count):
        result = Result(chunk=number, vector=RESULT.vector, frame_times=RESULT.frame_times)
        await publisher.publish(JOB, [result])
    rate = count / (time.perf_counter() - began)
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
    return rate


async def bench(count: int, rounds: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        server, cluster = RedisServer(valkey_binary(), Path(folder)), MockCluster()
        cluster.create_topic(TOPIC, PARTITIONS)
        server.start()
        settings = load(
            {
                "REDIS_URL": server.url,
                "KAFKA_ENABLED": "true",
                "KAFKA_BOOTSTRAP_SERVERS": cluster.servers,
                "ERROR_BUS": "",
            }
        )
        redis = connect(replace(settings, redis_timeout=30.0))
        pairs = [
            (await bare(settings, count), await published(redis, settings, count)) for _ in range(rounds)
        ]
        for (alone, alone_us), (outbox, outbox_us) in pairs:
            print(
                f"bare aiokafka {alone:7.0f}/s {alone_us:5.1f} µs"
                f"   outbox {outbox:7.0f}/s {outbox_us:5.1f} µs"
                f"   ratio {outbox / alone:.2f}, of processor time {alone_us / outbox_us:.2f}"
            )
        rates = statistics.median(outbox[0] / alone[0] for alone, outbox in pairs)
        times = statistics.median(alone[1] / outbox[1] for alone, outbox in pairs)
        print(f"median ratio {rates:.2f}, of processor time {times:.2f}")
        print(f"message {len(VALUE)} bytes")
        few = count // 10
        away = []
        for _ in range(rounds):
            up = await stored(redis, settings, few)
            cluster.down()
            down = await stored(redis, settings, few)
            cluster.up()
            away.append((up, down))
        for up, down in away:
            print(f"results stored: kafka up {up:6.0f}/s   kafka away {down:6.0f}/s   ratio {down / up:.2f}")
        used = await redis.memory_usage(OUTBOX, samples=0)
        waiting = await redis.xlen(OUTBOX)
        if used and waiting:
            print(f"{waiting} messages that wait take {used / waiting:.0f} bytes each in Valkey")
        await redis.aclose()
        server.stop()
        cluster.close()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--messages", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=7)
    chosen = parser.parse_args()
    uvloop.run(bench(chosen.messages, chosen.rounds))
