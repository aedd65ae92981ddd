"""A Kafka producer for asyncio over librdkafka.

librdkafka rather than a client in Python: its idempotent producer survives lost acknowledgements, refused
messages and brokers that were all replaced, it never blocks its caller, and what it holds can be let go of
at once while no broker answers.
"""

import asyncio
import json
import logging
import threading
import time
from collections import deque
from concurrent.futures import Future as ThreadFuture
from typing import Any

import confluent_kafka
import structlog
from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from shared.errors import BusError, MessageRefused
from shared.settings import Settings

log = structlog.get_logger(__name__)

POLL_INTERVAL = 0.1
REPORT_INTERVAL_MS = 1000
PATIENCE_FOR_IDEMPOTENCE = 30
"""Reports in a row in which a broker is up but gives no producer id, until idempotence is given up."""
EPOCHS_PER_REPORT = 5
"""More new epochs of the producer id than this between two reports: a broker has forgotten the id, and
librdkafka would try new epochs of it for ever."""
TOPIC_TIMEOUT = 10.0

_REFUSALS = {
    KafkaError.MSG_SIZE_TOO_LARGE,
    KafkaError.INVALID_MSG_SIZE,
    KafkaError.RECORD_LIST_TOO_LARGE,
    KafkaError.INVALID_RECORD,
    KafkaError.INVALID_TIMESTAMP,
    KafkaError.POLICY_VIOLATION,
}
"""Answers that concern the message, and would be the same for ever."""
_NOT_IDEMPOTENT = {
    KafkaError._UNSUPPORTED_FEATURE,  # noqa: SLF001 - librdkafka's own codes begin so
    KafkaError.UNSUPPORTED_VERSION,
    KafkaError.CLUSTER_AUTHORIZATION_FAILED,
    KafkaError.SECURITY_DISABLED,
}
"""Fatal errors of a broker that cannot, or may not, do idempotence."""


def connection(settings: Settings) -> dict[str, Any]:
    """librdkafka's properties of a connection to the brokers."""
    properties: dict[str, Any] = {
        "bootstrap.servers": settings.kafka_servers,
        "client.id": "rt-embed",
        "security.protocol": settings.kafka_security,
        "metadata.max.age.ms": 300_000,
        "connections.max.idle.ms": 540_000,
        "socket.timeout.ms": int(settings.kafka_request_timeout * 1000),
        "socket.keepalive.enable": True,
        "reconnect.backoff.max.ms": 2000,
    }
    if settings.kafka_security.startswith("sasl"):
        properties |= {
            "sasl.mechanism": settings.kafka_sasl_mechanism.upper(),
            "sasl.username": settings.kafka_username or "",
            "sasl.password": settings.kafka_password or "",
        }
    if settings.kafka_security.endswith("ssl"):
        properties["ssl.endpoint.identification.algorithm"] = (
            "https" if settings.kafka_check_hostname else "none"
        )
        for name, value in (
            ("ssl.ca.location", settings.kafka_ca_file),
            ("ssl.certificate.location", settings.kafka_certificate),
            ("ssl.key.location", settings.kafka_key),
            ("ssl.key.password", settings.kafka_key_password),
        ):
            if value:
                properties[name] = str(value)
    return properties


def producing(settings: Settings, *, idempotent: bool, linger_ms: int) -> dict[str, Any]:
    """librdkafka's properties of a producer that retries for ever and keeps each partition's order."""
    return connection(settings) | {
        "acks": "all",
        "enable.idempotence": idempotent,
        "max.in.flight": 5 if idempotent else 1,
        "message.timeout.ms": 0,
        "request.timeout.ms": int(settings.kafka_request_timeout * 1000),
        "partitioner": "murmur2_random",
        "compression.type": settings.kafka_compression,
        "linger.ms": linger_ms,
        "batch.size": settings.kafka_batch_size,
        "message.max.bytes": settings.kafka_max_request_size,
        "statistics.interval.ms": REPORT_INTERVAL_MS if idempotent else 0,
    }


