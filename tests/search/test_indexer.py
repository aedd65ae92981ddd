"""Indexers as a whole: what is on the bus gets into the index, once, whatever dies on the way."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import httpx
import msgspec
import numpy as np
import psycopg
import pytest
from aiokafka import AIOKafkaProducer
from pgvector import HalfVector

from search.indexer import Indexer
from search.sources.message_source import GROUP
from shared import keys
from shared.bus.routes import Switch, switch_routes
from shared.redis.connection import Redis
from shared.redis.ending import end
from shared.search import database
from shared.search.database import Connection
from shared.search.indexer_records import IndexerRecord, read_indexers
from shared.settings import Settings
from tests.brokers import Tansu
from tests.search.chunk_samples import MODEL, chunk_message, film, unit_vectors
from tests.search.conftest import count
from tests.support import PostgresServer, until

TOPIC = "mdx-embed"
ROOT = Path(__file__).parents[2]


async def publish(redis: Redis, *messages: bytes) -> None:
    async with redis.pipeline(transaction=False) as pipe:
        for message in messages:
            pipe.xadd(TOPIC, {"metadata": message, "message_type": "vision_llm"})
        await pipe.execute()


@asynccontextmanager
async def indexing(settings: Settings) -> AsyncIterator[Indexer]:
    indexer = Indexer(settings)
    task = asyncio.create_task(indexer.run())
    try:
        yield indexer
        assert not task.done(), task.result()
    finally:
        await end([task])


async def finished(redis: Redis) -> bool:
    """Whether the group has done with everything on the stream."""
    groups: Any = await redis.xinfo_groups(TOPIC) if await redis.exists(TOPIC) else []
    return bool(groups) and groups[0]["lag"] == 0 and groups[0]["pending"] == 0


async def record(redis: Redis) -> IndexerRecord | None:
    found = await read_indexers(redis)
    return found[0] if found else None


async def says(redis: Redis, state: str, text: str = "") -> bool:
    found = await record(redis)
    return found is not None and found.state == state and text in found.detail


async def test_what_the_index_holds_is_what_an_exact_comparison_finds(
    redis: Redis, settings: Settings
) -> None:
    """10,000 vectors of 768 values, against NumPy in double precision."""
    model = msgspec.structs.replace(MODEL, id="wide", dimension=768)
    vectors = unit_vectors(10_000, 768)
    await publish(
        redis, *(chunk_message(film(i // 500), i % 500, v, model=model) for i, v in enumerate(vectors))
    )
    async with indexing(settings) as indexer:
        await until(lambda: finished(redis), timeout=100)
        assert indexer.record.indexed == 10_000
    connection = await database.connect(settings)
    questions = unit_vectors(20, 768, seed=2).astype(np.float64)
    for question in questions:
        rows = await (
            await connection.execute(
                "SELECT assets.id, number, embedding <=> %(q)s FROM chunks "
                "JOIN assets ON assets.key = asset ORDER BY embedding <=> %(q)s LIMIT 20",
                {"q": HalfVector(question.tolist())},
            )
        ).fetchall()
        scores = vectors.astype(np.float64) @ question
        best = np.sort(scores)[::-1][:20]
        found = [int(asset[-12:]) * 500 + number for asset, number, _ in rows]
        assert len(set(found)) == 20
        assert [1 - distance for *_, distance in rows] == pytest.approx(best, abs=1e-3)
        assert scores[found] == pytest.approx(best, abs=1e-3)
    await connection.close()


async def test_duplicates_change_nothing(redis: Redis, settings: Settings) -> None:
    messages = [chunk_message(film(), i, v) for i, v in enumerate(unit_vectors(50))]
    async with indexing(settings) as indexer:
        for _ in range(3):
            await publish(redis, *messages, *messages[::-1])
        await until(lambda: finished(redis))
        assert indexer.record.indexed == 50
    connection = await database.connect(settings)
    assert await count(connection) == 50
    await connection.close()


async def test_what_cannot_be_used_is_told_and_does_not_stop_the_rest(
    redis: Redis, settings: Settings
) -> None:
    listener = redis.pubsub()
    await listener.subscribe("mdx-embed-errors")
    good = [chunk_message(film(), i, v) for i, v in enumerate(unit_vectors(3))]
    short = chunk_message(film(1), 0, np.ones(3))
    async with indexing(replace(settings, error_bus="redis")) as indexer:
        await publish(redis, good[0], b"\xff\xff", short, *good[1:])
        await until(lambda: finished(redis))
        assert (indexer.record.indexed, indexer.record.refused) == (3, 2)
        events: list[Any] = []
        async with asyncio.timeout(10):
            async for heard in listener.listen():
                if heard["type"] == "message":
                    events.append(msgspec.json.decode(heard["data"]))
                if len(events) == 2:
                    break
    assert [event["streamId"] for event in events] == ["", film(1).id]
    assert "not an nv.VisionLLM message" in events[0]["event"]
    assert "a vector of 3 values; those of tiny in the index have 8" in events[1]["event"]
    await listener.aclose()


async def test_a_row_that_the_database_refuses_is_left_out_alone(
    redis: Redis, settings: Settings, index: Connection
) -> None:
    """A narrower column stands for what nobody thought of."""
    await index.execute("ALTER TABLE chunks ALTER COLUMN number TYPE smallint")
    vectors = unit_vectors(10)
    await publish(redis, *(chunk_message(film(), 32_763 + i, v) for i, v in enumerate(vectors)))
    async with indexing(settings) as indexer:
        await until(lambda: finished(redis))
        assert (indexer.record.indexed, indexer.record.refused) == (5, 5)


async def test_deleted_assets_leave_and_stay_away(
    redis: Redis, settings: Settings, index: Connection
) -> None:
    messages = [chunk_message(film(n), i, v) for n in range(2) for i, v in enumerate(unit_vectors(5))]
    async with indexing(settings):
        await publish(redis, *messages)
        await until(lambda: finished(redis))
        await redis.zadd(keys.SEARCH_DELETED, {film().id: 1_700_000_000})
        await until(lambda: _counts(index, 5))
        await publish(redis, *messages)
        await until(lambda: finished(redis))
        assert await count(index) == 5


async def _counts(connection: Connection, number: int) -> bool:
    return await count(connection) == number


async def test_without_a_bus_it_waits_and_says_so(redis: Redis, settings: Settings) -> None:
    async with indexing(replace(settings, message_bus=None)) as indexer:
        await until(lambda: says(redis, "waiting", "no message bus is set"))
        assert "no message bus is set" in indexer.trouble()
        await publish(redis, chunk_message(film(), 0, unit_vectors(1)[0]))
        await switch_routes(redis, settings, Switch(message_bus="redis", message_topic=TOPIC))
        await until(lambda: finished(redis))
        assert indexer.trouble() == ""
    assert await read_indexers(redis) == []


async def test_it_follows_the_messages_when_they_go_elsewhere(redis: Redis, settings: Settings) -> None:
    messages = [chunk_message(film(), i, v) for i, v in enumerate(unit_vectors(4))]
    async with indexing(settings) as indexer:
        await publish(redis, *messages[:2])
        await until(lambda: finished(redis))
        await switch_routes(redis, settings, Switch(message_bus="redis", message_topic="elsewhere"))
        for message in messages[2:]:
            await redis.xadd("elsewhere", {"metadata": message})
        await until(lambda: indexer.record.indexed == 4)
        assert indexer.record.topic == "elsewhere"


async def test_the_record_tells_how_far_behind_it_is(
    redis: Redis, settings: Settings, index: Connection
) -> None:
    async with indexing(settings), index.transaction():
        await until(lambda: says(redis, "indexing"))
        await index.execute("LOCK TABLE chunks IN ACCESS EXCLUSIVE MODE")
        await publish(redis, *(chunk_message(film(), i, v) for i, v in enumerate(unit_vectors(30))))
        await until(lambda: _behind(redis, 30))
        found = await record(redis)
        assert found
        assert found.lag_seconds is not None
        assert (found.bus, found.topic, found.pid) == ("redis", TOPIC, os.getpid())


async def _behind(redis: Redis, messages: int) -> bool:
    found = await record(redis)
    return found is not None and found.lag_messages == messages


async def test_kafka_is_read_like_redis(redis: Redis, settings: Settings, index: Connection) -> None:
    broker = Tansu(TOPIC)
    broker.start()
    kafka = replace(settings, message_bus="kafka", kafka_servers=broker.servers)
    messages = [chunk_message(film(), i, v) for i, v in enumerate(unit_vectors(200))]
    producer = AIOKafkaProducer(bootstrap_servers=broker.servers)
    await producer.start()
    for message in messages[:100]:
        await producer.send(TOPIC, message)
    await producer.flush()
    async with indexing(kafka):
        await until(lambda: _counts(index, 100), timeout=60)
    for message in messages[50:]:
        await producer.send(TOPIC, message)
    await producer.flush()
    async with indexing(kafka) as indexer:
        await until(lambda: _counts(index, 200), timeout=60)
        assert indexer.record.indexed == 100
    await producer.stop()
    broker.stop()


async def test_a_database_that_is_dropped_is_filled_again(redis: Redis, settings: Settings) -> None:
    """What came since; what was in it is gone."""
    messages = [chunk_message(film(), i, v) for i, v in enumerate(unit_vectors(4))]
    async with indexing(settings) as indexer:
        await publish(redis, *messages[:2])
        await until(lambda: finished(redis))
        other = await database.connect(settings)
        await other.execute("DROP SCHEMA rtembed CASCADE")
        await publish(redis, *messages[2:])
        await until(lambda: finished(redis))
        assert indexer.record.indexed == 4
        assert await count(other, "rtembed.chunks") == 2
        await other.close()


async def test_a_killed_database_loses_nothing(redis: Redis, settings: Settings) -> None:
    with TemporaryDirectory(prefix="rt-embed-") as folder:
        server = PostgresServer(Path(folder) / "postgres")
        server.start()
        messages = [chunk_message(film(), i, v) for i, v in enumerate(unit_vectors(600))]
        async with indexing(replace(settings, search_url=server.url, search_batch=20)) as indexer:
            await publish(redis, *messages[:300])
            await until(lambda: indexer.record.indexed >= 100)
            server.kill()
            await publish(redis, *messages[300:])
            await until(lambda: says(redis, "waiting", "the search index is away"))
            server.start()
            await until(lambda: finished(redis), timeout=60)
        connection = await database.connect(replace(settings, search_url=server.url))
        assert await count(connection) == 600
        await connection.close()
        server.stop()


def start(settings: Settings, **environment: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "search"],
        cwd=ROOT,
        env={
            "PATH": os.environ["PATH"], "REDIS_URL": settings.redis_url or "",
            "RTEMBED_SEARCH_URL": settings.search_url or "", "MESSAGE_BUS": "redis",
            "RTEMBED_SEARCH_BATCH": "5", "RTEMBED_CLAIM_TIMEOUT": "1", **environment,
        },
        stderr=subprocess.PIPE,
    )  # fmt: skip


def ended(process: subprocess.Popen[bytes]) -> str:
    """What it logged."""
    _, errors = process.communicate(timeout=30)
    return errors.decode()


async def test_killed_indexers_lose_nothing(redis: Redis, settings: Settings, index: Connection) -> None:
    messages = [chunk_message(film(i // 50), i % 50, v) for i, v in enumerate(unit_vectors(1500))]
    await publish(redis, *messages[:1000])
    running = [start(settings) for _ in range(2)]
    await until(lambda: _some(index), timeout=60)
    for number in range(3):
        running[0].kill()
        ended(running.pop(0))
        running.append(start(settings))
        await publish(redis, *messages[1000 + 100 * number : 1100 + 100 * number])
        before = await count(index)
        await until(lambda before=before: _more(index, before), timeout=60)
    await publish(redis, *messages[1300:])
    await until(lambda: finished(redis), timeout=90)
    for process in running:
        process.send_signal(signal.SIGTERM)
        ended(process)
        assert process.returncode == 0
    assert await count(index) == 1500
    stopped = {process.pid for process in running}
    assert not stopped & {record.pid for record in await read_indexers(redis)}
    assert (await redis.xpending(TOPIC, GROUP))["pending"] == 0


async def _some(connection: Connection) -> bool:
    return await count(connection) > 0


async def _more(connection: Connection, before: int) -> bool:
    return await count(connection) > min(before, 900)


async def test_the_process_serves_its_health_and_metrics(redis: Redis, settings: Settings) -> None:
    await publish(redis, *(chunk_message(film(), i, v) for i, v in enumerate(unit_vectors(7))))
    process = start(settings, RTEMBED_HOST="127.0.0.1")
    try:
        await until(lambda: says(redis, "indexing"), timeout=60)
        await until(lambda: finished(redis))
        found = await record(redis)
        assert found
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{found.metrics_port}") as client:
            assert (await client.get("/ready")).status_code == 200
            assert (await client.get("/live")).status_code == 200
            page = (await client.get("/metrics")).text
        assert "rtembed_index_chunks_total 7.0" in page
        assert 'rtembed_index_messages_total{outcome="indexed"} 7.0' in page
    finally:
        process.send_signal(signal.SIGTERM)
        ended(process)


@pytest.mark.parametrize(
    ("environment", "status", "reason"),
    [
        ({"RTEMBED_SEARCH_URL": ""}, 2, "RTEMBED_SEARCH_URL is unset"),
        ({"RTEMBED_SEARCH_URL": "mysql://localhost"}, 2, "must be a postgresql:// URL"),
    ],
)
def test_a_bad_setting_ends_it(
    settings: Settings, environment: dict[str, str], status: int, reason: str
) -> None:
    process = start(settings, **environment)
    assert reason in ended(process)
    assert process.returncode == status


def test_a_database_that_cannot_hold_the_index_ends_it(postgres: PostgresServer, settings: Settings) -> None:
    url = settings.search_url or ""
    with psycopg.connect(url, autocommit=True) as owner:
        name = f"poor{os.getpid()}"
        owner.execute(f"CREATE ROLE {name} LOGIN")
    process = start(settings, RTEMBED_SEARCH_URL=url.replace("postgres@/", f"{name}@/"))
    assert "lacks pgvector" in ended(process)
    assert process.returncode == 4
