"""Redis's clock, by which processes compare times."""

import time

from shared.redis.connection import Redis


class RedisClock:
    """Translates `time.monotonic()` into Redis's time, by the offset last measured."""

    def __init__(self) -> None:
        self._offset = 0.0

    async def measure(self, redis: Redis) -> float:
        """Measure the offset; off by at most half a round trip, of which it returns the seconds."""
        before = time.monotonic()
        seconds, microseconds = await redis.time()
        after = time.monotonic()
        self._offset = seconds + microseconds / 1e6 - (before + after) / 2
        return after - before

    def at(self, monotonic: float) -> float:
        """Return the moment in seconds since 1970 by Redis's clock."""
        return round(monotonic + self._offset, 3)

    def since(self, redis_ms: int, monotonic: float) -> float:
        """Return seconds from `redis_ms`, milliseconds on Redis's clock, to `monotonic`; never negative."""
        return round(max(0.0, monotonic + self._offset - redis_ms / 1000), 3)
