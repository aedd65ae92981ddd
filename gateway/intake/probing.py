"""Asking a worker what a file holds: the gateway itself never opens media."""

import asyncio

import msgspec

from gateway.context import Context
from gateway.submission import collect
from shared.assets import Asset
from shared.errors import Unavailable
from shared.jobs import ProbeJob
from shared.requests import Request
from shared.results import Facts


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
        probed=True,
    )
