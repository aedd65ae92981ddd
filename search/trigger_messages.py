"""Matches of triggers as messages: from the index into the outbox, which workers send to the bus."""

from typing import Any, NamedTuple

from google.protobuf.timestamp_pb2 import Timestamp

from shared import keys
from shared.bus.routes import RouteReader
from shared.chunks import SECOND
from shared.messages.nv_pb2 import LLM, Query, Sensor, VisionLLM
from shared.redis.connection import Redis
from shared.search.database import Connection
from shared.settings import Settings

MESSAGE_TYPE = "trigger_match"
"""What the header `message_type` says."""
AT_ONCE = 100

_UNTOLD = """
    SELECT matches.key, triggers.id, triggers.name, sentence, triggers.model, score, assets.id, assets.kind,
        sensor, description, number, start_ns, end_ns, request
    FROM matches JOIN triggers ON triggers.key = trigger JOIN assets ON assets.key = asset
    WHERE NOT told ORDER BY matches.key LIMIT %s FOR UPDATE OF matches SKIP LOCKED"""
_TOLD = "UPDATE matches SET told = true WHERE key = ANY(%s)"


class TriggerMatch(NamedTuple):
    """A match, and what it is of. Times are nanoseconds since 1970."""

    key: int
    trigger: str
    name: str
    sentence: str
    model: str
    score: float
    asset: str
    kind: str
    sensor: str
    description: str
    number: int
    start: int
    end: int
    request: str


class TriggerMessages:
    """Hands matches to the outbox, at least once; those that find it full wait in the index."""

    def __init__(self, redis: Redis, settings: Settings) -> None:
        self._redis = redis
        self._settings = settings
        self._routes = RouteReader(redis, settings)

    async def hand_over(self, connection: Connection) -> int:
        """Hand over all waiting matches; return their number. Raises DatabaseError, RedisError."""
        told = 0
        while number := await self._hand_some_over(connection):
            told += number
        return told

    async def _hand_some_over(self, connection: Connection) -> int:
        async with connection.transaction():
            rows = await (await connection.execute(_UNTOLD, [AT_ONCE])).fetchall()
            matches = [TriggerMatch(*row) for row in rows]
            if not matches:
                return 0
            if (await self._routes.current()).message_bus != "off":
                if await self._redis.xlen(keys.OUTBOX) >= self._settings.outbox_limit:
                    return 0
                async with self._redis.pipeline() as pipe:
                    for match in matches:
                        pipe.xadd(keys.OUTBOX, outbox_fields(match))
                    await pipe.execute()
            await connection.execute(_TOLD, [[match.key for match in matches]])
        return len(matches)


def outbox_fields(match: TriggerMatch) -> dict[Any, Any]:
    """Return the match as an entry of the outbox."""
    return {
        "key": f"{match.trigger}:{match.key}",
        "type": MESSAGE_TYPE,
        "stream": match.asset,
        "value": match_message(match).SerializeToString(),
    }


def match_message(match: TriggerMatch) -> VisionLLM:
    """Return the message of a match: as that of its chunk, with the trigger in `info` and without a
    vector."""
    ids = {"requestId": match.request, "chunkIdx": str(match.number), "streamId": match.asset}
    trigger = {"triggerId": match.trigger, "triggerName": match.name, "eventId": str(match.key)}
    prompts = {"text": match.sentence} if match.sentence else {}
    return VisionLLM(
        version=match.model,
        timestamp=_timestamp(match.start),
        end=_timestamp(match.end),
        startFrameId=f"{match.number}:start",
        endFrameId=f"{match.number}:end",
        sensor=Sensor(
            id=match.sensor,
            type="Camera" if match.kind == "stream" else "Video",
            description=match.description,
        ),
        llm=LLM(
            info={"modelId": match.model},
            queries=[Query(id=f"{match.trigger}:{match.key}", params=ids, prompts=prompts)],
        ),
        info={**ids, **trigger, "score": f"{match.score:.4f}"},
    )


def _timestamp(ns: int) -> Timestamp:
    seconds, nanos = divmod(ns, SECOND)
    return Timestamp(seconds=seconds, nanos=nanos)
