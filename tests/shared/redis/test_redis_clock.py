import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.redis.connection import Redis
from shared.redis.redis_clock import RedisClock


class Ticking:
    """Answers TIME as a server does whose clock is `ahead` seconds before this machine's monotonic one."""

    def __init__(self, ahead: float) -> None:
        self.ahead = ahead

    async def time(self) -> tuple[int, int]:
        now = time.monotonic() + self.ahead
        return int(now), int(now % 1 * 1e6)


@pytest.mark.parametrize("ahead", [0.0, 1_700_000_000.25, -3.5])
async def test_the_servers_clock_is_what_counts(ahead: float) -> None:
    clock = RedisClock()
    await clock.measure(Ticking(ahead))  # type: ignore[arg-type]
    moment = 100_000.0
    enqueued = int((moment + ahead - 2.5) * 1000)
    assert clock.since(enqueued, moment) == pytest.approx(2.5, abs=0.1)


async def test_a_real_servers_time(redis: Redis) -> None:
    clock = RedisClock()
    entry_id: Any = await redis.xadd("lane", {"a": "b"})
    enqueued = int(entry_id.split(b"-")[0])
    assert 0 < await clock.measure(redis) < 10
    moment = time.monotonic()
    assert clock.since(enqueued, moment) < 60
    assert clock.since(enqueued - 90_000, moment) - clock.since(enqueued - 30_000, moment) == pytest.approx(
        60
    )


async def test_a_later_measurement_replaces_the_offset() -> None:
    clock = RedisClock()
    for ahead in (1000.0, 2000.0):
        await clock.measure(Ticking(ahead))  # type: ignore[arg-type]
    assert clock.since(2_000_000, 1.0) == pytest.approx(1.0, abs=0.1)


@given(st.integers(0, 2**42), st.floats(0, 1e9))
def test_no_wait_is_negative(redis_ms: int, monotonic: float) -> None:
    assert RedisClock().since(redis_ms, monotonic) >= 0
