"""Text embeddings."""

import msgspec
import structlog
from starlette.requests import Request as HttpRequest
from starlette.responses import Response

from gateway.api.endpoint import Answer, Endpoint
from gateway.api.examples import ACCEPTED, ID, MODEL, PREFER
from gateway.api.responses import json_response
from gateway.api.schemas import TextEmbedding, TextRequest, TextResponse
from gateway.api.validation import validate_json
from gateway.context import Context, context
from gateway.disconnect import until_gone
from gateway.endpoints.deferred import accept, prefers_async
from gateway.intake.body import read_body
from gateway.results.request_records import TextOptions
from gateway.results.vectors import encoded
from gateway.submission import collect
from shared import requests
from shared.errors import (
    BadParameters,
    FileTooLarge,
    NotSupported,
    ServerBusy,
    TextEmbeddingsError,
    Unavailable,
)
from shared.jobs import TextJob

log = structlog.get_logger(__name__)


@Endpoint(
    "POST",
    "/v1/generate_text_embeddings",
    tag="Embeddings",
    summary="Embed text",
    body=TextRequest,
    body_example=TextRequest(text_input=["a forklift moving pallets"], model=MODEL),
    headers={"Prefer": PREFER},
    answers=(
        ACCEPTED,
        Answer(
            description="One vector per text, in their order.",
            json=TextResponse,
            example=TextResponse(
                id=ID,
                created=1767000000,
                model=MODEL,
                data=[TextEmbedding(text_input="a forklift moving pallets", embeddings=[0.0123, -0.0456])],
            ),
        ),
    ),
    errors=(
        BadParameters,
        FileTooLarge,
        TextEmbeddingsError,
        NotSupported,
        ServerBusy,
        Unavailable,
    ),
)
async def generate_text_embeddings(request: HttpRequest) -> Response:
    """One vector per text, in their order."""
    ctx = context(request)
    body = validate_json(await read_body(request), TextRequest)
    texts = [body.text_input] if isinstance(body.text_input, str) else body.text_input
    if not texts or (isinstance(body.text_input, str) and not body.text_input):
        raise BadParameters("text_input is empty")
    if not ctx.view.require_model(body.model).supports_text:
        raise NotSupported(f"the model {body.model} embeds no text")
    ctx.require_service()
    with ctx.reported():
        if prefers_async(request):
            return await _accept(ctx, texts, body, request.headers.get("traceparent", ""))
        return json_response(await until_gone(request, embed_texts(ctx, texts, body)))


async def embed_texts(ctx: Context, texts: list[str], body: TextRequest) -> TextResponse:
    """Have a worker embed the texts. Raises as `text_vectors`."""
    request, vectors = await text_vectors(ctx, texts, body.model)
    data = [
        TextEmbedding(text_input=text, embeddings=encoded(vector, body.encoding_format))
        for text, vector in zip(texts, vectors, strict=True)
    ]
    return TextResponse(id=request.id, created=request.created, model=body.model, data=data)


class Accepted(msgspec.Struct, frozen=True):
    """A request's id, and the second at which it was accepted."""

    id: str
    created: int


async def text_vectors(ctx: Context, texts: list[str], model: str) -> tuple[Accepted, list[bytes]]:
    """The texts' vectors, little-endian float32, made by a worker. Raises FailedEnd, ServerBusy."""
    request = requests.Request(id=ctx.listener.new_id(), lane="text", planned=len(texts), model=model)
    structlog.contextvars.bind_contextvars(request_id=request.id)
    job = TextJob(request=request.id, texts=texts, model=model)
    async with ctx.submitter.submitted(request, [job]) as (created, follower):
        results = await collect(follower, len(texts))
    return Accepted(request.id, created), [result.vector for result in results]


async def _accept(ctx: Context, texts: list[str], body: TextRequest, traceparent: str) -> Response:
    options = msgspec.json.encode(TextOptions(texts, body.encoding_format)).decode()
    request = requests.Request(
        id=ctx.listener.new_id(), lane="text", planned=len(texts), model=body.model, options=options
    )
    job = TextJob(request=request.id, texts=texts, model=body.model)
    return await accept(ctx, request, [job], traceparent)
