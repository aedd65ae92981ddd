"""A Kafka producer over aiokafka that retries without limit, keeps each partition's order, and can be closed.

aiokafka never gives an idempotent batch up, so its sequence number, and with it the broker's protection from
duplicates, lasts as long as the producer. A producer is therefore replaced only after an error that it cannot
recover from.
"""

import asyncio
import logging
import math
import ssl
import time
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from typing import Any, Protocol, TypeVar

import structlog
from aiokafka import AIOKafkaClient, AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.errors import (
    ClusterAuthorizationFailedError,
    IncompatibleBrokerVersion,
    InvalidTimestampError,
    KafkaConnectionError,
    KafkaError,
    MessageSizeTooLargeError,
    PolicyViolationError,
    RecordListTooLargeError,
    SecurityDisabled,
    TopicAlreadyExistsError,
    UnknownError,
    UnsupportedVersionError,
    for_code,
)
from aiokafka.partitioner import DefaultPartitioner
from aiokafka.producer.message_accumulator import MessageBatch
from aiokafka.record.default_records import DefaultRecordBatchBuilder

from shared.errors import BusError, MessageRefused
from shared.settings import Settings

log = structlog.get_logger(__name__)

CONNECT_TIMEOUT = 20.0
TOPIC_TIMEOUT = 10.0
RETRY_BACKOFF_MS = 200
LOG_INTERVAL = 30.0
RECENT = 60.0
"""Seconds for which what went wrong with a broker may explain what goes wrong now."""

Answer = asyncio.Future[Any]
"""Done when the brokers have acknowledged what was sent."""
MANY = 16
"""Records of one partition that make a batch without waiting for more."""
_partition_of = DefaultPartitioner()


class Record(Protocol):
    """What is sent."""

    @property
    def key(self) -> bytes: ...
    @property
    def value(self) -> bytes: ...
    @property
    def headers(self) -> Mapping[str, bytes]: ...


Sent = TypeVar("Sent", bound=Record)

_REFUSALS = (
    MessageSizeTooLargeError, RecordListTooLargeError, InvalidTimestampError, PolicyViolationError,
)  # fmt: skip
"""Answers that concern the message, and would not change with another try."""
_NOT_IDEMPOTENT = (
    IncompatibleBrokerVersion, UnsupportedVersionError, ClusterAuthorizationFailedError, SecurityDisabled,
    UnknownError,
)  # fmt: skip
"""Answers to the request for a producer id of a broker that cannot, or may not, do idempotence."""


class _Seldom(logging.Filter):
    """Lets each kind of line through once in LOG_INTERVAL, and remembers the last: aiokafka repeats itself
    several times a second while brokers are away."""

    def __init__(self) -> None:
        super().__init__()
        self.last, self.when = "", 0.0
        self._silent_until: dict[object, float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        if record.levelno < logging.WARNING:
            return True
        now = time.monotonic()
        self.last, self.when = record.getMessage(), now
        if now < self._silent_until.get(record.msg, 0.0):
            return False
        self._silent_until[record.msg] = now + LOG_INTERVAL
        return True


logging.getLogger("aiokafka").setLevel(logging.INFO)  # its debug lines hold whole messages
_seldom = _Seldom()
for _name in ("aiokafka", "aiokafka.conn", "aiokafka.cluster", "aiokafka.producer.sender"):
    logging.getLogger(_name).addFilter(_seldom)


def trouble() -> str:
    """Return the last problem with a broker in this process; empty if there was none lately."""
    return _seldom.last if time.monotonic() - _seldom.when < RECENT else ""


def told_trouble() -> str:
    """Return `trouble` as the end of a sentence."""
    return f": {found}" if (found := trouble()) else "; the brokers say nothing"


def connection(settings: Settings) -> dict[str, Any]:
    """aiokafka's arguments for a connection to the brokers. Raises BusError if a certificate is unusable."""
    arguments: dict[str, Any] = {
        "bootstrap_servers": [
            server.strip() for server in settings.kafka_servers.split(",") if server.strip()
        ],
        "client_id": "rt-embed",
        "security_protocol": settings.kafka_security.upper(),
        "request_timeout_ms": int(settings.kafka_request_timeout * 1000),
        "metadata_max_age_ms": 300_000,
        "connections_max_idle_ms": 540_000,
        "retry_backoff_ms": RETRY_BACKOFF_MS,
    }
    if settings.kafka_security.startswith("sasl"):
        arguments |= {
            "sasl_mechanism": settings.kafka_sasl_mechanism.upper(),
            "sasl_plain_username": settings.kafka_username or "",
            "sasl_plain_password": settings.kafka_password or "",
        }
    if settings.kafka_security.endswith("ssl"):
        arguments["ssl_context"] = _ssl_context(settings)
    return arguments


def _ssl_context(settings: Settings) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=settings.kafka_ca_file)
        context.check_hostname = settings.kafka_check_hostname
        if settings.kafka_certificate:
            context.load_cert_chain(
                settings.kafka_certificate, settings.kafka_key, settings.kafka_key_password
            )
    except (OSError, ssl.SSLError) as error:
        raise BusError(f"Kafka's certificates are not usable: {error}") from error
    return context


