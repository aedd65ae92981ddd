"""Search: the chunks that are nearest to a text, a picture, a vector or another chunk."""

import uuid
from array import array
from contextlib import AsyncExitStack
from typing import Any

from starlette.requests import Request as HttpRequest
from starlette.responses import Response

from gateway.api.embedding_schemas import VideoRequest
from gateway.api.endpoint import Answer, Endpoint
from gateway.api.examples import ID, MODEL
from gateway.api.responses import json_response
from gateway.api.search_schemas import (
    AssetChunk,
    AssetChunks,
    AssetChunksQuery,
    ForgottenAsset,
    IndexerStatus,
    IndexHit,
    LikeChunk,
    Question,
    SearchableModel,
    SearchRequest,
    SearchResponse,
    SearchState,
    is_url,
)
from gateway.api.validation import validate_json, validate_query, validate_stream_id
from gateway.context import Context, context
from gateway.disconnect import until_gone
from gateway.handling.body import read_body
from gateway.handling.text_requests import embed_texts
from gateway.handling.video_requests import plan_request
from gateway.intake.downloads import FETCH_ERRORS
from gateway.results.vectors import encoded, floats
from gateway.search.hits import Hit, merged
from gateway.search.search_filters import ChunkPage, SearchFilters
from gateway.search.shown_hits import index_hit, stored_fields
from gateway.submission import collect
from shared.errors import (
    BadParameter,
    BadParameters,
    EmbeddingFailed,
    FailedRequest,
    NotFound,
    NotSupported,
    ServerBusy,
    Unavailable,
)
from shared.search.indexer_records import group_lag, read_indexers
from shared.timestamps import parse_timestamp

MERGED_FROM = 4
"""How many chunks are looked at for each hit that is made of neighbours."""
MOST_LOOKED_AT = 10_000

_CHUNK: dict[str, Any] = {
    "chunk": 3,
    "start": 15.0,
    "end": 20.0,
    "start_time": "2024-06-09T18:32:26.123Z",
    "end_time": "2024-06-09T18:32:31.123Z",
    "request": ID,
    "thumbnail": None,
}
_HIT = IndexHit(
    **_CHUNK, asset=ID, name="myfile.mp4", kind="file", media_type="video", camera=ID, chunks=[3], score=0.31
)
_ERRORS = (BadParameters, NotSupported, Unavailable)
QUESTION_ERRORS = (
    *_ERRORS,
    *FETCH_ERRORS,
    BadParameter,
    NotFound,
    FailedRequest,
    EmbeddingFailed,
    ServerBusy,
)
"""What an endpoint answers that asks for what is near to a text, a picture, a vector or another chunk."""


@Endpoint(
    "POST",
    "/v1/search",
    tag="Search",
    summary="Find the chunks that are nearest to a text, a picture, a vector or another chunk",
    description=(
        "An extension. Chunks come into the index from the embedding messages of videos, images and streams. "
        "The score is the cosine similarity. Without an index: 501, and how to get one."
    ),
    body=SearchRequest,
    body_example=SearchRequest(text="a forklift moving pallets", top_k=5),
    invalid_example="('body', 'text'): Give one of text, image, vector and like, not none",
    answers=(
        Answer(
            description="The hits, the best first.",
            json=SearchResponse,
            example=SearchResponse(model=MODEL, hits=[_HIT]),
        ),
    ),
    errors=QUESTION_ERRORS,
)
async def search(request: HttpRequest) -> Response:
    """Return the chunks nearest to the question."""
    ctx = context(request)
    body = validate_json(await read_body(request), SearchRequest)
    index = ctx.index
    model = ctx.view.named_model(body.model) if body.model else ctx.view.model().id
    vector, own = await query_vector(ctx, request, body, model)
    filters = SearchFilters(
        assets=body.assets,
        cameras=body.cameras,
        start=parse_timestamp(body.start_time) if body.start_time else None,
        end=parse_timestamp(body.end_time) if body.end_time else None,
        not_chunk=own,
    )
    count = min(body.top_k * MERGED_FROM, MOST_LOOKED_AT) if body.merge else body.top_k
    found = await index.nearest(
        model, vector, count, filters, exact=body.exact or _is_cheap(body), thumbnails=body.thumbnails
    )
    least = -2.0 if body.min_score is None else body.min_score
    good = [hit for hit in found if hit.score >= least]
    hits = merged(good)[: body.top_k] if body.merge else good
    return json_response(SearchResponse(model=model, hits=[index_hit(hit) for hit in hits]))


def _is_cheap(body: SearchRequest) -> bool:
    """Return whether to compare every chunk instead of using the HNSW index: one asset has few."""
    return body.assets is not None and len(body.assets) == 1


async def query_vector(
    ctx: Context, request: HttpRequest, body: Question, model: str
) -> tuple[list[float], int | None]:
    """Return the vector to look for, and its row if it is one of the index."""
    if body.vector is not None:
        return body.vector, None
    if body.like is not None:
        return await _vector_of(ctx, body.like, model)
    served = ctx.view.require_model(model)
    ctx.require_service()
    if body.text is None:
        return floats(await until_gone(request, _picture_vector(ctx, request, body.image or "", model))), None
    if not served.supports_text:
        raise NotSupported(f"the model {model} embeds no text")
    with ctx.reported():
        embedded = await until_gone(request, embed_texts(ctx, model, [body.text], query=True))
    return floats(embedded.results[0].vector), None


