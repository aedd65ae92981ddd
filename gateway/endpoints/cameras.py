"""Cameras, as the RTVI-CV and VIOS services announce them: add, embed, list, remove."""

import uuid
from collections.abc import Mapping
from typing import Any, NamedTuple
from urllib.parse import unquote, urlsplit

import msgspec
import structlog
from starlette.requests import Request as HttpRequest
from starlette.responses import Response

from gateway.api.endpoint import Answer, Endpoint
from gateway.api.examples import CAMERA, ID, MODEL
from gateway.api.responses import json_response
from gateway.api.stream_schemas import (
    AddCamera,
    AddedCamera,
    Camera,
    CameraInfo,
    CameraList,
    CameraMetadata,
    CameraStatusChange,
    GoneCamera,
    RemoveCamera,
    RemovedCamera,
)
from gateway.api.validation import as_stream_id, as_uuid, problem, require_few_values, validate, validate_json
from gateway.context import Context, context
from gateway.endpoints.streams import register_stream, remove_stream, split_login, streams
from gateway.handling.body import read_body
from gateway.handling.live_streams import start_session
from gateway.handling.probing import verified
from gateway.intake.downloads import FETCH_ERRORS
from shared import keys
from shared.addresses import RTSP_PORTS
from shared.assets import Asset
from shared.errors import (
    BadRequest,
    DuplicateCameraId,
    FileTooLarge,
    InvalidFile,
    NotFound,
    ResourceInUse,
    RtEmbedError,
    ServerBusy,
    Unavailable,
)
from shared.telemetry.redaction import without_query
from shared.timestamps import parse_timestamp

log = structlog.get_logger(__name__)

ADD = {"camera_add", "add", "camera_streaming"}
REMOVE = {"camera_remove", "remove"}
STATUS_CHANGE = "camera_status_change"
DEFAULT_CHUNK_DURATION = 10
VIOS_FILE = "vios_file.mp4"


def _aliases(method: str, name: str) -> tuple[tuple[str, str], ...]:
    """Return other paths at which services announce cameras."""
    return tuple((method, f"{prefix}/v1/camera/{name}") for prefix in ("", "/api"))


class NewCamera(NamedTuple):
    """A camera to add, from either envelope."""

    id: str
    name: str
    url: str
    kind: str
    metadata: CameraMetadata
    headers: Mapping[str, str]
    creation_time: str


@Endpoint(
    "POST",
    "/v1/stream/add",
    aliases=(*_aliases("POST", "add"), *_aliases("PUT", "streaming")),
    tag="Stream",
    summary="Add a camera, and embed it if its metadata names a model",
    description=(
        "In the envelope of the RTVI-CV service, or in that of the VIOS service (`alert_type`, `event`). "
        "The camera need not be reachable yet. A file or an http(s) URL is stored as a file. Also at "
        "/v1/camera/add and, by PUT, /v1/camera/streaming."
    ),
    body=AddCamera,
    body_example=AddCamera(
        key="sensor",
        value=Camera(
            camera_id="camera-001",
            camera_url=CAMERA,
            change="camera_add",
            metadata=CameraMetadata(model=MODEL, chunk_duration=10),
        ),
    ),
    answers=(
        Answer(
            description="The camera is registered.",
            json=AddedCamera,
            example=AddedCamera(camera_id="camera-001", asset_id=ID, status="processing", inference=True),
        ),
    ),
    errors=(
        *FETCH_ERRORS,
        BadRequest,
        DuplicateCameraId,
        InvalidFile,
        ServerBusy,
        Unavailable,
    ),
    invalid_example="('body', 'value'): Field required",
)
async def stream_add(request: HttpRequest) -> Response:
    """Register a camera, and embed it if its metadata names a model."""
    ctx = context(request)
    body = await read_body(request)
    if _is_event(body):
        return json_response(await _add_event(ctx, validate_json(body, CameraStatusChange)))
    wanted = validate_json(body, AddCamera)
    _check_change(wanted.value.change, ADD)
    headers = wanted.headers.url_headers if wanted.headers else None
    value = wanted.value
    camera = NewCamera(
        id=value.camera_id,
        name=value.camera_name or "",
        url=value.camera_url,
        kind=value.camera_type or "",
        metadata=value.metadata or CameraMetadata(),
        headers=headers or {},
        creation_time="",
    )
    return json_response(await _add(ctx, camera))


