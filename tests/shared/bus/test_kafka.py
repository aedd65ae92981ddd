"""The producer against real brokers: what is acknowledged, what fails and how, and that it lets go."""

import asyncio
import gc
import logging
import ssl
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from shared.bus.kafka import (
    Producer,
    _seldom,
    connect,
    connection,
    create_topic,
    reachable,
    told_trouble,
    trouble,
)
from shared.errors import BusError, MessageRefused
from shared.settings import Settings, load
from tests.brokers import INIT_PRODUCER_ID, PRODUCE, MockCluster, Reader, Record, Tansu
from tests.support import until

MSG_SIZE_TOO_LARGE, TOPIC_AUTHORIZATION_FAILED, UNKNOWN_TOPIC, UNKNOWN = 10, 29, 3, -1
KAFKA_STORAGE_ERROR, NOT_ENOUGH_REPLICAS, OUT_OF_ORDER, CLUSTER_AUTHORIZATION_FAILED = 56, 19, 45, 31


@pytest.fixture
def cluster() -> Iterator[MockCluster]:
    cluster = MockCluster()
    cluster.create_topic("topic", partitions=3)
    yield cluster
    cluster.close()


@pytest.fixture
def tansu() -> Iterator[Tansu]:
    broker = Tansu("topic")
    broker.start()
    yield broker
    broker.stop()


def settings_for(servers: str, **variables: str) -> Settings:
    return load({"KAFKA_BOOTSTRAP_SERVERS": servers, **variables})


async def outcome(producer: Producer, *record: Any) -> MessageRefused | BusError | None:
    """Send a record and wait for what becomes of it."""
    async with asyncio.timeout(20):
        answer = await producer.send(*record)
        await asyncio.wait([answer])
    return producer.failure(answer)


async def test_a_record_arrives_with_key_and_headers(cluster: MockCluster) -> None:
    producer = await connect(settings_for(cluster.servers))
    assert producer.idempotent
    assert await outcome(producer, "topic", b"value", b"key", {"message_type": b"vision_llm"}) is None
    assert await outcome(producer, "topic", b"keyless", None, {"message_type": b"error"}) is None
    await producer.close(1)
    with Reader(cluster.servers, "topic") as reader:
        records = await asyncio.to_thread(reader.until, lambda r: len(r) == 2)
    assert sorted(records, key=lambda r: r[1]) == [
        (None, b"keyless", [("message_type", b"error")]),
        (b"key", b"value", [("message_type", b"vision_llm")]),
    ]


@pytest.mark.parametrize("codec", ["gzip", "snappy", "lz4", "zstd"])
async def test_every_compression_is_readable(cluster: MockCluster, codec: str) -> None:
    producer = await connect(settings_for(cluster.servers, KAFKA_COMPRESSION_TYPE=codec))
    assert await outcome(producer, "topic", b"x" * 5000, b"key") is None
    await producer.close(1)
    with Reader(cluster.servers, "topic") as reader:
        records = await asyncio.to_thread(reader.until, lambda r: len(r) == 1)
    assert records[0][1] == b"x" * 5000


async def test_a_message_above_the_limit_is_refused_and_the_next_is_sent(cluster: MockCluster) -> None:
    producer = await connect(settings_for(cluster.servers, KAFKA_MAX_REQUEST_SIZE="2000"))
    with pytest.raises(MessageRefused, match="larger than the maximum request size"):
        await producer.send("topic", b"x" * 3000)
    assert await outcome(producer, "topic", b"small") is None
    assert not producer.worn_out
    await producer.close(0)


async def test_a_message_that_the_brokers_refuse_wears_an_idempotent_producer_out(
    cluster: MockCluster,
) -> None:
    producer = await connect(settings_for(cluster.servers))
    cluster.fail_requests(PRODUCE, MSG_SIZE_TOO_LARGE)
    assert isinstance(await outcome(producer, "topic", b"refused"), MessageRefused)
    assert producer.worn_out
    await producer.close(0)


@pytest.mark.parametrize("code", [KAFKA_STORAGE_ERROR, NOT_ENOUGH_REPLICAS])
async def test_a_full_disk_or_a_missing_replica_is_waited_out(cluster: MockCluster, code: int) -> None:
    producer = await connect(settings_for(cluster.servers))
    cluster.fail_requests(PRODUCE, code, code, code)
    assert await outcome(producer, "topic", b"value") is None
    await producer.close(0)
    with Reader(cluster.servers, "topic") as reader:
        await asyncio.to_thread(reader.until, bool)
        assert [value for _, value, _ in await asyncio.to_thread(reader.rest)] == [b"value"]