async def _vector_of(ctx: Context, like: LikeChunk, model: str) -> tuple[list[float], int]:
    page = ChunkPage(asset=like.asset, numbers=[like.chunk], count=1, vectors=True)
    found = await ctx.index.chunks(model, page)
    if not found:
        raise NotFound(f"no chunk {like.chunk} of {like.asset} is in the index")
    return found[0].vector, found[0].key


async def _picture_vector(ctx: Context, request: HttpRequest, image: str, model: str) -> bytes:
    url = image if is_url(image) else None
    if url is None and (await ctx.assets.get(image)).media_type != "image":
        raise BadParameters(f"{image} is a video: search for one of its chunks with `like`")
    wanted = VideoRequest(
        id=str(uuid.uuid4()) if url else image,
        model=model,
        url=url,
        media_type="image",
    )
    async with AsyncExitStack() as held:
        plan = (await plan_request(ctx, request, wanted, held)).as_query()
        with ctx.reported(plan.assets[0].id):
            async with ctx.submitter.submitted(plan.request, plan.jobs) as (_, follower):
                (result,) = await collect(follower, plan.planned)
    return result.vector


@Endpoint(
    "GET",
    "/v1/search",
    tag="Search",
    summary="What the search index holds",
    description="An extension. Without an index: 501, and how to get one.",
    answers=(
        Answer(
            description="Chunks, models, and the indexers that keep it up to date.",
            json=SearchState,
            example=SearchState(
                chunks=1200,
                models=[SearchableModel(id=MODEL, dimension=768)],
                indexers=[
                    IndexerStatus(
                        name="indexer-1",
                        state="indexing",
                        detail="",
                        bus="kafka",
                        topic="mdx-embed",
                        indexed=1200,
                        refused=0,
                    )
                ],
                lag_messages=0,
                lag_seconds=0.0,
            ),
        ),
    ),
    errors=(NotSupported, Unavailable),
)
async def search_state(request: HttpRequest) -> Response:
    """Return what the index holds, and how far behind it is."""
    ctx = context(request)
    index = ctx.index
    indexers = await read_indexers(ctx.redis)
    lag = group_lag(indexers)
    return json_response(
        SearchState(
            chunks=max((record.chunks for record in indexers), default=await index.count()),
            models=[SearchableModel(id=model, dimension=size) for model, size in await index.models()],
            indexers=[
                IndexerStatus(
                    name=record.name,
                    state=record.state,
                    detail=record.detail,
                    bus=record.bus,
                    topic=record.topic,
                    indexed=record.indexed,
                    refused=record.refused,
                )
                for record in indexers
            ],
            lag_messages=lag.messages,
            lag_seconds=lag.seconds,
        )
    )


@Endpoint(
    "GET",
    "/v1/search/assets/{asset_id}",
    tag="Search",
    summary="The chunks of one file or stream in the search index",
    description="An extension. In order of time.",
    query=AssetChunksQuery,
    invalid_example="('query', 'limit'): Must be a whole number",
    answers=(
        Answer(
            description="The chunks.",
            json=AssetChunks,
            example=AssetChunks(
                asset=ID, model=MODEL, chunks=[AssetChunk(**_CHUNK, embedding=None)], more=False
            ),
        ),
    ),
    errors=(NotFound, NotSupported, Unavailable),
)
async def asset_chunks(request: HttpRequest) -> Response:
    """Return the chunks of one asset, with their pictures and vectors if asked for."""
    ctx = context(request)
    query = validate_query(request.query_params, AssetChunksQuery)
    index, asset = ctx.index, _asset_id(request)
    model = ctx.view.named_model(query.model) if query.model else ctx.view.model().id
    page = ChunkPage(
        asset=asset,
        numbers=[int(number) for number in query.chunks.split(",")] if query.chunks else None,
        after=query.after,
        count=query.limit + 1,
        thumbnails=query.thumbnails,
        vectors=query.embeddings,
    )
    found = await index.chunks(model, page)
    if not found and not query.after:
        raise NotFound(f"no chunks of {asset} are in the index")
    return json_response(
        AssetChunks(
            asset=asset,
            model=model,
            chunks=[_asset_chunk(hit, query) for hit in found[: query.limit]],
            more=len(found) > query.limit,
        )
    )


@Endpoint(
    "DELETE",
    "/v1/search/assets/{asset_id}",
    tag="Search",
    summary="Take the chunks of a file or stream out of the search index",
    description=(
        "An extension. The file or stream itself stays, and what is embedded of it from now on is indexed. "
        "Chunks of a file or stream that is deleted leave the index by themselves."
    ),
    invalid_example="('path', 'asset_id'): Must be a UUID or the id of a live stream",
    answers=(Answer(description="They are gone.", json=ForgottenAsset, example=ForgottenAsset(asset=ID)),),
    errors=(NotSupported, Unavailable),
)
async def forget_asset(request: HttpRequest) -> Response:
    """Remove an asset's chunks from the index."""
    asset = _asset_id(request)
    await context(request).index.forget(asset)
    return json_response(ForgottenAsset(asset=asset))


def _asset_id(request: HttpRequest) -> str:
    return validate_stream_id(request.path_params["asset_id"], ("path", "asset_id"))


def _asset_chunk(hit: Hit, query: AssetChunksQuery) -> AssetChunk:
    vector = array("f", hit.vector).tobytes()
    return AssetChunk(
        **stored_fields(hit), embedding=encoded(vector, query.encoding_format) if query.embeddings else None
    )
