"""Deleted assets leave the index, whatever comes in between."""

import asyncio

import pytest

from search.deletions import forget_unused, mark_deleted, remove_marked
from search.index_writer import IndexWriter
from search.known_assets import indexed
from shared import keys
from shared.redis.connection import Redis
from shared.search import database
from shared.search.database import Connection
from shared.settings import Settings
from tests.search.chunk_samples import film
from tests.search.conftest import count
from tests.search.test_index_writer import chunks, write

VISIBLE = """chunks WHERE NOT EXISTS
    (SELECT FROM deletions WHERE deletions.asset = chunks.asset AND last_chunk >= chunks.key)"""
"""The rows that a search sees."""


async def delete(redis: Redis, number: int = 0, second: int = 1_700_000_050) -> None:
    """As the script that deletes an asset does."""
    await redis.zadd(keys.SEARCH_DELETED, {film(number).id: second})


async def test_the_rows_of_a_deleted_asset_go(redis: Redis, index: Connection) -> None:
    await write(index, [*chunks(7), *chunks(3, asset=1)])
    await delete(redis)
    assert await mark_deleted(redis, index) == 1
    assert await count(index, VISIBLE) == 3
    assert await count(index) == 10
    assert await remove_marked(index) == 7
    assert await count(index) == 3
    assert await count(index, "deletions") == 0
    assert await redis.zcard(keys.SEARCH_DELETED) == 0
    assert (await mark_deleted(redis, index), await remove_marked(index)) == (0, 0)


async def test_messages_that_come_after_the_deletion_are_ignored(redis: Redis, index: Connection) -> None:
    await delete(redis)
    assert await mark_deleted(redis, index) == 1
    assert await write(index, chunks(3)) == 0


async def test_an_asset_that_comes_back_loses_its_old_rows_only(redis: Redis, index: Connection) -> None:
    await write(index, chunks(7))
    await delete(redis, second=1_700_000_050)
    await mark_deleted(redis, index)
    again = {film().id: indexed(film(created=1_700_000_050))}
    assert await write(index, [chunks(9)[8]], again) == 1
    assert await count(index, VISIBLE) == 1
    assert await remove_marked(index) == 7
    assert await count(index) == 1


async def test_an_asset_that_is_deleted_again_is_marked_again(redis: Redis, index: Connection) -> None:
    await delete(redis)
    await mark_deleted(redis, index)
    await write(index, chunks(2), {film().id: indexed(film(created=1_700_000_060))})
    await delete(redis, second=1_700_000_070)
    assert await mark_deleted(redis, index) == 1
    assert await count(index, VISIBLE) == 0


async def test_many_deletions_are_taken_over_by_several_indexers(
    redis: Redis, settings: Settings, index: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("search.deletions.MARKED_AT_ONCE", 10)
    await write(index, [chunk for asset in range(45) for chunk in chunks(2, asset)])
    for number in range(40):
        await delete(redis, number)
    others = [await database.connect(settings) for _ in range(3)]
    assert sum(await asyncio.gather(*(mark_deleted(redis, other) for other in others))) == 40
    assert await count(index, VISIBLE) == 10
    await asyncio.gather(*map(remove_marked, others))
    assert await count(index) == 10
    for other in others:
        await other.close()


async def test_a_deletion_waits_for_a_batch_that_is_being_written(
    redis: Redis, settings: Settings, index: Connection
) -> None:
    other = await database.connect(settings)
    writer = IndexWriter(other)
    batch = chunks(3)
    await writer.check(batch[0])
    async with other.transaction():
        await writer.write(batch, {})
        await delete(redis)
        marking = asyncio.create_task(mark_deleted(redis, index))
        await asyncio.sleep(0.3)
        assert not marking.done()
    assert await marking == 1
    assert await remove_marked(index) == 3
    await other.close()


async def test_assets_without_rows_are_forgotten_deleted_ones_after_a_month(
    redis: Redis, index: Connection
) -> None:
    await write(index, [*chunks(1), *chunks(1, asset=1)])
    await index.execute(
        "DELETE FROM chunks WHERE asset IN (SELECT key FROM assets WHERE id = %s)", [film().id]
    )
    now, _ = await redis.time()
    await delete(redis, 2, second=now)
    await delete(redis, 3, second=now - 31 * 86400)
    await mark_deleted(redis, index)
    assert await forget_unused(index) == 2
    rows = await (await index.execute("SELECT id FROM assets ORDER BY id")).fetchall()
    assert rows == [(film(1).id,), (film(2).id,)]
