"""What indexers announce, and what gateways make of it."""

from typing import Any

import pytest

from shared import keys
from shared.redis.connection import Redis
from shared.search.indexer_records import (
    IndexerRecord,
    Lag,
    announce_indexer,
    group_lag,
    read_indexers,
    withdraw_indexer,
)


async def test_a_record_is_read_as_it_was_written(redis: Redis) -> None:
    record = IndexerRecord(
        name="one", state="waiting", detail="the search index is away", host="h", pid=7, bus="redis",
        topic="mdx-embed", lag_messages=12, lag_seconds=0.5, indexed=3, refused=1, chunks=9,
    )  # fmt: skip
    plain = IndexerRecord(name="two", state="starting")
    for one in (plain, record):
        await announce_indexer(redis, one)
    assert await read_indexers(redis) == [record, plain]
    assert 0 < await redis.ttl(keys.indexer("one")) <= 8
    await withdraw_indexer(redis, "one")
    assert await read_indexers(redis) == [plain]


async def test_a_lag_that_is_no_longer_known_is_not_the_old_one(redis: Redis) -> None:
    await announce_indexer(redis, IndexerRecord(name="one", state="indexing", lag_messages=3))
    await announce_indexer(redis, IndexerRecord(name="one", state="indexing", lag_messages=None))
    assert [record.lag_messages for record in await read_indexers(redis)] == [None]


async def test_a_record_of_a_newer_indexer_can_be_read(redis: Redis) -> None:
    await redis.zadd(keys.INDEXERS, {"new": 1})
    fields: Any = {"name": "new", "state": "indexing", "lag_messages": "null", "lag_seconds": "0.5", "x": "y"}
    await redis.hset(keys.indexer("new"), mapping=fields)
    assert await read_indexers(redis) == [
        IndexerRecord(name="new", state="indexing", lag_messages=None, lag_seconds=0.5)
    ]
    await redis.hset(keys.indexer("new"), "state", "dreaming")
    assert await read_indexers(redis) == []


@pytest.mark.parametrize(
    ("bus", "lags", "together"),
    [
        ("redis", [(5, 1.0), (7, 0.5)], Lag(7, 1.0)),
        ("kafka", [(5, 1.0), (7, None)], Lag(12, 1.0)),
        ("redis", [(None, None)], Lag(None, None)),
        ("redis", [], Lag(None, None)),
    ],
)
def test_how_far_all_of_them_are_behind(
    bus: str, lags: list[tuple[int | None, float | None]], together: Lag
) -> None:
    records = [
        IndexerRecord(name=str(i), state="indexing", bus=bus, lag_messages=messages, lag_seconds=seconds)
        for i, (messages, seconds) in enumerate(lags)
    ]
    assert group_lag(records) == together
