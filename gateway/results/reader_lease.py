"""The lease that lets one client at a time read the events of a file or stream."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import structlog

from shared import keys
from shared.errors import Conflict
from shared.redis.connection import Redis, RedisError, script

log = structlog.get_logger(__name__)

READER_TTL_MS = 3000
READER_RENEWAL = 1.0
LOOK_INTERVAL = 0.2
"""Seconds between looks at another client's lease: whether it is renewed."""


async def start_reading(redis: Redis, asset_id: str, client: str, replaces: str = "") -> None:
    """Take the lease for the client that reads the asset's events.

    Another client's lease, unless its name begins with `replaces`, is waited for: it runs out if that
    client's gateway has died. Raises Conflict as soon as it is renewed.
    """
    left = await _claim(redis, asset_id, client, replaces)
    while left:
        await asyncio.sleep(min(LOOK_INTERVAL, left / 1000))
        before, left = left, await _claim(redis, asset_id, client, replaces)
        if left >= before:
            raise Conflict(f"another client is reading the events of {asset_id}")


@asynccontextmanager
async def reading(redis: Redis, asset_id: str, client: str) -> AsyncIterator[asyncio.Event]:
    """Renew the lease until exit, then give it up. The event is set if another client has taken it."""
    replaced = asyncio.Event()

    async def renew() -> None:
        while not replaced.is_set():
            await asyncio.sleep(READER_RENEWAL)
            try:
                if await _claim(redis, asset_id, client):
                    replaced.set()
            except RedisError as error:
                log.warning("reader lease not renewed, trying again", asset=asset_id, error=str(error))

    renewing = asyncio.create_task(renew())
    try:
        yield replaced
    finally:
        renewing.cancel()
        await asyncio.gather(renewing, return_exceptions=True)
        await stop_reading(redis, asset_id, client)


async def stop_reading(redis: Redis, asset_id: str, client: str) -> None:
    """Give up the lease."""
    try:
        await script(redis, "release_reader")(keys=[keys.reader(asset_id)], args=[client])
    except RedisError as error:  # the lease expires by itself
        log.warning("reader lease not released, it expires by itself", asset=asset_id, error=str(error))


async def _claim(redis: Redis, asset_id: str, client: str, replaces: str = "") -> int:
    """Take or renew the lease; return 0, or the ms that another client's lease still lasts."""
    left = await script(redis, "claim_reader")(
        keys=[keys.reader(asset_id)], args=[client, READER_TTL_MS, replaces]
    )
    return int(left)
