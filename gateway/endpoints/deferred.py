"""Requests that are answered later: accepted at once, state and answer fetched by id from any gateway."""

import re

from starlette.requests import Request as HttpRequest
from starlette.responses import Response

from gateway.api.embedding_schemas import RequestStatus, TextResponse, VideoResponse
from gateway.api.endpoint import Answer, Endpoint
from gateway.api.examples import REQUEST_STATUS, VIDEO_RESPONSE
from gateway.api.responses import json_response
from gateway.api.validation import validate_uuid
from gateway.context import Context, context
from gateway.results.request_records import find_record, read_results, read_status, stored_answer
from gateway.submission import FailedEnd
from shared import requests
from shared.errors import (
    BadParameter,
    EmbeddingFailed,
    NotFound,
    NotSupported,
    TextEmbeddingsError,
    Unavailable,
)
from shared.jobs import Job
from shared.requests import Request
from shared.results import End

POLL_AFTER = "1"
"""Seconds after which a client should ask again."""
_ASYNC = re.compile(r"(^|,)\s*respond-async\s*($|[,;])", re.IGNORECASE)


def prefers_async(request: HttpRequest) -> bool:
    """Return whether the client prefers to fetch its answer later (RFC 7240)."""
    return any(_ASYNC.search(value) for value in request.headers.getlist("prefer"))


async def accept(ctx: Context, request: Request, jobs: list[Job], traceparent: str = "") -> Response:
    """Submit the request and answer with the address of its result. Raises as `shared.requests.submit`."""
    await requests.submit(ctx.redis, ctx.settings, request, jobs, traceparent)
    if not jobs:
        await requests.finish(ctx.redis, ctx.settings, request, End(state="done"))
    return await accepted(ctx, request.id)


async def accepted(ctx: Context, request_id: str) -> Response:
    """Answer with the address of an accepted request's result."""
    response = json_response(await read_status(ctx.redis, request_id), 202)
    response.headers["Location"] = f"/v1/requests/{request_id}"
    response.headers["Preference-Applied"] = "respond-async"
    return response


@Endpoint(
    "GET",
    "/v1/requests/{request_id}",
    tag="Requests",
    summary="Get the state of a request",
    description="An extension. By default, requests are kept for an hour after their end.",
    invalid_example="('path', 'request_id'): Must be a UUID (input: \"x\")",
    answers=(Answer(description="The request.", json=RequestStatus, example=REQUEST_STATUS),),
    errors=(NotFound, Unavailable),
)
async def request_status(request: HttpRequest) -> Response:
    """Return the state of a request."""
    return json_response(await read_status(context(request).redis, _id(request)))


@Endpoint(
    "GET",
    "/v1/requests/{request_id}/results",
    tag="Requests",
    summary="Get the answer to a request",
    description=(
        "An extension. The answer that the request would have had at once; if it failed, its error."
    ),
    invalid_example="('path', 'request_id'): Must be a UUID (input: \"x\")",
    answers=(
        Answer(
            description="The vectors, of video or of texts.",
            json=VideoResponse,
            others=(TextResponse,),
            example=VIDEO_RESPONSE,
        ),
        Answer(
            status=202,
            description="Not ready; ask again after `Retry-After` seconds.",
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
    """Return the answer that the request would have had at once; 202 while it runs."""
    redis, request_id = context(request).redis, _id(request)
    status = await read_status(redis, request_id)
    if status.status == "running":
        response = json_response(status, 202)
        response.headers["Retry-After"] = POLL_AFTER
        return response
    record = await find_record(redis, request_id)
    found, end = await read_results(redis, request_id)
    if record is None or end is None or end.state == "cancelled":
        raise NotFound(f"The request {request_id} has no results")
    if end.state == "failed":
        raise FailedEnd(end)
    return json_response(stored_answer(request_id, record, found))


def _id(request: HttpRequest) -> str:
    return validate_uuid(request.path_params["request_id"], ("path", "request_id"))
