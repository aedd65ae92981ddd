"""From the outbox to the bus: claim, send, wait for the bus's acknowledgement, delete.

Nothing here is in the way of embedding: what the bus does not take waits in the outbox. After a failure
everything that was not acknowledged is sent again, so a message may arrive twice, but not never.
"""

import asyncio
import random
import time
from collections import deque
from contextlib import suppress
from dataclasses import dataclass

import structlog

from shared.errorbus import ErrorBus
from shared.errors import BusError, MessageRefused
from shared.kafka import Producer
from shared.redis import Redis, RedisError, single_connection
from shared.routes import RouteReader, Routes, warn_of_unusable_routes
from shared.settings import Settings
from worker.metrics import observe_sent
from worker.publish.outbox import Message, Outbox

log = structlog.get_logger(__name__)

WINDOW = 1000
"""Messages that one publisher holds at a time."""
READ = 500
LOOK_INTERVAL = 1.0
RETRY_INTERVAL = 0.5
FIRST_PAUSE, LONGEST_PAUSE = 0.2, 10.0
STALL = 10.0
"""Seconds without an acknowledgement after which somebody should know."""
ALARM_INTERVAL = 60.0
CLOSE_GRACE = 5.0


@dataclass
class Counts:
    """What this process's publisher did, since it started."""

    sent: int = 0
    refused: int = 0
    adopted: int = 0
    failures: int = 0
    """Times that the bus failed and what it had not acknowledged had to be sent again."""


