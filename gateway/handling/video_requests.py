"""Requests for the vectors of videos and images: their media, and the plan of their chunks and jobs."""

from contextlib import AsyncExitStack

import structlog
from starlette.requests import Request as HttpRequest

from gateway.api.embedding_schemas import VideoRequest
from gateway.api.validation import problem
from gateway.context import Context
from gateway.disconnect import until_gone
from gateway.handling.idempotency import IdempotencyKey
from gateway.handling.ingestion import ingested
from gateway.handling.inline_media import Inline
from gateway.handling.probing import opened
from gateway.video.planning import Plan, plan_video
from shared.assets import Asset
from shared.chunks import SECOND
from shared.errors import AssetAlreadyExists, BadParameters, Unavailable

log = structlog.get_logger(__name__)


async def plan_request(
    ctx: Context,
    request: HttpRequest,
    body: VideoRequest,
    held: AsyncExitStack,
    inline: Inline | None = None,
    *,
    key: IdempotencyKey | None = None,
) -> Plan:
    """Return the plan for `body`. A URL's media is fetched, unless `inline`, and removed when `held` exits.

    Its id is that of the `key`. Raises every error with which the request may be refused; nothing is
    submitted then.
    """
    ids = body.ids
    taken = (inline.path, inline.size) if inline else ()
    source = await ctx.downloads.locate(body.url, *taken) if body.url is not None else None
    if source and len(ids) != 1:
        raise BadParameters(f"A url becomes one asset; give one id for it, not {len(ids)}")
    assets = [] if source else await _assets(ctx, ids)
    model = ctx.view.require_model(body.model)
    ctx.require_service()
    with ctx.reported(ids[0]):
        if source:
            ingestion = held.enter_async_context(ingested(ctx, body, ids[0], source))
            try:
                assets = [await until_gone(request, ingestion)]
            except AssetAlreadyExists as error:
                raise await _other_attempt(ctx, ids[0], key) or error from error
        assets = [await opened(ctx, asset) for asset in assets]
    request_id = key.request_id(ctx) if key else ctx.listener.new_id()
    structlog.contextvars.bind_contextvars(request_id=request_id)
    plan = plan_video(request_id, body, assets, model, ctx.settings.max_file_minutes * 60 * SECOND)
    plan = plan.with_body(key.body if key else "")
    log.info("video request planned", assets=plan.request.assets, chunks=plan.planned, jobs=len(plan.jobs))
    return plan


async def _other_attempt(ctx: Context, asset_id: str, key: IdempotencyKey | None) -> Unavailable | None:
    """Return the answer where an earlier attempt of the same request may have stored the media."""
    asset = await ctx.assets.find(asset_id) if key else None
    if asset is None or not asset.temporary:
        return None
    return Unavailable(f"the media {asset_id} of an earlier attempt is still held; try again later")


async def _assets(ctx: Context, ids: list[str]) -> list[Asset]:
    """Return the named assets.

    Raises BadParameter for an unknown id, BadParameters if one of several is not an image.
    """
    if not ids:
        raise problem(("body", "id"), "Give at least one id")
    assets = []
    for asset_id in ids:
        with ctx.reported(asset_id):
            assets.append(await ctx.assets.get(asset_id))
    for asset in assets:
        if len(assets) > 1 and asset.media_type != "image":
            name = asset.filename or asset.id
            raise BadParameters(f"Several ids may only name images; {name} is not an image")
    return assets
