"""The media at a request's URL, as an asset that is removed when the request has ended."""

import asyncio
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from gateway.api.embedding_schemas import VideoRequest
from gateway.context import Context
from gateway.intake.downloads import Downloaded, Location
from shared.assets import Asset
from shared.errors import AssetAlreadyExists, DuplicateAssetId
from shared.telemetry.redaction import without_query

LEASE_MARGIN = 60
"""Seconds, besides those for opening the file, that a fetched asset may wait for its request."""


@asynccontextmanager
async def ingested(ctx: Context, body: VideoRequest, asset_id: str, source: Location) -> AsyncIterator[Asset]:
    """Yield the asset fetched from `source`. It is removed on exit, or when a request that uses it has ended.

    Raises AssetAlreadyExists, and what fetching raises (`Downloads.fetch`).
    """
    if await ctx.assets.find(asset_id):
        raise _taken(asset_id)
    holder = f"ingestion:{uuid.uuid4()}"
    async with ctx.assets.incoming() as folder:
        fetched = await ctx.downloads.fetch(
            source, folder, headers=body.url_headers, media_type=body.media_type or "video"
        )
        asset = _asset(body, asset_id, fetched)
        await ctx.assets.hold(asset, holder, ctx.settings.probe_timeout + LEASE_MARGIN)
        try:
            yield await _recorded(ctx, asset, ours=fetched.ours)
        finally:
            await asyncio.shield(ctx.assets.release(asset, holder))


async def _recorded(ctx: Context, asset: Asset, *, ours: bool) -> Asset:
    try:
        return await (ctx.assets.keep(asset) if ours else ctx.assets.register(asset))
    except DuplicateAssetId as error:
        raise _taken(asset.id) from error


def _asset(body: VideoRequest, asset_id: str, fetched: Downloaded) -> Asset:
    url = body.url or ""
    return Asset(
        id=asset_id,
        media_type=body.media_type or "video",
        path=fetched.path,
        filename=fetched.filename,
        size=fetched.size,
        creation_time=body.creation_time or "",
        url=without_query(url) if url.startswith(("http", "s3")) else "",
        temporary=True,
    )


def _taken(asset_id: str) -> AssetAlreadyExists:
    return AssetAlreadyExists(f"the id {asset_id} is already in use; give an id that is new")
