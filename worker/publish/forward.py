"""From the outbox to the bus: claim, send, wait for the bus's acknowledgement, delete.

Embedding never waits for the bus: messages that it does not take stay in the outbox. After a failure every
unacknowledged message is sent again, so a message may arrive twice, but always arrives.
"""

import asyncio
import random
import time
from collections import deque
from contextlib import suppress
from dataclasses import dataclass

import structlog

from shared.bus.errorbus import ErrorBus
from shared.bus.kafka import Producer, connect, reachable, told_trouble
from shared.bus.routes import RouteReader, Routes, warn_of_unusable_routes
from shared.errors import BusError, MessageRefused
from shared.redis.connection import Redis, RedisError, single_connection
from shared.redis.ending import cancelled, uninterrupted
from shared.settings import Settings
from worker.publish.outbox import Message, Outbox
from worker.publish.publish_metrics import observe_sent

log = structlog.get_logger(__name__)

WINDOW = 1000
"""Messages that one publisher holds at a time."""
READ = 500
LOOK_INTERVAL = 1.0
RETRY_INTERVAL = 0.5
FIRST_PAUSE, LONGEST_PAUSE = 0.2, 10.0
STALL = 10.0
"""Seconds without an acknowledgement before an alarm is raised."""
REPLACE_AFTER = 300.0
"""Seconds without an acknowledgement before a producer is replaced, if a new one could connect: aiokafka
never looks for brokers that it does not know yet (Kafka's own clients do after 300 s, KIP-899)."""
ALARM_INTERVAL = 60.0
CLOSE_GRACE = 5.0


@dataclass
class ForwarderCounts:
    """What this process's forwarder has done since it started."""

    sent: int = 0
    refused: int = 0
    adopted: int = 0
    failures: int = 0
    """How often the bus failed and unacknowledged messages had to be sent again."""


class WornOut(Exception):
    """Refused messages have made the producer unusable; a new one continues at once."""


