"""Live streams: register, list, stop, delete."""

import asyncio
import time
import uuid

import msgspec
import structlog
from starlette.requests import Request as HttpRequest
from starlette.responses import Response

from gateway.api.endpoint import Answer, Endpoint
from gateway.api.examples import CAMERA, ID, MODEL
from gateway.api.responses import json_response
from gateway.api.stream_schemas import (
    AddedStream,
    AddedStreams,
    AddStreams,
    DeletedStreams,
    DeleteStreams,
    KeptStream,
    NewStream,
    RefusedStream,
    StreamInfo,
    StreamStatus,
)
from gateway.api.validation import validate_json, validate_stream_id
from gateway.context import Context, context
from gateway.handling.body import read_body
from gateway.handling.live_streams import stop_session
from gateway.handling.probing import probe
from shared import keys, live_records
from shared.addresses import read_camera_address
from shared.assets import Asset
from shared.errors import (
    BadParameter,
    DuplicateAssetId,
    DuplicateStreamId,
    FileTooLarge,
    InvalidParameter,
    InvalidParameters,
    ResourceInUse,
    RtEmbedError,
    Unavailable,
)
from shared.live_records import CameraLogin
from shared.telemetry.instruments import stream_delete_drain_latency, stream_delete_latency
from shared.telemetry.redaction import without_userinfo

log = structlog.get_logger(__name__)

LOGIN_TTL = 180
"""Seconds for which the login of a camera is stored while a worker checks the camera."""
INTERNAL_ERROR = "InternalError"


class Place(msgspec.Struct, frozen=True, kw_only=True):
    """Where a camera is, as the client described it."""

    place_name: str | None = ""
    place_type: str | None = ""
    place_lat: float | None = None
    place_lon: float | None = None
    place_alt: float | None = None
    place_coordinate_x: float | None = None
    place_coordinate_y: float | None = None


@Endpoint(
    "POST",
    "/v1/streams/add",
    tag="Live Stream",
    summary="Register RTSP streams",
    description=(
        "One after another; a worker checks each camera first. The status is 200 even if every stream "
        "is refused: see `errors`. Embedding starts with a request for video embeddings."
    ),
    body=AddStreams,
    body_example=AddStreams(streams=[NewStream(live_stream_url=CAMERA, description="Front door")]),
    answers=(
        Answer(
            description="The result for each stream.",
            json=AddedStreams,
            example=AddedStreams(
                results=[AddedStream(id=ID)],
                errors=[
                    RefusedStream(
                        index=1,
                        url=CAMERA,
                        error="Cannot use the stream: no answer within 10 s",
                        error_code="InvalidFile",
                        status_code=400,
                    )
                ],
            ),
        ),
    ),
    errors=(FileTooLarge, Unavailable),
    invalid_example="('body', 'streams'): Field required",
)
async def add_live_stream(request: HttpRequest) -> Response:
    """Register streams one after another, each after a worker has reached its camera."""
    ctx = context(request)
    body = validate_json(await read_body(request), AddStreams)
    if not ctx.settings.skip_media_verification:
        ctx.require_service()
    results: list[AddedStream] = []
    errors: list[RefusedStream] = []
    for index, stream in enumerate(body.streams):
        shown = without_userinfo(stream.live_stream_url)
        try:
            asset = await _add(ctx, stream)
            results.append(AddedStream(id=asset.id))
        except RtEmbedError as error:
            log.warning("stream refused", url=shown, code=error.code, error=error.message)
            ctx.errors.emit(f"Failed to add live stream {shown}")
            errors.append(
                RefusedStream(
                    index=index,
                    url=shown,
                    error=error.message,
                    error_code=_error_code(error),
                    status_code=error.status,
                )
            )
    return json_response(AddedStreams(results=results, errors=errors))


def _error_code(error: RtEmbedError) -> str:
    """Return a failure's code in a list of failures, where RT-Embed says InternalError for status 500."""
    return error.code if error.status != 500 else INTERNAL_ERROR


async def _add(ctx: Context, stream: NewStream) -> Asset:
    url, login = _login(stream)
    place = Place(**{name: getattr(stream, name) for name in Place.__struct_fields__})
    login = msgspec.structs.replace(login, place=msgspec.json.encode(place).decode())
    asset = Asset(
        id=stream.id or str(uuid.uuid4()),
        kind="stream",
        path=url,
        filename=url,
        description=stream.description,
        sensor_name=stream.sensor_name,
    )
    return await register_stream(ctx, asset, login, verify=not ctx.settings.skip_media_verification)


def _login(stream: NewStream) -> tuple[str, CameraLogin]:
    """Return the address without credentials, and the credentials. Raises InvalidParameters."""
    url, login = split_login(stream.live_stream_url)
    if bool(stream.username) != bool(stream.password):
        raise InvalidParameters("username and password are given together or not at all")
    if not stream.username:
        return url, login
    if url != stream.live_stream_url:
        raise InvalidParameters(
            "credentials are in liveStreamUrl and in username and password; give them once"
        )
    return url, CameraLogin(username=stream.username, password=stream.password)


