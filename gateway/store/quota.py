"""Room in the asset store: its cap, and the greatest age of what lies in it.

Every gateway looks after the same store. A look at it serves for two seconds, since when a counter in Redis
tells what all of them have written; one of them at a time makes room, so that they do not evict twice.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable

import structlog
from redis.exceptions import LockError

from gateway.store.storage import AssetStorage, Home
from shared import keys
from shared.errors import ServerBusy, Unavailable
from shared.redis.connection import Redis, RedisError
from shared.settings import Settings

log = structlog.get_logger(__name__)

EVICTION_STARTS = 0.9
"""Share of the cap above which the oldest assets go."""
LOOK_TTL = 2.0
"""Seconds for which a look at the store serves."""
INTERVAL = 300.0
LOCK_SECONDS = 60.0
LOCK_PATIENCE = 10.0

Evict = Callable[[str], Awaitable[bool]]
"""Evicts an asset by its id; False if it must stay."""


class Room:
    """Keeps the store below its cap, and its assets younger than their greatest age."""

    def __init__(self, redis: Redis, storage: AssetStorage, settings: Settings, evict: Evict) -> None:
        self._redis = redis
        self._storage = storage
        self._evict = evict
        self._cap = int(settings.storage_limit_gb * (1 << 30))
        self._oldest = settings.asset_max_age_hours * 3600
        self._looked = self._evicted = -LOOK_TTL
        self._size = self._mark = 0
        self._turn = asyncio.Lock()

    async def require(self, size: int) -> None:
        """Make room for `size` bytes that this process is about to write.

        Raises ServerBusy when the store is full and nothing in it may go.
        """
        if not self._cap:
            return
        async with self._turn:
            if _ago(self._looked) >= LOOK_TTL:
                await self._look()
            used = self._size + await self._redis.incrby(keys.BYTES_WRITTEN, size) - self._mark
            full = used > self._cap
            if used > EVICTION_STARTS * self._cap and (full or _ago(self._evicted) >= LOOK_TTL):
                await self._make_room(size)
                used = self._size + size
            if used > self._cap:
                raise ServerBusy(f"the asset store is full: {self._size} of {self._cap} bytes are in use")

    async def run(self) -> None:
        """Evict until cancelled."""
        while self._cap or self._oldest:
            try:
                await self.tidy()
            except (RedisError, OSError, Unavailable) as error:
                log.warning("asset store not tidied", error=str(error))
            await asyncio.sleep(INTERVAL)

    async def tidy(self) -> None:
        """Evict what is beyond the cap, then what is too old."""
        if self._cap:
            async with self._turn:
                await self._make_room(0)
        if self._oldest:
            for home in (await self._storage.contents()).homes:
                if time.time() - home.changed > self._oldest:
                    await self._evict(home.id)

    async def _look(self) -> list[Home]:
        self._mark = int(await self._redis.get(keys.BYTES_WRITTEN) or 0)
        contents = await self._storage.contents()
        self._size, self._looked = contents.size, time.monotonic()
        return contents.homes

    async def _make_room(self, size: int) -> None:
        """Evict the oldest assets until so many bytes more stay below where eviction starts."""
        lock = self._redis.lock(keys.EVICTION, timeout=LOCK_SECONDS, blocking_timeout=LOCK_PATIENCE)
        try:
            async with lock:
                await self._evict_oldest(size)
        except LockError as error:  # another gateway makes room, or this one took long
            log.warning("eviction lock not held", error=str(error))
            await self._look()
        self._evicted = time.monotonic()

    async def _evict_oldest(self, size: int) -> None:
        for home in sorted(await self._look(), key=lambda home: home.changed):
            if self._size + size <= EVICTION_STARTS * self._cap:
                return
            if await self._evict(home.id):
                self._size -= home.size


def _ago(moment: float) -> float:
    return time.monotonic() - moment
