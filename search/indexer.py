"""The indexer: takes messages from the bus, writes them, and only then acknowledges them.

What the database does not take waits: one batch in this process, all the rest on the bus. A message that
arrives twice changes nothing.
"""

import asyncio
import os
import random
import socket
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress

import msgspec
import structlog
from prometheus_client import CollectorRegistry
from psycopg import DataError

from search.chunk_messages import IndexedChunk, read_chunk
from search.deletions import mark_deleted
from search.index_writer import IndexWriter
from search.known_assets import read_assets
from search.schema import migrate
from search.sources.kafka_source import KafkaSource
from search.sources.message_source import MessageSource, TakenMessages
from search.sources.redis_source import RedisSource
from search.upkeep import Upkeep, one_line
from shared.bus.errorbus import ErrorBus
from shared.bus.routes import RouteReader, Routes
from shared.errors import BusError, MessageRefused
from shared.redis.connection import Redis, RedisError, connect
from shared.redis.ending import cancelled, uninterrupted
from shared.search import database
from shared.search.database import Connection, DatabaseError
from shared.search.indexer_records import IndexerRecord, announce_indexer, withdraw_indexer
from shared.settings import Settings, worker_name
from shared.telemetry import instruments
from shared.telemetry.fleet_metrics import Figures

log = structlog.get_logger(__name__)

BEAT = 2.0
LOOK_INTERVAL = 2.0
FIRST_PAUSE, LONGEST_PAUSE = 0.2, 10.0
ALARM_INTERVAL = 60.0
LITTLE = 500
"""Messages that may wait while the index counts as up to date."""