def split_login(address: str) -> tuple[str, CameraLogin]:
    """Return an RTSP address without its credentials, and those. Raises InvalidParameters."""
    try:
        found = read_camera_address(address)
    except ValueError as error:
        raise InvalidParameters(f"The camera's address cannot be used: {error}") from error
    return found.url, CameraLogin(username=found.username, password=found.password)


async def register_stream(ctx: Context, asset: Asset, login: CameraLogin, *, verify: bool) -> Asset:
    """Register a stream. With `verify`, a worker checks its camera first.

    Raises DuplicateStreamId, and InvalidFile if the camera cannot be reached or has no video.
    """
    if await ctx.assets.find(asset.id):
        raise DuplicateStreamId(f"the id {asset.id} is already in use")
    secret_keys = ctx.settings.secret_keys
    await live_records.write_login(ctx.redis, asset.id, login, LOGIN_TTL, secret_keys)
    try:
        found = await probe(ctx, asset) if verify else asset
        kept = await ctx.assets.register(found)
    except DuplicateAssetId as error:
        raise DuplicateStreamId(error.message) from error
    except BaseException:
        await asyncio.shield(ctx.redis.delete(keys.camera(asset.id)))
        raise
    await live_records.write_login(ctx.redis, asset.id, login, secret_keys=secret_keys)
    log.info("stream added", asset=asset.id, url=asset.path, codec=kept.codec)
    return kept


@Endpoint(
    "GET",
    "/v1/streams/get-stream-info",
    tag="Live Stream",
    summary="List live streams",
    answers=(
        Answer(
            description="All live streams.",
            json=list[StreamInfo],
            example=[
                StreamInfo(
                    id=ID,
                    live_stream_url=CAMERA,
                    description="Front door",
                    chunk_duration=10,
                    chunk_overlap_duration=0,
                )
            ],
        ),
    ),
    errors=(Unavailable,),
)
async def list_live_streams(request: HttpRequest) -> Response:
    """List all live streams, and how each is embedded."""
    ctx = context(request)
    assets, sessions = await streams(ctx)
    logins = await live_records.read_logins(ctx.redis, [asset.id for asset in assets])
    return json_response(
        [
            StreamInfo(
                id=asset.id,
                live_stream_url=asset.path,
                description=asset.description,
                chunk_duration=session.chunk_duration if session else 0,
                chunk_overlap_duration=session.chunk_overlap_duration if session else 0,
                **msgspec.structs.asdict(msgspec.json.decode(login.place, type=Place)),
            )
            for asset, session, login in zip(assets, sessions, logins, strict=True)
        ]
    )


@Endpoint(
    "GET",
    "/v1/streams/{stream_id}/status",
    tag="Live Stream",
    summary="Get what the running job of a live stream is doing",
    description="An extension. A stream that is not embedded is `idle`.",
    answers=(
        Answer(
            description="The state of the running job.",
            json=StreamStatus,
            example=StreamStatus(
                id=ID,
                state="running",
                request=ID,
                model=MODEL,
                worker="worker-1",
                created=1767000000,
                chunk_duration=10,
                chunks=42,
                transport="tcp",
                clock="camera",
            ),
        ),
    ),
    errors=(BadParameter, InvalidParameter, Unavailable),
    invalid_example="('path', 'stream_id'): Must be a UUID",
)
async def live_stream_status(request: HttpRequest) -> Response:
    """Return what the running job of a stream is doing."""
    ctx = context(request)
    asset = await find_stream(ctx, _stream_id(request))
    (session,) = await live_records.read_sessions(ctx.redis, [asset.id])
    if session is None:
        return json_response(StreamStatus(id=asset.id))
    return json_response(
        StreamStatus(
            id=asset.id,
            state=session.state,
            detail=session.detail,
            request=session.request,
            model=session.model or None,
            worker=session.owner or None,
            created=session.created,
            chunk_duration=session.chunk_duration,
            chunk_overlap_duration=session.chunk_overlap_duration,
            chunks=session.next,
            chunks_dropped=session.dropped,
            chunks_failed=session.failed,
            reconnections=session.reconnections,
            transport=session.transport,
            clock=session.clock,
        )
    )


async def streams(ctx: Context) -> tuple[list[Asset], list[live_records.LiveRecord | None]]:
    """Return every live stream, and for each its running session or None."""
    assets = [asset for asset in await ctx.assets.all() if asset.kind == "stream"]
    return assets, await live_records.read_sessions(ctx.redis, [asset.id for asset in assets])