class Forwarder:
    """The publisher of one worker process. `run` forwards messages until it is cancelled."""

    def __init__(self, redis: Redis, settings: Settings, worker: str, errors: ErrorBus) -> None:
        self._settings = settings
        self._errors = errors
        self._outbox = Outbox(redis, settings, worker)
        self._routes = RouteReader(redis, settings)
        self._held: dict[str, Message] = {}
        """Messages claimed and not yet deleted from the outbox, oldest first."""
        self._fresh: dict[str, Message] = {}
        """Held messages that this session has not sent."""
        self._acknowledged: list[str] = []
        self._suspects: dict[str, Message] = {}
        """Messages refused in a batch, perhaps because of another one; each is sent again alone."""
        self._refused: list[tuple[Message, MessageRefused]] = []
        """Refused alone."""
        self._failure: BusError | None = None
        self._in_flight = 0
        self._answered = asyncio.Event()
        self._settled = asyncio.Event()
        self._producer: Producer | None = None
        self._active = False
        self._progress = 0.0
        self._alarm = Alarm(errors)
        self.counts = ForwarderCounts()

    async def run(self) -> None:
        """Forward until cancelled; then finish what is in flight, for up to CLOSE_GRACE seconds."""
        warn_of_unusable_routes(self._settings)
        async with asyncio.TaskGroup() as owned:
            keepers = [owned.create_task(self._stay_alive()), owned.create_task(self._watch())]
            try:
                await self._forward()
            finally:
                for keeper in keepers:
                    keeper.cancel()

    async def _forward(self) -> None:
        pause = FIRST_PAUSE
        while not cancelled():
            sent = self.counts.sent
            try:
                await self._conclude()
                await self._session(await self._routes.current())
                pause = FIRST_PAUSE
            except* WornOut:
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
        """Renew this publisher's claims and take over those of dead publishers."""
        while not cancelled():
            await asyncio.sleep(min(2.0, self._settings.claim_timeout / 3))
            if not self._active:
                continue
            with suppress(RedisError):
                adopted = await self._outbox.adopt(max(0, WINDOW - len(self._held)), list(self._held))
                self.counts.adopted += self._hold(adopted)

    async def _watch(self) -> None:
        """Notice when nothing is acknowledged; give up the producer if a new one could connect."""
        while not cancelled():
            await asyncio.sleep(LOOK_INTERVAL)
            silence = time.monotonic() - self._progress
            if not (self._held and self._producer) or silence < STALL:
                continue
            self._alarm.sound(f"no acknowledgement for {silence:.0f} s{told_trouble()}", len(self._held))
            if silence > REPLACE_AFTER and await reachable(self._settings):
                progress = self._progress
                await asyncio.sleep(STALL)
                if self._producer and self._progress == progress:
                    self._failure = BusError("brokers are reachable, but not from this producer")
                    self._answered.set()

    def _hold(self, messages: list[Message]) -> int:
        """Remember claimed messages; return how many are new."""
        if not self._held:
            self._progress = time.monotonic()
        new = [message for message in messages if message.id not in self._held]
        for message in new:
            self._held[message.id] = message
            self._fresh[message.id] = message
        return len(new)

    def _forget(self, ids: list[str]) -> None:
        for entry_id in ids:
            self._held.pop(entry_id, None)

    async def _conclude(self) -> None:
        """Delete acknowledged messages from the outbox, and move refused ones to the dead letters.

        Raises RedisError; the rest stays to be done.
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
            while not cancelled():
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
        producer = self._producer = await connect(self._settings)
        self._fresh = {m.id: m for m in self._held.values() if m.id not in self._suspects}
        self._failure = None
        try:
            async with asyncio.TaskGroup() as session:
                settling = session.create_task(self._settle(producer))
                await self._feed(producer, routes)
                settling.cancel()
        finally:
            await uninterrupted(self._close(producer))

    async def _close(self, producer: Producer) -> None:
        await producer.close(CLOSE_GRACE)
        self._producer = None
        await asyncio.sleep(0)  # the futures' callbacks
        with suppress(RedisError):
            await self._conclude()

    async def _feed(self, producer: Producer, routes: Routes) -> None:
        """Send claimed messages, then claim more, until the routes change."""
        reader = single_connection(self._settings)
        try:
            while not cancelled():
                try:
                    await self._wait_for_work(reader)
                except RedisError as error:
                    log.warning("cannot claim messages: redis is away", error=str(error))
                    await asyncio.sleep(RETRY_INTERVAL)
                if await self._routes.current() != routes:
                    return
                if self._suspects:
                    await self._send_alone(producer, routes.message_topic)
                await self._send_fresh(producer, routes.message_topic)
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

    async def _send_fresh(self, producer: Producer, topic: str) -> None:
        """Send claimed messages, in order within each partition, until the producer accepts nothing for
        LOOK_INTERVAL. Raises BusError."""
        clock = asyncio.get_running_loop().time
        with suppress(TimeoutError):
            async with asyncio.timeout(LOOK_INTERVAL) as patience:
                waiting = await producer.partitioned(topic, self._fresh.values())
                while waiting and not self._suspects:
                    for partition in list(waiting):
                        await self._send(producer, topic, partition, waiting[partition])
                        if not waiting[partition]:
                            del waiting[partition]
                    patience.reschedule(clock() + LOOK_INTERVAL)
                    await asyncio.sleep(0)

    async def _send(
        self, producer: Producer, topic: str, partition: int, messages: deque[Message], *, alone: bool = False
    ) -> None:
        """Give the first of `messages` to the producer once it has room; cancelled before, nothing is sent.

        Raises BusError.
        """
        began = time.monotonic()
        try:
            count, answer = await producer.send_some(topic, partition, messages)
        except MessageRefused as error:
            refused = messages.popleft()
            self._fresh.pop(refused.id, None)
            self._refused.append((refused, error))
            self._answered.set()
            return
        sent = [messages.popleft() for _ in range(count)]
        for message in sent:
            self._fresh.pop(message.id, None)
        self._in_flight += count
        answer.add_done_callback(lambda done: self._on_answers(sent, producer.failure(done), alone=alone))
        answer.add_done_callback(lambda done: observe_sent(done, began, topic, [m.traceparent for m in sent]))

    async def _send_alone(self, producer: Producer, topic: str) -> None:
        """Send each suspect with nothing else in flight, so that a refusal means this message."""
        await self._all_answered()
        while self._suspects:
            message = next(iter(self._suspects.values()))
            try:
                async with asyncio.timeout(LOOK_INTERVAL):
                    (partition,) = await producer.partitioned(topic, [message])
                    await self._send(producer, topic, partition, deque([message]), alone=True)
            except TimeoutError:
                return
            del self._suspects[message.id]
            await self._all_answered()

    async def _all_answered(self) -> None:
        while self._in_flight:
            self._settled.clear()
            await self._settled.wait()

    def _on_answers(
        self, sent: list[Message], failure: MessageRefused | BusError | None, *, alone: bool
    ) -> None:
        self._in_flight -= len(sent)
        if failure is None:
            self._progress = time.monotonic()
            self._acknowledged += [message.id for message in sent]
            self._alarm.clear()
        elif isinstance(failure, BusError):
            self._failure = self._failure or failure
        elif alone:
            self._refused += [(message, failure) for message in sent]
        else:
            self._suspects |= {message.id: message for message in sent}
        self._answered.set()

    async def _settle(self, producer: Producer) -> None:
        """Process the bus's answers. Raises BusError or WornOut when the producer is unusable."""
        while not cancelled():
            await self._answered.wait()
            self._answered.clear()
            try:
                await self._conclude()
            except RedisError as error:
                log.warning("sent messages not deleted yet: redis is away", error=str(error))
                await asyncio.sleep(RETRY_INTERVAL)
                self._answered.set()
            self._settled.set()
            if producer.worn_out:
                raise WornOut
            if self._failure:
                raise self._failure


class Alarm:
    """Reports waiting messages in the log and on the error bus: at once, then once a minute."""

    def __init__(self, errors: ErrorBus) -> None:
        self._errors = errors
        self._reason = ""
        self._silent_until = 0.0

    def sound(self, reason: str, waiting: int) -> None:
        """Report that messages wait, and why."""
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
