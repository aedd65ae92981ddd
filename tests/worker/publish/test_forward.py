"""From the outbox to real brokers: everything arrives, in order, whatever fails on the way."""

import asyncio
import random
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from shared import keys
from shared.bus.errorbus import ErrorBus
from shared.bus.routes import Switch, switch_routes
from shared.errors import BusError
from shared.keys import OUTBOX, OUTBOX_COUNTS, OUTBOX_DEAD, PUBLISHERS
from shared.redis.connection import Redis, connect
from shared.settings import Settings
from tests.brokers import (
    INIT_PRODUCER_ID,
    PRODUCE,
    MockCluster,
    Reader,
    Record,
    Tansu,
    as_a_real_broker_would,
    read_log,
)
from tests.support import RedisServer, stream_entries, until, valkey_binary
from worker.publish.forward import Forwarder

TOPIC = "mdx-embed"
MSG_SIZE_TOO_LARGE, UNKNOWN_TOPIC, TOPIC_AUTHORIZATION_FAILED, KAFKA_STORAGE_ERROR = 10, 3, 29, 56

Forwarding = Callable[[Settings], AbstractAsyncContextManager[Forwarder]]
Store = Callable[..., Awaitable[list[bytes]]]


async def add(redis: Redis, *messages: tuple[str, str]) -> None:
    """Put messages, key and value, straight into the outbox."""
    for key, value in messages:
        await redis.xadd(OUTBOX, {"key": key, "type": "vision_llm", "stream": "file", "value": value})


async def empty(redis: Redis) -> None:
    await until(lambda: no_message(redis), timeout=30)


async def no_message(redis: Redis) -> bool:
    return await redis.xlen(OUTBOX) == 0


async def read(servers: str, count: int, topic: str = TOPIC) -> list[Record]:
    """`count` different keys, and whatever else comes shortly after."""

    def collect() -> list[Record]:
        with Reader(servers, topic) as reader:
            reader.until(lambda records: len({key for key, _, _ in records}) >= count)
            return reader.rest(0.3)

    return await asyncio.to_thread(collect)


@asynccontextmanager
async def events(redis: Redis) -> AsyncIterator[list[str]]:
    """The texts of the error events that are published meanwhile."""
    texts: list[str] = []
    pubsub = redis.pubsub()
    await pubsub.subscribe("mdx-embed-errors")
    assert await pubsub.get_message(timeout=5)

    async def listen() -> None:
        while True:
            message = await pubsub.get_message(ignore_subscribe_messages=True, timeout=1)
            texts.extend([msgspec.json.decode(message["data"])["event"]] if message else [])

    listener = asyncio.create_task(listen())
    yield texts
    listener.cancel()
    await asyncio.wait([listener])
    await pubsub.aclose()


