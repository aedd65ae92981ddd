"""A snapshot of what Redis keeps for the service: read in one step, and put into a Redis that has none of it.

DUMP and RESTORE make it: they need no access to the server's files, and Sentinel and cluster mode have them.
"""

import struct
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path

import msgspec
from redis.exceptions import ResponseError

from shared import keys
from shared.errors import RtEmbedError
from shared.redis.connection import Redis

PAGE = 1000
PUT_TOGETHER = 64
LONGEST_ENTRY = 1 << 32
OF_PROCESSES = tuple(
    (keys.PREFIX + name).encode()
    for name in ("pulse", "replicated", "worker", "indexer", "metrics:", "gpu:", "rate:", "live:moves")
)
"""How keys begin that say what running processes do; they are not kept."""
_LENGTH = struct.Struct("<Q")


class SnapshotEntry(msgspec.Struct, frozen=True, array_like=True):
    """One key: its name, the ms that it had left to live (0: no limit), and its value as DUMP gives it."""

    key: bytes
    ttl_ms: int
    dump: bytes


async def our_keys(redis: Redis) -> list[bytes]:
    """Return the keys of the service, without those of running processes."""
    found = {key async for key in redis.scan_iter(match=f"{keys.PREFIX}*", count=PAGE)}
    return sorted(key for key in found if not key.startswith(OF_PROCESSES))


async def take_snapshot(redis: Redis) -> list[SnapshotEntry]:
    """Read every key in one transaction, during which Redis serves nobody else."""
    names = await our_keys(redis)
    async with redis.pipeline(transaction=True) as pipe:
        for name in names:
            pipe.pttl(name)
            pipe.dump(name)
        answers = await pipe.execute()
    return [
        SnapshotEntry(name, max(0, ttl), dump)
        for name, ttl, dump in zip(names, answers[::2], answers[1::2], strict=True)
        if dump is not None
    ]


async def put_snapshot(redis: Redis, entries: Iterable[SnapshotEntry]) -> int:
    """Put every key into Redis, and return how many; each lives as long as it had left.

    Raises RtEmbedError if this server cannot read them.
    """
    count, left = 0, iter(entries)
    while some := list(islice(left, PUT_TOGETHER)):
        async with redis.pipeline(transaction=False) as pipe:
            for entry in some:
                pipe.restore(entry.key, entry.ttl_ms, entry.dump)
            try:
                await pipe.execute()
            except ResponseError as error:
                advice = "restore into the same or a newer version of Redis or Valkey"
                raise RtEmbedError(f"Redis does not take a key of the snapshot: {error}; {advice}") from error
        count += len(some)
    return count


async def clear(redis: Redis) -> None:
    """Delete every key of the service."""
    names = await our_keys(redis)
    for first in range(0, len(names), PAGE):
        await redis.unlink(*names[first : first + PAGE])


def write_snapshot(path: Path, entries: Iterable[SnapshotEntry]) -> None:
    """Write entries into a new file: of each its length as 8 bytes, then MessagePack."""
    with path.open("xb") as file:
        for entry in entries:
            packed = msgspec.msgpack.encode(entry)
            file.write(_LENGTH.pack(len(packed)) + packed)


def read_snapshot(path: Path) -> Iterator[SnapshotEntry]:
    """Yield the entries of a file. Raises RtEmbedError if it is damaged."""
    decoder = msgspec.msgpack.Decoder(SnapshotEntry)
    with path.open("rb") as file:
        while head := file.read(_LENGTH.size):
            length = _LENGTH.unpack(head)[0] if len(head) == _LENGTH.size else LONGEST_ENTRY
            packed = file.read(length) if length < LONGEST_ENTRY else b""
            try:
                yield decoder.decode(packed)
            except msgspec.MsgspecError as error:
                raise RtEmbedError(f"{path} is damaged at byte {file.tell()}: {error}") from error
