"""Records of indexers and of their lag: written by each, read by gateways and the command line."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import msgspec

from shared import keys
from shared.records import RecordCodec
from shared.redis.connection import Redis, script

RECORD_TTL = 8
"""Seconds after which a silent indexer is no longer counted."""


class Lag(NamedTuple):
    """What indexers have not finished: how many messages (None where the bus cannot say), and for how many
    seconds the oldest of them has waited (None as well)."""

    messages: int | None
    seconds: float | None


class IndexerRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One indexer's record. `detail` says why it does not index."""

    name: str
    state: Literal["starting", "indexing", "waiting"]
    detail: str = ""
    host: str = ""
    pid: int = 0
    started: int = 0
    metrics_port: int = 0
    """Port of /metrics, /live and /ready; 0 if they are off."""
    bus: str = ""
    topic: str = ""
    lag_messages: int | None = None
    """Messages that wait: of the whole group on Redis, of this indexer's partitions on Kafka."""
    lag_seconds: float | None = None
    indexed: int = 0
    """Chunks that this indexer added since it started."""
    refused: int = 0
    """Messages that it could not use."""
    chunks: int = 0
    """About how many chunks the index holds."""


_indexers: RecordCodec[IndexerRecord] = RecordCodec(IndexerRecord)


async def announce_indexer(redis: Redis, record: IndexerRecord) -> None:
    """Write the record; it expires RECORD_TTL seconds later. Raises RedisError."""
    await script(redis, "heartbeat")(
        keys=[keys.INDEXERS, keys.indexer(record.name)],
        args=[record.name, RECORD_TTL, *_indexers.fields(record)],
    )


async def withdraw_indexer(redis: Redis, name: str) -> None:
    """Remove the record. Raises RedisError."""
    async with redis.pipeline() as pipe:
        pipe.zrem(keys.INDEXERS, name)
        pipe.delete(keys.indexer(name))
        await pipe.execute()


async def read_indexers(redis: Redis) -> list[IndexerRecord]:
    """Return the indexers that are alive, by name; a record that cannot be read is left out. Raises
    RedisError."""
    names: list[Any] = sorted(await redis.zrange(keys.INDEXERS, 0, -1))
    async with redis.pipeline(transaction=False) as pipe:
        for name in names:
            pipe.hgetall(keys.indexer(name.decode()))
        found = await pipe.execute()
    return [record for fields in found if fields and (record := _record(fields))]


def group_lag(indexers: Sequence[IndexerRecord]) -> Lag:
    """Return how far the indexers together are behind."""
    known = [record for record in indexers if record.lag_messages is not None]
    waiting = [record.lag_messages or 0 for record in known]
    # On Redis each says how far all of them are; on Kafka, how far it is itself.
    total = sum(waiting) if any(record.bus == "kafka" for record in known) else max(waiting, default=None)
    ages = [record.lag_seconds for record in indexers if record.lag_seconds is not None]
    return Lag(total, max(ages, default=None))


def _record(fields: Mapping[bytes, bytes]) -> IndexerRecord | None:
    try:
        return _indexers.read(fields)
    except msgspec.MsgspecError:
        return None