@pytest.fixture
def quickly_alarmed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A silence of 0.3 s is a stall."""
    monkeypatch.setattr("worker.publish.forward.STALL", 0.3)


# All is well --------------------------------------------------------------------------------------------


async def test_every_stored_message_arrives_and_leaves_the_outbox(
    redis: Redis, to_kafka: Settings, cluster: MockCluster, forwarding: Forwarding, store: Store
) -> None:
    async with forwarding(to_kafka) as forwarder:
        expected = await store(to_kafka, "request", range(40))
        records = await read(cluster.servers, 40)
        await empty(redis)
    assert sorted(key or b"" for key, _, _ in records) == sorted(expected)
    assert {tuple(headers) for _, _, headers in records} == {(("message_type", b"vision_llm"),)}
    assert forwarder.counts.sent == 40
    assert await redis.hget(OUTBOX_COUNTS, "sent") == b"40"
    assert (await redis.xpending(OUTBOX, PUBLISHERS))["pending"] == 0


async def test_messages_stored_before_any_publisher_lived_are_sent(
    to_kafka: Settings, cluster: MockCluster, forwarding: Forwarding, store: Store
) -> None:
    await store(to_kafka, "request", range(5))
    async with forwarding(to_kafka):
        assert len(await read(cluster.servers, 5)) == 5


async def test_publishers_share_the_work_and_send_nothing_twice(
    redis: Redis, to_kafka: Settings, cluster: MockCluster, forwarding: Forwarding
) -> None:
    cluster.delay(20)
    async with forwarding(to_kafka) as one, forwarding(to_kafka) as other:
        await until(lambda: one._producer and other._producer)
        for number in range(400):
            await add(redis, (f"key:{number}", "value"))
        records = await read(cluster.servers, 400)
        await empty(redis)
    assert len(records) == 400
    assert one.counts.sent + other.counts.sent == 400
    assert min(one.counts.sent, other.counts.sent) > 0


async def test_stopping_finishes_what_is_under_way(
    redis: Redis, to_kafka: Settings, cluster: MockCluster, forwarding: Forwarding
) -> None:
    await add(redis, *((f"key:{n}", "value") for n in range(50)))
    async with forwarding(to_kafka) as forwarder:
        await until(lambda: forwarder._in_flight or forwarder.counts.sent)
        cluster.delay(100)
    sent = await read(cluster.servers, forwarder.counts.sent)
    assert len(sent) == forwarder.counts.sent
    assert await redis.xlen(OUTBOX) == 50 - forwarder.counts.sent


# Outages ------------------------------------------------------------------------------------------------


async def test_an_outage_in_the_middle_loses_nothing_doubles_nothing_and_keeps_each_keys_order(
    redis: Redis, to_kafka: Settings, cluster: MockCluster, forwarding: Forwarding
) -> None:
    cluster.delay(30)
    rng = random.Random(7)
    async with forwarding(to_kafka) as forwarder:
        for number in range(300):
            await add(redis, (f"key:{rng.randrange(30)}", str(number)))
            if number == 100:
                await until(lambda: forwarder.counts.sent)
                cluster.down()
            if number == 200:
                await asyncio.sleep(0.5)
                cluster.up()
        await empty(redis)
    log = await read_log(cluster.servers, TOPIC)
    records = [record for batch in as_a_real_broker_would(log) for record in batch.records]
    assert sorted(int(value) for _, value in records) == list(range(300))
    by_key = defaultdict(list)
    for key, value in records:
        by_key[key].append(int(value))
    assert all(values == sorted(values) for values in by_key.values())
    assert forwarder.counts.failures == 0


async def test_a_broker_that_is_stopped_and_started_gets_the_rest(
    redis: Redis, to_kafka: Settings, tansu: Tansu, forwarding: Forwarding, store: Store
) -> None:
    settings = replace(to_kafka, kafka_servers=tansu.servers)
    async with forwarding(settings):
        before = await store(settings, "request", range(100))
        assert {key for key, _, _ in await read(tansu.servers, 100)} == set(before)
        await empty(redis)
        tansu.stop()
        during = await store(settings, "request", range(100, 200))
        assert await redis.xlen(OUTBOX) == 100
        await asyncio.to_thread(tansu.start)
        after = await store(settings, "request", range(200, 300))
        records = await read(tansu.servers, 200)
        await empty(redis)
    assert {key for key, _, _ in records} == {*during, *after}


@pytest.mark.usefixtures("quickly_alarmed")
async def test_a_frozen_broker_is_noticed_and_waited_for(
    redis: Redis, to_kafka: Settings, tansu: Tansu, forwarding: Forwarding
) -> None:
    settings = replace(to_kafka, kafka_servers=tansu.servers)
    async with forwarding(settings), events(redis) as texts:
        await add(redis, ("key:0", "first"))
        await empty(redis)
        tansu.freeze()
        await add(redis, ("key:1", "second"))
        await until(lambda: texts)
        assert "Embedding messages wait for their bus: no acknowledgement" in texts[0]
        tansu.thaw()
        assert len(await read(tansu.servers, 2)) == 2
        await empty(redis)


async def test_brokers_that_are_down_at_the_start(
    redis: Redis, to_kafka: Settings, cluster: MockCluster, forwarding: Forwarding
) -> None:
    cluster.down()
    async with forwarding(to_kafka) as forwarder:
        await add(redis, ("key:0", "value"))
        await until(lambda: forwarder.counts.failures)
        cluster.up()
        await read(cluster.servers, 1)
        await empty(redis)


@pytest.mark.usefixtures("quickly_alarmed")
@pytest.mark.parametrize("code", [UNKNOWN_TOPIC, TOPIC_AUTHORIZATION_FAILED])
async def test_a_topic_that_is_missing_or_forbidden_is_told_and_tried_again(
    redis: Redis, to_kafka: Settings, cluster: MockCluster, forwarding: Forwarding, code: int
) -> None:
    cluster.fail_topic(TOPIC, code)
    async with events(redis) as texts, forwarding(to_kafka):
        await add(redis, ("key:0", "value"))
        await until(lambda: texts)
        assert texts[0].startswith("Embedding messages wait for their bus: ")
        cluster.fail_topic(TOPIC, 0)
        assert len(await read(cluster.servers, 1)) == 1
        await empty(redis)


async def test_a_full_disk_is_waited_out(
    redis: Redis, to_kafka: Settings, cluster: MockCluster, forwarding: Forwarding
) -> None:
    cluster.fail_requests(PRODUCE, *[KAFKA_STORAGE_ERROR] * 5)
    async with forwarding(to_kafka):
        await add(redis, ("key:0", "value"))
        assert len(await read(cluster.servers, 1)) == 1
        await empty(redis)


async def test_brokers_without_idempotence_still_get_everything(
    redis: Redis, to_kafka: Settings, cluster: MockCluster, forwarding: Forwarding
) -> None:
    cluster.forbid(INIT_PRODUCER_ID)
    async with forwarding(to_kafka):
        await add(redis, *((f"key:{n}", "value") for n in range(20)))
        assert len(await read(cluster.servers, 20)) == 20
        await empty(redis)


# Messages that are refused ------------------------------------------------------------------------------


async def test_a_message_that_is_too_large_goes_to_the_dead_letters_and_the_others_arrive(
    redis: Redis, to_kafka: Settings, cluster: MockCluster, forwarding: Forwarding
) -> None:
    settings = replace(to_kafka, kafka_max_request_size=2000)
    await add(redis, ("key:0", "a"), ("key:1", "x" * 5000), ("key:2", "b"))
    async with events(redis) as texts, forwarding(settings) as forwarder:
        records = await read(cluster.servers, 2)
        await empty(redis)
        await until(lambda: texts)
    assert sorted(value for _, value, _ in records) == [b"a", b"b"]
    assert forwarder.counts.refused == 1
    ((_, dead),) = await stream_entries(redis, OUTBOX_DEAD)
    assert (dead[b"key"], len(dead[b"value"]), dead[b"stream"]) == (b"key:1", 5000, b"file")
    assert b"larger than the maximum request size" in dead[b"error"]
    assert "Embedding message key:1 refused by Kafka" in texts[0]
    assert await redis.hget(OUTBOX_COUNTS, "refused") == b"1"


async def test_a_batch_that_is_refused_for_one_message_is_sent_again_one_by_one(
    redis: Redis, to_kafka: Settings, cluster: MockCluster, forwarding: Forwarding
) -> None:
    cluster.fail_requests(PRODUCE, MSG_SIZE_TOO_LARGE)
    await add(redis, *((f"key:{n}", "value") for n in range(30)))
    async with forwarding(to_kafka) as forwarder:
        assert len(await read(cluster.servers, 30)) == 30
        await empty(redis)
    assert forwarder.counts.refused == 0
    assert await redis.xlen(OUTBOX_DEAD) == 0


# Publishers that die ------------------------------------------------------------------------------------


async def test_messages_of_a_dead_publisher_are_sent_by_another(
    redis: Redis, impatient: Settings, cluster: MockCluster, forwarding: Forwarding
) -> None:
    await redis.xgroup_create(OUTBOX, PUBLISHERS, id="0", mkstream=True)
    await add(redis, *((f"key:{n}", "value") for n in range(10)))
    await redis.xreadgroup(PUBLISHERS, "dead", {OUTBOX: ">"}, count=10)
    async with forwarding(impatient) as forwarder:
        assert len(await read(cluster.servers, 10)) == 10
        await empty(redis)
        await until(lambda: only_the_living(redis))
    assert forwarder.counts.adopted == 10


async def only_the_living(redis: Redis) -> bool:
    consumers = await redis.xinfo_consumers(OUTBOX, PUBLISHERS)
    return [c["name"].startswith(b"worker-") for c in consumers] == [True]


async def test_messages_whose_reply_got_lost_are_found_again(
    redis: Redis, impatient: Settings, cluster: MockCluster, forwarding: Forwarding
) -> None:
    async with forwarding(impatient) as forwarder:
        await add(redis, ("key:0", "value"))
        await empty(redis)
        async with redis.pipeline() as pipe:
            pipe.xadd(OUTBOX, {"key": "key:1", "type": "vision_llm", "value": "lost"})
            pipe.xreadgroup(PUBLISHERS, forwarder._outbox.consumer, {OUTBOX: ">"})
            _, delivered = await pipe.execute()
        if delivered:  # else the publisher itself was quicker
            assert len(await read(cluster.servers, 2)) == 2
        await empty(redis)


async def test_a_publisher_that_waits_for_its_broker_keeps_its_claims(
    redis: Redis, impatient: Settings, cluster: MockCluster, forwarding: Forwarding
) -> None:
    async with forwarding(impatient) as waiting:
        await add(redis, ("key:0", "value"))
        await empty(redis)
        cluster.down()
        await add(redis, ("key:1", "value"))
        await until(lambda: waiting._in_flight)
        async with forwarding(impatient) as idle:
            await asyncio.sleep(2.5 * impatient.claim_timeout)
            assert idle.counts.adopted == 0
            cluster.up()
            assert len(await read(cluster.servers, 2)) == 2


# Redis streams ------------------------------------------------------------------------------------------


async def test_messages_move_to_a_redis_stream(
    redis: Redis, to_redis: Settings, forwarding: Forwarding, store: Store
) -> None:
    async with forwarding(to_redis), forwarding(to_redis):
        expected = await store(to_redis, "request", range(50))
        await empty(redis)
    entries = [fields for _, fields in await stream_entries(redis, TOPIC)]
    assert sorted(fields[b"key"] for fields in entries) == sorted(expected)
    assert {tuple(fields) for fields in entries} == {(b"metadata", b"message_type", b"key")}
    assert {fields[b"message_type"] for fields in entries} == {b"vision_llm"}


async def test_the_redis_stream_has_the_configured_field_and_bound(
    redis: Redis, to_redis: Settings, forwarding: Forwarding
) -> None:
    settings = replace(to_redis, redis_payload_key="value", redis_stream_maxlen=10)
    await add(redis, *((f"key:{n}", str(n)) for n in range(1000)))
    async with forwarding(settings):
        await empty(redis)
    assert 10 <= await redis.xlen(TOPIC) <= 200
    _, last = (await stream_entries(redis, TOPIC))[-1]
    assert last == {b"value": b"999", b"message_type": b"vision_llm", b"key": b"key:999"}


async def test_a_redis_key_of_another_type_is_told_and_tried_again(
    redis: Redis, to_redis: Settings, forwarding: Forwarding
) -> None:
    settings = replace(to_redis, error_bus="redis")
    await redis.set(TOPIC, "not a stream")
    async with events(redis) as texts, forwarding(settings):
        await add(redis, ("key:0", "value"))
        await until(lambda: texts)
        assert "WRONGTYPE" in texts[0]
        await redis.delete(TOPIC)
        await empty(redis)
    assert await redis.xlen(TOPIC) == 1


# Redis away ---------------------------------------------------------------------------------------------


async def test_what_kafka_acknowledged_while_redis_was_away_is_not_sent_again(
    tmp_path: Path, cluster: MockCluster, to_kafka: Settings
) -> None:
    server = RedisServer(valkey_binary(), tmp_path)
    server.start()
    settings = replace(to_kafka, redis_url=server.url, redis_timeout=1.0)
    redis = connect(settings)
    cluster.delay(700)
    forwarder = Forwarder(redis, settings, "worker", ErrorBus(redis, settings))
    task = asyncio.create_task(forwarder.run())
    await add(redis, *((f"key:{n}", "value") for n in range(20)))
    await until(lambda: forwarder._in_flight == 20)
    server.stop()
    await until(lambda: len(forwarder._acknowledged) == 20)
    server.start()
    await empty(redis)
    cluster.delay(0)
    assert len(await read(cluster.servers, 20)) == 20
    task.cancel()
    await asyncio.wait([task])
    await redis.aclose()
    server.stop()


# Routes -------------------------------------------------------------------------------------------------


async def test_what_waits_for_kafka_goes_to_redis_after_a_switch_and_back(
    redis: Redis, to_kafka: Settings, cluster: MockCluster, forwarding: Forwarding, store: Store
) -> None:
    cluster.down()
    async with forwarding(to_kafka):
        first = await store(to_kafka, "request", range(10))
        await switch_routes(redis, to_kafka, Switch(message_bus="redis", message_topic="elsewhere"))
        await empty(redis)
        assert {f[b"key"] for _, f in await stream_entries(redis, "elsewhere")} == set(first)

        cluster.up()
        await switch_routes(redis, to_kafka, Switch(message_bus="kafka", message_topic=TOPIC))
        second = await store(to_kafka, "request", range(10, 20))
        assert {key for key, _, _ in await read(cluster.servers, 10)} == set(second)
    assert await redis.xlen("elsewhere") == 10


async def test_without_a_bus_what_is_there_stays(
    redis: Redis, settings: Settings, forwarding: Forwarding
) -> None:
    await add(redis, ("key:0", "value"))
    async with forwarding(settings) as forwarder:
        await asyncio.sleep(0.3)
    assert await redis.xlen(OUTBOX) == 1
    assert forwarder.counts.sent == 0


async def test_a_publisher_without_brokers_leaves_kafka_to_others(
    redis: Redis, settings: Settings, forwarding: Forwarding
) -> None:
    await redis.hset(keys.ROUTES, mapping={"message_bus": "kafka", "message_topic": TOPIC})
    await add(redis, ("key:0", "value"))
    async with forwarding(settings) as forwarder:
        await asyncio.sleep(0.3)
    assert (await redis.xlen(OUTBOX), forwarder.counts.failures) == (1, 0)


async def test_a_failure_at_the_moment_of_the_end_does_not_keep_the_publisher_running(
    redis: Redis, to_kafka: Settings, cluster: MockCluster
) -> None:
    forwarder = Forwarder(redis, to_kafka, "worker", ErrorBus(redis, to_kafka))
    task = asyncio.create_task(forwarder.run())
    await until(lambda: forwarder._producer)
    forwarder._failure = BusError("at the same moment")
    forwarder._answered.set()
    await asyncio.sleep(0)
    task.cancel()
    async with asyncio.timeout(10):
        await asyncio.wait([task])


async def test_brokers_that_were_all_replaced_are_found(
    redis: Redis, to_kafka: Settings, cluster: MockCluster, tansu: Tansu, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.publish.forward.STALL", 0.3)
    monkeypatch.setattr("worker.publish.forward.REPLACE_AFTER", 0.5)
    settings = replace(to_kafka, kafka_servers=f"{cluster.servers},{tansu.servers}")
    tansu.stop()
    forwarder = Forwarder(redis, settings, "worker", ErrorBus(redis, settings))
    task = asyncio.create_task(forwarder.run())
    await add(redis, ("key:0", "to the old ones"))
    await empty(redis)
    cluster.down()
    await asyncio.to_thread(tansu.start)
    await add(redis, ("key:1", "to the new one"))
    assert [value for _, value, _ in await read(tansu.servers, 1)] == [b"to the new one"]
    await empty(redis)
    task.cancel()
    await asyncio.wait([task])
