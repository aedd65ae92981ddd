"""The life of a request in Redis: accepted with all its jobs in one step, ended in one step."""

import logging
from collections.abc import Sequence
from contextlib import suppress
from functools import lru_cache
from itertools import chain
from typing import Any

import msgspec
import structlog

from shared import jobs, keys, results
from shared.errors import DependencyError, IdempotencyKeyReused, ServerBusy
from shared.jobs import Job, LiveJob, VideoJob
from shared.keys import Lane
from shared.records import RecordCodec
from shared.redis.connection import Redis, RedisError, script
from shared.redis.failures import ReplicasBehind
from shared.results import End, Result
from shared.settings import Settings
from shared.telemetry.logs import client_logged, x_request_id

log = structlog.get_logger(__name__)

CANCELLED = End(state="cancelled")


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """One request: `planned` results are expected, `assets` are held until it ends."""

    id: str
    lane: Lane = msgspec.field(name="kind")
    planned: int
    model: str = ""
    assets: list[str] = []
    options: str = ""
    """What was asked for, as JSON, for people and for a client that comes back."""
    caller: str = ""
    """Name of the API key with which it was sent."""
    body: str = ""
    """Digest of the HTTP request's body, if that came with an Idempotency-Key."""
    kept: int | None = None
    """About how many results are kept at a time; None: all."""


class RequestRecord(Request, frozen=True, kw_only=True):
    """What Redis knows of a request. Times are Redis's seconds since 1970."""

    state: str
    done: int = 0
    """How many results there are."""
    created: int = 0
    finished: int | None = None


_requests: RecordCodec[Request] = RecordCodec(Request, "id")


async def read_request(redis: Redis, request_id: str) -> Request | None:
    """Return the request with this id; None if it is unknown."""
    fields: Any = await redis.hgetall(keys.request(request_id))
    return _requests.read(fields, id=request_id) if b"state" in fields else None


class Outcome(msgspec.Struct, frozen=True):
    """The request's state after a call, the results that were new, and what became of their messages."""

    state: str
    stored: int
    queued: int
    dropped: int


class Delivery(msgspec.Struct, frozen=True):
    """A result, and the fields of its message in the outbox; none if it gets no message."""

    result: Result
    message: list[bytes | str] = []


def failed(error: str, code: str = "InternalServerError", status: int = 500) -> End:
    """Return the end of a request that failed."""
    return End(state="failed", code=code, status=status, error=error)


def request_of(job: Job) -> Request:
    """Return what a worker knows of the request that its job belongs to; enough to end it."""
    assets = [asset.id for asset in job.assets] if isinstance(job, VideoJob | LiveJob) else []
    return Request(id=job.request, lane=job.lane, planned=0, assets=assets)


def queue_limit(settings: Settings, lane: Lane) -> int:
    """Return how many jobs of the lane may wait or run."""
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
    DependencyError when an asset was deleted meanwhile, IdempotencyKeyReused when the id belongs to a request
    with another body.
    """
    _, second = await _submit(redis, settings, request, work, traceparent=traceparent)
    return int(second)


async def submit_session(
    redis: Redis,
    settings: Settings,
    request: Request,
    job: LiveJob,
    *,
    session: str,
    first: Sequence[bytes | str],
) -> str:
    """Accept a live session, unless one runs for the stream; returns the id of the request that does.

    `session` is the key of its record and `first` the record's first fields, flat. Raises as `submit`.
    """
    answer: Any = await redis.hget(session, "request")
    while True:
        believed = (answer or b"").decode()
        outcome, answer = await _submit(
            redis, settings, request, [job], session=session, first=first, believed=believed
        )
        if outcome != b"mistaken":
            return believed if outcome == b"joined" else request.id


async def _submit(
    redis: Redis,
    settings: Settings,
    request: Request,
    work: Sequence[Job],
    *,
    traceparent: str = "",
    session: str = "",
    first: Sequence[bytes | str] = (),
    believed: str = "",
) -> tuple[bytes, Any]:
    fields = [*_requests.fields(request), *_origin()]
    added: list[bytes | str | int] = []
    for job in work:
        job_fields = jobs.to_fields(job, traceparent, x_request_id())
        added += [len(job_fields), *job_fields]
    lane = keys.jobs(request.lane, work[0].model if work else "")
    own_keys = [lane, keys.request(request.id), keys.running(request.lane)]
    asset_keys = [key for a in request.assets for key in (keys.asset(a), keys.asset_users(a))]
    submitted = script(redis, "submit").durably(
        keys=[*own_keys, session or keys.live(""), keys.request(believed), *asset_keys],
        args=[
            request.id,
            queue_limit(settings, request.lane),
            settings.request_ttl,
            believed,
            request.body,
            *(len(first), *first),
            *(len(fields), *fields),
            *added,
        ],
    )
    try:
        outcome, value = await submitted
    except ReplicasBehind:
        with suppress(RedisError):  # the caller gets the error: nothing was accepted
            await finish(redis, settings, request, CANCELLED)
        raise
    if outcome == b"busy" and request.lane == "live":
        limit = settings.max_live_streams
        raise ServerBusy(f"Server is already processing maximum number of live streams ({limit})")
    if outcome == b"busy":
        raise ServerBusy(f"the {request.lane} queue is full: {value} jobs are waiting; try again later")
    if outcome == b"other":
        raise IdempotencyKeyReused
    if outcome == b"gone":
        raise DependencyError(f"the asset {request.assets[value]} was deleted meanwhile")
    return outcome, value


def _origin() -> list[bytes | str]:
    """Return what is logged of the HTTP request when its work ends, as fields of the request's record."""
    told = {"client": client_logged(), "x_request_id": x_request_id()}
    return [part for name, value in told.items() if value for part in (name, value)]


