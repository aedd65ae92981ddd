"""Embedding messages from a Kafka topic."""

import asyncio
import time

import structlog
from aiokafka import AIOKafkaConsumer
from aiokafka.errors import CommitFailedError, IllegalStateError, KafkaError

from search.sources.message_source import GROUP, MESSAGE_TYPE, TakenMessages
from shared.bus.kafka import CONNECT_TIMEOUT, connection, trouble
from shared.errors import BusError
from shared.search.indexer_records import Lag
from shared.settings import Settings

log = structlog.get_logger(__name__)

WAIT_MS = 1000
NEW_TOPIC_MS = 10_000
"""How long a topic or partition may be there before it is noticed."""


class KafkaSource:
    """One member of the group. Offsets are committed when messages are finished, never before."""

    def __init__(self, settings: Settings, topic: str) -> None:
        self._topic = topic
        self._consumer = AIOKafkaConsumer(
            topic,
            group_id=GROUP,
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            fetch_max_bytes=16 * 2**20,
            **{**connection(settings), "metadata_max_age_ms": NEW_TOPIC_MS},
        )
        self._oldest_ms: int | None = None
        """When the oldest message that was taken and not finished was made."""

    async def open(self) -> None:
        """Connect and subscribe."""
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT):
                await self._consumer.start()
        except TimeoutError as error:
            raise BusError(f"Kafka does not answer within {CONNECT_TIMEOUT:g} s: {trouble()}") from error
        except (KafkaError, KeyError) as error:  # aiokafka trips over a refused SCRAM login with a KeyError
            raise BusError(f"Kafka cannot be used: {error or type(error).__name__}") from error

    async def take(self, count: int) -> TakenMessages:
        """Return new messages of the partitions that this member has."""
        try:
            fetched = await self._consumer.getmany(timeout_ms=WAIT_MS, max_records=count)
        except KafkaError as error:
            raise BusError(f"messages cannot be read from Kafka: {error}") from error
        records = [record for partition in fetched.values() for record in partition]
        self._oldest_ms = min((record.timestamp for record in records), default=None)
        return TakenMessages(
            [
                record.value or b""
                for record in records
                if dict(record.headers).get("message_type", MESSAGE_TYPE) == MESSAGE_TYPE
            ],
            [],
        )

    async def finish(self, taken: TakenMessages) -> None:
        """Commit the offsets after everything that was taken."""
        try:
            await self._consumer.commit()
        except (CommitFailedError, IllegalStateError) as error:
            # The partitions went to another member, which will read, and change nothing by, the same again.
            log.warning("offsets not committed, messages will be read again", error=str(error))
        except KafkaError as error:
            raise BusError(f"offsets cannot be committed: {error}") from error
        self._oldest_ms = None

    async def lag(self) -> Lag:
        """Return messages of this member's partitions that were not taken."""
        assigned = self._consumer.assignment()
        if not assigned:
            return Lag(0, 0.0)
        try:
            ends = await self._consumer.end_offsets(assigned)
            positions = {partition: await self._consumer.position(partition) for partition in assigned}
        except (KafkaError, ValueError) as error:
            raise BusError(f"Kafka does not say how many messages wait: {error}") from error
        waiting = sum(max(0, ends[partition] - positions[partition]) for partition in assigned)
        oldest = self._oldest_ms
        return Lag(waiting, max(0.0, time.time() - oldest / 1000) if oldest else None if waiting else 0.0)

    async def close(self) -> None:
        """Leave the group."""
        await self._consumer.stop()
