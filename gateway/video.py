"""Video and image embeddings: one JSON answer, or one event per chunk."""

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import structlog
from starlette.requests import Request
from starlette.responses import Response

from gateway.answers import chunk_event, usage, video_response
from gateway.context import Context, FailedEnd, collect, context, json, read_body, require_service, until_gone
from gateway.ingestion import ingested
from gateway.planning import Plan, plan_video
from gateway.probing import probe
from gateway.progress import Progress
from gateway.schemas import FailureEvent, UsageEvent, VideoRequest, VideoResponse
from gateway.sse import DONE, EventStream, event
from gateway.validation import problem, validate_json
from shared import keys
from shared.assets import Asset
from shared.errors import BadParameters, Conflict, FailedRequest
from shared.redis import script
from shared.results import End, Result

log = structlog.get_logger(__name__)

READER_TTL_MS = 3000
READER_RENEWAL = 1.0


async def generate_video_embeddings(request: Request) -> Response:
    """Embed a file chunk by chunk, or a list of images as one clip."""
    ctx = context(request)
    body = validate_json(await read_body(request), VideoRequest)
    ids = [body.id] if isinstance(body.id, str) else body.id
    source = await ctx.downloads.locate(body.url) if body.url is not None else None
    if source and len(ids) != 1:
        raise BadParameters(f"A url becomes one asset; give one id for it, not {len(ids)}")
    async with AsyncExitStack() as held:
        progress = held.enter_context(Progress(request))
        assets = [] if source else await _assets(ctx, ids)
        model = ctx.view.require_model(body.model)
        require_service(ctx)
        if source:
            ingestion = held.enter_async_context(ingested(ctx, body, ids[0], source))
            assets = [await until_gone(request, ingestion)]
        request_id = ctx.notices.new_id()
        structlog.contextvars.bind_contextvars(request_id=request_id)
        plan = plan_video(request_id, body, await _openable(ctx, assets), model)
        log.info("video request", assets=plan.request.assets, chunks=plan.planned, jobs=len(plan.jobs))
        if not body.stream:
            return json(await until_gone(request, _answer(ctx, plan, progress)))
        reader = await _start_reading(ctx, plan)
        include_usage = body.stream_options is not None and body.stream_options.include_usage
        return EventStream(_events(ctx, plan, reader, progress, held.pop_all(), include_usage=include_usage))


async def _assets(ctx: Context, ids: list[str]) -> list[Asset]:
    """The assets named. Raises BadParameter for an unknown one, BadParameters unless several are images."""
    if not ids:
        raise problem(("body", "id"), "Give at least one id")
    assets = [await ctx.assets.get(asset_id) for asset_id in ids]
    for asset in assets:
        if len(assets) > 1 and asset.media_type != "image":
            name = asset.filename or asset.id
            raise BadParameters(f"Several ids may only name images; {name} is not an image")
    return assets


async def _openable(ctx: Context, assets: list[Asset]) -> list[Asset]:
    """The assets with what their files are. Those accepted unopened are opened now."""
    return [asset if asset.probed else await _open(ctx, asset) for asset in assets]


async def _open(ctx: Context, asset: Asset) -> Asset:
    try:
        found = await probe(ctx, asset)
    except FailedEnd as error:
        if error.status >= 500:
            raise
        raise FailedRequest(f"the file of {asset.id} cannot be opened: {error.message}") from error
    await ctx.assets.update(found)
    return found


async def _answer(ctx: Context, plan: Plan, progress: Progress) -> VideoResponse:
    began = time.monotonic()
    if not plan.jobs:
        return video_response(plan, int(time.time()), 0, [])
    parent = progress.planned(plan)
    async with ctx.submitted(plan.request, plan.jobs, traceparent=parent) as (created, follower):
        results = await collect(follower, plan.planned, progress.chunk)
    return video_response(plan, created, time.monotonic() - began, results)


# Events -----------------------------------------------------------------------------------------------


async def _start_reading(ctx: Context, plan: Plan) -> str:
    """Become the one client that reads events of the first asset. Raises Conflict if there is another."""
    client = plan.request.id
    key = keys.reader(plan.assets[0].id)
    if not await ctx.redis.set(key, client, nx=True, px=READER_TTL_MS):
        raise Conflict(f"another client is reading the events of {plan.assets[0].id}")
    return client


@asynccontextmanager
async def _reading(ctx: Context, plan: Plan, client: str) -> AsyncIterator[None]:
    """Stay that client; give it up on exit."""
    key = keys.reader(plan.assets[0].id)

    async def renew() -> None:
        while True:
            await ctx.redis.set(key, client, px=READER_TTL_MS)
            await asyncio.sleep(READER_RENEWAL)

    renewing = asyncio.create_task(renew())
    try:
        yield
    finally:
        renewing.cancel()
        await asyncio.gather(renewing, return_exceptions=True)
        await script(ctx.redis, "release_reader")(keys=[key], args=[client])


async def _events(
    ctx: Context, plan: Plan, client: str, progress: Progress, held: AsyncExitStack, *, include_usage: bool
) -> AsyncGenerator[bytes, None]:
    """The stream: a client that disconnects does not end the request, whose results stay readable.

    `held` is what lasts as long as the stream.
    """
    began = time.monotonic()
    chunks = 0
    created = int(time.time())
    async with held, _reading(ctx, plan, client):
        if plan.jobs:
            parent = progress.planned(plan)
            submitted = ctx.submitted(plan.request, plan.jobs, detached=True, traceparent=parent)
            async with submitted as (created, follower):
                async for _, entry in follower.entries(stored=False):
                    match entry:
                        case Result(error=""):
                            chunks += 1
                            progress.chunk(entry)
                            so_far = usage(chunks, time.monotonic() - began) if include_usage else None
                            yield event(chunk_event(plan, created, entry, so_far))
                        case End(state=state) if state != "done":
                            log.warning("video request failed", state=state, error=entry.error)
                            yield event(
                                FailureEvent(id=plan.request.id, model=plan.request.model, created=created)
                            )
        if include_usage:
            final = usage(chunks, time.monotonic() - began)
            yield event(
                UsageEvent(id=plan.request.id, model=plan.request.model, created=created, usage=final)
            )
        yield event(DONE)
