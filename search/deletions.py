"""Assets that were deleted: first marked, which removes them from every answer, then removed row by row.

Gateways list deleted assets in Redis in the same step that deletes them (`shared/scripts/delete_asset.lua`).
"""

from typing import Any

import structlog

from search.index_writer import WRITING
from shared import keys
from shared.redis.connection import Redis, script
from shared.search.database import Connection

log = structlog.get_logger(__name__)

MARKING = 0x52544533
"""PostgreSQL's advisory lock: one indexer at a time takes deletions over from Redis."""
MARKED_AT_ONCE = 1000
REMOVED_AT_ONCE = 5000
REMEMBERED_DAYS = 30
"""How long messages about a deleted asset are ignored: as long as any bus should keep them."""

# A deleted asset may be unknown here: its messages may still come.
_MARK = """
    INSERT INTO assets (id, kind, media_type, name, sensor, description, url, created, deleted)
    SELECT id, 'file', 'video', id, id, '', '', 0, second
    FROM unnest(%s::text[], %s::bigint[]) AS n (id, second)
    ON CONFLICT (id) DO UPDATE SET deleted = excluded.deleted
    WHERE assets.created <= excluded.deleted
    RETURNING key"""
_TO_REMOVE = """
    INSERT INTO deletions (asset, last_chunk)
    SELECT asset, max(key) FROM chunks WHERE asset = ANY(%s) GROUP BY asset
    ON CONFLICT (asset) DO UPDATE SET last_chunk = excluded.last_chunk"""
_REMOVE_MATCHES = "DELETE FROM matches WHERE asset = ANY(%s)"
_REMOVE = """
    DELETE FROM chunks WHERE key IN
        (SELECT key FROM chunks WHERE asset = %s AND key <= %s LIMIT %s)"""
_FORGET = """
    DELETE FROM assets WHERE coalesce(deleted, 0) < extract(epoch FROM now()) - %s * 86400
        AND NOT EXISTS (SELECT FROM chunks WHERE asset = assets.key)
        AND NOT EXISTS (SELECT FROM deletions WHERE asset = assets.key)"""


async def mark_deleted(redis: Redis, connection: Connection) -> int:
    """Take over what Redis lists, so that its rows no longer count; return how many assets that were.

    Raises RedisError, DatabaseError.
    """
    marked = 0
    while await redis.zcard(keys.SEARCH_DELETED):
        # Held until Redis lists them no longer: what another indexer took over may have a new life by then.
        await connection.execute("SELECT pg_advisory_lock(%s)", [MARKING])
        try:
            marked += await _mark_listed(redis, connection)
        finally:
            if not connection.broken:
                await connection.execute("SELECT pg_advisory_unlock(%s)", [MARKING])
    if marked:
        log.info("assets marked as deleted", assets=marked)
    return marked


async def _mark_listed(redis: Redis, connection: Connection) -> int:
    listed: Any = await redis.zrange(keys.SEARCH_DELETED, 0, MARKED_AT_ONCE - 1, withscores=True)
    deleted = sorted((asset_id.decode(), int(second)) for asset_id, second in listed)
    ids, seconds = [asset_id for asset_id, _ in deleted], [second for _, second in deleted]
    async with connection.transaction():
        found = await (await connection.execute(_MARK, [ids, seconds])).fetchall()
        marked = [key for (key,) in found]
        await connection.execute(_TO_REMOVE, [marked])
        await connection.execute(_REMOVE_MATCHES, [marked])
    await script(redis, "deletions_seen")(
        keys=[keys.SEARCH_DELETED], args=[part for pair in deleted for part in pair]
    )
    return len(found)


async def remove_marked(connection: Connection) -> int:
    """Remove the rows of assets that were marked; return how many those were. Raises DatabaseError."""
    removed = 0
    cursor = await connection.execute("SELECT asset, last_chunk FROM deletions")
    for asset, last_chunk in await cursor.fetchall():
        while True:
            rows = (await connection.execute(_REMOVE, [asset, last_chunk, REMOVED_AT_ONCE])).rowcount
            removed += rows
            if rows < REMOVED_AT_ONCE:
                break
        await connection.execute(
            "DELETE FROM deletions WHERE asset = %s AND last_chunk = %s", [asset, last_chunk]
        )
    if removed:
        log.info("chunks of deleted assets removed", chunks=removed)
    return removed


async def forget_unused(connection: Connection) -> int:
    """Forget assets that have no rows, deleted ones after REMEMBERED_DAYS; return how many.

    Raises DatabaseError.
    """
    async with connection.transaction():
        await connection.execute("SELECT pg_advisory_xact_lock(%s)", [WRITING])
        return (await connection.execute(_FORGET, [REMEMBERED_DAYS])).rowcount
