"""Triggers are compared with each chunk once, and what matches is kept."""

import asyncio
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from pgvector import HalfVector
from psycopg import sql

from search.chunk_messages import IndexedChunk, read_chunk
from search.deletions import mark_deleted
from search.index_writer import IndexWriter
from search.trigger_matching import Candidate, cooled, remove_old_matches
from shared import keys
from shared.assets import Asset
from shared.chunks import SECOND
from shared.redis.connection import Redis
from shared.search import database
from shared.search.database import Connection
from shared.settings import Settings
from tests.search.chunk_samples import MODEL, chunk_message, film, unit_vectors
from tests.search.conftest import count

GATE = Asset(id="gate", kind="stream", path="rtsp://camera/1", camera_id="gate")
YARD = Asset(id="yard", kind="stream", path="rtsp://camera/2")
WANTED, OTHER = unit_vectors(2, 8)


async def add_trigger(connection: Connection, **fields: Any) -> str:
    """A trigger for WANTED on every camera; returns its id."""
    values = {
        "id": "t", "name": "A dog", "question": "text", "sentence": "a dog", "model": MODEL.id,
        "embedding": WANTED, "threshold": 0.9, "cameras": None, "files": False, "cooldown_ns": 0,
        "webhook": "", "delivery": "", "sealed": False, "signed": False, **fields,
    }  # fmt: skip
    values["embedding"] = HalfVector(values["embedding"].tolist())
    query = sql.SQL("INSERT INTO triggers ({}) VALUES ({})").format(
        sql.SQL(", ").join(map(sql.Identifier, values)), sql.SQL(", ").join(map(sql.Placeholder, values))
    )
    await connection.execute(query, values)
    return str(values["id"])


def chunk(asset: Asset, number: int, vector: np.ndarray = WANTED) -> IndexedChunk:
    found = read_chunk(chunk_message(asset, number, vector))
    assert found
    return found


async def write(connection: Connection, *chunks: IndexedChunk) -> None:
    writer = IndexWriter(connection)
    for one in chunks:
        await writer.check(one)
    await writer.write(chunks, {})


async def matches(connection: Connection, trigger: str = "t") -> list[tuple[str, int]]:
    cursor = await connection.execute(
        "SELECT assets.id, number FROM matches JOIN triggers ON triggers.key = trigger "
        "JOIN assets ON assets.key = asset WHERE triggers.id = %s ORDER BY matches.key",
        [trigger],
    )
    return await cursor.fetchall()


async def test_what_is_near_enough_matches_once(index: Connection) -> None:
    near = WANTED + 0.2 * OTHER
    await write(index, chunk(GATE, 0))
    await add_trigger(index)
    chunks = [chunk(GATE, 0), chunk(GATE, 1), chunk(GATE, 2, OTHER), chunk(GATE, 3, near), chunk(film(), 4)]
    await write(index, *chunks)
    await write(index, *chunks)
    assert await matches(index) == [("gate", 1), ("gate", 3)]
    (row,) = await (
        await index.execute(
            "SELECT start_ns, end_ns, request, score, matches FROM matches, triggers WHERE number = 3"
        )
    ).fetchall()
    cosine = float(near @ WANTED / np.linalg.norm(near))
    assert row == (30 * SECOND, 40 * SECOND, "request", pytest.approx(cosine, abs=1e-3), 2)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"cameras": ["gate"]}, ["gate"]),
        ({"cameras": ["yard", "nobody"]}, ["yard"]),
        ({"cameras": [film().id]}, []),
        ({"cameras": [film().id], "files": True}, [film().id]),
        ({"files": True}, ["gate", "yard", film().id]),
        ({"model": "another"}, []),
        ({"embedding": np.ones(3)}, []),
        ({"threshold": 1.0, "embedding": WANTED + 0.2 * OTHER}, []),
        ({"embedding": -WANTED, "threshold": -1.0}, ["gate", "yard"]),
    ],
)
async def test_a_trigger_says_what_counts(
    index: Connection, fields: dict[str, Any], expected: list[str]
) -> None:
    await add_trigger(index, **fields)
    await write(index, chunk(GATE, 0), chunk(YARD, 0), chunk(film(), 0))
    assert sorted(asset for asset, _ in await matches(index)) == sorted(expected)


async def test_a_standing_match_is_told_once_per_cool_down_and_camera(index: Connection) -> None:
    await add_trigger(index, cooldown_ns=30 * SECOND)
    await write(index, *(chunk(GATE, number) for number in range(8)))
    for number in (8, 9, 10):
        await write(index, chunk(GATE, number), chunk(YARD, number))
    assert await matches(index) == [("gate", 0), ("gate", 3), ("gate", 6), ("yard", 8), ("gate", 9)]


def candidate(start: int, cooldown: int = 10) -> Candidate:
    return Candidate(1, cooldown, 1, 1, 1, start, start + 1, "r", 1.0)


@pytest.mark.parametrize(
    ("starts", "earlier", "chosen"),
    [
        ([0, 9, 10, 19, 20], [], [0, 10, 20]),
        ([5, 15, 30], [20], [5, 30]),
        ([0, 1, 2], [1], []),
        ([11], [1, 22], [11]),
    ],
)
def test_cool_down_looks_both_ways(
    starts: Sequence[int], earlier: Sequence[int], chosen: Sequence[int]
) -> None:
    found = cooled([candidate(start) for start in starts], [(1, 1, start) for start in earlier])
    assert [one.start for one in found] == list(chosen)


async def test_two_indexers_keep_one_cool_down(index: Connection, settings: Settings) -> None:
    await add_trigger(index, cooldown_ns=3600 * SECOND)
    others = [await database.connect(settings) for _ in range(4)]
    await asyncio.gather(*(write(other, chunk(GATE, number)) for number, other in enumerate(others)))
    assert len(await matches(index)) == 1
    for other in others:
        await other.close()


async def test_a_deleted_trigger_matches_nothing_and_a_deleted_camera_leaves_no_match(
    index: Connection, redis: Redis
) -> None:
    await add_trigger(index)
    await add_trigger(index, id="gone")
    await write(index, chunk(GATE, 0), chunk(YARD, 0))
    await index.execute("DELETE FROM triggers WHERE id = 'gone'")
    await redis.zadd(keys.SEARCH_DELETED, {"gate": 1_800_000_000})
    await mark_deleted(redis, index)
    await write(index, chunk(YARD, 1))
    assert await matches(index) == [("yard", 0), ("yard", 1)]
    assert await count(index, "matches") == 2


async def test_old_matches_go(index: Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("search.trigger_matching.KEPT", 3)
    for name in ("t", "few"):
        await add_trigger(index, id=name, cameras=["gate"] if name == "t" else ["yard"])
    await write(index, *(chunk(GATE, number) for number in range(8)), chunk(YARD, 0))
    assert await remove_old_matches(index) == 5
    assert await matches(index) == [("gate", 5), ("gate", 6), ("gate", 7)]
    assert await matches(index, "few") == [("yard", 0)]
