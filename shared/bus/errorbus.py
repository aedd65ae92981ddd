"""Error events for operators: small JSON objects on Kafka or Redis pub/sub, beside the logs.

Emitting never waits and never fails. Events that cannot be sent wait in this process, up to a bound; those
left when the process ends are lost and counted if they cannot be sent within a few seconds.
"""

import asyncio
import random
import socket
from collections import deque
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

import msgspec
import structlog

from shared.bus.kafka import Producer, connect, told_trouble
from shared.bus.routes import RouteReader, Routes
from shared.errors import BusError, MessageRefused
from shared.redis.connection import Redis, RedisError
from shared.redis.ending import cancelled, uninterrupted
from shared.settings import Settings
from shared.telemetry.redaction import redact, secret_values

log = structlog.get_logger(__name__)

EventType = Literal["functional", "critical", "stream_reconnection"]

LONGEST_EVENT = 16_384
"""Characters; a longer text is cut."""
SEND_TIMEOUT = 30.0
DRAIN_TIMEOUT = 5.0
FIRST_PAUSE, LONGEST_PAUSE = 0.2, 10.0
COMPLAINT_INTERVAL = 30.0


class ErrorEvent(msgspec.Struct, frozen=True, rename="camel"):
    """What consumers read; the order of the fields is part of the format."""

    stream_id: str
    timestamp: str
    type: EventType
    source: str
    event: str


@dataclass
class ErrorBusCounts:
    """What this process's error bus has done since the process started."""

    sent: int = 0
    dropped: int = 0
    failures: int = 0
    """Attempts to send that failed and were, or will be, repeated."""


class ErrorBus:
    """The error events of one process. `run` must be running for anything to be sent."""

    def __init__(self, redis: Redis, settings: Settings) -> None:
        self._redis = redis
        self._settings = settings
        self._routes = RouteReader(redis, settings)
        self._secrets = secret_values(settings)
        self._source = socket.gethostname() or "rt-embed"
        self._waiting: deque[bytes] = deque()
        self._added = asyncio.Event()
        self._producer: Producer | None = None
        self._complained = -COMPLAINT_INTERVAL
        self.counts = ErrorBusCounts()

    def emit(self, event: str, type: EventType = "functional", stream_id: str = "") -> None:  # noqa: A002 - the field's public name
        """Queue an event about the stream or asset `stream_id`, without the credentials in its text.

        Beyond the bound the event is dropped.
        """
        text = redact(event, self._secrets, LONGEST_EVENT)[:LONGEST_EVENT]
        tell = log.critical if type == "critical" else log.info
        tell("error event", event_type=type, text=text, stream=stream_id)
        if len(self._waiting) >= self._settings.error_queue_limit:
            self._drop(1, "the queue is full")
            return
        entry = ErrorEvent(stream_id, _now(), type, self._source, text)
        self._waiting.append(msgspec.json.encode(entry))
        self._added.set()

    async def run(self) -> None:
        """Send what is emitted, in order. When cancelled, take up to DRAIN_TIMEOUT to send the rest."""
        try:
            await self._send_all()
        finally:
            await uninterrupted(self._end())

    async def _end(self) -> None:
        await self._drain()
        await self._close()

    async def _drain(self) -> None:
        """Send the events that wait; those that cannot be sent are lost."""
        try:
            async with asyncio.timeout(DRAIN_TIMEOUT):
                while self._waiting:
                    await self._send_first(await self._routes.current())
        except (TimeoutError, BusError, RedisError):
            self._drop(len(self._waiting), "the process ends")
            self._waiting.clear()

    async def _send_all(self) -> None:
        pause = FIRST_PAUSE
        while not cancelled():
            if not self._waiting:
                self._added.clear()
                await self._added.wait()
            try:
                await self._send_first(await self._routes.current())
                pause = FIRST_PAUSE
            except (BusError, RedisError) as error:
                self.counts.failures += 1
                self._complain(str(error))
                await asyncio.sleep(pause * random.uniform(0.5, 1.0))
                pause = min(2 * pause, LONGEST_PAUSE)

    async def _send_first(self, routes: Routes) -> None:
        """Send the oldest event and forget it; where no bus is configured, only forget it."""
        entry = self._waiting[0]
        try:
            if routes.error_bus == "redis":
                await self._redis.publish(routes.error_topic, entry)
            elif routes.error_bus == "kafka":
                await self._send_to_kafka(routes.error_topic, entry)
            self.counts.sent += routes.error_bus != "off"
        except MessageRefused as error:
            self._drop(1, f"Kafka refused it: {error.message}")
        self._waiting.popleft()

    async def _send_to_kafka(self, topic: str, entry: bytes) -> None:
        if not self._settings.kafka_servers:
            raise BusError("events go to Kafka, but KAFKA_BOOTSTRAP_SERVERS is empty here")
        producer = self._producer = self._producer or await connect(self._settings, linger_ms=0)
        try:
            async with asyncio.timeout(SEND_TIMEOUT):
                answer = await producer.send(topic, entry, headers={"message_type": b"error"})
                await asyncio.wait([answer])
        except TimeoutError as error:
            await self._close()
            raise BusError(f"no acknowledgement within {SEND_TIMEOUT:g} s{told_trouble()}") from error
        except BusError:
            await self._close()
            raise
        if failure := producer.failure(answer):
            await self._close()
            raise failure

    async def _close(self) -> None:
        if self._producer:
            producer, self._producer = self._producer, None
            await producer.close(0)

    def _drop(self, number: int, reason: str) -> None:
        if number:
            self.counts.dropped += number
            log.error("error events dropped", dropped=number, reason=reason)

    def _complain(self, error: str) -> None:
        now = asyncio.get_running_loop().time()
        if now - self._complained >= COMPLAINT_INTERVAL:
            self._complained = now
            log.warning("error events wait: the bus is away", waiting=len(self._waiting), error=error)


def _now() -> str:
    return f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%S.%f}"[:-3] + "Z"