class Producer:
    """Sends records and answers when they are acknowledged by all in-sync replicas.

    `broken` holds the error after which this producer can send nothing more; make another one then,
    without idempotence if `idempotence_refused`. `trouble` is the last thing that went wrong with a broker.
    Belongs to the event loop in which it was made.
    """

    def __init__(self, settings: Settings, *, idempotent: bool = True, linger_ms: int | None = None) -> None:
        self.idempotent = idempotent
        self.idempotence_refused = False
        self.broken: BusError | None = None
        self.trouble = ""
        self._loop = asyncio.get_running_loop()
        self._open: set[asyncio.Future[None]] = set()
        self._answers: deque[tuple[asyncio.Future[None], KafkaError | None]] = deque()
        self._woken = False
        self._reports_without_id = 0
        self._epoch = 0
        self._closing = False
        linger = settings.kafka_linger_ms if linger_ms is None else linger_ms
        properties = producing(settings, idempotent=idempotent, linger_ms=linger)
        properties |= {"error_cb": self._on_error, "stats_cb": self._on_report}
        try:
            self._producer = confluent_kafka.Producer(properties, logger=logging.getLogger("kafka"))
        except KafkaException as error:
            raise BusError(f"Kafka is not usable as configured: {_text(error.args[0])}") from error
        self._poller = threading.Thread(target=self._poll, name="kafka-poll", daemon=True)
        self._poller.start()

    def send(
        self, topic: str, value: bytes, key: bytes | None = None, headers: dict[str, bytes] | None = None
    ) -> asyncio.Future[None]:
        """Queue a record, never blocking. The future is done when the brokers acknowledged it, or fails
        with MessageRefused or BusError."""
        future: asyncio.Future[None] = self._loop.create_future()
        try:
            self._producer.produce(
                topic,
                value,
                key,
                headers=list((headers or {}).items()),
                on_delivery=lambda error, _: self._on_delivery(future, error),
            )
        except KafkaException as error:
            future.set_exception(_failure(topic, error.args[0]))
        except BufferError:
            future.set_exception(BusError("Kafka's send queue is full"))
        else:
            self._open.add(future)
            future.add_done_callback(self._open.discard)
        return future

    async def close(self, grace: float) -> None:
        """Wait up to `grace` seconds for what is under way, then let go of the rest: its futures fail."""
        if self._open and grace > 0:
            await asyncio.wait(self._open, timeout=grace)
        self._closing = True
        await asyncio.to_thread(self._shut)
        self._settle()
        self._fail()

    def _shut(self) -> None:
        self._poller.join()
        self._producer.purge()
        self._producer.poll(0)
        self._producer.close()

    # In the polling thread ------------------------------------------------------------------------------

    def _poll(self) -> None:
        while not self._closing:
            try:
                self._producer.poll(POLL_INTERVAL)
            except KafkaException as error:
                # A fatal error comes this way too, again and again.
                self._on_error(error.args[0])
                time.sleep(POLL_INTERVAL)

    def _on_delivery(self, future: asyncio.Future[None], error: KafkaError | None) -> None:
        self._answers.append((future, error))
        if not self._woken and not self._loop.is_closed():
            self._woken = True
            self._loop.call_soon_threadsafe(self._settle)

    def _on_error(self, error: KafkaError) -> None:
        self.trouble = _text(error)
        if error.fatal():
            self._break(f"Kafka refuses this producer: {_text(error)}", error.code() in _NOT_IDEMPOTENT)

    def _on_report(self, report: str) -> None:
        """Notice a broker that answers, but gives no producer id, or no longer knows the one it gave."""
        facts = json.loads(report)
        state = facts.get("eos", {})
        up = any(broker["state"] == "UP" for broker in facts["brokers"].values())
        epoch = state.get("producer_epoch", 0)
        epochs, self._epoch = epoch - self._epoch, epoch
        waiting = up and state.get("idemp_state") in {"RequestPID", "WaitTransport", "WaitPID"}
        self._reports_without_id = self._reports_without_id + 1 if waiting else 0
        if epochs > EPOCHS_PER_REPORT:
            self._break("Kafka has forgotten this producer", refused=False)
        elif self._reports_without_id >= PATIENCE_FOR_IDEMPOTENCE:
            self._break("Kafka gives no producer id, which idempotence needs", refused=True)

    def _break(self, reason: str, refused: bool) -> None:
        if not self.broken:
            self.idempotence_refused = refused
            self.broken = BusError(reason)
            self._loop.call_soon_threadsafe(self._fail)

    # In the event loop ----------------------------------------------------------------------------------

    def _settle(self) -> None:
        self._woken = False
        while self._answers:
            future, error = self._answers.popleft()
            if future.done():
                continue
            if error:
                future.set_exception(_failure("", error))
            else:
                future.set_result(None)

    def _fail(self) -> None:
        for future in list(self._open):
            if not future.done():
                future.set_exception(self.broken or BusError("closed"))


def _failure(topic: str, error: KafkaError) -> BusError | MessageRefused:
    kind = MessageRefused if error.code() in _REFUSALS else BusError
    return kind(f"{topic}: {_text(error)}" if topic else _text(error))


def _text(error: KafkaError) -> str:
    return f"{error.str()} ({error.name()})"


async def create_topic(settings: Settings, topic: str, partitions: int) -> None:
    """Create a topic with one replica; one that exists stays as it is. Raises BusError."""
    admin = AdminClient(connection(settings), logger=logging.getLogger("kafka"))
    created: dict[str, ThreadFuture[None]] = admin.create_topics(
        [NewTopic(topic, num_partitions=partitions, replication_factor=1)], operation_timeout=TOPIC_TIMEOUT
    )
    try:
        await asyncio.wait_for(asyncio.wrap_future(created[topic]), TOPIC_TIMEOUT)
    except TimeoutError as error:
        raise BusError(f"no answer from Kafka within {TOPIC_TIMEOUT:g} s") from error
    except KafkaException as error:
        if error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
            raise BusError(_text(error.args[0])) from error
