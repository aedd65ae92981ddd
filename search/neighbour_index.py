"""The HNSW index of each model's vectors: built when a first load is over, kept up to date by PostgreSQL."""

import time

import structlog
from psycopg import errors, sql

from shared.search.database import Connection
from shared.settings import Settings

log = structlog.get_logger(__name__)

PREFIX = "chunks_neighbours_"
LINKS, BUILD_CANDIDATES = 16, 100
"""HNSW's m and ef_construction."""

_MODELS = "SELECT key, id, dimension FROM models ORDER BY key"
_HAS_ROWS = "SELECT count(*) FROM (SELECT FROM chunks WHERE model = %s LIMIT %s) AS first_rows"
_INDEXES = """
    SELECT pg_class.relname, pg_index.indisvalid FROM pg_index
    JOIN pg_class ON pg_class.oid = pg_index.indexrelid
    WHERE pg_index.indrelid = 'chunks'::regclass AND starts_with(pg_class.relname, %s)"""


async def built_indexes(connection: Connection) -> dict[str, bool]:
    """Return the names of the HNSW indexes, and whether each is complete. Raises DatabaseError."""
    return dict(await (await connection.execute(_INDEXES, [PREFIX])).fetchall())


async def build_missing(connection: Connection, settings: Settings) -> list[str]:
    """Build the index of every model that has chunks enough and none; return those models.

    One indexer at a time may call this: an index that is not complete is taken for one whose builder died.
    Raises DatabaseError.
    """
    built: list[str] = []
    indexes = await built_indexes(connection)
    for key, model, dimension in await (await connection.execute(_MODELS)).fetchall():
        name = f"{PREFIX}{key}"
        if indexes.get(name):
            continue
        if name in indexes:
            log.warning("incomplete HNSW index dropped", model=model)
            await connection.execute(sql.SQL("DROP INDEX CONCURRENTLY {}").format(sql.Identifier(name)))
        least = max(1, settings.search_index_rows)
        found = await (await connection.execute(_HAS_ROWS, [key, least])).fetchone()
        if found and found[0] >= least:
            await _build(connection, settings, name, key, dimension)
            built.append(model)
    return built


async def _build(connection: Connection, settings: Settings, name: str, model: int, dimension: int) -> None:
    began = time.monotonic()
    log.info("building HNSW index", index=name, memory_mb=settings.search_build_memory_mb)
    memory = f"{settings.search_build_memory_mb}MB"
    await connection.execute("SELECT set_config('maintenance_work_mem', %s, false)", [memory])
    try:
        await connection.execute(_create(name, model, dimension))
    except errors.DiskFull:
        # Parallel workers share the memory through /dev/shm, which is 64 MiB in a container by default.
        log.warning("HNSW index not built in parallel: too little shared memory", index=name)
        await connection.execute(sql.SQL("DROP INDEX CONCURRENTLY IF EXISTS {}").format(sql.Identifier(name)))
        await connection.execute("SET max_parallel_maintenance_workers = 0")
        await connection.execute(_create(name, model, dimension))
    log.info("HNSW index built", index=name, seconds=round(time.monotonic() - began, 1))


def _create(name: str, model: int, dimension: int) -> sql.Composed:
    return sql.SQL(
        "CREATE INDEX CONCURRENTLY {name} ON chunks "
        "USING hnsw ((embedding::halfvec({dimension})) halfvec_cosine_ops) "
        "WITH (m = {links}, ef_construction = {candidates}) WHERE model = {model}"
    ).format(
        name=sql.Identifier(name),
        dimension=sql.Literal(dimension),
        links=sql.Literal(LINKS),
        candidates=sql.Literal(BUILD_CANDIDATES),
        model=sql.Literal(model),
    )
