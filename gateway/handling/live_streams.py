"""Live sessions: starting, following and stopping the one that embeds a stream."""

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, aclosing
from typing import Any, cast

import structlog

from gateway.api.caller import caller
from gateway.api.embedding_schemas import VideoRequest
from gateway.context import Context
from gateway.handling.events import BEGINNING, EventWriter, client_of
from gateway.results.answers import Outline
from gateway.results.reader_lease import reading, start_reading, stop_reading
from gateway.results.sse import EventStream
from gateway.results.vectors import require_dimensions
from shared import keys, live_records
from shared.assets import Asset
from shared.chunks import SECOND
from shared.errors import BadParameter, BadParameters
from shared.fleet import ServedModel
from shared.redis.connection import RedisError
from shared.requests import Request, finish
from shared.results import End, Entry, Result
from shared.telemetry.instruments import live_captions_latency, live_captions_latency_latest

log = structlog.get_logger(__name__)

DRAIN_POLL = 0.1
STOPPED = End(state="done")


async def start_session(
    ctx: Context, asset: Asset, model: ServedModel, duration: int, overlap: int, *, thumbnails: bool = False
) -> str:
    """Start a session that embeds the stream, or join the running one, and return its request's id.

    Raises BadParameter for a chunk duration of 0, ServerBusy at the limit of live streams.
    """
    if duration <= 0:
        raise BadParameter("chunk_duration must be greater than 0")
    session = live_records.LiveRecord(
        request=ctx.listener.new_id(),
        model=model.id,
        chunk_duration=duration,
        chunk_overlap_duration=overlap,
        created=int(time.time()),
    )
    request_id = await live_records.start(
        *(ctx.redis, ctx.settings, session.request, asset, session),
        caller=caller.get(),
        thumbnails=thumbnails,
    )
    joined = request_id != session.request
    log.info(
        "live session joined" if joined else "live session started", stream=asset.id, request_id=request_id
    )
    return request_id


async def find_live(ctx: Context, body: VideoRequest) -> Asset | None:
    """Return the live stream that a request names, or None."""
    if body.url is not None or len(body.ids) != 1:
        return None
    asset = await ctx.assets.find(body.ids[0])
    return asset if asset and asset.kind == "stream" else None


async def live_events(ctx: Context, body: VideoRequest, asset: Asset) -> EventStream:
    """Return the events of a live stream, from where the last client stopped reading.

    A session is started if none runs; it goes on when the client disconnects.

    Raises BadParameters if `stream` is not set, Conflict if another client reads the events, and as
    `start_session`.
    """
    model = ctx.view.require_model(body.model)
    if not body.stream:
        raise BadParameters(f"{asset.id} is a live stream; set stream to true")
    dimensions = require_dimensions(body.dimensions, model)
    client = ctx.listener.new_id()
    await start_reading(ctx.redis, asset.id, client)
    try:
        async with AsyncExitStack() as held:
            request_id = await start_session(
                *(ctx, asset, model, body.chunk_duration, body.chunk_overlap_duration),
                thumbnails=body.thumbnails,
            )
            structlog.contextvars.bind_contextvars(request_id=request_id)
            provisional, client = client, client_of(ctx, request_id)
            await start_reading(ctx.redis, asset.id, client, replaces=provisional)
            replaced = await held.enter_async_context(reading(ctx.redis, asset.id, client))
            follower = await held.enter_async_context(ctx.listener.subscribe(request_id))
            created, after = await _position(ctx, asset, request_id)
            outline = Outline(
                request=request_id,
                model=model.id,
                live=True,
                encoding_format=body.encoding_format,
                thumbnails=body.thumbnails,
                dimensions=dimensions,
            )
            writer = EventWriter(outline, created, body.event_options)
            entries = stored_position(ctx, asset.id, request_id, follower.entries(after))
            return EventStream(writer.events(entries), held.pop_all(), replaced.wait)
    except BaseException:
        await asyncio.shield(stop_reading(ctx.redis, asset.id, client))
        raise


async def _position(ctx: Context, asset: Asset, request_id: str) -> tuple[int, str]:
    """Return the second at which the request was accepted, and the entry that a client has read last."""
    created: Any = await ctx.redis.hget(keys.request(request_id), "created")
    request, read = cast("list[Any]", await ctx.redis.hmget(keys.live(asset.id), ["request", "read"]))
    follows = request == request_id.encode() and read
    return int(created or time.time()), read.decode() if follows else BEGINNING


async def stored_position(
    ctx: Context, stream_id: str, request_id: str, entries: AsyncGenerator[tuple[str, Entry], None]
) -> AsyncGenerator[tuple[str, Entry], None]:
    """Yield the entries, and store the last one read for the next client."""
    async with aclosing(entries):
        async for entry_id, entry in entries:
            yield entry_id, entry
            if isinstance(entry, Result):
                _measure(entry)
            try:
                await live_records.note_read(ctx.redis, stream_id, request_id, entry_id)
            except RedisError as error:
                log.warning("position not stored", stream=stream_id, entry=entry_id, error=str(error))


def _measure(result: Result) -> None:
    if result.wall_end is not None:
        seconds = max(0.0, time.time() - result.wall_end / SECOND)
        live_captions_latency.record(seconds)
        live_captions_latency_latest.set(seconds)


async def stop_session(ctx: Context, asset: Asset, timeout: float) -> None:
    """Stop the stream's session, if one runs. Chunks in flight have `timeout` seconds to finish."""
    (session,) = await live_records.read_sessions(ctx.redis, [asset.id])
    if session is None:
        return
    request = Request(id=session.request, lane="live", planned=0, assets=[asset.id])
    if session.state != "waiting":
        await live_records.ask_to_stop(ctx.redis, asset.id)
        if await _drained(ctx, asset, session.request, timeout):
            return
        log.warning(
            "drain timed out, ending the live session without its last chunks",
            stream=asset.id,
            seconds=timeout,
        )
    state = await finish(ctx.redis, ctx.settings, request, STOPPED)
    log.info("live session stopped", stream=asset.id, request_id=session.request, state=state)


async def _drained(ctx: Context, asset: Asset, request_id: str, timeout: float) -> bool:
    """Return whether the session ended within `timeout` seconds."""
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        (session,) = await live_records.read_sessions(ctx.redis, [asset.id])
        if session is None or session.request != request_id:
            return True
        await asyncio.sleep(DRAIN_POLL)
    return False