def _is_event(body: bytes) -> bool:
    """Return whether the body is in VIOS's envelope."""
    require_few_values(body)
    try:
        data = msgspec.json.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return False  # the validation of the other envelope says what is wrong
    return isinstance(data, dict) and ("event" in data or "alert_type" in data)


def _check_change(change: str, allowed: set[str]) -> None:
    if change not in allowed:
        raise BadRequest(f"change {change!r} is not supported here; give one of {', '.join(sorted(allowed))}")


def _check_event(wanted: CameraStatusChange, allowed: set[str]) -> None:
    if wanted.alert_type != STATUS_CHANGE:
        raise BadRequest(f"alert_type {wanted.alert_type!r} is not supported; give {STATUS_CHANGE}")
    _check_change(wanted.event.change, allowed)


async def _add_event(ctx: Context, wanted: CameraStatusChange) -> AddedCamera:
    event = wanted.event
    _check_event(wanted, ADD)
    if event.camera_url is None:
        raise problem(("body", "event", "camera_url"), "Field required")
    if not event.camera_url:
        if event.change != "camera_add":
            raise BadRequest(f"camera {event.camera_id} has no URL; give one in camera_url")
        return AddedCamera(camera_id=event.camera_id, asset_id="", status="added", inference=False)
    given = event.metadata or {}
    known = {name: given[name] for name in CameraMetadata.__struct_fields__ if name in given}
    url = event.camera_url
    camera = NewCamera(
        id=event.camera_id,
        name=event.camera_name or "",
        url=f"file://{url}" if url.startswith("/") else url,
        kind=event.camera_type or "",
        metadata=validate(CameraMetadata, known, ("body", "event", "metadata")),
        headers=(event.headers.url_headers if event.headers else None) or {},
        creation_time=_creation_time(given.get("file_start_time") or wanted.created_at),
    )
    return await _add(ctx, camera)


def _creation_time(text: Any) -> str:
    """Return a time as asset records have it; empty if it is not a time."""
    full = text if not isinstance(text, str) or "." in text else text.replace("Z", ".000Z")
    try:
        parse_timestamp(full)
    except (ValueError, TypeError):
        return ""
    return str(full)


async def _add(ctx: Context, camera: NewCamera) -> AddedCamera:
    scheme = camera.url.partition(":")[0].lower()
    is_rtsp = scheme in RTSP_PORTS
    is_file = scheme == "file" or camera.kind == "file" or not (is_rtsp or camera.kind == "rtsp")
    if not (is_rtsp or scheme in ("file", "http", "https")) or is_file == is_rtsp:
        raise problem(("body", "camera_url"), f"a {camera.kind or 'camera'} cannot be at {scheme}://")
    asset_id = (as_uuid if is_file else as_stream_id)(camera.id) or str(uuid.uuid4())
    if not await ctx.redis.hsetnx(keys.CAMERAS, camera.id, asset_id):
        raise DuplicateCameraId(f"the camera {camera.id} is already registered")
    try:
        asset = await (_file if is_file else _stream)(ctx, camera, asset_id)
    except BaseException:
        await ctx.redis.hdel(keys.CAMERAS, camera.id)
        raise
    inference = not is_file and await _embed(ctx, asset, camera.metadata)
    return AddedCamera(
        camera_id=camera.id,
        asset_id=asset.id,
        status="processing" if inference else "added",
        inference=inference,
    )


async def _stream(ctx: Context, camera: NewCamera, asset_id: str) -> Asset:
    """Register the camera as a live stream, even if it cannot be reached yet."""
    url, login = split_login(camera.url)
    asset = Asset(
        id=asset_id,
        kind="stream",
        path=url,
        filename=url,
        description=camera.name or camera.id,
        camera_id=camera.id,
    )
    return await register_stream(ctx, asset, login, verify=False)


async def _file(ctx: Context, camera: NewCamera, asset_id: str) -> Asset:
    """Fetch what a camera has recorded and register it as a file."""
    url = (
        f"file://{unquote(camera.url.removeprefix('file://'))}"
        if camera.url.startswith("file:")
        else camera.url
    )
    source = await ctx.downloads.locate(url)
    async with ctx.assets.incoming() as folder:
        fetched = await ctx.downloads.fetch(source, folder, headers=camera.headers)
        asset = Asset(
            id=asset_id,
            path=fetched.path,
            filename=fetched.filename if urlsplit(url).path.rpartition("/")[2] else VIOS_FILE,
            size=fetched.size,
            creation_time=camera.creation_time,
            description=camera.name or camera.id,
            camera_id=camera.id,
            url=without_query(url) if url.startswith("http") else "",
        )
        found = await verified(ctx, asset)
        return await (ctx.assets.keep(found) if fetched.ours else ctx.assets.register(found))


