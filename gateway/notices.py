"""Following a request's results: subscribe, read what is stored, then listen; read again after any break.

One pub/sub connection serves all requests of this process. A notification only saves a read: whatever
happens to it, the entry is in the stream.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import structlog

from shared import keys, results
from shared.redis import BLOCK_MS, Redis, RedisError, single_connection
from shared.results import End, Entry
from shared.settings import Settings

log = structlog.get_logger(__name__)

READ_AGAIN = 5.0
"""Seconds of silence after which a follower looks at the stream itself."""
RETRY_INTERVAL = 0.2
PAGE = 100

Notice = tuple[str, Entry] | None
"""An entry with its stream id, or None: something may have been missed."""


class Notices:
    """The process's pub/sub connection. `run` must be running while anyone follows."""

    def __init__(self, redis: Redis, settings: Settings) -> None:
        self._redis = redis
        self._settings = settings
        self._listeners: dict[bytes, asyncio.Queue[Notice]] = {}
        self._connection = single_connection(settings)
        self._pubsub: Any = self._connection.pubsub()
        self._first = asyncio.Event()

    async def run(self) -> None:
        """Receive until cancelled. After a lost connection every follower reads its stream again."""
        try:
            while True:
                await self._first.wait()
                try:
                    await self._receive()
                except RedisError as error:
                    log.warning("notifications interrupted", error=str(error))
                    await asyncio.sleep(RETRY_INTERVAL)
        finally:
            await self._pubsub.aclose()
            await self._connection.aclose()

    async def _receive(self) -> None:
        message = await self._pubsub.get_message(timeout=BLOCK_MS / 1000)
        if message is None:
            return
        queue = self._listeners.get(message["channel"])
        if queue is None:
            return
        # redis-py subscribes again by itself after a lost connection; the confirmation says so.
        queue.put_nowait(results.unpack(message["data"]) if message["type"] == "message" else None)

    @asynccontextmanager
    async def subscribe(self, request_id: str) -> AsyncIterator["Follower"]:
        """Listen for a request's entries from now on. Raises RedisError."""
        channel = keys.notify(request_id)
        queue: asyncio.Queue[Notice] = asyncio.Queue()
        self._listeners[channel.encode()] = queue
        try:
            await self._pubsub.subscribe(channel)
            self._first.set()
            async with asyncio.timeout(self._settings.redis_timeout):
                await queue.get()
            yield Follower(self._redis, request_id, queue)
        finally:
            del self._listeners[channel.encode()]
            with suppress(RedisError):
                await self._pubsub.unsubscribe(channel)


class Follower:
    """Reads one request's entries, each once, in order."""

    def __init__(self, redis: Redis, request_id: str, queue: asyncio.Queue[Notice]) -> None:
        self._redis = redis
        self._stream = keys.results(request_id)
        self._queue = queue

    async def entries(
        self, after: str = "0-0", *, stored: bool = True
    ) -> AsyncGenerator[tuple[str, Entry], None]:
        """Entries after the stream id `after`, up to and including the end entry.

        `stored` False skips the first look at the stream, for a request that was not submitted when the
        subscription began.
        """
        notice: Notice = None
        if not stored:
            notice = await self._next()
        while True:
            found = [notice] if notice else await self._read(after)
            for entry_id, entry in found:
                if _position(entry_id) > _position(after):
                    after = entry_id
                    yield entry_id, entry
                    if isinstance(entry, End):
                        return
            notice = await self._next() if len(found) < PAGE else None

    async def _next(self) -> Notice:
        try:
            async with asyncio.timeout(READ_AGAIN):
                return await self._queue.get()
        except TimeoutError:
            return None

    async def _read(self, after: str) -> list[tuple[str, Entry]]:
        try:
            entries: Any = await self._redis.xrange(self._stream, min=f"({after}", count=PAGE)
        except RedisError as error:
            log.warning("results not readable now", stream=self._stream, error=str(error))
            await asyncio.sleep(RETRY_INTERVAL)
            return []
        return [(entry_id.decode(), results.from_fields(fields)) for entry_id, fields in entries]


def _position(entry_id: str) -> tuple[int, int]:
    milliseconds, _, sequence = entry_id.partition("-")
    return int(milliseconds), int(sequence)
