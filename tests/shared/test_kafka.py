"""The producer against real brokers: what is acknowledged, what fails and how, and that it lets go."""

import asyncio
import time
from collections.abc import Iterator

import pytest

from shared.errors import BusError, MessageRefused
from shared.kafka import Producer, connection, create_topic, producing
from shared.settings import Settings, load
from tests.brokers import INIT_PRODUCER_ID, PRODUCE, MockCluster, Reader, Tansu
from tests.support import until

MSG_SIZE_TOO_LARGE, TOPIC_AUTHORIZATION_FAILED, UNKNOWN_TOPIC, UNKNOWN = 10, 29, 3, -1
KAFKA_STORAGE_ERROR, NOT_ENOUGH_REPLICAS, OUT_OF_ORDER = 56, 19, 45


@pytest.fixture
def cluster() -> Iterator[MockCluster]:
    cluster = MockCluster()
    cluster.create_topic("topic", partitions=3)
    yield cluster
    cluster.close()


@pytest.fixture
def tansu() -> Iterator[Tansu]:
    broker = Tansu()
    broker.start()
    yield broker
    broker.stop()


def settings_for(servers: str, **variables: str) -> Settings:
    return load({"KAFKA_BOOTSTRAP_SERVERS": servers, **variables})


async def failure(future: asyncio.Future[None]) -> BaseException | None:
    async with asyncio.timeout(20):
        await asyncio.wait([future])
    return future.exception()


async def test_a_record_arrives_with_key_and_headers(cluster: MockCluster) -> None:
    producer = Producer(settings_for(cluster.servers))
    await producer.send("topic", b"value", b"key", {"message_type": b"vision_llm"})
    await producer.send("topic", b"keyless", headers={"message_type": b"error"})
    await producer.close(1)
    with Reader(cluster.servers, "topic") as reader:
        records = await asyncio.to_thread(reader.until, lambda r: len(r) == 2)
    assert sorted(records, key=lambda r: r[1]) == [
        (None, b"keyless", [("message_type", b"error")]),
        (b"key", b"value", [("message_type", b"vision_llm")]),
    ]


@pytest.mark.parametrize("codec", ["gzip", "snappy", "lz4", "zstd"])
async def test_every_compression_is_readable(cluster: MockCluster, codec: str) -> None:
    producer = Producer(settings_for(cluster.servers, KAFKA_COMPRESSION_TYPE=codec))
    await producer.send("topic", b"x" * 5000, b"key")
    await producer.close(1)
    with Reader(cluster.servers, "topic") as reader:
        records = await asyncio.to_thread(reader.until, lambda r: len(r) == 1)
    assert records[0][1] == b"x" * 5000


async def test_a_message_above_the_limit_is_refused_and_the_next_is_sent(cluster: MockCluster) -> None:
    producer = Producer(settings_for(cluster.servers, KAFKA_MAX_REQUEST_SIZE="2000"))
    error = await failure(producer.send("topic", b"x" * 3000))
    assert isinstance(error, MessageRefused)
    assert "too large" in error.message
    await producer.send("topic", b"small")
    await producer.close(0)


async def test_a_message_that_the_brokers_refuse_does_not_break_the_producer(cluster: MockCluster) -> None:
    producer = Producer(settings_for(cluster.servers))
    await producer.send("topic", b"first")
    cluster.fail_requests(PRODUCE, MSG_SIZE_TOO_LARGE)
    assert isinstance(await failure(producer.send("topic", b"refused")), MessageRefused)
    await producer.send("topic", b"last")
    assert producer.broken is None
    await producer.close(0)


@pytest.mark.parametrize("code", [KAFKA_STORAGE_ERROR, NOT_ENOUGH_REPLICAS])
async def test_a_full_disk_or_a_missing_replica_is_waited_out(cluster: MockCluster, code: int) -> None:
    producer = Producer(settings_for(cluster.servers))
    cluster.fail_requests(PRODUCE, code, code, code)
    await producer.send("topic", b"value")
    await producer.close(0)
    with Reader(cluster.servers, "topic") as reader:
        assert [value for _, value, _ in await asyncio.to_thread(reader.rest)] == [b"value"]


async def test_an_authorisation_failure_is_told(cluster: MockCluster) -> None:
    cluster.fail_topic("topic", TOPIC_AUTHORIZATION_FAILED)
    producer = Producer(settings_for(cluster.servers))
    error = await failure(producer.send("topic", b"value"))
    assert isinstance(error, BusError)
    assert "TOPIC_AUTHORIZATION_FAILED" in error.message
    await producer.close(0)