async def _embed(ctx: Context, asset: Asset, metadata: CameraMetadata) -> bool:
    """Start embedding if the metadata names a model. A failure is logged; the camera stays registered."""
    if metadata.model is None:
        return False
    duration = DEFAULT_CHUNK_DURATION if metadata.chunk_duration is None else metadata.chunk_duration
    try:
        model = ctx.view.require_model(metadata.model)
        await start_session(ctx, asset, model, duration, metadata.chunk_overlap_duration or 0)
    except RtEmbedError as error:
        log.warning("camera not embedded", asset=asset.id, camera=asset.camera_id, error=error.message)
        ctx.errors.emit(f"Failed to generate video embeddings: {error.message}", stream_id=asset.id)
        return False
    return True


@Endpoint(
    "POST",
    "/v1/stream/remove",
    aliases=(*_aliases("POST", "remove"), *_aliases("DELETE", "remove")),
    tag="Stream",
    summary="Stop and remove a camera",
    description=(
        "In either envelope. An unknown camera is 404 in that of RTVI-CV, and 200 with an empty "
        "`asset_id` in that of VIOS. Also at /v1/camera/remove, by POST and DELETE."
    ),
    body=RemoveCamera,
    body_example=RemoveCamera(key="sensor", value=GoneCamera(camera_id="camera-001", change="camera_remove")),
    answers=(
        Answer(
            description="The camera is removed.",
            json=RemovedCamera,
            example=RemovedCamera(camera_id="camera-001", asset_id=ID),
        ),
    ),
    errors=(BadRequest, NotFound, ResourceInUse, FileTooLarge, Unavailable),
    invalid_example="('body', 'value'): Field required",
)
async def stream_remove(request: HttpRequest) -> Response:
    """Stop embedding a camera and remove it."""
    ctx = context(request)
    body = await read_body(request)
    if _is_event(body):
        wanted = validate_json(body, CameraStatusChange)
        _check_event(wanted, REMOVE)
        asset_id = await _remove(ctx, wanted.event.camera_id)
        return json_response(RemovedCamera(camera_id=wanted.event.camera_id, asset_id=asset_id))
    gone = validate_json(body, RemoveCamera).value
    _check_change(gone.change, REMOVE)
    asset_id = await _remove(ctx, gone.camera_id)
    if not asset_id:
        raise NotFound(f"No such camera {gone.camera_id}")
    return json_response(RemovedCamera(camera_id=gone.camera_id, asset_id=asset_id))


async def _remove(ctx: Context, camera_id: str) -> str:
    """Remove the camera and return the id of its asset; empty if there was none."""
    found: Any = await ctx.redis.hget(keys.CAMERAS, camera_id)
    asset = await ctx.assets.find(found.decode()) if found else None
    if asset is None:
        await ctx.redis.hdel(keys.CAMERAS, camera_id)
        return ""
    if asset.kind == "stream":
        await remove_stream(ctx, asset, ctx.settings.drain_timeout)
    else:
        await ctx.assets.delete(asset)
        await ctx.redis.hdel(keys.CAMERAS, camera_id)
    return asset.id


@Endpoint(
    "GET",
    "/v1/stream/get-stream-info",
    tag="Stream",
    summary="List cameras",
    answers=(
        Answer(
            description="All live streams, however they were added.",
            json=CameraList,
            example=CameraList(
                stream_count=1,
                stream_list=[
                    CameraInfo(
                        camera_id="camera-001",
                        camera_name="Front door",
                        camera_url=CAMERA,
                        asset_id=ID,
                        inference_active=True,
                        chunk_duration=10,
                        chunk_overlap_duration=0,
                    )
                ],
            ),
        ),
    ),
    errors=(Unavailable,),
)
async def stream_list(request: HttpRequest) -> Response:
    """List all live streams, however they were added."""
    listed = [
        CameraInfo(
            camera_id=asset.camera_id or asset.id,
            camera_name=asset.description or asset.sensor_name or None,
            camera_url=asset.path,
            asset_id=asset.id,
            inference_active=session is not None,
            chunk_duration=session.chunk_duration if session else 0,
            chunk_overlap_duration=session.chunk_overlap_duration if session else 0,
        )
        for asset, session in zip(*await streams(context(request)), strict=True)
    ]
    return json_response(CameraList(stream_count=len(listed), stream_list=listed))
