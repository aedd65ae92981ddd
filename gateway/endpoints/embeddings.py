"""Embeddings as in OpenAI's API: texts, images and videos in one request."""

import asyncio
import uuid
from collections.abc import Coroutine, Sequence
from contextlib import AsyncExitStack

import msgspec
from starlette.requests import Request as HttpRequest
from starlette.responses import Response

from gateway.api.embedding_schemas import VideoRequest
from gateway.api.endpoint import Answer, Endpoint
from gateway.api.examples import MODEL
from gateway.api.openai_schemas import (
    EmbeddingsRequest,
    EmbeddingsResponse,
    OneEmbedding,
    TokenUsage,
    frames_in,
    is_media,
)
from gateway.api.responses import json_response
from gateway.api.schemas import MediaType
from gateway.api.validation import validate_json
from gateway.context import Context, context
from gateway.disconnect import ClientGone, until_gone
from gateway.handling.body import read_body
from gateway.handling.idempotency import DESCRIPTION, HEADER, IdempotencyKey, results_of
from gateway.handling.ingestion import ingested
from gateway.handling.probing import opened
from gateway.handling.text_requests import embed_texts
from gateway.handling.video_requests import plan_request
from gateway.intake.downloads import FETCH_ERRORS
from gateway.results.vectors import encoded, require_dimensions
from gateway.submission import collect
from gateway.video.planning import Plan, plan_video
from shared.errors import (
    BadParameter,
    BadParameters,
    DependencyError,
    EmbeddingFailed,
    FailedRequest,
    IdempotencyKeyReused,
    InvalidParameters,
    NotSupported,
    RtEmbedError,
    ServerBusy,
    Unavailable,
)
from shared.redis.connection import RedisError
from shared.results import Result

TEXTS_PER_REQUEST = 100
MEDIA_AT_ONCE = 4
NO_TEXTS = (
    "('body', 'input'): Must be texts, not token ids, which belong to another model's tokenizer "
    "(LangChain: OpenAIEmbeddings(check_embedding_ctx_length=False))"
)


@Endpoint(
    "POST",
    "/v1/embeddings",
    tag="Embeddings",
    summary="Embed texts, images and videos, as in OpenAI's API",
    description=(
        "An extension. Texts may have up to 8192 characters; a request may have up to 2048 inputs, 16 of "
        "them media. A video is embedded as one chunk. Media is fetched as for "
        "`/v1/generate_video_embeddings`."
    ),
    body=EmbeddingsRequest,
    body_example=EmbeddingsRequest(input=["a forklift"], model=MODEL),
    headers={HEADER: DESCRIPTION},
    answers=(
        Answer(
            description="One vector per input, in their order.",
            json=EmbeddingsResponse,
            example=EmbeddingsResponse(
                data=[OneEmbedding(index=0, embedding=[0.0123, -0.0456])],
                model=MODEL,
                usage=TokenUsage(),
            ),
        ),
    ),
    errors=(
        IdempotencyKeyReused,
        *FETCH_ERRORS,
        BadParameters,
        BadParameter,
        FailedRequest,
        EmbeddingFailed,
        NotSupported,
        ServerBusy,
        Unavailable,
        DependencyError,
    ),
)
async def create_embeddings(request: HttpRequest) -> Response:
    """Embed the inputs and return one vector each, in their order."""
    ctx, key = context(request), IdempotencyKey(request)
    raw = await read_body(request)
    key.add(raw)
    body = _read_request(raw)
    model = ctx.view.require_model(body.model)
    dimensions = require_dimensions(body.dimensions, model)
    inputs = [body.input] if isinstance(body.input, str) else body.input
    if not model.supports_text and not all(map(is_media, inputs)):
        raise NotSupported(f"the model {model.id} embeds no text")
    ctx.require_service()
    vectors = await until_gone(request, _vectors(ctx, request, inputs, model.id, key))
    data = [
        OneEmbedding(index=index, embedding=encoded(vector, body.encoding_format, dimensions))
        for index, vector in enumerate(vectors)
    ]
    return json_response(EmbeddingsResponse(data=data, model=model.id, usage=TokenUsage()))


class _TokenIds(msgspec.Struct):
    input: list[int | list[int]]


