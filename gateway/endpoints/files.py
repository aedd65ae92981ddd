"""Files: upload or register, list, describe, read, delete."""

import sys
import uuid
from pathlib import Path

import structlog
from msgspec import UNSET
from starlette.requests import Request as HttpRequest
from starlette.responses import Response

from gateway.api.endpoint import Answer, Endpoint
from gateway.api.examples import FILE, ID, MEDIA, UNTYPED_FILE
from gateway.api.responses import json_response
from gateway.api.schemas import DeletedFile, File, FileList, FileMedia, FilesQuery, TypedFile, UploadForm
from gateway.api.validation import validate_form, validate_query, validate_uuid
from gateway.context import Context, context
from gateway.handling.probing import opened, verified
from gateway.handling.uploads import read_form
from gateway.intake.server_files import find_server_file
from shared.assets import Asset
from shared.chunks import SECOND
from shared.errors import (
    BadParameter,
    BadParameters,
    DuplicateAssetId,
    FailedRequest,
    FileTooLarge,
    Forbidden,
    InvalidFile,
    InvalidReference,
    MissingFile,
    ResourceInUse,
    RtEmbedError,
    ServerBusy,
    Unavailable,
)
from shared.settings import Settings

log = structlog.get_logger(__name__)


@Endpoint(
    "POST",
    "/v1/files",
    tag="Files",
    summary="Upload a file, or register one that the server can read",
    description=(
        "A worker opens the file before it is accepted. A registered file is in one of the folders in "
        "`FILE_URL_ALLOWED_DIRS`; it stays where it is and is not deleted with its record. "
        "`application/x-www-form-urlencoded` works for `filename`."
    ),
    form=UploadForm,
    invalid_example="('body', 'purpose'): Field required",
    answers=(Answer(description="The file.", json=TypedFile, example=FILE),),
    errors=(
        BadParameters,
        InvalidReference,
        InvalidFile,
        DuplicateAssetId,
        FileTooLarge,
        ServerBusy,
        Unavailable,
    ),
)
async def add_file(request: HttpRequest) -> Response:
    """Store a file, or register one on the server, after a worker has opened it."""
    ctx = context(request)
    if not ctx.settings.skip_media_verification:
        ctx.require_service()
    async with ctx.assets.incoming() as folder:
        with ctx.reported():
            received = await read_form(request, ctx.assets, folder, ctx.settings.upload_limit_bytes)
        form = validate_form(received.fields, UploadForm)
        if form.file is None:
            arrived = await _server_file(ctx, form)
        else:
            arrived = _asset(form, received.path, form.file, received.size)
        with ctx.reported(arrived.id):
            found = await verified(ctx, arrived)
        with ctx.reported():
            asset = await (ctx.assets.keep(found) if form.file else ctx.assets.register(found))
    log.info("file added", asset=asset.id, bytes=asset.size, codec=asset.codec, duration_ns=asset.duration)
    return json_response(_typed(asset, asset.size))


def _asset(form: UploadForm, path: str, filename: str, size: int) -> Asset:
    return Asset(
        id=form.id or str(uuid.uuid4()),
        media_type=form.media_type,
        path=path,
        filename=filename,
        size=size,
        creation_time=form.creation_time or "",
        sensor_name=form.sensor_name,
    )


async def _server_file(ctx: Context, form: UploadForm) -> Asset:
    try:
        path, size = await ctx.assets.in_thread(lambda: _named(form.filename, ctx.settings))
    except (OSError, RtEmbedError) as error:
        if isinstance(error, Forbidden):
            log.warning("server path refused", path=form.filename, hint="FILE_URL_ALLOWED_DIRS")
        raise InvalidReference(f"{form.filename} is not an existing regular file") from error
    return _asset(form, path, path.rpartition("/")[2], size)


def _named(filename: str, settings: Settings) -> tuple[str, int]:
    """Return the real path of a file of the server, and its bytes. Blocks."""
    if settings.any_server_path:
        path = Path(filename).absolute()
        if not path.is_file():
            raise MissingFile(filename)
    else:
        path = find_server_file(filename, settings.file_url_dirs)
    return str(path), path.stat().st_size


