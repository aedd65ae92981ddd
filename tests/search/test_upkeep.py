"""One indexer at a time keeps the index in order."""

from dataclasses import replace

from search.neighbour_index import built_indexes
from search.upkeep import UPKEEP, Upkeep
from shared import keys
from shared.redis.connection import Redis
from shared.search import database
from shared.search.database import Connection
from shared.settings import Settings
from tests.search.chunk_samples import film
from tests.search.conftest import count
from tests.search.test_index_writer import chunks, write


async def test_hnsw_indexes_are_built_when_nothing_waits(
    redis: Redis, settings: Settings, index: Connection
) -> None:
    await write(index, chunks(120))
    upkeep = Upkeep(replace(settings, search_index_rows=100), redis)
    await upkeep.bound(index)
    assert await built_indexes(index) == {}
    upkeep.caught_up = True
    await upkeep.bound(index)
    assert await built_indexes(index) == {"chunks_neighbours_1": True}


async def test_bounds_are_kept_by_one_indexer_at_a_time(
    redis: Redis, settings: Settings, index: Connection
) -> None:
    await write(index, chunks(9))
    upkeep = Upkeep(replace(settings, search_max_rows=4), redis)
    other = await database.connect(settings)
    await other.execute("SELECT pg_advisory_lock(%s)", [UPKEEP])
    await upkeep.bound(index)
    assert await count(index) == 9
    await other.execute("SELECT pg_advisory_unlock_all()")
    await other.close()
    await upkeep.bound(index)
    assert await count(index) == 4


async def test_what_was_deleted_goes(redis: Redis, settings: Settings, index: Connection) -> None:
    await write(index, chunks(9))
    await redis.zadd(keys.SEARCH_DELETED, {film().id: 1_800_000_000})
    await Upkeep(settings, redis).delete(index)
    assert await count(index) == 0
