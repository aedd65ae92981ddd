"""Writing chunks: one transaction per batch, in which a chunk that is there already changes nothing."""

from collections.abc import Mapping, Sequence

import structlog
from pgvector import HalfVector

from search.chunk_messages import IndexedAsset, IndexedChunk
from search.trigger_matching import match_triggers
from shared.errors import MessageRefused
from shared.search.database import Connection
from shared.telemetry import instruments

WRITING = 0x52544532
"""PostgreSQL's advisory lock: shared by those who write chunks, exclusive for who removes unused assets."""

log = structlog.get_logger(__name__)

_ASSETS = """
    unnest(%s::text[], %s::text[], %s::text[], %s::text[], %s::text[], %s::text[], %s::text[], %s::bigint[],
           %s::bigint[]) AS n (id, kind, media_type, name, sensor, description, url, base_ns, created)"""
_ADD_ASSETS = f"""
    INSERT INTO assets (id, kind, media_type, name, sensor, description, url, base_ns, created)
    SELECT * FROM {_ASSETS} ON CONFLICT (id) DO NOTHING"""  # noqa: S608 - our own text
_UPDATE_ASSETS = f"""
    UPDATE assets SET kind = n.kind, media_type = n.media_type, name = n.name, sensor = n.sensor,
        description = n.description, url = n.url, base_ns = n.base_ns, created = n.created, deleted = NULL
    FROM {_ASSETS}
    WHERE assets.id = n.id AND n.created >= coalesce(assets.deleted, 0) AND (assets.deleted IS NOT NULL OR
        (assets.kind, assets.media_type, assets.name, assets.sensor, assets.description, assets.url,
         assets.base_ns, assets.created)
        IS DISTINCT FROM
        (n.kind, n.media_type, n.name, n.sensor, n.description, n.url, n.base_ns, n.created))"""  # noqa: S608
# The lock keeps a deletion of the asset out until this batch is committed, and then the deletion sees it.
_LOCK_ASSETS = "SELECT id, key FROM assets WHERE id = ANY(%s) AND deleted IS NULL ORDER BY id FOR SHARE"
_ADD_MODEL = "INSERT INTO models (id, dimension) VALUES (%s, %s) ON CONFLICT (id) DO NOTHING"
_FIND_MODEL = "SELECT key, dimension FROM models WHERE id = %s"
_ADD_CHUNKS = """
    INSERT INTO chunks (asset, model, number, start_ns, end_ns, request, embedding, thumbnail)
    SELECT * FROM unnest(%s::bigint[], %s::smallint[], %s::integer[], %s::bigint[], %s::bigint[], %s::text[],
                         %b::halfvec[], %b::bytea[])
    ON CONFLICT (asset, model, start_ns, end_ns) DO UPDATE SET thumbnail = excluded.thumbnail
        WHERE chunks.thumbnail IS NULL AND excluded.thumbnail IS NOT NULL
    RETURNING key, xmax = 0"""


class IndexWriter:
    """Writes through one connection, and remembers the models that it met."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._models: dict[str, tuple[int, int]] = {}
        """Key and dimension of each model, by id."""

    async def dimension(self, chunk: IndexedChunk) -> int:
        """Return how many values the vectors of the chunk's model have; the first one met decides."""
        if chunk.model not in self._models:
            await self._connection.execute(_ADD_MODEL, [chunk.model, len(chunk.vector)])
            found = await (await self._connection.execute(_FIND_MODEL, [chunk.model])).fetchone()
            assert found  # noqa: S101 - models are never deleted
            self._models[chunk.model] = (found[0], found[1])
        return self._models[chunk.model][1]

    async def check(self, chunk: IndexedChunk) -> None:
        """Raise MessageRefused if the chunk's vector does not fit its model."""
        wanted = await self.dimension(chunk)
        if len(chunk.vector) != wanted:
            raise MessageRefused(
                f"a vector of {len(chunk.vector)} values; those of {chunk.model} in the index have {wanted}"
            )

    async def write(self, chunks: Sequence[IndexedChunk], known: Mapping[str, IndexedAsset]) -> int:
        """Write chunks that passed `check`, all or none; return how many were new.

        `known` tells what Redis knows of assets; where it knows one, an earlier deletion counts no longer.
        Raises DatabaseError.
        """
        rows = distinct(chunks)
        async with self._connection.transaction():
            await self._connection.execute("SELECT pg_advisory_xact_lock_shared(%s)", [WRITING])
            await self._write_assets(rows, known)
            ids = sorted({chunk.asset.id for chunk in rows})
            found = await (await self._connection.execute(_LOCK_ASSETS, [ids])).fetchall()
            keys: dict[str, int] = dict(found)
            wanted = [chunk for chunk in rows if chunk.asset.id in keys]
            added = await self._write_chunks(wanted, keys) if wanted else []
            matched = await match_triggers(self._connection, added) if added else 0
        instruments.trigger_matches.add(matched)
        return len(added)

    async def _write_assets(self, rows: Sequence[IndexedChunk], known: Mapping[str, IndexedAsset]) -> None:
        met = {chunk.asset.id: known.get(chunk.asset.id, chunk.asset) for chunk in rows}
        # In order, so that two indexers never wait for each other.
        await self._connection.execute(_ADD_ASSETS, _columns([met[i] for i in sorted(met)]))
        if recorded := [met[i] for i in sorted(met) if i in known]:
            await self._connection.execute(_UPDATE_ASSETS, _columns(recorded))

    async def _write_chunks(self, rows: Sequence[IndexedChunk], keys: Mapping[str, int]) -> list[int]:
        """Return the keys of the rows that are new."""
        cursor = await self._connection.execute(
            _ADD_CHUNKS,
            [
                [keys[chunk.asset.id] for chunk in rows],
                [self._models[chunk.model][0] for chunk in rows],
                [chunk.number for chunk in rows],
                [chunk.start for chunk in rows],
                [chunk.end for chunk in rows],
                [chunk.request for chunk in rows],
                [HalfVector(chunk.vector) for chunk in rows],
                [chunk.thumbnail for chunk in rows],
            ],
        )
        return [key for key, is_new in await cursor.fetchall() if is_new]


def distinct(chunks: Sequence[IndexedChunk]) -> list[IndexedChunk]:
    """Return the chunks in order of their keys, each once, and with its picture if any copy has one."""
    rows: dict[tuple[str, str, int, int], IndexedChunk] = {}
    for chunk in chunks:
        kept = rows.get(chunk.key)
        if kept is None or (kept.thumbnail is None and chunk.thumbnail is not None):
            rows[chunk.key] = chunk
    return [rows[key] for key in sorted(rows)]


def _columns(assets: Sequence[IndexedAsset]) -> list[list[str | int | None]]:
    return [
        [asset.id for asset in assets],
        [asset.kind for asset in assets],
        [asset.media_type for asset in assets],
        [asset.name for asset in assets],
        [asset.sensor for asset in assets],
        [asset.description for asset in assets],
        [asset.url for asset in assets],
        [asset.base for asset in assets],
        [asset.created for asset in assets],
    ]
