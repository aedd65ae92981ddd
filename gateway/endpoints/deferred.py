"""Requests that are answered later: accepted at once, looked at and fetched by their id, on any gateway."""

import re
from typing import Any

import msgspec
from starlette.requests import Request as HttpRequest
from starlette.responses import Response

from gateway.api.endpoint import Answer, Endpoint
from gateway.api.examples import REQUEST_STATUS, VIDEO_RESPONSE
from gateway.api.schemas import (
    EncodingFormat,
    Error,
    RequestStatus,
    TextEmbedding,
    TextResponse,
    VideoResponse,
)
from gateway.api.validation import validate_uuid
from gateway.context import Context, FailedEnd, context, json
from gateway.results.answers import Outline, video_response
from gateway.results.vectors import encoded
from shared import keys, requests, results
from shared.errors import (
    BadParameter,
    EmbeddingFailed,
    NotFound,
    NotSupported,
    TextEmbeddingsError,
    Unavailable,
)
from shared.jobs import Job
from shared.records import RecordCodec
from shared.redis.connection import Redis
from shared.requests import Request, RequestRecord
from shared.results import End, Result

PAGE = 500
POLL_AFTER = "1"
"""Seconds after which a client should look again."""
_ASYNC = re.compile(r"(^|,)\s*respond-async\s*($|[,;])", re.IGNORECASE)


class TextOptions(msgspec.Struct, frozen=True):
    """What is kept of a text request that is answered later."""

    text_input: list[str]
    encoding_format: EncodingFormat = "float"


class _VideoOptions(msgspec.Struct, frozen=True):
    outline: Outline | None = None


class Record(RequestRecord, frozen=True, kw_only=True):
    """What Redis knows of a request. `age` is the seconds since it was accepted."""

    age: int = 0

    @property
    def outline(self) -> Outline | None:
        """What answers repeat; None for what is not a video request."""
        if self.lane == "text" or not self.options:
            return None
        return msgspec.json.decode(self.options, type=_VideoOptions).outline


def prefers_async(request: HttpRequest) -> bool:
    """Whether the client would rather come back for its answer (RFC 7240)."""
    return any(_ASYNC.search(value) for value in request.headers.getlist("prefer"))


async def accept(ctx: Context, request: Request, jobs: list[Job], traceparent: str = "") -> Response:
    """Submit the request and say where its answer will be. Raises as `shared.requests.submit`."""
    await requests.submit(ctx.redis, ctx.settings, request, jobs, traceparent)
    if not jobs:
        await requests.finish(ctx.redis, ctx.settings, request, End(state="done"))
    response = json(await _status(ctx.redis, request.id), 202)
    response.headers["Location"] = f"/v1/requests/{request.id}"
    response.headers["Preference-Applied"] = "respond-async"
    return response


@Endpoint(
    "GET",
    "/v1/requests/{request_id}",
    tag="Requests",
    summary="How far a request is",
    description="An extension. Requests are known until an hour after their end, unless set otherwise.",
    misfit="('path', 'request_id'): Must be a UUID (input: \"x\")",
    answers=(Answer(description="The request.", json=RequestStatus, example=REQUEST_STATUS),),
    errors=(NotFound, Unavailable),
)
async def request_status(request: HttpRequest) -> Response:
    """How far a request is."""
    return json(await _status(context(request).redis, _id(request)))


@Endpoint(
    "GET",
    "/v1/requests/{request_id}/results",
    tag="Requests",
    summary="The answer to a request",
    description=(
        "An extension. What the request would have been answered with at once; if it failed, its error."
    ),
    misfit="('path', 'request_id'): Must be a UUID (input: \"x\")",
    answers=(
        Answer(
            description="The vectors, of video or of texts.",
            json=VideoResponse,
            others=(TextResponse,),
            example=VIDEO_RESPONSE,
        ),
        Answer(
            status=202,
            description="Not ready; look again after `Retry-After` seconds.",
            json=RequestStatus,
            example=REQUEST_STATUS,
        ),
    ),
    errors=(
        NotFound,
        BadParameter,
        EmbeddingFailed,
        TextEmbeddingsError,
        NotSupported,
        Unavailable,
    ),
)
async def request_results(request: HttpRequest) -> Response:
    """The answer, in the form that it would have had at once; 202 while the request runs."""
    redis, request_id = context(request).redis, _id(request)
    status = await _status(redis, request_id)
    if status.status == "running":
        response = json(status, 202)
        response.headers["Retry-After"] = POLL_AFTER
        return response
    record = await find_record(redis, request_id)
    found, end = await _read(redis, request_id)
    if record is None or end is None or end.state == "cancelled":
        raise NotFound(f"The request {request_id} has no results")
    if end.state == "failed":
        raise FailedEnd(end)
    return json(_answer(request_id, record, found))


_records: RecordCodec[Record] = RecordCodec(Record, "id", "age")


async def find_record(redis: Redis, request_id: str) -> Record | None:
    """What is known of a request, or None."""
    fields: Any = await redis.hgetall(keys.request(request_id))
    if b"state" not in fields:
        return None
    now, _ = await redis.time()
    record = _records.read(fields, id=request_id)
    return msgspec.structs.replace(record, age=now - record.created)


async def _status(redis: Redis, request_id: str) -> RequestStatus:
    record = await find_record(redis, request_id)
    if record is None or record.lane == "probe":
        raise NotFound(f"No such request {request_id}, or it has expired")
    end = await _end(redis, request_id) if record.state == "failed" else None
    status: Any = record.state
    kind: Any = record.lane
    return RequestStatus(
        id=request_id,
        kind=kind,
        status=status,
        model=record.model,
        created=record.created,
        finished=record.finished,
        chunks_planned=record.planned,
        chunks_done=record.done,
        error=Error(code=end.code or "InternalServerError", message=end.error) if end else None,
    )


async def _end(redis: Redis, request_id: str) -> End | None:
    last: Any = await redis.xrevrange(keys.results(request_id), count=1)
    entry = results.from_fields(last[0][1]) if last else None
    return entry if isinstance(entry, End) else None


async def _read(redis: Redis, request_id: str) -> tuple[list[Result], End | None]:
    found: dict[int, Result] = {}
    start = "-"
    while True:
        page: Any = await redis.xrange(keys.results(request_id), start, count=PAGE)
        for entry in (results.from_fields(fields) for _, fields in page):
            if isinstance(entry, End):
                return [found[chunk] for chunk in sorted(found)], entry
            found[entry.chunk] = entry
        if not page:
            return [], None
        start = f"({page[-1][0].decode()}"


def _answer(request_id: str, record: Record, found: list[Result]) -> VideoResponse | TextResponse:
    if record.lane == "text" and record.options:
        return text_response(request_id, record, found)
    if record.outline is None:
        raise NotFound(f"The request {request_id} was answered directly")
    seconds = (record.finished or record.created) - record.created
    return video_response(record.outline, record.created, seconds, found)


def text_response(request_id: str, record: Record, found: list[Result]) -> TextResponse:
    """The answer to texts that were kept with their request."""
    options = msgspec.json.decode(record.options, type=TextOptions)
    data = [
        TextEmbedding(text_input=text, embeddings=encoded(result.vector, options.encoding_format))
        for text, result in zip(options.text_input, found, strict=True)
    ]
    return TextResponse(id=request_id, created=record.created, model=record.model, data=data)


def _id(request: HttpRequest) -> str:
    return validate_uuid(request.path_params["request_id"], ("path", "request_id"))