@pytest.mark.parametrize("code", [TOPIC_AUTHORIZATION_FAILED, OUT_OF_ORDER, UNKNOWN])
async def test_an_answer_that_a_retry_does_not_change_is_told(cluster: MockCluster, code: int) -> None:
    producer = await connect(settings_for(cluster.servers))
    cluster.fail_requests(PRODUCE, code)
    assert isinstance(await outcome(producer, "topic", b"value"), BusError)
    await producer.close(0)


async def test_a_topic_that_is_forbidden_is_told_before_anything_is_sent(cluster: MockCluster) -> None:
    cluster.fail_topic("topic", TOPIC_AUTHORIZATION_FAILED)
    producer = await connect(settings_for(cluster.servers))
    with pytest.raises(BusError, match="TopicAuthorizationFailed"):
        await producer.send("topic", b"value")
    await producer.close(0)


async def test_sending_to_a_topic_without_metadata_waits_and_can_be_cancelled(
    cluster: MockCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster.fail_topic("topic", UNKNOWN_TOPIC)
    producer = await connect(settings_for(cluster.servers))
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.5):
            await producer.send("topic", b"never")
    assert trouble() == "Topic topic not found in cluster metadata"
    with monkeypatch.context() as later:
        later.setattr("shared.bus.kafka.RECENT", 0.0)
        assert told_trouble() == "; the brokers say nothing", "an old line explains nothing"
    cluster.fail_topic("topic", 0)
    assert await outcome(producer, "topic", b"value") is None
    await producer.close(0)
    with Reader(cluster.servers, "topic") as reader:
        records: list[Record] = []
        async with asyncio.timeout(20):
            while not records:  # this reader, too, may have been told that there is no such topic
                records = await asyncio.to_thread(reader.rest)
    assert [value for _, value, _ in records] == [b"value"]


@pytest.mark.parametrize("code", [CLUSTER_AUTHORIZATION_FAILED, UNKNOWN])
async def test_brokers_that_refuse_a_producer_id_get_records_without_idempotence(
    cluster: MockCluster, code: int
) -> None:
    cluster.fail_requests(INIT_PRODUCER_ID, code)
    producer = await connect(settings_for(cluster.servers))
    assert not producer.idempotent
    assert await outcome(producer, "topic", b"value") is None
    await producer.close(0)


async def test_old_brokers_get_records_without_idempotence(cluster: MockCluster) -> None:
    cluster.forbid(INIT_PRODUCER_ID)
    producer = await connect(settings_for(cluster.servers))
    assert not producer.idempotent
    assert await outcome(producer, "topic", b"value") is None
    await producer.close(0)


async def test_brokers_that_are_away_at_first_are_named(cluster: MockCluster) -> None:
    cluster.down()
    settings = settings_for(cluster.servers)
    with pytest.raises(BusError, match=rf"no broker of {cluster.servers} answers: .*Connect call failed"):
        await connect(settings)
    assert not await reachable(settings)
    cluster.up()
    assert await reachable(settings)


async def test_a_broker_that_accepts_but_does_not_speak(
    tansu: Tansu, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shared.bus.kafka.CONNECT_TIMEOUT", 0.3)
    tansu.freeze()
    with pytest.raises(BusError, match=r"does not answer within 0\.3 s"):
        await connect(settings_for(tansu.servers))
    assert not await reachable(settings_for(tansu.servers))
    tansu.thaw()


async def test_brokers_that_go_away_are_waited_for(cluster: MockCluster) -> None:
    producer = await connect(settings_for(cluster.servers))
    assert await outcome(producer, "topic", b"first") is None
    cluster.down()
    answer = await producer.send("topic", b"value", b"key")
    await until(trouble)
    assert not answer.done()
    cluster.up()
    async with asyncio.timeout(20):
        await answer
    await producer.close(0)


@pytest.mark.parametrize("how", ["freeze", "stop"])
async def test_closing_does_not_wait_for_a_broker_and_leaves_nothing_behind(tansu: Tansu, how: str) -> None:
    before = asyncio.all_tasks()
    producer = await connect(settings_for(tansu.servers))
    assert await outcome(producer, "topic", b"first") is None
    getattr(tansu, how)()
    answer = await producer.send("topic", b"second")
    await asyncio.sleep(0.1)
    began = time.monotonic()
    await producer.close(0.2)
    assert time.monotonic() - began < 10  # against the 60 s of a request
    assert isinstance(producer.failure(answer), BusError)
    assert asyncio.all_tasks() == before
    del producer, answer
    gc.collect()
    tansu.thaw() if how == "freeze" else None


async def test_closing_while_the_brokers_are_away_causes_no_complaints(cluster: MockCluster) -> None:
    complaints: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, complaint: complaints.append(complaint))
    producer = await connect(settings_for(cluster.servers))
    assert await outcome(producer, "topic", b"first") is None
    cluster.down()
    await producer.send("topic", b"to be sent again")
    await asyncio.sleep(0.3)
    answer = await producer.send("topic", b"never sent")
    await producer.close(0)
    assert isinstance(producer.failure(answer), BusError)
    await asyncio.sleep(0)
    del producer, answer
    gc.collect()
    assert complaints == []


