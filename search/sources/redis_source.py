"""Embedding messages from a Redis stream."""

import secrets
import time
from collections.abc import Mapping, Sequence
from typing import Any

from redis.exceptions import ResponseError

from search.sources.message_source import GROUP, MESSAGE_TYPE, TakenMessages
from shared.records import added_ms
from shared.redis.connection import Redis, single_connection
from shared.redis.consumer_group import ConsumerGroup
from shared.search.indexer_records import Lag
from shared.settings import Settings

Entry = tuple[bytes, Mapping[bytes, bytes] | None]
"""The id of a stream's entry and its fields; None if it was trimmed away."""

COUNTED = 10_000
"""Messages counted one by one where the server does not say how many wait (Redis before 7)."""
FORGOTTEN_AFTER = 86_400_000
"""Milliseconds after which a silent member that holds nothing leaves the group."""


class RedisSource:
    """One member of the group, under a name that no other process has."""

    def __init__(self, redis: Redis, settings: Settings, stream: str, name: str) -> None:
        self._redis = redis
        self._stream = stream
        self._members = ConsumerGroup(redis, stream, GROUP, f"{name}-{secrets.token_hex(3)}")
        self._field = settings.redis_payload_key.encode()
        self._silence = settings.claim_timeout
        self._reader = single_connection(settings)
        self._take_over_at = 0.0

    async def open(self) -> None:
        """Join the group, which is made if it is missing."""
        await self._members.create()
        members: Any = await self._redis.xinfo_consumers(self._stream, GROUP)
        for member in members:
            if member["pending"] == 0 and member["idle"] > FORGOTTEN_AFTER:
                await self._redis.xgroup_delconsumer(self._stream, GROUP, member["name"])

    async def take(self, count: int) -> TakenMessages:
        """Return messages that a silent member left, or else new ones."""
        if time.monotonic() >= self._take_over_at:
            self._take_over_at = time.monotonic() + self._silence / 2
            if left := await self._take_over(count):
                self._take_over_at = 0.0
                return self._taken(left)
        return self._taken(await self._members.read(self._reader, count))

    async def _take_over(self, count: int) -> Sequence[Entry]:
        try:
            answer: Any = await self._redis.xautoclaim(
                self._stream, GROUP, self._members.consumer, int(self._silence * 1000), count=count
            )
        except ResponseError as error:
            if "NOGROUP" not in str(error):
                raise
            await self._members.create()  # somebody deleted the stream, or Redis has forgotten it
            return []
        entries: Sequence[Entry] = answer[1]
        return entries

    def _taken(self, entries: Sequence[Entry]) -> TakenMessages:
        """Return the entries' messages; one whose entry was trimmed away has no fields."""
        found = [fields for _, fields in entries if fields]
        values = [
            fields.get(self._field, b"")
            for fields in found
            if fields.get(b"message_type", MESSAGE_TYPE) == MESSAGE_TYPE
        ]
        return TakenMessages(values, [entry_id for entry_id, _ in entries if entry_id])

    async def finish(self, taken: TakenMessages) -> None:
        """Acknowledge the messages."""
        if taken.ids:
            await self._redis.xack(self._stream, GROUP, *taken.ids)

    async def lag(self) -> Lag:
        """Return messages that were not read, or not finished, by any member."""
        groups: Any = await self._redis.xinfo_groups(self._stream)
        group = next((g for g in groups if g["name"] == GROUP.encode()), None)
        if group is None:
            return Lag(None, None)
        after = b"(" + group["last-delivered-id"]
        waiting = group.get("lag")
        if waiting is None:
            entries: Any = await self._redis.xrange(self._stream, min=after, count=COUNTED)
            waiting = len(entries)
        oldest = await self._oldest(after) if waiting or group["pending"] else None
        return Lag(waiting + group["pending"], await self._age(oldest) if oldest else 0.0)

    async def _oldest(self, after: bytes) -> bytes | None:
        pending: Any = await self._redis.xpending(self._stream, GROUP)
        if pending["pending"]:
            first: bytes = pending["min"]
            return first
        entries: Any = await self._redis.xrange(self._stream, min=after, count=1)
        return entries[0][0] if entries else None

    async def _age(self, entry_id: bytes) -> float:
        seconds, microseconds = await self._redis.time()
        return max(0.0, float(seconds + microseconds / 1e6 - added_ms(entry_id) / 1000))

    async def close(self) -> None:
        """Close the connection; the member's name goes when it was silent for a day."""
        await self._reader.aclose()
