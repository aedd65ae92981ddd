"""Asking a worker what a file holds: the gateway itself never opens media."""

import asyncio

import msgspec
import structlog

from gateway.context import Context
from gateway.submission import FailedEnd, collect
from shared.assets import Asset
from shared.errors import FailedRequest, InvalidFile, RtEmbedError, Unavailable
from shared.jobs import ProbeJob
from shared.requests import Request
from shared.results import Facts

log = structlog.get_logger(__name__)


async def probe(ctx: Context, asset: Asset) -> Asset:
    """Return the asset with what a worker found in its file.

    Raises FailedEnd with the worker's error (InvalidFile, 400) if the file is not usable media, ServerBusy,
    and Unavailable if no worker answers in time.
    """
    request = Request(id=ctx.listener.new_id(), lane="probe", planned=1)
    job = ProbeJob(request=request.id, asset=asset)
    try:
        async with (
            asyncio.timeout(ctx.settings.probe_timeout),
            ctx.submitter.submitted(request, [job]) as (_, follower),
        ):
            results = await collect(follower, 1)
    except TimeoutError as error:
        waited = ctx.settings.probe_timeout
        raise Unavailable(f"no worker opened {asset.filename!r} within {waited:g} s") from error
    facts = msgspec.json.decode(results[0].facts, type=Facts)
    return msgspec.structs.replace(
        asset,
        media_type=facts.kind,
        codec=facts.codec,
        width=facts.width,
        height=facts.height,
        duration=facts.duration,
        frame_rate=facts.frame_rate,
        last_frames=facts.last_frames,
        joined=facts.joined,
        probed=True,
    )


async def verified(ctx: Context, asset: Asset) -> Asset:
    """Return a new asset as a worker found it, or as it is where verification is switched off.

    Raises InvalidFile when it is not what the client says, and what `probe` raises.
    """
    if ctx.settings.skip_media_verification:
        return asset
    try:
        found = await probe(ctx, asset)
    except RtEmbedError as error:
        log.warning("file refused", asset=asset.id, filename=asset.filename, error=error.message)
        raise
    if found.media_type != asset.media_type:
        held = f"it holds {found.media_type} ({found.codec})"
        raise InvalidFile(f"File does not seem to be a valid {asset.media_type} file: {held}")
    return found


async def opened(ctx: Context, asset: Asset) -> Asset:
    """Return the asset with the facts of its file, which a worker opens now if it has not yet.

    Raises FailedRequest if it is not usable media, and what `probe` raises.
    """
    if asset.probed:
        return asset
    try:
        found = await probe(ctx, asset)
    except FailedEnd as error:
        if error.status >= 500:
            raise
        raise FailedRequest(f"the file of {asset.id} cannot be opened: {error.message}") from error
    await ctx.assets.update(found)
    return found
