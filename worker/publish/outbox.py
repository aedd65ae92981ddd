"""The outbox in Redis: a publisher claims messages, sends them, and only then deletes them.

Publishers share it as a consumer group. Every call renews the claims; those of a silent publisher go to
another one.
"""

import secrets
from collections.abc import Iterable, Mapping, Sequence

import msgspec
import structlog

from shared.keys import OUTBOX, OUTBOX_COUNTS, OUTBOX_DEAD, PUBLISHERS
from shared.records import pairs
from shared.redis.connection import Redis, script
from shared.redis.consumer_group import ConsumerGroup
from shared.settings import Settings

log = structlog.get_logger(__name__)

REFUSED_KEPT = 1000


class Message(msgspec.Struct, frozen=True):
    """One entry of the outbox. `stream` is the id of its file or camera, empty for a text."""

    id: str
    key: bytes
    type: bytes
    value: bytes
    stream: str = ""
    traceparent: bytes = b""

    @property
    def headers(self) -> dict[str, bytes]:
        """The Kafka headers."""
        headers = {"message_type": self.type}
        if self.traceparent:
            headers["traceparent"] = self.traceparent
        return headers


class Outbox:
    """The claims of one publisher, under a name that no other process has ever had."""

    def __init__(self, redis: Redis, settings: Settings, worker: str) -> None:
        self._redis = redis
        self._settings = settings
        self.consumer = f"{worker}-{secrets.token_hex(3)}"
        self._group = ConsumerGroup(redis, OUTBOX, PUBLISHERS, self.consumer)

    async def take(self, reader: Redis, count: int) -> list[Message]:
        """Wait up to BLOCK_MS for new messages and claim at most `count`, over the connection `reader`."""
        found = await self._group.read(reader, count)
        if found and self._redis.replicated:
            await self._redis.durable.call(
                "XLEN", OUTBOX
            )  # a sent message must not come back after a failover
        return [_message(entry_id, fields) for entry_id, fields in found]

    async def adopt(self, count: int, known: Iterable[str]) -> list[Message]:
        """Claim at most `count` abandoned messages, and show that this publisher is alive."""
        timeout = int(self._settings.claim_timeout * 1000)
        found = await self._group.claim("adopt", [timeout, count, *known])
        return [_message(entry_id, pairs(fields)) for entry_id, fields in found]

    async def sent(self, ids: Sequence[str]) -> None:
        """Delete messages that the bus has acknowledged."""
        await script(self._redis, "sent")(keys=[OUTBOX, OUTBOX_COUNTS], args=[PUBLISHERS, *ids])

    async def relay(self, ids: Sequence[str], stream: str) -> None:
        """Move messages to a Redis stream, each exactly once."""
        longest = max(0, self._settings.redis_stream_maxlen)
        await script(self._redis, "relay")(
            keys=[OUTBOX, OUTBOX_COUNTS, stream],
            args=[PUBLISHERS, self._settings.redis_payload_key, longest, *ids],
        )

    async def refuse(self, message: Message, error: str) -> None:
        """Move a message that the bus never accepts to the dead letters, with the reason."""
        fields = ("key", message.key, "type", message.type, "stream", message.stream, "value", message.value)
        await script(self._redis, "bury")(
            keys=[OUTBOX, OUTBOX_DEAD],
            args=[PUBLISHERS, message.id, REFUSED_KEPT, *fields, "error", error],
        )
        await self._redis.hincrby(OUTBOX_COUNTS, "refused", 1)


def _message(entry_id: bytes, fields: Mapping[bytes, bytes]) -> Message:
    return Message(
        id=entry_id.decode(),
        key=fields.get(b"key", b""),
        type=fields.get(b"type", b""),
        value=fields.get(b"value", b""),
        stream=fields.get(b"stream", b"").decode(),
        traceparent=fields.get(b"traceparent", b""),
    )
