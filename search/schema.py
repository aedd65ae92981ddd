"""The tables of the index: numbered SQL files, each applied once, in order, by one indexer at a time."""

from importlib import resources

import structlog
from psycopg import errors, sql

from shared.errors import IndexUnusable
from shared.search.database import SCHEMA, Connection, configure

log = structlog.get_logger(__name__)

LOCK = 0x52544531
"""PostgreSQL's advisory lock for changing the tables."""
OLDEST_PGVECTOR = (0, 8)
"""Filtered searches in an HNSW index need iterative scans."""


def migrations() -> list[tuple[int, str]]:
    """Return the number and SQL of every migration, in order."""
    folder = resources.files("search") / "migrations"
    files = sorted(file.name for file in folder.iterdir() if file.name.endswith(".sql"))
    return [(int(name.partition("_")[0]), (folder / name).read_text()) for name in files]


async def migrate(connection: Connection) -> int:
    """Bring the tables up to date and return their version.

    Raises IndexUnusable if this database cannot hold an index, DatabaseError while it is away.
    """
    async with connection.transaction():
        await connection.execute("SELECT pg_advisory_xact_lock(%s)", [LOCK])
        await _require_pgvector(connection)
        await _create_schema(connection)
        version = await _version(connection)
        for number, statements in migrations():
            if number > version:
                await connection.execute(sql.SQL(statements))
                await connection.execute("INSERT INTO migrations (number) VALUES (%s)", [number])
                log.info("index migrated", migration=number)
    return await _version(connection)


async def _version(connection: Connection) -> int:
    found = await (await connection.execute("SELECT coalesce(max(number), 0) FROM migrations")).fetchone()
    return int(found[0]) if found else 0


async def _create_schema(connection: Connection) -> None:
    try:
        # Not IF NOT EXISTS, which asks for the right to create schemas even where there is nothing to do.
        found = await (await connection.execute("SELECT to_regnamespace(%s)", [SCHEMA])).fetchone()
        if not (found and found[0]):
            await connection.execute(sql.SQL("CREATE SCHEMA {}").format(sql.Identifier(SCHEMA)))
        await connection.execute(
            "CREATE TABLE IF NOT EXISTS migrations "
            "(number integer PRIMARY KEY, applied_at timestamptz NOT NULL DEFAULT now())"
        )
    except errors.InsufficientPrivilege as error:
        raise IndexUnusable(
            f"the user of RTEMBED_SEARCH_URL may not create the schema {SCHEMA}: {error}"
        ) from error


async def _require_pgvector(connection: Connection) -> None:
    try:
        await connection.execute("CREATE EXTENSION IF NOT EXISTS vector")
    except (errors.InsufficientPrivilege, errors.UndefinedFile, errors.FeatureNotSupported) as error:
        raise IndexUnusable(
            f"the database of RTEMBED_SEARCH_URL lacks pgvector: install it and run CREATE EXTENSION vector "
            f"as its owner ({error})"
        ) from error
    await configure(connection)
    query = "SELECT extversion FROM pg_extension WHERE extname = 'vector'"
    found = await (await connection.execute(query)).fetchone()
    version = str(found[0]) if found else "0"
    if tuple(int(part) for part in version.split(".")[:2]) < OLDEST_PGVECTOR:
        oldest = ".".join(map(str, OLDEST_PGVECTOR))
        raise IndexUnusable(f"pgvector {version} is too old for the index: it needs {oldest} or newer")
