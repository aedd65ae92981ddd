"""Storage quota: maximum size of the asset store and maximum age of its assets.

Every gateway enforces both on the same store. Usage is measured and cached for 2 s; a counter in Redis adds
what all gateways have written since. One gateway at a time evicts, so that two do not evict twice as much.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable

import structlog
from redis.exceptions import LockError

from gateway.store.storage import AssetStorage, StoredAsset
from shared import keys
from shared.errors import ServerBusy, Unavailable
from shared.redis.connection import Redis, RedisError
from shared.settings import Settings

log = structlog.get_logger(__name__)

EVICTION_STARTS = 0.9
"""Share of the maximum size above which the oldest assets are evicted."""
USAGE_TTL = 2.0
"""Seconds for which measured usage is cached."""
INTERVAL = 300.0
"""Seconds between evictions of assets that are too old."""
LOCK_SECONDS = 60.0
LOCK_TIMEOUT = 10.0
"""Seconds to wait for another gateway that is evicting."""

Evict = Callable[[str], Awaitable[bool]]
"""Evicts an asset by its id; returns False if it is in use."""


class StorageQuota:
    """Keeps the store below its maximum size, and its assets below their maximum age."""

    def __init__(self, redis: Redis, storage: AssetStorage, settings: Settings, evict: Evict) -> None:
        self._redis = redis
        self._storage = storage
        self._evict = evict
        self._max_size = int(settings.storage_limit_gb * (1 << 30))
        self._max_age = settings.asset_max_age_hours * 3600
        self._measured = self._evicted = -USAGE_TTL
        self._size = self._written_before = 0
        self._turn = asyncio.Lock()

    async def require(self, size: int) -> None:
        """Evict assets if `size` bytes that this process is about to write need their space.

        Raises ServerBusy when the store is full and nothing in it can be evicted.
        """
        if not self._max_size:
            return
        async with self._turn:
            if _ago(self._measured) >= USAGE_TTL:
                await self._measure()
            used = self._size + await self._redis.incrby(keys.BYTES_WRITTEN, size) - self._written_before
            full = used > self._max_size
            if used > EVICTION_STARTS * self._max_size and (full or _ago(self._evicted) >= USAGE_TTL):
                await self._evict_for(size)
                used = self._size + size
            if used > self._max_size:
                raise ServerBusy(
                    f"the asset store is full: {self._size} of {self._max_size} bytes are in use"
                )

    async def run(self) -> None:
        """Evict until cancelled."""
        while self._max_size or self._max_age:
            try:
                await self.enforce()
            except (RedisError, OSError, Unavailable) as error:
                log.warning("eviction failed, trying again later", error=str(error))
            await asyncio.sleep(INTERVAL)

    async def enforce(self) -> None:
        """Evict what exceeds the maximum size, then what is too old."""
        if self._max_size:
            async with self._turn:
                await self._evict_for(0)
        if self._max_age:
            for asset in (await self._storage.contents()).assets:
                if time.time() - asset.changed > self._max_age:
                    await self._evict(asset.id)

    async def _measure(self) -> list[StoredAsset]:
        self._written_before = int(await self._redis.get(keys.BYTES_WRITTEN) or 0)
        contents = await self._storage.contents()
        self._size, self._measured = contents.size, time.monotonic()
        return contents.assets

    async def _evict_for(self, size: int) -> None:
        """Evict the oldest assets until `size` more bytes would stay below EVICTION_STARTS."""
        lock = self._redis.lock(keys.EVICTION, timeout=LOCK_SECONDS, blocking_timeout=LOCK_TIMEOUT)
        try:
            async with lock:
                await self._evict_oldest(size)
        except LockError as error:  # another gateway is evicting, or this one took too long
            log.warning("eviction skipped or overlapping: its lock was taken or expired", error=str(error))
            await self._measure()
        self._evicted = time.monotonic()

    async def _evict_oldest(self, size: int) -> None:
        for asset in sorted(await self._measure(), key=lambda asset: asset.changed):
            if self._size + size <= EVICTION_STARTS * self._max_size:
                return
            if await self._evict(asset.id):
                self._size -= asset.size


def _ago(moment: float) -> float:
    return time.monotonic() - moment
