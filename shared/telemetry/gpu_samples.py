"""GPU load, five times a second: written by workers while requests are profiled."""

from collections.abc import Mapping, Sequence

import msgspec

from shared import keys
from shared.records import added_ms
from shared.redis.connection import Redis

INTERVAL = 0.2
"""Seconds between two samples."""
MOST = 50_000
KEPT_SECONDS = 600


class Sample(msgspec.Struct, frozen=True, kw_only=True):
    """One GPU at one moment. Percentages, None where it does not tell; `time` is Redis's, in seconds since
    1970."""

    host: str
    index: int
    name: str
    usage: float | None = None
    memory: float | None = None
    decoder: float | None = None
    time: float = 0.0


async def publish(redis: Redis, samples: Sequence[Sample]) -> None:
    """Add what was sampled now. Raises RedisError."""
    async with redis.pipeline(transaction=False) as pipe:
        pipe.xadd(keys.GPU_SAMPLES, {"samples": msgspec.json.encode(samples)}, maxlen=MOST)
        pipe.expire(keys.GPU_SAMPLES, KEPT_SECONDS)
        await pipe.execute()


def from_fields(entry_id: bytes, fields: Mapping[bytes, bytes]) -> list[Sample]:
    """Return the samples of one entry."""
    moment = added_ms(entry_id) / 1000
    samples = msgspec.json.decode(fields[b"samples"], type=list[Sample])
    return [msgspec.structs.replace(sample, time=moment) for sample in samples]
