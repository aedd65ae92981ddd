"""Which bus and topic the settings mean, in both spellings, and switching the fleet at run time."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from shared import keys
from shared.bus.routes import RouteReader, Routes, Switch, configured_routes, read_routes, switch_routes
from shared.errors import BadRequest, SettingsError
from shared.jobs import TextJob
from shared.redis.connection import Redis, connect
from shared.requests import Request, submit
from shared.settings import Settings, load
from tests.brokers import Reader, Tansu

SERVERS = {"KAFKA_BOOTSTRAP_SERVERS": "broker:9092"}


@pytest.fixture
def tansu() -> Iterator[Tansu]:
    broker = Tansu()
    broker.start()
    yield broker
    broker.stop()


@pytest.mark.parametrize(
    ("variables", "message", "error"),
    [
        ({}, None, None),
        (SERVERS, None, None),
        # 3.2
        ({"KAFKA_ENABLED": "true"}, None, None),
        ({"KAFKA_ENABLED": "true", **SERVERS}, "kafka:mdx-embed", "kafka:mdx-embed-errors"),
        ({"KAFKA_ENABLED": "false", **SERVERS}, None, None),
        ({"KAFKA_ENABLED": "true", "KAFKA_TOPIC": "t", **SERVERS}, "kafka:t", "kafka:mdx-embed-errors"),
        ({"ENABLE_REDIS_ERROR_MESSAGES": "true"}, None, "redis:mdx-embed-errors"),
        (
            {
                "KAFKA_ENABLED": "true",
                "ENABLE_REDIS_ERROR_MESSAGES": "true",
                "ERROR_MESSAGE_TOPIC": "e",
                **SERVERS,
            },
            "kafka:mdx-embed",
            "redis:e",
        ),
        # 3.3
        ({"MESSAGE_BUS": "kafka"}, None, None),
        ({"MESSAGE_BUS": "kafka", **SERVERS}, "kafka:mdx-embed", "kafka:mdx-embed-errors"),
        ({"MESSAGE_BUS": "redis"}, "redis:mdx-embed", None),
        ({"MESSAGE_BUS": "Redis", "MESSAGE_BUS_TOPIC": "s"}, "redis:s", None),
        ({"MESSAGE_BUS": "redis", "KAFKA_TOPIC": "t"}, "redis:mdx-embed", None),
        ({"MESSAGE_BUS": "redis", "ERROR_BUS": "redis"}, "redis:mdx-embed", "redis:mdx-embed-errors"),
        ({"MESSAGE_BUS": "kafka", "ERROR_BUS": "", **SERVERS}, "kafka:mdx-embed", None),
        ({"ERROR_BUS": "kafka", **SERVERS}, None, "kafka:mdx-embed-errors"),
        ({"ERROR_BUS": "kafka", "ENABLE_REDIS_ERROR_MESSAGES": "true"}, None, None),
        ({"ERROR_BUS": "", "ENABLE_REDIS_ERROR_MESSAGES": "true"}, None, None),
        # both
        ({"MESSAGE_BUS": "off", "KAFKA_ENABLED": "true", **SERVERS}, None, None),
        ({"MESSAGE_BUS": "", "KAFKA_ENABLED": "true", **SERVERS}, None, None),
        (
            {"KAFKA_ENABLED": "true", "KAFKA_TOPIC": "t", "MESSAGE_BUS_TOPIC": "m", **SERVERS},
            "kafka:m",
            "kafka:mdx-embed-errors",
        ),
    ],
)
def test_what_the_settings_mean(variables: dict[str, str], message: str | None, error: str | None) -> None:
    routes = configured_routes(load(variables))
    shown = f"{routes.message_bus}:{routes.message_topic}" if routes.message_bus != "off" else None
    assert shown == message
    shown = f"{routes.error_bus}:{routes.error_topic}" if routes.error_bus != "off" else None
    assert shown == error


def test_an_unknown_bus_is_named() -> None:
    with pytest.raises(SettingsError, match="MESSAGE_BUS='rabbit': must be one of kafka, redis, off"):
        load({"MESSAGE_BUS": "rabbit"})


def test_a_stream_of_the_service_itself_is_no_topic() -> None:
    with pytest.raises(SettingsError, match=r"does not begin with \{rtembed\}:"):
        load({"MESSAGE_BUS": "redis", "MESSAGE_BUS_TOPIC": "{rtembed}:outbox"})


def test_in_a_cluster_the_stream_of_messages_is_in_our_slot() -> None:
    cluster = {"REDIS_CLUSTER": "true", "MESSAGE_BUS": "redis"}
    assert configured_routes(load(cluster)).message_topic == "mdx-embed-{rtembed}"
    named = load({**cluster, "MESSAGE_BUS_TOPIC": "a{rtembed}b"})
    assert configured_routes(named).message_topic == "a{rtembed}b"
    with pytest.raises(SettingsError, match=r"MESSAGE_BUS_TOPIC=vectors: .* example vectors-\{rtembed\}"):
        configured_routes(load({**cluster, "MESSAGE_BUS_TOPIC": "vectors"}))


async def test_in_a_cluster_messages_are_switched_to_our_slot_only(redis: Redis, settings: Settings) -> None:
    cluster = replace(settings, redis_cluster=True)
    with pytest.raises(BadRequest, match=r"stream-\{rtembed\}"):
        await switch_routes(redis, cluster, TO_REDIS)
    assert await redis.hgetall(keys.ROUTES) == {}


@pytest.mark.parametrize("text", ["0", "-5", "many", "1.5", ""])
def test_a_bound_that_is_no_positive_number_is_the_default(text: str) -> None:
    settings = load({"KAFKA_ASYNC_SEND_QUEUE_MAXSIZE": text, "REDIS_ASYNC_PUBLISH_QUEUE_MAXSIZE": text})
    assert (settings.outbox_limit, settings.error_queue_limit) == (100_000, 1024)
    assert load({"KAFKA_ASYNC_SEND_QUEUE_MAXSIZE": "050"}).outbox_limit == 50


# At run time --------------------------------------------------------------------------------------------

TO_REDIS = Switch(message_bus="redis", message_topic="stream")


def kafka_settings(settings: Settings, servers: str = "127.0.0.1:1") -> Settings:
    return load(
        {"REDIS_URL": settings.redis_url or "", "KAFKA_ENABLED": "true", "KAFKA_BOOTSTRAP_SERVERS": servers}
    )


async def test_a_switch_is_seen_by_everyone_who_reads(redis: Redis, settings: Settings) -> None:
    reader = RouteReader(redis, kafka_settings(settings))
    assert (await reader.current()).message_bus == "kafka"
    routes, warnings = await switch_routes(redis, settings, TO_REDIS)
    assert (routes.message_bus, routes.message_topic, warnings) == ("redis", "stream", [])
    assert await reader.current() == Routes(
        message_bus="redis", message_topic="stream", error_bus="kafka", error_topic="mdx-embed-errors"
    )


async def test_events_are_switched_only_when_named(redis: Redis, settings: Settings) -> None:
    switch = Switch(message_bus="redis", message_topic="s", error_bus="redis", error_topic="e")
    await switch_routes(redis, settings, switch)
    await switch_routes(redis, settings, TO_REDIS)
    routes = await read_routes(redis, settings)
    assert (routes.error_bus, routes.error_topic) == ("redis", "e")


async def test_without_redis_the_last_routes_hold(settings: Settings) -> None:
    away = connect(replace(settings, redis_url="redis://127.0.0.1:1/0", redis_timeout=0.2))
    reader = RouteReader(away, kafka_settings(settings))
    assert (await reader.current()).message_bus == "kafka"
    await away.aclose()


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"message_bus": "kafka"}, "Kafka is not available"),
        ({"error_bus": "kafka"}, "Kafka is not available"),
        ({"message_topic": " "}, "the topic is empty"),
        ({"message_topic": "{rtembed}:jobs:text"}, "the service's own part of Redis"),
        ({"error_bus": "redis", "error_topic": "{rtembed}:x"}, "the service's own part of Redis"),
    ],
)
async def test_what_cannot_work_is_refused_and_changes_nothing(
    redis: Redis, settings: Settings, change: dict[str, Any], complaint: str
) -> None:
    switch = Switch(**{"message_bus": "redis", "message_topic": "stream", **change})
    with pytest.raises(BadRequest, match=complaint):
        await switch_routes(redis, settings, switch)
    assert not await redis.exists(keys.ROUTES)


@pytest.mark.parametrize("topic", ["a b", "a/b", "x" * 250, "ümlaut"])
async def test_a_name_that_kafka_does_not_take(redis: Redis, settings: Settings, topic: str) -> None:
    with pytest.raises(BadRequest, match="is not a Kafka topic"):
        await switch_routes(redis, kafka_settings(settings), Switch(message_bus="kafka", message_topic=topic))


async def test_a_change_under_load_is_a_warning(redis: Redis, settings: Settings) -> None:
    await redis.zadd(keys.MODELS, {"m": 1})
    job = TextJob(request="r", model="m", texts=["a"])
    await submit(redis, settings, Request(id="r", lane="text", planned=1), [job])
    _, warnings = await switch_routes(redis, settings, TO_REDIS)
    assert warnings == ["the route changed while 1 jobs were waiting or running"]
    _, warnings = await switch_routes(redis, settings, TO_REDIS)
    assert warnings == []


async def test_topics_are_created_when_asked(redis: Redis, settings: Settings, tansu: Tansu) -> None:
    switch = Switch(
        message_bus="kafka", message_topic="new", error_bus="kafka", error_topic="new-errors",
        create_topic=True, partitions=3,
    )  # fmt: skip
    _, warnings = await switch_routes(redis, kafka_settings(settings, tansu.servers), switch)
    assert warnings == []
    with Reader(tansu.servers, "new") as reader:
        found = reader._consumer.list_topics(timeout=5).topics
    assert len(found["new"].partitions) == 3
    assert "new-errors" in found


async def test_a_topic_that_cannot_be_created_is_a_warning(redis: Redis, settings: Settings) -> None:
    switch = Switch(message_bus="kafka", message_topic="new", create_topic=True)
    routes, (warning,) = await switch_routes(redis, kafka_settings(settings), switch)
    assert routes.message_topic == "new"
    assert warning.startswith("topic new was not created: KafkaConnectionError: Unable to bootstrap")
