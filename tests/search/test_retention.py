"""The index keeps its bounds, the oldest chunks going first."""

import pytest

from search.retention import count_chunks, remove_expired
from shared.search.database import Connection
from shared.settings import load
from tests.search.conftest import count
from tests.search.test_index_writer import chunks, write


async def test_without_bounds_nothing_goes(index: Connection) -> None:
    await write(index, chunks(3))
    assert await remove_expired(index, load({})) == 0


@pytest.mark.parametrize("at_once", [2, 5000])
async def test_chunks_that_are_too_old_go(
    index: Connection, monkeypatch: pytest.MonkeyPatch, at_once: int
) -> None:
    monkeypatch.setattr("search.retention.REMOVED_AT_ONCE", at_once)
    await write(index, chunks(5))
    await index.execute("UPDATE chunks SET indexed_at = now() - interval '3 hours'")
    await write(index, chunks(8))
    assert await remove_expired(index, load({"RTEMBED_SEARCH_MAX_AGE_HOURS": "4"})) == 0
    assert await remove_expired(index, load({"RTEMBED_SEARCH_MAX_AGE_HOURS": "2.5"})) == 5
    assert await count(index) == 3


@pytest.mark.parametrize("at_once", [2, 5000])
async def test_chunks_beyond_the_number_go(
    index: Connection, monkeypatch: pytest.MonkeyPatch, at_once: int
) -> None:
    monkeypatch.setattr("search.retention.REMOVED_AT_ONCE", at_once)
    await write(index, chunks(9))
    bounded = load({"RTEMBED_SEARCH_MAX_ROWS": "4"})
    assert await remove_expired(index, bounded) == 5
    rows = await (await index.execute("SELECT number FROM chunks ORDER BY number")).fetchall()
    assert [number for (number,) in rows] == [5, 6, 7, 8]
    assert await remove_expired(index, bounded) == 0


async def test_the_number_of_chunks_is_that_of_the_statistics(index: Connection) -> None:
    assert await count_chunks(index) == 0
    await write(index, chunks(9))
    await index.execute("ANALYZE chunks")
    assert await count_chunks(index) == 9