@Endpoint(
    "DELETE",
    "/v1/generate_video_embeddings/{stream_id}",
    tag="Embeddings",
    summary="Stop embedding a live stream",
    description="The stream stays registered. Also answers 200 when nothing was running.",
    answers=(Answer(description="The stream is no longer embedded."),),
    errors=(BadParameter, InvalidParameter),
    invalid_example="('path', 'stream_id'): Must be a UUID",
)
async def stop_live_stream_embed_processing(request: HttpRequest) -> Response:
    """Stop embedding a stream, which stays registered."""
    ctx = context(request)
    stream_id = _stream_id(request)
    try:
        asset = await find_stream(ctx, stream_id)
    except InvalidParameter as error:
        ctx.errors.emit(f"Stop live stream: {error.message}", stream_id=stream_id)
        raise
    await stop_session(ctx, asset, ctx.settings.drain_timeout)
    return Response()


@Endpoint(
    "DELETE",
    "/v1/streams/delete/{stream_id}",
    tag="Live Stream",
    summary="Stop and remove a live stream",
    description="Waits for chunks in flight; chunks that are still queued are dropped.",
    answers=(Answer(description="The stream is removed."),),
    errors=(BadParameter, InvalidParameter, ResourceInUse, Unavailable),
    invalid_example="('path', 'stream_id'): Must be a UUID",
)
async def delete_live_stream(request: HttpRequest) -> Response:
    """Stop embedding a stream and remove it."""
    ctx = context(request)
    stream_id = _stream_id(request)
    try:
        await remove_stream(ctx, await find_stream(ctx, stream_id), ctx.settings.drain_timeout)
    except RtEmbedError as error:
        ctx.errors.emit(error.message, stream_id=stream_id)
        raise
    return Response()


@Endpoint(
    "DELETE",
    "/v1/streams/delete-batch",
    tag="Live Stream",
    summary="Stop and remove many live streams",
    description="In parallel. The status is 200 even if none could be removed: see `errors`.",
    body=DeleteStreams,
    body_example=DeleteStreams(stream_ids=[ID]),
    answers=(
        Answer(
            description="The result for each stream, in the order of the request.",
            json=DeletedStreams,
            example=DeletedStreams(
                deleted=[ID],
                errors=[
                    KeptStream(
                        stream_id=ID,
                        error=f"No such resource {ID}",
                        error_code="BadParameter",
                        status_code=400,
                    )
                ],
            ),
        ),
    ),
    errors=(FileTooLarge, Unavailable),
    invalid_example="('body', 'stream_ids'): Field required",
)
async def delete_live_streams(request: HttpRequest) -> Response:
    """Stop and remove many streams at once."""
    ctx = context(request)
    body = validate_json(await read_body(request), DeleteStreams)
    timeout = body.drain_timeout_seconds
    if timeout is None:
        timeout = ctx.settings.blocking_drain_timeout if body.blocking else ctx.settings.drain_timeout
    outcomes = await asyncio.gather(*(_delete(ctx, stream_id, timeout) for stream_id in body.stream_ids))
    return json_response(
        DeletedStreams(
            deleted=[o for o in outcomes if isinstance(o, str)],
            errors=[o for o in outcomes if isinstance(o, KeptStream)],
        )
    )


async def _delete(ctx: Context, stream_id: str, timeout: float) -> str | KeptStream:
    try:
        await remove_stream(ctx, await find_stream(ctx, stream_id), timeout)
        return stream_id
    except RtEmbedError as error:
        ctx.errors.emit(error.message, stream_id=stream_id)
        return KeptStream(
            stream_id=stream_id, error=error.message, error_code=_error_code(error), status_code=error.status
        )


def _stream_id(request: HttpRequest) -> str:
    return validate_stream_id(request.path_params["stream_id"], ("path", "stream_id"))


async def find_stream(ctx: Context, stream_id: str) -> Asset:
    """Return a stream. Raises BadParameter for an unknown id, InvalidParameter for the id of a file."""
    asset = await ctx.assets.find(stream_id)
    if asset is None:
        raise BadParameter(f"No such resource {stream_id}")
    if asset.kind != "stream":
        raise InvalidParameter(f"No such live-stream {stream_id}")
    return asset


async def remove_stream(ctx: Context, asset: Asset, timeout: float) -> None:
    """Stop embedding a stream and remove it. Raises ResourceInUse, BadParameter if it is gone already."""
    began = time.monotonic()
    await stop_session(ctx, asset, timeout)
    stream_delete_drain_latency.record(time.monotonic() - began)
    await ctx.assets.delete(asset)
    await ctx.redis.delete(keys.camera(asset.id), keys.live(asset.id), keys.reader(asset.id))
    if asset.camera_id:
        await ctx.redis.hdel(keys.CAMERAS, asset.camera_id)
    stream_delete_latency.record(time.monotonic() - began)
