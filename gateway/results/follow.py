"""Following a request's results: subscribe, read what is stored, listen; read again after a lost connection.

One pub/sub connection serves all requests of this process. A notification only saves a read: if it is lost,
the entry is still in the stream.
"""

import asyncio
import uuid
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import structlog

from shared import keys, results
from shared.errors import RequestLost, Unavailable
from shared.records import entry_position, pairs
from shared.redis.connection import Redis, RedisError, channels
from shared.results import End, Entry
from shared.settings import Settings

log = structlog.get_logger(__name__)

READ_AGAIN = 5.0
"""Seconds without a notification after which a follower reads the stream itself."""
RETRY_INTERVAL = 0.2
PAGE = 100
IDS_AHEAD = 64
"""Request ids whose channels are subscribed in advance, which saves each request a round trip."""

Entries = list[tuple[str, Entry]]
Notification = Entries | None
"""Entries with their stream ids; None if some may have been missed."""


class ResultListener:
    """The process's pub/sub connection. `run` must be running while followers wait."""

    def __init__(self, redis: Redis, settings: Settings) -> None:
        self._redis = redis
        self._timeout = settings.redis_timeout
        self._queues: dict[bytes, list[asyncio.Queue[Notification]]] = {}
        self._ahead: deque[str] = deque()
        self._coming: dict[bytes, str] = {}
        self._open: set[bytes] = set()
        self._left: set[bytes] = set()
        self._channels = channels(settings, self._heard)

    async def run(self) -> None:
        """Receive until cancelled. After a lost connection every follower reads its stream again."""
        while True:
            try:
                self._subscribe_ahead()
                await self._channels.listen(self._wanted)
            except RedisError as error:
                self._open.clear()
                self._left.clear()
                log.warning("notifications interrupted, subscribing again", error=str(error))
                await asyncio.sleep(RETRY_INTERVAL)

    def _wanted(self) -> set[bytes]:
        return {*self._coming, *map(channel_of, self._ahead), *self._queues}

    def _subscribe_ahead(self) -> None:
        """Subscribe for future requests, many at a time."""
        if len(self._ahead) + len(self._coming) <= IDS_AHEAD // 2:
            coming = {channel_of(request_id): request_id for request_id in _new_ids(IDS_AHEAD)}
            self._coming |= coming
            self._channels.subscribe(*coming)

    def _leave(self, channel: bytes) -> None:
        """Unsubscribe from requests that have ended, many at a time."""
        self._left.add(channel)
        if len(self._left) >= IDS_AHEAD:
            left, self._left = self._left, set()
            self._open -= left
            self._channels.unsubscribe(*left)

    def _heard(self, kind: bytes, channel: bytes, payload: Any) -> None:
        if kind == b"message":
            self._tell(channel, results.unpack(payload) if payload else None)
        elif kind == b"subscribe":
            self._open.add(channel)
            if channel in self._coming:
                self._ahead.append(self._coming.pop(channel))
            self._tell(channel, None)

    def _tell(self, channel: bytes, notification: Notification) -> None:
        for queue in self._queues.get(channel, ()):
            queue.put_nowait(notification)

    def new_id(self) -> str:
        """Return an id for a request that is about to be submitted, usually one subscribed already."""
        self._subscribe_ahead()
        return self._ahead.popleft() if self._ahead else str(uuid.uuid4())

    @asynccontextmanager
    async def subscribe(self, request_id: str) -> AsyncIterator["Follower"]:
        """Yield a follower of a request's entries from now on. Raises RedisError, Unavailable."""
        channel = channel_of(request_id)
        queue: asyncio.Queue[Notification] = asyncio.Queue()
        queues = self._queues.setdefault(channel, [])
        queues.append(queue)
        try:
            self._left.discard(channel)
            if channel not in self._open:
                await self._open_channel(channel, queue)
            yield Follower(self._redis, request_id, queue)
        finally:
            queues.remove(queue)
            if not queues:
                del self._queues[channel]
                self._leave(channel)

    async def _open_channel(self, channel: bytes, queue: asyncio.Queue[Notification]) -> None:
        self._channels.subscribe(channel)
        try:
            async with asyncio.timeout(self._timeout):
                await queue.get()
        except TimeoutError as error:
            raise Unavailable("redis does not confirm a subscription") from error


class Follower:
    """Reads one request's entries, each once, in order."""

    def __init__(self, redis: Redis, request_id: str, queue: asyncio.Queue[Notification]) -> None:
        self._redis = redis
        self._request = request_id
        self._stream = keys.results(request_id)
        self._queue = queue

    async def entries(
        self, after: str = "0-0", *, stored: bool = True
    ) -> AsyncGenerator[tuple[str, Entry], None]:
        """Yield the entries after the stream id `after`, up to and including the end entry.

        With `stored` False, the stream is not read first: the request was submitted after the subscription.
        Raises RequestLost when nothing follows although the request does not run, as Redis knows it.
        """
        notification = None if stored else await self._next()
        while True:
            found = await self._read(after) if notification is None else notification
            for entry_id, entry in found:
                if entry_position(entry_id) > entry_position(after):
                    after = entry_id
                    yield entry_id, entry
                    if isinstance(entry, End):
                        return
            more_stored = notification is None and len(found) == PAGE
            notification = None if more_stored else await self._next()

    async def _next(self) -> Notification:
        try:
            async with asyncio.timeout(READ_AGAIN):
                return await self._queue.get()
        except TimeoutError:
            return None

    async def _read(self, after: str) -> Entries:
        try:
            entries = await self._stored(after)
            if not entries and await self._redis.hget(keys.request(self._request), "state") != b"running":
                entries = await self._stored(after)  # it may have ended between the two calls
                if not entries:
                    log.error("request lost: redis no longer has it", request_id=self._request)
                    raise RequestLost(self._request)
        except RedisError as error:
            log.warning("reading results failed, trying again", stream=self._stream, error=str(error))
            await asyncio.sleep(RETRY_INTERVAL)
            return []
        return [(entry_id.decode(), results.from_fields(fields)) for entry_id, fields in entries]

    async def _stored(self, after: str) -> list[tuple[bytes, dict[bytes, bytes]]]:
        """Return the entries that enough replicas have."""
        call = self._redis.durable.call
        found = await call("XRANGE", self._stream, f"({after}", "+", "COUNT", PAGE)
        return [(entry_id, pairs(fields)) for entry_id, fields in found]


def _new_ids(count: int) -> list[str]:
    return [str(uuid.uuid4()) for _ in range(count)]


def channel_of(request_id: str) -> bytes:
    """Return the channel on which a request's entries are announced."""
    return keys.notify(request_id).encode()
