"""The queries to the search index, as SQL."""

from collections.abc import Sequence
from typing import Any

from pgvector import HalfVector
from psycopg import sql

from gateway.search.search_filters import ChunkPage, SearchFilters

_COLUMNS = sql.SQL(
    "chunks.key, assets.id, assets.name, assets.kind, assets.media_type, assets.sensor, assets.base_ns, "
    "chunks.number, chunks.start_ns, chunks.end_ns, chunks.request"
)
_THUMBNAIL, _NO_THUMBNAIL = sql.SQL("chunks.thumbnail"), sql.SQL("NULL::bytea")
_EMBEDDING, _NO_EMBEDDING = sql.SQL("chunks.embedding"), sql.SQL("NULL::halfvec")

MODELS = "SELECT id, dimension FROM models ORDER BY key"
STATE = """
    SELECT key, dimension,
        (SELECT coalesce(json_agg(json_build_array(asset, last_chunk)), '[]') FROM deletions)
    FROM models WHERE id = %s"""
"""A model, and the rows that are on their way out."""
COUNT = "SELECT greatest(reltuples, 0)::bigint FROM pg_class WHERE oid = 'chunks'::regclass"
"""About how many chunks there are, as PostgreSQL's statistics say."""
FORGET = """
    INSERT INTO deletions (asset, last_chunk)
    SELECT asset, max(chunks.key) FROM chunks JOIN assets ON assets.key = asset WHERE assets.id = %s
    GROUP BY asset
    ON CONFLICT (asset) DO UPDATE SET last_chunk = excluded.last_chunk"""


def nearest(
    model: int,
    dimension: int,
    vector: Sequence[float],
    count: int,
    filters: SearchFilters,
    *,
    thumbnails: bool,
) -> tuple[sql.Composed, dict[str, Any]]:
    """Return the query for the chunks that are nearest to `vector`, the nearest first, and its parameters.

    The model and the dimension are literals: otherwise PostgreSQL would not use the model's HNSW index.
    """
    where, parameters = _conditions(filters)
    query = sql.SQL(
        "SELECT {columns}, 1 - found.distance, {thumbnail}, NULL::halfvec FROM ("
        "SELECT key, embedding::halfvec({dimension}) <=> %(vector)b AS distance FROM chunks "
        "WHERE model = {model} {where} "
        "ORDER BY embedding::halfvec({dimension}) <=> %(vector)b LIMIT %(count)s"
        ") AS found JOIN chunks ON chunks.key = found.key JOIN assets ON assets.key = chunks.asset "
        "ORDER BY found.distance, chunks.key"
    ).format(
        columns=_COLUMNS,
        thumbnail=_THUMBNAIL if thumbnails else _NO_THUMBNAIL,
        dimension=sql.Literal(dimension),
        model=sql.Literal(model),
        where=where,
    )
    return query, {**parameters, "vector": HalfVector(list(vector)), "count": count}


def chunks_of(model: int, page: ChunkPage, filters: SearchFilters) -> tuple[sql.Composed, dict[str, Any]]:
    """Return the query for the chunks of one asset in order of time."""
    where, parameters = _conditions(filters)
    query = sql.SQL(
        "SELECT {columns}, 1.0, {thumbnail}, {embedding} "
        "FROM chunks JOIN assets ON assets.key = chunks.asset "
        "WHERE model = {model} AND assets.id = %(asset)s "
        "AND (%(numbers)s::integer[] IS NULL OR chunks.number = ANY(%(numbers)s)) {where} "
        "ORDER BY chunks.start_ns, chunks.end_ns OFFSET %(after)s LIMIT %(count)s"
    ).format(
        columns=_COLUMNS,
        thumbnail=_THUMBNAIL if page.thumbnails else _NO_THUMBNAIL,
        embedding=_EMBEDDING if page.vectors else _NO_EMBEDDING,
        model=sql.Literal(model),
        where=where,
    )
    numbers = None if page.numbers is None else list(page.numbers)
    wanted = {"asset": page.asset, "numbers": numbers, "after": page.after, "count": page.count}
    return query, {**parameters, **wanted}


def _conditions(filters: SearchFilters) -> tuple[sql.Composable, dict[str, Any]]:
    """Return what rows must fulfil, as ` AND ...`, and its parameters."""
    parts: list[str] = []
    parameters: dict[str, Any] = {}
    keys_of = "ARRAY(SELECT key FROM assets WHERE {} = ANY(%({})s))"
    for name, column, wanted in (("assets", "id", filters.assets), ("cameras", "sensor", filters.cameras)):
        if wanted is not None:
            parts.append(f"chunks.asset = ANY({keys_of.format(column, name)})")
            parameters[name] = list(wanted)
    if filters.deleted:
        parts.append(f"chunks.asset <> ALL({keys_of.format('id', 'deleted')})")
        parameters["deleted"] = list(filters.deleted)
    for number, (asset, last) in enumerate(filters.removed):
        parts.append(f"NOT (chunks.asset = %(removed{number})s AND chunks.key <= %(last{number})s)")
        parameters |= {f"removed{number}": asset, f"last{number}": last}
    for name, condition, bound in (
        ("start", "chunks.end_ns > %(start)s", filters.start),
        ("end", "chunks.start_ns < %(end)s", filters.end),
        ("not_chunk", "chunks.key <> %(not_chunk)s", filters.not_chunk),
    ):
        if bound is not None:
            parts.append(condition)
            parameters[name] = bound
    return sql.SQL("".join(f" AND {part}" for part in parts)), parameters
