"""The life of a request in Redis: accepted with all its jobs in one step, ended in one step."""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import msgspec

from shared import jobs, keys, results
from shared.errors import DependencyError, ServerBusy
from shared.jobs import Job, LiveJob, VideoJob
from shared.keys import Lane
from shared.redis.connection import Redis, script
from shared.results import End
from shared.settings import Settings

CANCELLED = End(state="cancelled")


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """One request: `planned` results are expected, `assets` are held until it ends."""

    id: str
    lane: Lane
    planned: int
    model: str = ""
    assets: list[str] = []
    options: str = ""
    """What was asked for, as JSON, for people and for a client that comes back."""
    kept: int | None = None
    """About how many results are kept at a time; None: all."""


def failed(error: str, code: str = "InternalServerError", status: int = 500) -> End:
    """The end of a request that failed."""
    return End(state="failed", code=code, status=status, error=error)


def request_of(job: Job) -> Request:
    """What a worker knows of the request that its job belongs to; enough to end it."""
    assets = [asset.id for asset in job.assets] if isinstance(job, VideoJob | LiveJob) else []
    return Request(id=job.request, lane=job.lane, planned=0, assets=assets)


def queue_limit(settings: Settings, lane: Lane) -> int:
    """How many jobs of the lane may wait or run."""
    return {
        "text": settings.text_queue_limit,
        "probe": settings.probe_queue_limit,
        "video": settings.video_queue_limit,
        "live": settings.max_live_streams,
    }[lane]


async def submit(
    redis: Redis,
    settings: Settings,
    request: Request,
    work: Sequence[Job],
    traceparent: str = "",
) -> int:
    """Accept the request and add its jobs to their lane, or accept nothing.

    Returns the second (Redis's clock) at which it was accepted. Raises ServerBusy when the lane is full,
    DependencyError when an asset was deleted meanwhile.
    """
    _, second = await _submit(redis, settings, request, work, traceparent=traceparent)
    return int(second)


async def submit_session(
    redis: Redis, settings: Settings, request: Request, job: LiveJob, *, session: str, first: bytes
) -> str:
    """Accept a live session, unless one runs for the stream; returns the id of the request that does.

    `session` is the key of its record and `first` the record's first fields, a JSON array. Raises as
    `submit`.
    """
    outcome, value = await _submit(redis, settings, request, [job], session=session, first=first)
    return value.decode() if outcome == b"joined" else request.id


async def _submit(
    redis: Redis,
    settings: Settings,
    request: Request,
    work: Sequence[Job],
    *,
    traceparent: str = "",
    session: str = "",
    first: bytes = b"",
) -> tuple[bytes, Any]:
    fields: list[bytes | str | int] = [
        "kind", request.lane, "model", request.model, "planned", request.planned,
        "assets", ",".join(request.assets), "options", request.options,
    ]  # fmt: skip
    if request.kept is not None:
        fields += ["kept", request.kept]
    added: list[bytes | str | int] = []
    for job in work:
        job_fields = jobs.to_fields(job, traceparent)
        added += [len(job_fields), *job_fields]
    asset_keys = [key for a in request.assets for key in (keys.asset(a), keys.asset_users(a))]
    own_keys = [keys.jobs(request.lane), keys.request(request.id), keys.running(request.lane)]
    outcome, value = await script(redis, "submit", "join" if session else "")(
        keys=[*own_keys, *asset_keys, *([session] if session else [])],
        args=[
            request.id,
            queue_limit(settings, request.lane),
            settings.request_ttl,
            len(fields),
            *fields,
            *added,
            *([first] if session else []),
        ],
    )
    if outcome == b"busy" and request.lane == "live":
        limit = settings.max_live_streams
        raise ServerBusy(f"Server is already processing maximum number of live streams ({limit})")
    if outcome == b"busy":
        raise ServerBusy(f"the {request.lane} queue is full: {value} jobs are waiting; try again later")
    if outcome == b"gone":
        raise DependencyError(f"the asset {request.assets[value]} was deleted meanwhile")
    return outcome, value


async def finish(redis: Redis, settings: Settings, request: Request, end: End) -> str:
    """End a running request without a further result, free its assets, and tell its readers.

    Returns its state afterwards: that of an earlier end if it had one, `gone` if it is unknown.
    """
    state: bytes = await script(redis, "finish", "end")(
        keys=end_keys(request), args=end_arguments(settings, request, end)
    )
    return state.decode()


def end_keys(request: Request) -> list[str]:
    """The keys that the prelude `end.lua` works on."""
    users = [keys.asset_users(asset) for asset in request.assets]
    running = keys.running(request.lane)
    return [keys.request(request.id), keys.results(request.id), keys.done(request.id), running, *users]


def end_arguments(settings: Settings, request: Request, end: End) -> list[bytes | str | int]:
    """The arguments that the prelude `end.lua` takes."""
    packed, *fields = _end_parts(end)
    return [
        request.id, keys.notify(request.id), settings.result_ttl, end.state, keys.REQUEST_COUNTS,
        f"{request.lane}:{end.state}", packed, len(fields), *fields,
    ]  # fmt: skip


@lru_cache(64)
def _end_parts(end: End) -> tuple[bytes | str, ...]:
    fields = results.end_fields(end)
    return results.pack(fields), *fields