async def test_a_lost_sequence_breaks_the_producer_and_a_new_one_works(cluster: MockCluster) -> None:
    producer = Producer(settings_for(cluster.servers))
    cluster.fail_requests(PRODUCE, UNKNOWN)
    assert isinstance(await failure(producer.send("topic", b"first", b"key")), BusError)
    cluster.fail_requests(PRODUCE, OUT_OF_ORDER)
    assert isinstance(await failure(producer.send("topic", b"second", b"key")), BusError)
    assert producer.broken
    assert not producer.idempotence_refused
    await producer.close(0)

    another = Producer(settings_for(cluster.servers))
    await another.send("topic", b"third", b"key")
    await another.close(0)


async def test_a_broker_without_idempotence_breaks_the_producer_and_says_why(cluster: MockCluster) -> None:
    cluster.forbid(INIT_PRODUCER_ID)
    producer = Producer(settings_for(cluster.servers))
    assert isinstance(await failure(producer.send("topic", b"value", b"first")), BusError)
    assert producer.idempotence_refused
    await producer.close(0)

    plain = Producer(settings_for(cluster.servers), idempotent=False)
    await plain.send("topic", b"value", b"second")
    await plain.close(0)


async def test_a_broker_that_never_gives_a_producer_id_breaks_the_producer(
    cluster: MockCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shared.kafka.REPORT_INTERVAL_MS", 100)
    cluster.fail_requests(INIT_PRODUCER_ID, *[UNKNOWN] * 100)
    producer = Producer(settings_for(cluster.servers))
    error = await failure(producer.send("topic", b"value"))
    assert isinstance(error, BusError)
    assert producer.idempotence_refused
    await producer.close(0)


async def test_brokers_that_are_away_are_waited_for(cluster: MockCluster) -> None:
    cluster.down()
    producer = Producer(settings_for(cluster.servers))
    future = producer.send("topic", b"value", b"key")
    await until(lambda: producer.trouble)
    assert not future.done()
    cluster.up()
    async with asyncio.timeout(20):
        await future
    await producer.close(0)


async def test_closing_does_not_wait_for_a_frozen_broker(tansu: Tansu) -> None:
    producer = Producer(settings_for(tansu.servers))
    await producer.send("topic", b"first")
    tansu.freeze()
    future = producer.send("topic", b"second")
    began = time.monotonic()
    await producer.close(0.2)
    assert time.monotonic() - began < 5  # against the 60 s of a request
    assert isinstance(future.exception(), BusError)
    tansu.thaw()


async def test_closing_waits_for_what_is_under_way(cluster: MockCluster) -> None:
    cluster.delay(200)
    producer = Producer(settings_for(cluster.servers))
    futures = [producer.send("topic", b"%d" % n) for n in range(50)]
    await producer.close(20)
    assert [future.exception() for future in futures] == [None] * 50


async def test_a_topic_is_created_once(tansu: Tansu) -> None:
    settings = settings_for(tansu.servers)
    await create_topic(settings, "made", 3)
    await create_topic(settings, "made", 3)


async def test_a_topic_that_cannot_be_created(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shared.kafka.TOPIC_TIMEOUT", 0.3)
    with pytest.raises(BusError, match="no answer"):
        await create_topic(settings_for("127.0.0.1:1"), "topic", 1)


async def test_properties_that_librdkafka_does_not_take(tmp_path: object) -> None:
    settings = settings_for(
        "127.0.0.1:1", KAFKA_SECURITY_PROTOCOL="SSL", KAFKA_SSL_CAFILE=f"{tmp_path}/none.pem"
    )
    with pytest.raises(BusError, match="not usable as configured"):
        Producer(settings)


def test_security_settings_reach_the_connection() -> None:
    settings = settings_for(
        "a:1,b:2",
        KAFKA_SECURITY_PROTOCOL="SASL_SSL",
        KAFKA_SASL_MECHANISM="SCRAM-SHA-512",
        KAFKA_SASL_USERNAME="me",
        KAFKA_SASL_PASSWORD="pw",
        KAFKA_SSL_CAFILE="/ca.pem",
        KAFKA_SSL_CERTFILE="/me.pem",
        KAFKA_SSL_KEYFILE="/me.key",
        KAFKA_SSL_PASSWORD="keypw",
        KAFKA_SSL_CHECK_HOSTNAME="false",
    )
    properties = connection(settings)
    assert {name: properties[name] for name in properties if name[:4] in {"sasl", "ssl.", "secu"}} == {
        "security.protocol": "sasl_ssl",
        "sasl.mechanism": "SCRAM-SHA-512",
        "sasl.username": "me",
        "sasl.password": "pw",
        "ssl.endpoint.identification.algorithm": "none",
        "ssl.ca.location": "/ca.pem",
        "ssl.certificate.location": "/me.pem",
        "ssl.key.location": "/me.key",
        "ssl.key.password": "keypw",
    }
    assert "pw" not in repr(settings)


def test_without_idempotence_one_request_is_under_way_so_that_order_holds() -> None:
    properties = producing(settings_for("a:1"), idempotent=False, linger_ms=5)
    assert (properties["max.in.flight"], properties["acks"]) == (1, "all")