async def test_closing_waits_for_what_is_under_way(cluster: MockCluster) -> None:
    cluster.delay(100)
    producer = await connect(settings_for(cluster.servers))
    answers = [await producer.send("topic", b"%d" % n) for n in range(50)]
    await producer.close(20)
    assert [answer.exception() for answer in answers] == [None] * 50


async def test_repeated_complaints_are_logged_once_and_contents_never(
    cluster: MockCluster, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    _seldom._silent_until.clear()
    producer = await connect(settings_for(cluster.servers))
    assert await outcome(producer, "topic", b"a secret vector") is None
    cluster.down()
    answer = await producer.send("topic", b"value")
    await asyncio.sleep(2)
    await producer.close(0)
    assert producer.failure(answer)
    complaints = [record.msg for record in caplog.records if record.name.startswith("aiokafka")]
    assert complaints.count("Unable connect to node with id %s: %s") == 1
    assert len(complaints) == len(set(complaints))
    assert "a secret vector" not in caplog.text


async def test_a_topic_is_created_once(tansu: Tansu) -> None:
    settings = settings_for(tansu.servers)
    await create_topic(settings, "made", 3)
    await create_topic(settings, "made", 3)
    with Reader(tansu.servers, "made") as reader:
        assert len(reader._consumer.list_topics("made", timeout=5).topics["made"].partitions) == 3


async def test_a_topic_that_cannot_be_created() -> None:
    with pytest.raises(BusError, match="Unable to bootstrap"):
        await create_topic(settings_for("127.0.0.1:1"), "topic", 1)


@pytest.mark.parametrize("mechanism", ["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"])
async def test_a_login_that_is_refused_is_told(mechanism: str) -> None:
    guarded = Tansu(options=["--authentication"])
    guarded.start()
    settings = settings_for(
        guarded.servers,
        KAFKA_SECURITY_PROTOCOL="SASL_PLAINTEXT",
        KAFKA_SASL_MECHANISM=mechanism,
        KAFKA_SASL_USERNAME="nobody",
        KAFKA_SASL_PASSWORD="wrong-one",
    )
    with pytest.raises(BusError) as refusal:
        await connect(settings)
    assert "wrong-one" not in refusal.value.message
    guarded.stop()


async def test_certificates_that_are_of_no_use_are_named(tmp_path: Path) -> None:
    empty = tmp_path / "none.pem"
    empty.touch()
    settings = settings_for("127.0.0.1:1", KAFKA_SECURITY_PROTOCOL="SSL", KAFKA_SSL_CAFILE=str(empty))
    with pytest.raises(BusError, match="certificates are not usable"):
        await connect(settings)


def test_security_settings_reach_the_connection() -> None:
    settings = settings_for(
        " a:1, b:2 ,",
        KAFKA_SECURITY_PROTOCOL="SASL_SSL",
        KAFKA_SASL_MECHANISM="SCRAM-SHA-512",
        KAFKA_SASL_USERNAME="me",
        KAFKA_SASL_PASSWORD="pw-of-me",
        KAFKA_SSL_CHECK_HOSTNAME="false",
    )
    arguments = connection(settings)
    assert arguments["bootstrap_servers"] == ["a:1", "b:2"]
    assert arguments["security_protocol"] == "SASL_SSL"
    assert arguments["sasl_mechanism"] == "SCRAM-SHA-512"
    assert (arguments["sasl_plain_username"], arguments["sasl_plain_password"]) == ("me", "pw-of-me")
    context = arguments["ssl_context"]
    assert (context.check_hostname, context.verify_mode) == (False, ssl.CERT_REQUIRED)
    assert "pw-of-me" not in repr(settings)
