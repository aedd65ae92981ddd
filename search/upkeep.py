"""What an indexer does beside writing messages: deletions, retention, HNSW indexes, messages of triggers."""

import asyncio
import time
from collections.abc import Awaitable, Callable

import structlog

from search.deletions import forget_unused, mark_deleted, remove_marked
from search.neighbour_index import build_missing
from search.retention import count_chunks, remove_expired
from search.trigger_matching import remove_old_matches
from search.trigger_messages import TriggerMessages
from shared.redis.connection import Redis, RedisError
from shared.search import database
from shared.search.database import Connection, DatabaseError
from shared.settings import Settings

log = structlog.get_logger(__name__)

DELETION_INTERVAL = 2.0
MESSAGE_INTERVAL = 0.5
INTERVAL = 30.0
COMPLAINT_INTERVAL = 60.0
UPKEEP = 0x52544534
"""PostgreSQL's advisory lock: one indexer at a time bounds the index and builds what it lacks."""


class Upkeep:
    """The upkeep of one indexer, over its own connections. `chunks` is about how many the index holds.
    HNSW indexes are built while `caught_up`, because they are made faster after a load than during it."""

    def __init__(self, settings: Settings, redis: Redis) -> None:
        self._settings = settings
        self._redis = redis
        self._messages = TriggerMessages(redis, settings)
        self._silent_until = 0.0
        self.chunks = 0
        self.caught_up = False

    async def run(self) -> None:
        """Run until cancelled; what fails is tried again."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._repeat(DELETION_INTERVAL, self.delete))
            group.create_task(self._repeat(INTERVAL, self.bound))
            group.create_task(self._repeat(MESSAGE_INTERVAL, self.tell))

    async def _repeat(self, interval: float, work: Callable[[Connection], Awaitable[None]]) -> None:
        while True:
            try:
                connection = await database.connect(self._settings)
                try:
                    while True:
                        await work(connection)
                        await asyncio.sleep(interval)
                finally:
                    await connection.close()
            except (DatabaseError, RedisError) as error:
                if time.monotonic() >= self._silent_until:
                    self._silent_until = time.monotonic() + COMPLAINT_INTERVAL
                    log.warning("upkeep of the search index failed", error=one_line(error))
                await asyncio.sleep(interval)

    async def delete(self, connection: Connection) -> None:
        """Remove what belongs to deleted assets. Raises DatabaseError, RedisError."""
        await mark_deleted(self._redis, connection)
        await remove_marked(connection)

    async def tell(self, connection: Connection) -> None:
        """Hand what triggers matched to the message bus. Raises DatabaseError, RedisError."""
        if told := await self._messages.hand_over(connection):
            log.info("matches of triggers handed to the message bus", matches=told)

    async def bound(self, connection: Connection) -> None:
        """Remove what is beyond a limit, and build the HNSW indexes that are missing, unless another indexer
        does. Raises DatabaseError."""
        self.chunks = await count_chunks(connection)
        found = await (await connection.execute("SELECT pg_try_advisory_lock(%s)", [UPKEEP])).fetchone()
        if not (found and found[0]):
            return
        try:
            await remove_expired(connection, self._settings)
            await forget_unused(connection)
            await remove_old_matches(connection)
            if self.caught_up:
                await build_missing(connection, self._settings)
        finally:
            if not connection.broken:
                await connection.execute("SELECT pg_advisory_unlock(%s)", [UPKEEP])


def one_line(error: Exception) -> str:
    """Return the error's text, which PostgreSQL spreads over several lines, short enough for a log line."""
    return " ".join(str(error).split())[:300] or type(error).__name__