class Forwarder:
    """The publisher of one worker process. `run` forwards messages until it is cancelled."""

    def __init__(self, redis: Redis, settings: Settings, worker: str, errors: ErrorBus) -> None:
        self._settings = settings
        self._errors = errors
        self._outbox = Outbox(redis, settings, worker)
        self._routes = RouteReader(redis, settings)
        self._held: dict[str, Message] = {}
        """Claimed and not yet deleted from the outbox, oldest first."""
        self._fresh: deque[Message] = deque()
        """Those of them that this session has not sent."""
        self._acknowledged: list[str] = []
        self._suspects: dict[str, Message] = {}
        """Refused in a batch, perhaps for the sake of another; to be sent alone."""
        self._refused: list[tuple[Message, MessageRefused]] = []
        """Refused alone."""
        self._failure: BusError | None = None
        self._in_flight = 0
        self._answered = asyncio.Event()
        self._settled = asyncio.Event()
        self._producer: Producer | None = None
        self._idempotent = True
        self._active = False
        self._progress = 0.0
        self._alarm = Alarm(errors)
        self.counts = Counts()

    async def run(self) -> None:
        """Forward until cancelled; then finish what is under way, for up to CLOSE_GRACE seconds."""
        warn_of_unusable_routes(self._settings)
        async with asyncio.TaskGroup() as owned:
            keeper = owned.create_task(self._stay_alive())
            try:
                await self._forward()
            finally:
                keeper.cancel()

    async def _forward(self) -> None:
        pause = FIRST_PAUSE
        while True:
            sent = self.counts.sent
            try:
                await self._conclude()
                await self._session(await self._routes.current())
                pause = FIRST_PAUSE
            except* (BusError, RedisError) as group:
                self.counts.failures += 1
                self._alarm.sound(str(group.exceptions[0]), len(self._held))
                pause = FIRST_PAUSE if self.counts.sent > sent else min(2 * pause, LONGEST_PAUSE)
            await asyncio.sleep(pause * random.uniform(0.5, 1.0))

    async def _session(self, routes: Routes) -> None:
        """Forward to one bus until the routes change. Raises BusError or RedisError."""
        kafka = routes.message_bus == "kafka" and bool(self._settings.kafka_servers)
        self._active = kafka or routes.message_bus == "redis"
        if kafka:
            await self._to_kafka(routes)
        elif self._active:
            await self._to_redis(routes)
        else:
            await asyncio.sleep(LOOK_INTERVAL)

    # Claims ---------------------------------------------------------------------------------------------

    async def _stay_alive(self) -> None:
        """Keep this publisher's claims, take over those of the dead, and notice when nothing moves."""
        while True:
            await asyncio.sleep(min(2.0, self._settings.claim_timeout / 3))
            if not self._active:
                continue
            with suppress(RedisError):
                adopted = await self._outbox.adopt(max(0, WINDOW - len(self._held)), list(self._held))
                self.counts.adopted += self._hold(adopted)
            silence = time.monotonic() - self._progress
            if self._in_flight and silence > STALL:
                trouble = self._producer.trouble if self._producer else ""
                self._alarm.sound(f"no acknowledgement for {silence:.0f} s: {trouble}", len(self._held))

    def _hold(self, messages: list[Message]) -> int:
        """Remember claimed messages; returns how many were not known."""
        new = [message for message in messages if message.id not in self._held]
        for message in new:
            self._held[message.id] = message
            self._fresh.append(message)
        return len(new)

    def _forget(self, ids: list[str]) -> None:
        for entry_id in ids:
            self._held.pop(entry_id, None)

    async def _conclude(self) -> None:
        """Delete from the outbox what the bus has, and bury what it refuses.

        Raises RedisError, with the rest still to be done.
        """
        while ids := self._acknowledged[:READ]:
            await self._outbox.sent(ids)
            del self._acknowledged[: len(ids)]
            self._forget(ids)
            self.counts.sent += len(ids)
        while self._refused:
            message, error = self._refused[0]
            await self._outbox.refuse(message, error.message)
            del self._refused[0]
            self._forget([message.id])
            self.counts.refused += 1
            key = message.key.decode()
            log.error("message refused by kafka", key=key, error=error.message)
            self._errors.emit(
                f"Embedding message {key} refused by Kafka: {error.message}", stream_id=message.stream
            )

    # Redis ----------------------------------------------------------------------------------------------

    async def _to_redis(self, routes: Routes) -> None:
        reader = single_connection(self._settings)
        try:
            while True:
                if not self._held:
                    self._hold(await self._outbox.take(reader, READ))
                if await self._routes.current() != routes:
                    return
                if ids := list(self._held)[:READ]:
                    await self._outbox.relay(ids, routes.message_topic)
                    self._forget(ids)
                    self._fresh.clear()
                    self.counts.sent += len(ids)
                    self._alarm.clear()
        finally:
            await reader.aclose()

    # Kafka ----------------------------------------------------------------------------------------------

    async def _to_kafka(self, routes: Routes) -> None:
        producer = self._producer = Producer(self._settings, idempotent=self._idempotent)
        self._fresh = deque(m for m in self._held.values() if m.id not in self._suspects)
        self._failure = None
        try:
            async with asyncio.TaskGroup() as session:
                settling = session.create_task(self._settle())
                await self._feed(producer, routes)
                settling.cancel()
        finally:
            await producer.close(CLOSE_GRACE)
            self._producer = None
            if self._idempotent and producer.idempotence_refused:
                self._idempotent = False
                log.warning("kafka without idempotence: a lost acknowledgement can make a duplicate")
            await asyncio.sleep(0)  # the futures' callbacks
            with suppress(RedisError):
                await self._conclude()

    async def _feed(self, producer: Producer, routes: Routes) -> None:
        """Send what was claimed, then claim more, until the routes change."""
        reader = single_connection(self._settings)
        try:
            while True:
                try:
                    await self._wait_for_work(reader)
                except RedisError as error:
                    log.warning("cannot claim messages: redis is away", error=str(error))
                    await asyncio.sleep(RETRY_INTERVAL)
                if await self._routes.current() != routes:
                    return
                if self._suspects:
                    await self._send_alone(producer, routes.message_topic)
                while self._fresh and not self._suspects:
                    self._send(producer, routes.message_topic, self._fresh.popleft())
        finally:
            await reader.aclose()

    async def _wait_for_work(self, reader: Redis) -> None:
        room = WINDOW - len(self._held)
        if self._fresh or self._suspects:
            return
        if room > 0:
            self._hold(await self._outbox.take(reader, min(room, READ)))
            return
        self._settled.clear()
        with suppress(TimeoutError):
            async with asyncio.timeout(LOOK_INTERVAL):
                await self._settled.wait()

    def _send(
        self, producer: Producer, topic: str, message: Message, *, alone: bool = False
    ) -> asyncio.Future[None]:
        if not self._in_flight:
            self._progress = time.monotonic()
        self._in_flight += 1
        headers = {"message_type": message.type}
        if message.traceparent:
            headers["traceparent"] = message.traceparent
        future = producer.send(topic, message.value, message.key, headers)
        began = time.monotonic()
        future.add_done_callback(lambda done: observe_sent(done, began, topic, message.traceparent))
        future.add_done_callback(lambda done: self._on_answer(message, done, alone=alone))
        return future

    async def _send_alone(self, producer: Producer, topic: str) -> None:
        """Send each suspect with nothing else under way, so that a refusal is its own."""
        while self._in_flight:
            self._settled.clear()
            await self._settled.wait()
        while self._suspects:
            message = self._suspects.pop(next(iter(self._suspects)))
            await asyncio.wait([self._send(producer, topic, message, alone=True)])

    def _on_answer(self, message: Message, future: asyncio.Future[None], *, alone: bool) -> None:
        self._in_flight -= 1
        error = future.exception()
        if error is None:
            self._progress = time.monotonic()
            self._acknowledged.append(message.id)
            self._alarm.clear()
        elif isinstance(error, MessageRefused) and alone:
            self._refused.append((message, error))
        elif isinstance(error, MessageRefused):
            self._suspects[message.id] = message
        elif isinstance(error, BusError):
            self._failure = self._failure or error
        self._answered.set()

    async def _settle(self) -> None:
        """Deal with the bus's answers. Raises BusError when the producer is of no more use."""
        while True:
            await self._answered.wait()
            self._answered.clear()
            try:
                await self._conclude()
            except RedisError as error:
                log.warning("sent messages not deleted yet: redis is away", error=str(error))
                await asyncio.sleep(RETRY_INTERVAL)
                self._answered.set()
            self._settled.set()
            if self._failure:
                raise self._failure


class Alarm:
    """Says in the log and on the error bus that messages wait: at once, then once a minute while they do."""

    def __init__(self, errors: ErrorBus) -> None:
        self._errors = errors
        self._reason = ""
        self._silent_until = 0.0

    def sound(self, reason: str, waiting: int) -> None:
        """Messages wait, for this reason."""
        if self._reason and time.monotonic() < self._silent_until:
            return
        self._reason = reason
        self._silent_until = time.monotonic() + ALARM_INTERVAL
        log.error("messages wait for their bus", reason=reason, waiting=waiting)
        self._errors.emit(f"Embedding messages wait for their bus: {reason}")

    def clear(self) -> None:
        """They flow."""
        if self._reason:
            log.info("messages flow again", after=self._reason)
            self._reason = ""
