"""Killed at any point between storing a result and the broker's acknowledgement: nothing is missing."""

import asyncio
import multiprocessing
import random
from multiprocessing.process import BaseProcess

from shared.keys import OUTBOX, results
from shared.redis.connection import Redis
from shared.requests import Request, submit
from shared.settings import Settings
from tests.brokers import MockCluster, Reader
from tests.support import until
from tests.worker.publish import mortal

KILLS, CHUNKS, PAUSE = 50, 1000, 0.004


async def test_fifty_kills_at_random_points(redis: Redis, impatient: Settings, cluster: MockCluster) -> None:
    rng = random.Random(20)
    cluster.delay(5)
    await submit(redis, impatient, Request(id="request", lane="video", planned=CHUNKS + 1), [])
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.worker.publish.mortal"])

    def start() -> BaseProcess:
        process = context.Process(target=mortal.work, args=(impatient, "request", CHUNKS, PAUSE), daemon=True)
        process.start()
        return process

    interrupted = 0
    for _ in range(KILLS):
        process = start()
        await asyncio.sleep(rng.uniform(0.05, 0.25))
        process.kill()
        process.join()
        interrupted += await redis.xlen(OUTBOX) > 0
    last = start()
    with Reader(cluster.servers, "mdx-embed") as reader:
        await until(lambda: all_stored(redis), timeout=60)
        reader.until(lambda records: len({key for key, _, _ in records}) == CHUNKS, timeout=60)
        records = reader.rest()
    last.kill()
    last.join()
    assert {key for key, _, _ in records} == {f"request:{n}".encode() for n in range(CHUNKS)}
    assert len({(key, value) for key, value, _ in records}) == CHUNKS  # a duplicate is the same message
    assert interrupted > KILLS / 4  # the kills did hit between storing and publishing


async def all_stored(redis: Redis) -> bool:
    return await redis.xlen(results("request")) == CHUNKS