async def connect(settings: Settings, linger_ms: int | None = None) -> "Producer":
    """Return a producer with acks=all, idempotent if the brokers can. Raises BusError if they cannot be
    reached."""
    try:
        try:
            return await Producer.start(settings, linger_ms, idempotent=True)
        except _NOT_IDEMPOTENT as error:
            reason = _text(error)
            log.warning(
                "kafka without idempotence: a lost acknowledgement can make a duplicate", reason=reason
            )
            return await Producer.start(settings, linger_ms, idempotent=False)
    except BusError:
        raise
    except KafkaConnectionError as error:
        raise BusError(f"no broker of {settings.kafka_servers} answers{told_trouble()}") from error
    except TimeoutError as error:
        raise BusError(f"Kafka does not answer within {CONNECT_TIMEOUT:g} s{told_trouble()}") from error
    except Exception as error:  # aiokafka raises what it trips over: a KeyError for a refused SCRAM login
        reason = "the login was refused" if isinstance(error, KeyError) else _text(error)
        raise BusError(f"Kafka cannot be used: {reason}") from error


class Producer:
    """A connected producer; make it with `connect`.

    `worn_out` says that another one is needed: the brokers refused a batch, so its sequence numbers are
    missing, and whatever follows would be refused too.
    """

    def __init__(self, producer: AIOKafkaProducer, *, idempotent: bool) -> None:
        self.idempotent = idempotent
        self.worn_out = False
        self._producer = producer
        self._largest: int = producer._max_request_size  # noqa: SLF001 - of which `send_batch` takes no notice

    @classmethod
    async def start(cls, settings: Settings, linger_ms: int | None, *, idempotent: bool) -> "Producer":
        """Connect. Raises KafkaError, or TimeoutError after CONNECT_TIMEOUT."""
        compression = settings.kafka_compression
        producer = AIOKafkaProducer(
            acks="all",
            enable_idempotence=idempotent,
            compression_type=None if compression == "none" else compression,
            linger_ms=settings.kafka_linger_ms if linger_ms is None else linger_ms,
            max_batch_size=settings.kafka_batch_size,
            max_request_size=settings.kafka_max_request_size,
            **connection(settings),
        )
        # A batch that expires, for want of a leader or without idempotence, would be sent again by us in
        # another order and under another sequence number: aiokafka must go on trying instead.
        producer._message_accumulator._batch_ttl = math.inf  # noqa: SLF001 - aiokafka has no setting for it
        started = cls(producer, idempotent=idempotent)
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT):
                await producer.start()
        except BaseException:
            await started.close(0)
            raise
        return started

    async def send(
        self,
        topic: str,
        value: bytes,
        key: bytes | None = None,
        headers: Mapping[str, bytes] | None = None,
        partition: int | None = None,
    ) -> Answer:
        """Hand a record over. Its future is done when the brokers acknowledged it; else `failure` explains.

        Waits while the brokers are behind, or give no metadata; cancelled meanwhile, nothing is sent. Raises
        MessageRefused and BusError.
        """
        try:
            future: Answer = await self._producer.send(
                topic, value, key, partition, headers=list((headers or {}).items())
            )
        except KafkaError as error:
            raise _failure(error) from error
        return future

    async def partitioned(self, topic: str, records: Iterable[Sent]) -> dict[int, deque[Sent]]:
        """Return the records by the partition that their key leads to. Waits and raises as `send` does."""
        try:
            partitions = list(await self._producer.partitions_for(topic))
        except KafkaError as error:
            raise _failure(error) from error
        found: dict[int, deque[Sent]] = {}
        for record in records:
            partition: int = _partition_of(record.key, partitions, ())
            found.setdefault(partition, deque()).append(record)
        return found

    async def send_some(self, topic: str, partition: int, records: Sequence[Record]) -> tuple[int, Answer]:
        """Hand over the first of `records`; return how many, and the future of them all.

        If they are many, as many as one batch takes; else one, which waits for others. Waits and raises as
        `send` does.
        """
        batch, count = self._producer.create_batch(), 0
        for record in records if len(records) >= MANY else ():
            headers = list(record.headers.items())
            size = DefaultRecordBatchBuilder.estimate_size_in_bytes(record.key, record.value, headers)
            if size > self._largest or not batch.append(
                timestamp=None, key=record.key, value=record.value, headers=headers
            ):
                break
            count += 1
        if count < MANY:
            first = records[0]
            return 1, await self.send(topic, first.value, first.key, first.headers, partition)
        batch.close()
        try:
            return count, await self._producer.send_batch(batch, topic, partition=partition)
        except KafkaError as error:
            raise _failure(error) from error

    def failure(self, answer: asyncio.Future[Any]) -> MessageRefused | BusError | None:
        """Return why a record was not acknowledged; None if it was."""
        error = answer.exception()
        if error is None:
            return None
        failure = _failure(error)
        self.worn_out = self.worn_out or (self.idempotent and isinstance(failure, MessageRefused))
        return failure

    async def close(self, grace: float) -> None:
        """Wait up to `grace` seconds for records under way, then give up the rest: their futures fail."""
        try:
            async with asyncio.timeout(grace):
                await self._producer.flush()
        except TimeoutError:
            await self._abandon()
        else:
            await self._producer.stop()

    async def _abandon(self) -> None:
        """Close without brokers: aiokafka's `stop` would wait for them, without limit with idempotence."""
        producer, client = self._producer, self._producer.client
        producer._closed = True  # noqa: SLF001 - else it complains when it is collected
        sending: asyncio.Task[None] = producer._sender.sender_task  # noqa: SLF001 - no public way
        sending.cancel()
        await client.close()
        while not sending.done():
            refresh = client._md_update_fut  # noqa: SLF001 - it is waited for, but who would do it is gone
            if refresh and not refresh.done():
                refresh.set_result(False)
            await asyncio.sleep(0.01)
        records = producer._message_accumulator  # noqa: SLF001 - it alone knows what was not acknowledged
        # A batch that was to be sent again is not among the pending ones, where its callback looks for it.
        records._pending_batches.update(chain(*records._batches.values()))  # noqa: SLF001
        given_up = list(records._pending_batches)  # noqa: SLF001
        records.fail_all(KafkaError("the producer was closed"))
        for future in chain(*map(_futures_of, given_up)):
            if not future.cancelled():
                future.exception()  # else asyncio complains of those for which nobody waits


