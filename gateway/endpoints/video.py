"""Video and image embeddings, answered as JSON, as one event per chunk, or later."""

import time
from contextlib import AsyncExitStack

import structlog
from starlette.requests import Request as HttpRequest
from starlette.responses import Response

from gateway.api.embedding_schemas import (
    ChunkEvent,
    FailureEvent,
    ProgressEvent,
    UsageEvent,
    VideoRequest,
    VideoResponse,
)
from gateway.api.endpoint import Answer, Endpoint
from gateway.api.examples import ACCEPTED, ID, MODEL, PICTURE, PREFER, VIDEO_EVENTS, VIDEO_RESPONSE
from gateway.api.responses import json_response
from gateway.context import Context, context
from gateway.disconnect import until_gone
from gateway.endpoints.deferred import accept, accepted, prefers_async
from gateway.handling.events import BEGINNING, EventWriter, client_of, resume
from gateway.handling.idempotency import DESCRIPTION, HEADER, IdempotencyKey, answer_again
from gateway.handling.inline_media import read_video_request
from gateway.handling.live_streams import find_live, live_events, stored_position
from gateway.handling.request_progress import Progress
from gateway.handling.video_requests import plan_request
from gateway.intake.downloads import FETCH_ERRORS
from gateway.results.answers import video_response
from gateway.results.reader_lease import reading, start_reading
from gateway.results.request_records import KnownRequest
from gateway.results.sse import EventStream
from gateway.submission import collect
from gateway.video.planning import Plan
from shared.errors import (
    AssetAlreadyExists,
    BadParameter,
    BadParameters,
    Conflict,
    DependencyError,
    EmbeddingFailed,
    FailedRequest,
    IdempotencyKeyReused,
    NotFound,
    ServerBusy,
    Unavailable,
)
from shared.requests import log_end
from shared.results import End
from shared.telemetry.logs import client_logged

log = structlog.get_logger(__name__)


@Endpoint(
    "POST",
    "/v1/generate_video_embeddings",
    tag="Embeddings",
    summary="Embed a file, images, a live stream, or the media at a URL",
    description=(
        "One vector per chunk of video, or one vector for a list of images. With `url` the media is "
        "fetched first, under the one `id` given, and removed when the request has ended. With `stream` "
        "the answer is a stream of server-sent events: a ProgressEvent if asked for; one ChunkEvent per "
        "finished chunk, in the order in which they finish; then a UsageEvent if asked for; a FailureEvent "
        "if the request failed; and `[DONE]`. A client that sends the same body again, with the id of the "
        "last event it got, gets the events after it. More images than the model takes frames are refused."
    ),
    body=VideoRequest,
    body_example=VideoRequest(id=ID, model=MODEL, url=PICTURE, media_type="image"),
    more_examples={
        "An uploaded video: put its id here": VideoRequest(id=ID, model=MODEL, chunk_duration=10),
        "A live stream: put its id here": VideoRequest(id=ID, model=MODEL, stream=True, chunk_duration=10),
        "A video at a URL": VideoRequest(
            id=ID, model=MODEL, url="https://example.com/warehouse.mp4", chunk_duration=10
        ),
    },
    headers={
        "Prefer": PREFER,
        HEADER: DESCRIPTION,
        "Last-Event-ID": "Id of the event after which a stream goes on.",
    },
    answers=(
        ACCEPTED,
        Answer(
            description="The vectors, sorted by time; with `stream`, events.",
            json=VideoResponse,
            example=VIDEO_RESPONSE,
            texts={"text/event-stream": VIDEO_EVENTS},
            events=(ProgressEvent, ChunkEvent, UsageEvent, FailureEvent),
        ),
    ),
    errors=(
        *FETCH_ERRORS,
        BadParameters,
        IdempotencyKeyReused,
        BadParameter,
        FailedRequest,
        AssetAlreadyExists,
        NotFound,
        Conflict,
        EmbeddingFailed,
        ServerBusy,
        Unavailable,
        DependencyError,
    ),
)
async def generate_video_embeddings(request: HttpRequest) -> Response:
    """Embed a file or live stream chunk by chunk, or a list of images as one clip."""
    ctx = context(request)
    async with AsyncExitStack() as held:
        key = IdempotencyKey(request)
        body, inline = await read_video_request(ctx, request, held, key.add)
        if body.stream and (seen := request.headers.get("last-event-id")):
            return await resume(ctx, body, seen, stored_position)
        if stream := await find_live(ctx, body):
            with ctx.reported(stream.id):
                return await live_events(ctx, body, stream)
        if record := await key.known(ctx):
            return await _again(ctx, request, body, record)
        progress = held.enter_context(Progress(request))
        plan = await plan_request(ctx, request, body, held, inline, key=key)
        with ctx.reported(plan.assets[0].id):
            if body.stream:
                return await _events(ctx, plan, body, progress, held)
            if prefers_async(request):
                return await accept(ctx, plan.request, plan.jobs, request.headers.get("traceparent", ""))
            return json_response(await until_gone(request, _answer(ctx, plan, progress)))


async def _again(ctx: Context, request: HttpRequest, body: VideoRequest, record: KnownRequest) -> Response:
    """Answer a request that was accepted before, in the form requested now."""
    if body.stream:
        return await resume(ctx, body, f"{record.id}/{BEGINNING}", stored_position)
    if prefers_async(request):
        return await accepted(ctx, record.id)
    return json_response(await until_gone(request, answer_again(ctx, record)))


async def _answer(ctx: Context, plan: Plan, progress: Progress) -> VideoResponse:
    began = time.monotonic()
    if not plan.jobs:
        log_end(plan.request, End(state="done"), client=client_logged())
        return video_response(plan.outline, int(time.time()), 0, [])
    parent = progress.planned(plan)
    keyed = bool(plan.request.body)  # such a request goes on when its client leaves, which may come back
    submission = ctx.submitter.submitted(plan.request, plan.jobs, detached=keyed, traceparent=parent)
    async with submission as (created, follower):
        results = await collect(follower, plan.planned, progress.chunk, stored=keyed)
    return video_response(plan.outline, created, time.monotonic() - began, results)


async def _events(
    ctx: Context, plan: Plan, body: VideoRequest, progress: Progress, held: AsyncExitStack
) -> EventStream:
    """Return the event stream, which takes over what `held` holds.

    A client that disconnects does not end the request, whose results stay readable. A request that is refused
    is answered with an error instead of a stream.
    """
    client, asset = client_of(ctx, plan.request.id), plan.assets[0]
    await start_reading(ctx.redis, asset.id, client)
    replaced = await held.enter_async_context(reading(ctx.redis, asset.id, client))
    created, entries = int(time.time()), None
    if plan.jobs:
        parent = progress.planned(plan)
        submission = ctx.submitter.submitted(plan.request, plan.jobs, detached=True, traceparent=parent)
        created, follower = await held.enter_async_context(submission)
        entries = follower.entries(stored=bool(plan.request.body))
    else:
        log_end(plan.request, End(state="done"), client=client_logged())
    writer = EventWriter(plan.outline, created, body.event_options, plan.planned)
    return EventStream(writer.events(entries, progress.chunk), held.pop_all(), replaced.wait)