@Endpoint(
    "GET",
    "/v1/files",
    tag="Files",
    summary="List files",
    description=(
        "Oldest first; live streams are not listed. With `limit` the answer is a page, and `has_more` says "
        "whether another follows, which begins `after` the last `id` of this one."
    ),
    query=FilesQuery,
    invalid_example="('query', 'purpose'): Field required",
    answers=(Answer(description="The files.", json=FileList, example=FileList(data=[FILE])),),
    errors=(BadParameter, Unavailable),
)
async def list_files(request: HttpRequest) -> Response:
    """List files, without live streams: all of them, or a page."""
    query = validate_query(request.query_params, FilesQuery)
    assets = context(request).assets
    if query.purpose != "vision":
        found = []
    elif query.limit or query.after:
        found = await assets.files(query.after or "", query.limit + 1 if query.limit else sys.maxsize)
    else:
        found = [asset for asset in await assets.all() if asset.kind == "file"]
    page = found[: query.limit]
    data = [_typed(asset, size) for asset, size in zip(page, await assets.sizes(page), strict=True)]
    return json_response(FileList(data=data, has_more=len(found) > len(page) if query.limit else UNSET))


@Endpoint(
    "GET",
    "/v1/files/{file_id}",
    tag="Files",
    summary="Describe a file",
    invalid_example="('path', 'file_id'): Must be a UUID (input: \"x\")",
    answers=(Answer(description="The file.", json=File, example=UNTYPED_FILE),),
    errors=(BadParameter, Unavailable),
)
async def file_info(request: HttpRequest) -> Response:
    """Describe a file."""
    ctx = context(request)
    asset = await _file(request)
    return json_response(
        File(
            id=asset.id,
            bytes=await ctx.assets.size(asset),
            filename=asset.filename,
            creation_time=asset.creation_time or None,
            sensor_name=asset.sensor_name,
        )
    )


@Endpoint(
    "GET",
    "/v1/files/{file_id}/media",
    tag="Files",
    summary="Describe what is in a file",
    description="A file that no worker has opened is opened first.",
    invalid_example="('path', 'file_id'): Must be a UUID (input: \"x\")",
    answers=(Answer(description="What a worker has found in the file.", json=FileMedia, example=MEDIA),),
    errors=(BadParameter, FailedRequest, ServerBusy, Unavailable),
)
async def file_media(request: HttpRequest) -> Response:
    """Describe the video or image in a file."""
    asset = await opened(context(request), await _file(request))
    return json_response(
        FileMedia(
            id=asset.id,
            media_type=asset.media_type,
            codec=asset.codec,
            width=asset.width,
            height=asset.height,
            duration=asset.duration / SECOND if asset.media_type == "video" else None,
            frame_rate=round(float(asset.fps), 3) if asset.fps else None,
            joined=asset.joined,
        )
    )


@Endpoint(
    "GET",
    "/v1/files/{file_id}/content",
    tag="Files",
    summary="Download a file",
    description=(
        "Accepts `Range`. The content type is that of the image or video that a worker found in the file. "
        "A file that no worker has opened is opened first; an upload accepted unopened is sent as an "
        "attachment."
    ),
    invalid_example="('path', 'file_id'): Must be a UUID (input: \"x\")",
    answers=(
        Answer(description="The whole file.", binaries=("application/octet-stream",)),
        Answer(status=206, description="The ranges asked for.", binaries=("application/octet-stream",)),
        Answer(status=416, description="No such range.", texts={"text/plain": ""}),
    ),
    errors=(BadParameter, FailedRequest, Unavailable),
)
async def file_content(request: HttpRequest) -> Response:
    """Return the bytes of a file, whole or in ranges."""
    ctx, asset = context(request), await _file(request)
    if asset.url or not asset.directory:  # otherwise clients read back what they sent
        asset = await opened(ctx, asset)
    return await ctx.assets.content(asset, request.headers, head=request.method == "HEAD")


@Endpoint(
    "DELETE",
    "/v1/files/{file_id}",
    tag="Files",
    summary="Delete a file",
    invalid_example="('path', 'file_id'): Must be a UUID (input: \"x\")",
    answers=(Answer(description="The file is deleted.", json=DeletedFile, example=DeletedFile(id=ID)),),
    errors=(BadParameter, ResourceInUse, Unavailable),
)
async def delete_file(request: HttpRequest) -> Response:
    """Delete a file's record, and its bytes unless it was registered in place."""
    asset = await _file(request)
    await context(request).assets.delete(asset)
    return json_response(DeletedFile(id=asset.id))


async def _file(request: HttpRequest) -> Asset:
    ctx = context(request)
    file_id = validate_uuid(request.path_params["file_id"], ("path", "file_id"))
    with ctx.reported(file_id):
        return await ctx.assets.file(file_id)


def _typed(asset: Asset, size: int) -> TypedFile:
    return TypedFile(
        id=asset.id,
        bytes=size,
        filename=asset.filename,
        creation_time=asset.creation_time or None,
        sensor_name=asset.sensor_name,
        media_type=asset.media_type,
    )