async def forget(redis: Redis, request_id: str, state: str) -> None:
    """Forget a request and its results, if its state is still `state`, so that it can be accepted again."""
    await script(redis, "forget")(
        keys=[keys.request(request_id), keys.results(request_id), keys.done(request_id)], args=[state]
    )


async def finish(redis: Redis, settings: Settings, request: Request, end: End) -> str:
    """End a running request without a further result, free its assets, and tell its readers.

    Returns its state afterwards: that of an earlier end if it had one, `gone` if it is unknown.
    """
    outcome = await publish(redis, settings, request, end, at_once=True)
    return outcome.state if outcome else "gone"


def _delivery_arguments(delivery: Delivery) -> list[bytes | str | int]:
    fields = results.to_fields(delivery.result)
    failed = int(bool(delivery.result.error))
    head: list[bytes | str | int] = [delivery.result.chunk, results.pack(fields), failed, len(fields)]
    return [*head, *fields, len(delivery.message), *delivery.message]


async def publish(
    redis: Redis,
    settings: Settings,
    request: Request,
    end: End,
    deliveries: Sequence[Delivery] = (),
    *,
    at_once: bool = False,
    configured: bool = False,
    believed: bool = False,
) -> Outcome | None:
    """Store and announce results and put their messages into the outbox, each once.

    The request ends with `end` after its last chunk; at once if `end` is a failure, or if it is to. Messages
    are wanted if `configured` says so and nobody has switched them since; None, with nothing done, if that is
    not what the caller `believed`. Where replicas must have it first, followers are notified afterwards that
    there is something to read. The one call that ends the request logs that it did.
    """
    packed, *end_fields = _end_parts(end)
    channel = keys.notify(request.id)
    answer: Any = await script(redis, "publish").durably(
        keys=[
            *(keys.request(request.id), keys.results(request.id), keys.done(request.id)),
            *(keys.running(request.lane), keys.REQUEST_COUNTS),
            *(keys.OUTBOX, keys.OUTBOX_COUNTS, keys.ROUTES),
            *map(keys.asset_users, request.assets),
        ],
        args=[
            *(
                request.id,
                "" if redis.replicated else channel,
                settings.request_ttl,
                settings.result_ttl,
                int(at_once),
            ),
            *(end.state, f"{request.lane}:{end.state}", packed, len(end_fields), *end_fields),
            *(
                settings.outbox_limit,
                settings.outbox_bytes,
                int(configured),
                int(believed),
                len(deliveries),
                *chain.from_iterable(map(_delivery_arguments, deliveries)),
            ),
        ],
    )
    state, *numbers = answer
    if len(numbers) > 3:
        _log_end(request, end, numbers.pop())
    if redis.replicated and numbers:
        await redis.multiplexed.call("PUBLISH", channel, "")
    return Outcome(state.decode(), *numbers) if numbers else None


def log_end(
    request: Request, end: End, *, client: str, chunks: int = 0, seconds: float = 0, **more: object
) -> None:
    """Log the end of a request: at DEBUG where there are hundreds a second, else at INFO.

    `seconds` count from its acceptance. Empty values in `more` are left out.
    """
    told = {**more, "code": end.code, "error": end.error}
    log.log(
        logging.DEBUG if request.lane in ("text", "probe") else logging.INFO,
        "request done",
        request_id=request.id,
        kind=request.lane,
        state=end.state,
        chunks=chunks,
        failed=told.pop("failed", 0),
        seconds=seconds,
        client=client,
        **{name: value for name, value in told.items() if value},
    )


def _log_end(request: Request, end: End, told: list[Any]) -> None:
    """Log the end of a request from what the publish script returns. `missing` chunks have no result."""
    planned, done, failed, ms, *texts = told
    client, caller, http_request = (text.decode(errors="replace") for text in texts)
    log_end(
        request,
        end,
        client=client,
        chunks=planned or done,
        seconds=ms / 1000,
        failed=int(failed),
        missing=max(0, planned - done),
        caller=caller,
        x_request_id=http_request,
    )


@lru_cache(64)
def _end_parts(end: End) -> tuple[bytes | str, ...]:
    fields = results.to_fields(end)
    return results.pack(fields), *fields