def _read_request(body: bytes) -> EmbeddingsRequest:
    """Return the request. Raises InvalidParameters, which names token ids where a client sends them."""
    try:
        return validate_json(body, EmbeddingsRequest)
    except InvalidParameters:
        try:
            msgspec.json.decode(body, type=_TokenIds)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            pass
        else:
            raise InvalidParameters(NO_TEXTS) from None
        raise


async def _vectors(
    ctx: Context, request: HttpRequest, inputs: Sequence[str], model: str, key: IdempotencyKey
) -> list[bytes]:
    """Return the inputs' vectors. Texts are embedded in batches, media a few at a time, each as a request."""
    vectors: dict[int, bytes] = {}
    texts = [index for index, item in enumerate(inputs) if not is_media(item)]
    seats = asyncio.Semaphore(MEDIA_AT_ONCE)

    async def embed_part(places: Sequence[int]) -> None:
        own = key.of(f"texts from {places[0]}")
        with ctx.reported():
            if record := await own.known(ctx):
                results = await results_of(ctx, record)
            else:
                results = (await embed_texts(ctx, model, [inputs[i] for i in places], key=own)).results
        vectors.update(zip(places, (result.vector for result in results), strict=True))

    async def embed_media(place: int) -> None:
        async with seats:
            own = key.of(f"media {place}")
            vectors[place] = await _media_vector(ctx, request, inputs[place], model, own)

    parts = [texts[start : start + TEXTS_PER_REQUEST] for start in range(0, len(texts), TEXTS_PER_REQUEST)]
    media = [index for index, item in enumerate(inputs) if is_media(item)]
    await _all([*map(embed_part, parts), *map(embed_media, media)])
    return [vectors[index] for index in range(len(inputs))]


async def _all(work: list[Coroutine[None, None, None]]) -> None:
    """Run everything concurrently. The first failure cancels the rest and is raised."""
    failure: Exception | None = None
    try:
        async with asyncio.TaskGroup() as group:
            for part in work:
                group.create_task(part)
    except* (RtEmbedError, RedisError, ClientGone) as failures:
        failure = failures.exceptions[0]
    if failure:
        raise failure


async def _media_vector(
    ctx: Context, request: HttpRequest, url: str, model: str, key: IdempotencyKey
) -> bytes:
    if record := await key.known(ctx):
        return _vector(await results_of(ctx, record))
    media_type: MediaType = "image" if url.startswith("data:image/") else "video"
    body = VideoRequest(id=str(uuid.uuid4()), model=model, url=url, media_type=media_type)
    async with AsyncExitStack() as held:
        if frames := frames_in(url):
            plan = (await _plan_clip(ctx, frames, model, held, key)).as_query()
        else:
            plan = (await plan_request(ctx, request, body, held, key=key)).as_query()
        if not plan.jobs:
            raise BadParameters(f"{url[:256]} has no frames")
        with ctx.reported(plan.assets[0].id):
            submission = ctx.submitter.submitted(plan.request, plan.jobs, detached=bool(key))
            async with submission as (_, follower):
                return _vector(await collect(follower, plan.planned, stored=bool(key)))


def _vector(results: Sequence[Result]) -> bytes:
    (result,) = results
    if result.error:
        raise EmbeddingFailed(result.error)
    return result.vector


async def _plan_clip(
    ctx: Context, frames: Sequence[str], model_id: str, held: AsyncExitStack, key: IdempotencyKey
) -> Plan:
    """Return the plan of one clip of pictures, evenly spaced ones where the model takes fewer.

    Raises as for a picture in a data: URL.
    """
    model = ctx.view.require_model(model_id)
    count = min(len(frames), model.frames)
    assets = []
    for frame in (frames[index * len(frames) // count] for index in range(count)):
        url = f"data:image/jpeg;base64,{frame}"
        body = VideoRequest(id=str(uuid.uuid4()), model=model_id, url=url, media_type="image")
        source = await ctx.downloads.locate(url)
        assets.append(await held.enter_async_context(ingested(ctx, body, body.ids[0], source)))
    assets = await asyncio.gather(*(opened(ctx, asset) for asset in assets))
    clip = VideoRequest(id=[asset.id for asset in assets], model=model_id)
    return plan_video(key.request_id(ctx), clip, assets, model).with_body(key.body)
