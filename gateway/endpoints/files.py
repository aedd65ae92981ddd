"""Files: upload or register, list, describe, read, delete."""

import uuid
from pathlib import Path

import structlog
from starlette.requests import Request
from starlette.responses import Response

from gateway.api.schemas import DeletedFile, File, FileList, FilesQuery, TypedFile, UploadForm
from gateway.api.validation import validate_form, validate_query, validate_uuid
from gateway.context import Context, context, json, require_service
from gateway.intake.probing import probe
from gateway.intake.uploads import read_form
from shared.assets import Asset
from shared.errors import InvalidFile, InvalidReference, RtEmbedError

log = structlog.get_logger(__name__)


async def upload(request: Request) -> Response:
    """Store a file, or register one that the server can read, after a worker has opened it."""
    ctx = context(request)
    if not ctx.settings.skip_media_verification:
        require_service(ctx)
    async with ctx.assets.incoming() as folder:
        with ctx.reported():
            received = await read_form(request, ctx.assets, folder, ctx.settings.upload_limit_bytes)
        form = validate_form(received.fields, UploadForm)
        if form.file is None:
            arrived = await _server_file(ctx, form)
        else:
            arrived = _asset(form, path=f"{folder}/{form.file}", size=received.size)
        with ctx.reported(arrived.id):
            verified = await _verified(ctx, arrived)
        with ctx.reported():
            asset = await (ctx.assets.keep(verified) if form.file else ctx.assets.register(verified))
    log.info("file added", asset=asset.id, bytes=asset.size, codec=asset.codec, duration_ns=asset.duration)
    return json(_typed(asset, asset.size))


def _asset(form: UploadForm, path: str, size: int) -> Asset:
    return Asset(
        id=form.id or str(uuid.uuid4()),
        media_type=form.media_type,
        path=path,
        filename=path.rpartition("/")[2],
        size=size,
        creation_time=form.creation_time or "",
        sensor_name=form.sensor_name,
    )


async def _server_file(ctx: Context, form: UploadForm) -> Asset:
    path = Path(form.filename)
    try:
        size = await ctx.assets.in_thread(lambda: path.stat().st_size if path.is_file() else -1)
    except OSError:
        size = -1
    if size < 0:
        raise InvalidReference(f"{form.filename} is not an existing regular file")
    return _asset(form, str(await ctx.assets.in_thread(path.absolute)), size)


async def _verified(ctx: Context, asset: Asset) -> Asset:
    """The asset as a worker found it. Raises InvalidFile when it is not what the client says."""
    if ctx.settings.skip_media_verification:
        return asset
    try:
        found = await probe(ctx, asset)
    except RtEmbedError as error:
        log.warning("file refused", asset=asset.id, filename=asset.filename, error=error.message)
        raise
    if found.media_type != asset.media_type:
        held = f"it holds {found.media_type} ({found.codec})"
        raise InvalidFile(f"File does not seem to be a valid {asset.media_type} file: {held}")
    return found


async def files(request: Request) -> Response:
    """All files; streams are not files."""
    query = validate_query(request.query_params, FilesQuery)
    ctx = context(request)
    listed = [a for a in await ctx.assets.all() if a.kind == "file"] if query.purpose == "vision" else []
    return json(FileList(data=[_typed(asset, await ctx.assets.size(asset)) for asset in listed]))


async def file_information(request: Request) -> Response:
    """One file."""
    ctx = context(request)
    asset = await _file(request)
    return json(
        File(
            id=asset.id,
            bytes=await ctx.assets.size(asset),
            filename=asset.filename,
            creation_time=asset.creation_time or None,
            sensor_name=asset.sensor_name,
        )
    )


async def file_content(request: Request) -> Response:
    """The bytes of a file, whole or in ranges."""
    asset = await _file(request)
    head = request.method == "HEAD"
    return await context(request).assets.content(asset, request.headers, head=head)


async def delete_file(request: Request) -> Response:
    """Forget a file; its bytes go too, unless it was registered in place."""
    asset = await _file(request)
    await context(request).assets.delete(asset)
    return json(DeletedFile(id=asset.id))


async def _file(request: Request) -> Asset:
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