class Indexer:
    """One member of the group of indexers. `record` describes it in Redis."""

    def __init__(self, settings: Settings, registry: CollectorRegistry | None = None) -> None:
        self._settings = settings
        self._redis: Redis = connect(settings)
        self._errors = ErrorBus(self._redis, settings)
        self._routes = RouteReader(self._redis, settings)
        self._figures = Figures(self._redis, registry, "indexer")
        self._connection: Connection | None = None
        self._writer: IndexWriter | None = None
        self._source: MessageSource | None = None
        self._silent_until = 0.0
        self._migrated = asyncio.Event()
        self._upkeep = Upkeep(settings, self._redis)
        self.record = IndexerRecord(
            name=worker_name(settings),
            state="starting",
            host=socket.gethostname(),
            pid=os.getpid(),
            started=int(time.time()),
        )

    async def run(self) -> None:
        """Index until cancelled. A batch that is being written then is not, and stays on the bus.

        Raises IndexUnusable.
        """
        try:
            async with asyncio.TaskGroup() as group:
                for work in (self._announce(), self._errors.run(), self._index()):
                    group.create_task(work)
                await self._migrated.wait()
                await self._upkeep.run()
        finally:
            await uninterrupted(self._close())

    async def _close(self) -> None:
        if self._connection:
            await self._connection.close()
        with suppress(RedisError):
            await self._figures.publish()
            await withdraw_indexer(self._redis, self.record.name)
        await self._redis.aclose()

    def trouble(self) -> str:
        """Return why nothing is indexed now; empty while messages would be."""
        return "" if self.record.state == "indexing" else f"{self.record.state}: {self.record.detail}"

    def tell_port(self, port: int) -> None:
        """Where this process serves its metrics."""
        self._change(metrics_port=port)

    # Indexing -------------------------------------------------------------------------------------------

    async def _index(self) -> None:
        """Take messages and write them, until cancelled."""
        await self._persist(self._prepare)
        self._migrated.set()
        pause = FIRST_PAUSE
        while not cancelled():
            routes = await self._routes.current()
            indexed = self.record.indexed
            try:
                self._source = self._make_source(routes)
                if self._source is None:
                    self._change(state="waiting", detail="no message bus is set: give MESSAGE_BUS")
                    await asyncio.sleep(LOOK_INTERVAL)
                    continue
                await self._follow(self._source, routes)
            except (BusError, RedisError) as error:
                pause = FIRST_PAUSE if self.record.indexed > indexed else min(2 * pause, LONGEST_PAUSE)
                self._alarm(f"the message bus is away: {error}")
                await asyncio.sleep(pause * random.uniform(0.5, 1.0))

    def _make_source(self, routes: Routes) -> MessageSource | None:
        if routes.message_bus == "redis":
            return RedisSource(self._redis, self._settings, routes.message_topic, self.record.name)
        if routes.message_bus == "kafka" and self._settings.kafka_servers:
            return KafkaSource(self._settings, routes.message_topic)
        return None

    async def _follow(self, source: MessageSource, routes: Routes) -> None:
        """Index what one bus has, until messages go elsewhere and this one has no more."""
        try:
            await source.open()
            self._change(state="indexing", detail="", bus=routes.message_bus, topic=routes.message_topic)
            log.info("indexing", bus=routes.message_bus, topic=routes.message_topic)
            while not cancelled():
                taken = await source.take(self._settings.search_batch)
                if taken.values or taken.ids:
                    await self._index_batch(source, taken)
                elif await self._routes.current() != routes:
                    return
        finally:
            self._source = None
            await uninterrupted(source.close())

    async def _index_batch(self, source: MessageSource, taken: TakenMessages) -> None:
        chunks = self._read(taken.values)
        if chunks:
            began = time.monotonic()
            await self._persist(lambda: self._write(chunks))
            instruments.index_write.record(time.monotonic() - began)
        await source.finish(taken)

    def _read(self, values: list[bytes]) -> list[IndexedChunk]:
        """Return the chunks in messages; those that cannot be used are reported as error events."""
        chunks = []
        for value in values:
            try:
                chunk = read_chunk(value)
            except MessageRefused as error:
                self._refuse(error)
                continue
            if chunk:
                chunks.append(chunk)
            else:
                instruments.index_messages.add(1, {"outcome": "ignored"})
        return chunks

    def _refuse(self, error: Exception, chunk: IndexedChunk | None = None) -> None:
        stream = chunk.asset.id if chunk else ""
        reason = str(error).strip()[:500]
        log.error("message refused by the index", stream=stream, error=reason)
        self._errors.emit(f"Embedding message refused by the search index: {reason}", stream_id=stream)
        instruments.index_messages.add(1, {"outcome": "refused"})
        self._change(refused=self.record.refused + 1)

    # Database -------------------------------------------------------------------------------------------

    async def _persist(self, work: Callable[[], Awaitable[None]]) -> None:
        """Do what needs the database, and try again while it or Redis is away."""
        pause = FIRST_PAUSE
        while True:
            try:
                await work()
            except (DatabaseError, RedisError) as error:
                instruments.index_failures.add(1)
                self._alarm(f"the search index is away: {one_line(error)}")
                await self._disconnect()
                if cancelled():
                    raise
                await asyncio.sleep(pause * random.uniform(0.5, 1.0))
                pause = min(2 * pause, LONGEST_PAUSE)
            else:
                if self.record.state == "waiting":
                    self._change(state="indexing", detail="")
                    log.info("indexing again")
                return

    async def _prepare(self) -> None:
        await self._connected()

    async def _disconnect(self) -> None:
        connection, self._connection, self._writer = self._connection, None, None
        if connection:
            await connection.close()

    async def _connected(self) -> tuple[Connection, IndexWriter]:
        if self._connection is None or self._writer is None:
            self._connection = await database.connect(self._settings)
            await migrate(self._connection)  # each time: the database may be a new one
            self._writer = IndexWriter(self._connection)
        return self._connection, self._writer

    async def _write(self, chunks: list[IndexedChunk]) -> None:
        """Write a batch; what the database refuses for its contents is left out. Raises DatabaseError."""
        connection, writer = await self._connected()
        # Before what Redis knows of the assets: one that was deleted and came back loses its old rows only.
        await mark_deleted(self._redis, connection)
        known = await read_assets(self._redis, (chunk.asset.id for chunk in chunks))
        fitting = [chunk for chunk in chunks if await self._fits(writer, chunk)]
        try:
            added = await writer.write(fitting, known) if fitting else 0
        except DataError:
            added = 0
            for chunk in fitting:
                try:
                    added += await writer.write([chunk], known)
                except DataError as error:
                    self._refuse(error, chunk)
        instruments.chunks_indexed.add(added)
        instruments.index_messages.add(len(fitting), {"outcome": "indexed"})
        self._change(indexed=self.record.indexed + added)

    async def _fits(self, writer: IndexWriter, chunk: IndexedChunk) -> bool:
        try:
            await writer.check(chunk)
        except MessageRefused as error:
            self._refuse(error, chunk)
            return False
        return True

    # Reporting ------------------------------------------------------------------------------------------

    async def _announce(self) -> None:
        """Write the record of this indexer regularly, until cancelled."""
        while True:
            with suppress(RedisError, BusError, TimeoutError):
                async with asyncio.timeout(BEAT):
                    if source := self._source:
                        lag = await source.lag()
                        self._upkeep.caught_up = lag.messages is not None and lag.messages < LITTLE
                        self._change(lag_messages=lag.messages, lag_seconds=lag.seconds)
            self._change(chunks=self._upkeep.chunks)
            try:
                await announce_indexer(self._redis, self.record)
                await self._figures.publish()
            except RedisError as error:
                log.warning("indexer not announced: redis is away", error=str(error))
            await asyncio.sleep(BEAT)

    def _change(self, **changes: object) -> None:
        self.record = msgspec.structs.replace(self.record, **changes)

    def _alarm(self, reason: str) -> None:
        """Say at once why nothing is indexed, and once a minute while it lasts."""
        self._change(state="waiting", detail=reason)
        if time.monotonic() >= self._silent_until:
            self._silent_until = time.monotonic() + ALARM_INTERVAL
            log.error("nothing is indexed", reason=reason)
            self._errors.emit(f"Nothing is indexed for search: {reason}")
