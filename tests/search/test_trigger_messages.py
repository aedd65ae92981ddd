"""Matches of triggers on the message bus."""

from dataclasses import replace

from search.chunk_messages import read_chunk
from search.sources.redis_source import RedisSource
from search.trigger_messages import TriggerMessages
from shared import keys
from shared.messages.nv_pb2 import VisionLLM
from shared.redis.connection import Redis
from shared.search.database import Connection
from shared.settings import Settings
from tests.search.test_trigger_matching import GATE, add_trigger, chunk, write
from tests.support import stream_entries
from worker.publish.outbox import Outbox


async def test_a_match_is_a_message_once(index: Connection, redis: Redis, settings: Settings) -> None:
    await add_trigger(index)
    await write(index, chunk(GATE, 3))
    messages = TriggerMessages(redis, settings)
    assert [await messages.hand_over(index) for _ in range(2)] == [1, 0]
    ((entry_id, fields),) = await stream_entries(redis, keys.OUTBOX)
    message = VisionLLM.FromString(fields[b"value"])
    event = message.info["eventId"]
    assert dict(message.info) == {
        "requestId": "request", "chunkIdx": "3", "streamId": "gate", "triggerId": "t", "triggerName": "A dog",
        "eventId": event, "score": "1.0000",
    }  # fmt: skip
    assert (message.timestamp.seconds, message.end.seconds, message.version) == (30, 40, "tiny")
    assert (message.sensor.id, message.sensor.type) == ("gate", "Camera")
    assert message.llm.queries[0].prompts["text"] == "a dog"
    assert (fields[b"key"], fields[b"stream"]) == (f"t:{event}".encode(), b"gate")
    assert read_chunk(fields[b"value"]) is None
    # On its way an indexer takes it for none of its own.
    outbox = Outbox(redis, settings, "w")
    await outbox.relay([entry_id.decode()], "mdx-embed")
    source = RedisSource(redis, settings, "mdx-embed", "i")
    await source.open()
    taken = await source.take(10)
    assert (taken.values, len(taken.ids)) == ([], 1)
    await source.close()


async def test_matches_wait_in_the_index_while_the_outbox_is_full(
    index: Connection, redis: Redis, settings: Settings
) -> None:
    await redis.xadd(keys.OUTBOX, {"value": b""})
    await add_trigger(index)
    await write(index, chunk(GATE, 0), chunk(GATE, 1))
    assert await TriggerMessages(redis, replace(settings, outbox_limit=1)).hand_over(index) == 0
    assert await TriggerMessages(redis, settings).hand_over(index) == 2
    assert await redis.xlen(keys.OUTBOX) == 3


async def test_without_a_bus_nothing_waits(index: Connection, redis: Redis, settings: Settings) -> None:
    await add_trigger(index)
    await write(index, chunk(GATE, 0))
    silent = TriggerMessages(redis, replace(settings, message_bus="off"))
    assert [await silent.hand_over(index) for _ in range(2)] == [1, 0]
    assert await redis.xlen(keys.OUTBOX) == 0
