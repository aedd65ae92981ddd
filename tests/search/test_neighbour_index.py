"""HNSW indexes: built when they are worth it, complete, and used."""

import asyncio
from contextlib import suppress
from typing import Any

import msgspec
import pytest
from pgvector import HalfVector
from psycopg import errors

from search import neighbour_index
from search.neighbour_index import build_missing, built_indexes
from shared.search import database
from shared.search.database import Connection
from shared.settings import Settings, load
from tests.search.chunk_samples import unit_vectors
from tests.search.test_index_writer import chunks, write
from tests.support import until

ENOUGH = load({"RTEMBED_SEARCH_INDEX_ROWS": "100", "RTEMBED_SEARCH_BUILD_MEMORY_MB": "16"})
NEAREST = """
    SELECT number FROM chunks WHERE model = 1
    ORDER BY embedding::halfvec(8) <=> %s LIMIT 5"""


async def nearest(connection: Connection) -> tuple[list[int], str]:
    """The five nearest chunks, and how PostgreSQL finds them."""
    vector: Any = [HalfVector(unit_vectors(150)[42].tolist())]
    found = await (await connection.execute(NEAREST, vector)).fetchall()
    plan = await (await connection.execute("EXPLAIN " + NEAREST, vector)).fetchall()
    return [number for (number,) in found], "\n".join(line for (line,) in plan)


async def test_an_index_is_built_from_enough_chunks_on(index: Connection) -> None:
    await write(index, chunks(99))
    assert await build_missing(index, ENOUGH) == []
    exact, plan = await nearest(index)
    assert "chunks_neighbours_1" not in plan
    await write(index, [chunk for chunk in chunks(150) if chunk.number >= 99])
    assert await build_missing(index, ENOUGH) == ["tiny"]
    assert await built_indexes(index) == {"chunks_neighbours_1": True}
    assert await build_missing(index, ENOUGH) == []
    await index.execute("SET enable_seqscan = off")
    found, plan = await nearest(index)
    assert "chunks_neighbours_1" in plan
    assert found[0] == exact[0] == 42


async def test_each_model_has_an_index_of_its_own(index: Connection) -> None:
    other = [
        msgspec.structs.replace(chunk, model="other", vector=chunk.vector[:4])
        for chunk in chunks(120, asset=1)
    ]
    await write(index, [*chunks(120), *other])
    assert await build_missing(index, ENOUGH) == ["tiny", "other"]
    assert set(await built_indexes(index)) == {"chunks_neighbours_1", "chunks_neighbours_2"}


async def test_an_index_whose_builder_died_is_built_anew(settings: Settings, index: Connection) -> None:
    await write(index, chunks(150))
    other = await database.connect(settings)
    async with other.transaction():
        await write(other, chunks(151))  # which CREATE INDEX CONCURRENTLY waits for
        building = asyncio.create_task(build_missing(index, ENOUGH))
        await until(lambda: built_indexes(other))
        building.cancel()
        with suppress(asyncio.CancelledError):
            await building
    assert await built_indexes(other) == {"chunks_neighbours_1": False}
    assert await build_missing(other, ENOUGH) == ["tiny"]
    assert await built_indexes(other) == {"chunks_neighbours_1": True}
    await other.close()


async def test_a_server_short_of_shared_memory_builds_without_parallel_workers(
    index: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    create, tried = neighbour_index._create, []

    def fails_first(*arguments: Any) -> Any:
        tried.append(arguments)
        if len(tried) == 1:
            raise errors.DiskFull("could not resize shared memory segment")
        return create(*arguments)

    monkeypatch.setattr(neighbour_index, "_create", fails_first)
    await write(index, chunks(120))
    assert await build_missing(index, ENOUGH) == ["tiny"]
    found = await (await index.execute("SHOW max_parallel_maintenance_workers")).fetchone()
    assert found == ("0",)
