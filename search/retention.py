"""Retention: limits on the age and the number of chunks. The oldest are removed first."""

import structlog

from shared.search.database import Connection
from shared.settings import Settings

log = structlog.get_logger(__name__)

REMOVED_AT_ONCE = 5000
HOUR = 3600

# Keys ascend as chunks are indexed, so the oldest are the first of the primary key.
_REMOVE_OLD = """
    DELETE FROM chunks WHERE key IN (
        SELECT key FROM (SELECT key, indexed_at FROM chunks ORDER BY key LIMIT %s) AS oldest
        WHERE indexed_at < now() - make_interval(secs => %s))"""
_REMOVE_FIRST = "DELETE FROM chunks WHERE key IN (SELECT key FROM chunks ORDER BY key LIMIT %s)"
_ESTIMATE = "SELECT greatest(reltuples, 0) FROM pg_class WHERE oid = 'chunks'::regclass"


async def count_chunks(connection: Connection) -> int:
    """Return about how many chunks there are, as PostgreSQL's statistics say; 0 before the first of them.

    Raises DatabaseError.
    """
    found = await (await connection.execute(_ESTIMATE)).fetchone()
    return int(found[0]) if found else 0


async def remove_expired(connection: Connection, settings: Settings) -> int:
    """Remove the chunks beyond a limit; return their number. Raises DatabaseError."""
    removed = 0
    if settings.search_max_age_hours:
        removed += await _remove_old(connection, settings.search_max_age_hours * HOUR)
    if settings.search_max_rows:
        removed += await _remove_beyond(connection, settings.search_max_rows)
    if removed:
        log.info("chunks removed by retention", chunks=removed)
    return removed


async def _remove_old(connection: Connection, seconds: float) -> int:
    removed = 0
    while True:
        rows = (await connection.execute(_REMOVE_OLD, [REMOVED_AT_ONCE, seconds])).rowcount
        removed += rows
        if rows < REMOVED_AT_ONCE:
            return removed


async def _remove_beyond(connection: Connection, most: int) -> int:
    found = await (await connection.execute("SELECT count(*) FROM chunks")).fetchone()
    over = left = max(0, int(found[0]) - most) if found else 0
    while left > 0:
        rows = (await connection.execute(_REMOVE_FIRST, [min(left, REMOVED_AT_ONCE)])).rowcount
        left -= max(rows, 1)
    return over
