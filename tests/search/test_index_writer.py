"""Chunks become rows, each once."""

import asyncio

import msgspec
import pytest

from search.chunk_messages import IndexedAsset, IndexedChunk, read_chunk
from search.index_writer import IndexWriter, distinct
from search.known_assets import indexed
from shared.errors import MessageRefused
from shared.search import database
from shared.search.database import Connection
from shared.settings import Settings
from tests.search.chunk_samples import MODEL, chunk_message, film, unit_vectors
from tests.search.conftest import count

PICTURE = b"\xff\xd8\xff a picture"


def chunks(number: int, asset: int = 0, **fields: object) -> list[IndexedChunk]:
    """Chunks of one film."""
    found = [
        read_chunk(chunk_message(film(asset), i, vector)) for i, vector in enumerate(unit_vectors(number))
    ]
    return [msgspec.structs.replace(chunk, **fields) for chunk in found if chunk]


async def write(
    connection: Connection, batch: list[IndexedChunk], known: dict[str, IndexedAsset] | None = None
) -> int:
    writer = IndexWriter(connection)
    for chunk in batch:
        await writer.check(chunk)
    return await writer.write(batch, known or {})


async def test_rows_hold_what_the_messages_said(index: Connection) -> None:
    assert await write(index, chunks(2)) == 2
    rows = await (
        await index.execute(
            "SELECT assets.id, models.id, number, start_ns, end_ns, request, embedding, thumbnail "
            "FROM chunks JOIN assets ON assets.key = asset JOIN models ON models.key = model ORDER BY number"
        )
    ).fetchall()
    assert [row[:6] for row in rows] == [
        (film().id, "tiny", 0, 0, 10**10, "request"),
        (film().id, "tiny", 1, 10**10, 2 * 10**10, "request"),
    ]
    assert rows[0][6].to_list() == pytest.approx(unit_vectors(2)[0].tolist(), abs=1e-3)
    assert rows[0][7] is None


async def test_the_same_chunks_again_change_nothing(index: Connection) -> None:
    assert await write(index, chunks(5)) == 5
    before = await (await index.execute("SELECT * FROM chunks ORDER BY key")).fetchall()
    assert await write(index, chunks(5)) == 0
    assert await write(index, [*chunks(5), *chunks(5)]) == 0
    assert len(before) == 5
    assert str(before) == str(await (await index.execute("SELECT * FROM chunks ORDER BY key")).fetchall())


async def test_a_picture_that_comes_later_is_added(index: Connection) -> None:
    await write(index, chunks(2))
    assert await write(index, chunks(2, thumbnail=PICTURE)) == 0
    assert await write(index, chunks(2)) == 0
    rows = await (await index.execute("SELECT thumbnail FROM chunks")).fetchall()
    assert rows == [(PICTURE,), (PICTURE,)]


def test_copies_in_one_batch_are_one_row_with_the_picture() -> None:
    plain, pictured = chunks(2), chunks(2, thumbnail=PICTURE)
    assert distinct([plain[1], *plain, pictured[0], plain[0]]) == [pictured[0], plain[1]]


async def test_other_chunkings_and_models_are_other_rows(index: Connection) -> None:
    batch = chunks(1)
    longer = msgspec.structs.replace(batch[0], end=2 * 10**10)
    other = msgspec.structs.replace(batch[0], model="another", vector=[1.0, 2.0])
    assert await write(index, [*batch, longer, other]) == 3
    assert await (await index.execute("SELECT id, dimension FROM models ORDER BY id")).fetchall() == [
        ("another", 2),
        ("tiny", 8),
    ]


async def test_a_vector_of_another_length_is_refused(index: Connection) -> None:
    await write(index, chunks(1))
    with pytest.raises(MessageRefused, match="a vector of 2 values; those of tiny in the index have 8"):
        await write(index, chunks(1, vector=[1.0, 2.0]))


async def test_what_redis_knows_of_an_asset_wins(index: Connection) -> None:
    await write(index, chunks(1))
    known = indexed(film(creation_time="2024-06-09T18:32:11.500Z", filename="holiday.mp4"))
    await write(index, chunks(1), {film().id: known})
    row = await (await index.execute("SELECT name, base_ns, created FROM assets")).fetchone()
    assert row == ("holiday.mp4", 1_717_957_931_500_000_000, 1_700_000_000)
    assert await write(index, chunks(2)) == 1
    assert await (await index.execute("SELECT name FROM assets")).fetchone() == ("holiday.mp4",)


async def test_chunks_of_a_deleted_asset_are_ignored_until_it_is_made_again(index: Connection) -> None:
    await write(index, chunks(1))
    await index.execute("UPDATE assets SET deleted = 1700000100")
    assert await write(index, chunks(3)) == 0
    assert await write(index, chunks(3), {film().id: indexed(film(created=1_700_000_099))}) == 0
    assert await write(index, chunks(3), {film().id: indexed(film(created=1_700_000_101))}) == 2
    assert await write(index, chunks(4)) == 1
    assert await count(index, "assets WHERE deleted IS NULL") == 1


async def test_a_batch_is_written_whole_or_not_at_all(index: Connection) -> None:
    batch = chunks(3)
    bad = msgspec.structs.replace(batch[2], request="no\0text")
    with pytest.raises(database.DatabaseError):
        await write(index, [*batch[:2], bad])
    assert await count(index) == 0


async def test_indexers_that_write_the_same_do_not_wait_for_each_other(
    settings: Settings, index: Connection
) -> None:
    """Each batch has its chunks and assets in another order."""
    connections = [await database.connect(settings) for _ in range(4)]
    batch = [chunk for asset in range(20) for chunk in chunks(5, asset)]
    orders = [batch, batch[::-1], batch[50:] + batch[:50], batch[::-1]]
    for _ in range(3):
        written = await asyncio.gather(*(write(c, o) for c, o in zip(connections, orders, strict=True)))
        assert sum(written) in {0, 100}
    assert await count(index) == 100
    for connection in connections:
        await connection.close()


def test_the_model_of_the_samples_has_their_dimension() -> None:
    assert MODEL.dimension == len(chunks(1)[0].vector)