def _futures_of(batch: MessageBatch) -> list[asyncio.Future[Any]]:
    return [batch.future, batch._drain_waiter, *(future for future, _ in batch._msg_futures)]  # noqa: SLF001


async def reachable(settings: Settings) -> bool:
    """Return whether a new connection to the brokers can be made."""
    client = AIOKafkaClient(**connection(settings))
    try:
        async with asyncio.timeout(CONNECT_TIMEOUT):
            await client.bootstrap()
    except (KafkaError, KeyError, TimeoutError):
        return False
    finally:
        await client.close()
    return True


async def create_topic(settings: Settings, topic: str, partitions: int) -> None:
    """Create a topic with one replica; one that exists stays as it is. Raises BusError."""
    admin = AIOKafkaAdminClient(**connection(settings))
    try:
        async with asyncio.timeout(TOPIC_TIMEOUT):
            await admin.start()
            answer = await admin.create_topics([NewTopic(topic, partitions, 1)])
    except TimeoutError as error:
        raise BusError(f"no answer from Kafka within {TOPIC_TIMEOUT:g} s") from error
    except (KafkaError, KeyError) as error:
        raise BusError(_text(error)) from error
    finally:
        await admin.close()
    code = answer.topic_errors[0][1]
    if code and for_code(code) is not TopicAlreadyExistsError:
        raise BusError(f"{for_code(code).message}")


def _failure(error: BaseException) -> MessageRefused | BusError:
    return (MessageRefused if isinstance(error, _REFUSALS) else BusError)(_text(error))


def _text(error: BaseException) -> str:
    return str(error) or type(error).__name__
