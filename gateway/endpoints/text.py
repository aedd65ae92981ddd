"""Text embeddings."""

from starlette.requests import Request as HttpRequest
from starlette.responses import Response

from gateway.api.embedding_schemas import TextEmbedding, TextRequest, TextResponse
from gateway.api.endpoint import Answer, Endpoint
from gateway.api.examples import ACCEPTED, ID, MODEL, PREFER
from gateway.api.responses import json_response
from gateway.api.validation import validate_json
from gateway.context import Context, context
from gateway.disconnect import until_gone
from gateway.endpoints.deferred import accept, accepted, prefers_async
from gateway.handling.body import read_body
from gateway.handling.idempotency import DESCRIPTION, HEADER, IdempotencyKey, answer_again
from gateway.handling.text_requests import embed_texts, text_request
from gateway.results.answers import TextOptions, text_response
from gateway.results.vectors import require_dimensions
from shared.errors import (
    BadParameters,
    FileTooLarge,
    IdempotencyKeyReused,
    NotSupported,
    ServerBusy,
    TextEmbeddingsError,
    Unavailable,
)
from shared.jobs import TextJob


@Endpoint(
    "POST",
    "/v1/generate_text_embeddings",
    tag="Embeddings",
    summary="Embed text",
    body=TextRequest,
    body_example=TextRequest(text_input=["a forklift moving pallets"], model=MODEL),
    headers={"Prefer": PREFER, HEADER: DESCRIPTION},
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
        IdempotencyKeyReused,
        FileTooLarge,
        TextEmbeddingsError,
        NotSupported,
        ServerBusy,
        Unavailable,
    ),
)
async def generate_text_embeddings(request: HttpRequest) -> Response:
    """Embed texts and return one vector each, in their order."""
    ctx, key = context(request), IdempotencyKey(request)
    raw = await read_body(request)
    key.add(raw)
    body = validate_json(raw, TextRequest)
    texts = [body.text_input] if isinstance(body.text_input, str) else body.text_input
    if not texts or (isinstance(body.text_input, str) and not body.text_input):
        raise BadParameters("text_input is empty")
    model = ctx.view.require_model(body.model)
    if not model.supports_text:
        raise NotSupported(f"the model {model.id} embeds no text")
    ctx.require_service()
    options = TextOptions(texts, body.encoding_format, require_dimensions(body.dimensions, model))
    with ctx.reported():
        if record := await key.known(ctx):
            if prefers_async(request):
                return await accepted(ctx, record.id)
            return json_response(await until_gone(request, answer_again(ctx, record)))
        if prefers_async(request):
            return await _accept(ctx, model.id, options, key, request.headers.get("traceparent", ""))
        embedded = await until_gone(request, embed_texts(ctx, model.id, texts, key=key, options=options))
    answer = text_response(embedded.request, embedded.created, model.id, options, embedded.results)
    return json_response(answer)


async def _accept(
    ctx: Context, model: str, options: TextOptions, key: IdempotencyKey, traceparent: str
) -> Response:
    texts = options.text_input
    request = text_request(ctx, model, texts, key, options)
    return await accept(ctx, request, [TextJob(request=request.id, texts=texts, model=model)], traceparent)
