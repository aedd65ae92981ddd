"""One suite for both buses: nothing is lost, and what a dead member held goes to another."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress
from dataclasses import replace

import aiokafka
import pytest
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from search.sources.kafka_source import KafkaSource
from search.sources.message_source import GROUP, MessageSource
from search.sources.redis_source import RedisSource
from shared.errors import BusError
from shared.redis.connection import Redis, RedisError, connect
from shared.settings import Settings, load
from tests.brokers import Tansu
from tests.support import until

TOPIC = "mdx-embed"


class Bus:
    """A message bus with one topic."""

    def __init__(self, make: Callable[[], MessageSource], add: Callable[..., object]) -> None:
        self.make = make
        self._add = add

    async def add(self, *values: str, message_type: str = "vision_llm") -> None:
        for value in values:
            done = self._add(value.encode(), message_type)
            assert asyncio.iscoroutine(done)
            await done


@pytest.fixture(scope="module")
def tansu() -> Iterator[Tansu]:
    broker = Tansu()
    broker.start()
    yield broker
    broker.stop()


@pytest.fixture(params=["valkey", "redis62", "kafka"])
async def bus(request: pytest.FixtureRequest, redis_url: str) -> AsyncIterator[Bus]:
    if request.param == "kafka":
        broker = request.getfixturevalue("tansu")
        topic = f"t{id(request)}"
        settings = load({"KAFKA_BOOTSTRAP_SERVERS": broker.servers})
        admin = AIOKafkaAdminClient(bootstrap_servers=broker.servers)
        await admin.start()
        await admin.create_topics([NewTopic(topic, 1, 1)])
        await admin.close()
        producer = aiokafka.AIOKafkaProducer(bootstrap_servers=broker.servers)
        await producer.start()

        async def produce(value: bytes, message_type: str) -> None:
            await producer.send_and_wait(topic, value, headers=[("message_type", message_type.encode())])

        yield Bus(lambda: KafkaSource(settings, topic), produce)
        await producer.stop()
        return
    url = request.getfixturevalue("redis62").url if request.param == "redis62" else redis_url
    settings = load({"REDIS_URL": url, "RTEMBED_CLAIM_TIMEOUT": "1"})
    redis = connect(settings)
    await redis.delete(TOPIC)

    async def append(value: bytes, message_type: str) -> None:
        await redis.xadd(TOPIC, {"metadata": value, "message_type": message_type, "key": "k"})

    yield Bus(lambda: RedisSource(redis, settings, TOPIC, "me"), append)
    await redis.aclose()


async def drain(source: MessageSource, number: int) -> list[bytes]:
    """Take and finish until that many messages came."""
    values: list[bytes] = []
    async with asyncio.timeout(40):
        while len(values) < number:
            taken = await source.take(3)
            values += taken.values
            await source.finish(taken)
    return values


async def test_messages_come_in_order_from_the_oldest_on(bus: Bus) -> None:
    await bus.add("1", "2", "3", "4", "5")
    source = bus.make()
    await source.open()
    assert await drain(source, 5) == [b"1", b"2", b"3", b"4", b"5"]
    await bus.add("6")
    assert await drain(source, 1) == [b"6"]
    assert (await source.take(3)).values == []
    await source.close()


async def test_what_was_finished_does_not_come_again(bus: Bus) -> None:
    await bus.add("1", "2", "3")
    source = bus.make()
    await source.open()
    await drain(source, 3)
    await source.close()
    await bus.add("4")
    second = bus.make()
    await second.open()
    assert await drain(second, 1) == [b"4"]
    await second.close()


async def test_what_was_taken_and_not_finished_goes_to_another(bus: Bus) -> None:
    await bus.add("1", "2")
    dead = bus.make()
    await dead.open()
    taken: list[bytes] = []
    async with asyncio.timeout(30):
        while len(taken) < 2:
            taken += (await dead.take(3)).values
    await dead.close()
    other = bus.make()
    await other.open()
    assert await drain(other, 2) == [b"1", b"2"]
    await other.close()


async def test_other_kinds_of_messages_are_passed_over(bus: Bus) -> None:
    await bus.add("an incident", message_type="incident")
    await bus.add("1")
    source = bus.make()
    await source.open()
    assert await drain(source, 1) == [b"1"]
    assert (await source.lag()).messages == 0
    await source.close()


async def test_the_lag_counts_what_is_not_finished(bus: Bus) -> None:
    source = bus.make()
    await source.open()
    await bus.add("1", "2", "3", "4")
    waiting: list[int | None] = []
    await until(lambda: _behind(source, waiting))
    assert await drain(source, 4) == [b"1", b"2", b"3", b"4"]
    lag = await source.lag()
    assert (lag.messages, lag.seconds) == (0, 0.0)
    assert max(number or 0 for number in waiting) == 4
    await source.close()


async def _behind(source: MessageSource, seen: list[int | None]) -> bool:
    seen.append((await source.lag()).messages)
    return seen[-1] == 4


async def test_a_stream_that_vanished_is_followed_again(redis: Redis, settings: Settings) -> None:
    source = RedisSource(redis, settings, TOPIC, "me")
    await source.open()
    await redis.xadd(TOPIC, {"metadata": b"1"})
    assert await drain(source, 1) == [b"1"]
    await redis.delete(TOPIC)
    await redis.xadd(TOPIC, {"metadata": b"2"})
    assert await drain(source, 1) == [b"2"]
    await source.close()


async def test_trimmed_messages_of_a_dead_member_are_let_go(redis: Redis, settings: Settings) -> None:
    quick = replace(settings, claim_timeout=0.1)
    dead = RedisSource(redis, quick, TOPIC, "dead")
    await dead.open()
    for number in range(3):
        await redis.xadd(TOPIC, {"metadata": str(number)})
    assert len((await dead.take(10)).values) == 3
    await dead.close()
    await redis.xtrim(TOPIC, maxlen=1, approximate=False)
    other = RedisSource(redis, quick, TOPIC, "other")
    await asyncio.sleep(0.2)
    assert await drain(other, 1) == [b"2"]
    assert (await redis.xpending(TOPIC, GROUP))["pending"] == 0
    await other.close()


async def test_members_that_are_long_gone_leave_the_group(
    redis: Redis, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = RedisSource(redis, settings, TOPIC, "first")
    await first.open()
    await redis.xadd(TOPIC, {"metadata": b"1"})
    await drain(first, 1)
    await first.close()
    second = RedisSource(redis, settings, TOPIC, "second")
    await second.open()
    assert len(await redis.xinfo_consumers(TOPIC, GROUP)) == 1
    monkeypatch.setattr("search.sources.redis_source.FORGOTTEN_AFTER", -1)
    await second.open()
    assert len(await redis.xinfo_consumers(TOPIC, GROUP)) == 0
    await second.close()


async def test_a_bus_that_is_away_is_said_to_be() -> None:
    source = KafkaSource(load({"KAFKA_BOOTSTRAP_SERVERS": "127.0.0.1:1"}), TOPIC)
    with pytest.raises(BusError, match="Kafka cannot be used"):
        await source.open()
    await source.close()
    settings = load({"REDIS_URL": "redis://127.0.0.1:1", "RTEMBED_REDIS_TIMEOUT": "0.2"})
    redis = connect(settings)
    stream = RedisSource(redis, settings, TOPIC, "me")
    with pytest.raises(RedisError):
        await stream.open()
    await stream.close()
    with suppress(RedisError):
        await redis.aclose()
