"""Serving the console: it uses the public API, loads nothing from elsewhere, and runs no inline script."""

import gzip
import hashlib
import mimetypes
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import NamedTuple

from starlette.exceptions import HTTPException
from starlette.requests import Request as HttpRequest
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

ASSETS = Path(__file__).parent / "assets"
HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; "
        "media-src 'self' blob:; connect-src 'self'; base-uri 'none'; form-action 'none'; "
        "frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",  # asks each time, and gets 304: an upgrade is seen at once
    "Vary": "Accept-Encoding",
}
FOLDER = "/console/"
"""What the page loads; it needs no API key, as it holds no data."""


class ConsoleFile(NamedTuple):
    """A file as it is sent, read once, so that the page never waits for a thread or a disk."""

    content: bytes
    compressed: bytes
    media_type: str
    etag: str


def routes() -> list[BaseRoute]:
    """Return the routes of the page and its assets."""
    files = {path.name: _read(path) for path in ASSETS.iterdir()}
    return [Route("/", _sending(files, "index.html")), Route(f"{FOLDER}{{name}}", _sending(files))]


def _read(path: Path) -> ConsoleFile:
    content = path.read_bytes()
    media_type = mimetypes.guess_type(path.name)[0] or "application/octet-stream"
    digest = hashlib.sha256(content).hexdigest()[:32]
    return ConsoleFile(content, gzip.compress(content, mtime=0), media_type, digest)


def _sending(
    files: dict[str, ConsoleFile], only: str | None = None
) -> Callable[[HttpRequest], Awaitable[Response]]:
    """Return the handler that sends the file which the path names, or the `only` one."""

    async def send(request: HttpRequest) -> Response:
        found = files.get(only or request.path_params["name"])
        if found is None:
            raise HTTPException(404)
        packed = "gzip" in request.headers.get("accept-encoding", "")
        etag = f'"{found.etag}{"-gzip" if packed else ""}"'
        headers = {**HEADERS, "ETag": etag}
        if etag in request.headers.get("if-none-match", ""):
            return Response(status_code=304, headers=headers)
        if packed:
            headers["Content-Encoding"] = "gzip"
        body = found.compressed if packed else found.content
        return Response(body, headers=headers, media_type=found.media_type)

    return send
