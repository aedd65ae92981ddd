"""Reading a stream in Redis as one consumer of its group."""

from collections.abc import Sequence
from typing import Any

from redis.exceptions import ResponseError

from shared import keys
from shared.records import pairs
from shared.redis.connection import BLOCK_MS, Redis, script
from shared.redis.multiplexed import Argument

NewEntry = tuple[bytes, dict[bytes, bytes]]
"""The id of an entry and its fields."""


class ConsumerGroup:
    """One consumer in the group of a stream. A missing group is created when it is first needed, and gets
    the entries that wait already."""

    def __init__(self, redis: Redis, stream: str, group: str, consumer: str) -> None:
        self.stream = stream
        self.group = group
        self.consumer = consumer
        self._redis = redis

    async def create(self) -> None:
        """Create the stream and the group if they are missing. Raises RedisError."""
        try:
            await self._redis.xgroup_create(self.stream, self.group, id="0", mkstream=True)
        except ResponseError as error:
            if "BUSYGROUP" not in str(error):
                raise

    async def read(self, reader: Redis, count: int) -> list[NewEntry]:
        """Wait up to BLOCK_MS for new entries, and claim at most `count`, over the connection `reader`.

        An answer that gets lost leaves entries claimed under this consumer. Raises RedisError.
        """
        try:
            answer = await reader.multiplexed.call(
                *("XREADGROUP", "GROUP", self.group, self.consumer, "COUNT", count, "BLOCK", BLOCK_MS),
                *("STREAMS", self.stream, ">"),
            )
        except ResponseError as error:
            await self._create_after(error)
            return []
        return [(entry_id, pairs(fields)) for entry_id, fields in (answer[0][1] if answer else ())]

    async def claim(self, name: str, arguments: Sequence[Argument]) -> list[Any]:
        """Return what the script `name` claims: it gets the stream and the pulse as its keys, and the group
        and the consumer before its other arguments. Raises RedisError."""
        try:
            found: list[Any] | None = await script(self._redis, name)(
                keys=[self.stream, keys.PULSE], args=[self.group, self.consumer, *arguments]
            )
        except ResponseError as error:
            await self._create_after(error)
            return []
        return found or []

    async def _create_after(self, error: ResponseError) -> None:
        if "NOGROUP" not in str(error):
            raise error
        await self.create()
