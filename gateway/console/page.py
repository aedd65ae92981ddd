"""Serving the console: it uses the public API, loads nothing from elsewhere, and runs no inline script."""

from collections.abc import MutableMapping
from pathlib import Path
from typing import Any

from starlette.requests import Request as HttpRequest
from starlette.responses import FileResponse, Response
from starlette.routing import BaseRoute, Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

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
}
FOLDER = "/console/"
"""What the page loads; it needs no API key, as it holds no data."""


def routes() -> list[BaseRoute]:
    """Return the routes of the page and of what it loads."""
    return [Route("/", _page), Mount(FOLDER.rstrip("/"), _ConsoleFiles(directory=ASSETS))]


async def _page(_: HttpRequest) -> Response:
    return FileResponse(ASSETS / "index.html", headers=HEADERS)


class _ConsoleFiles(StaticFiles):
    async def get_response(self, path: str, scope: MutableMapping[str, Any] | Scope) -> Response:
        response = await super().get_response(path, scope)
        response.headers.update(HEADERS)
        return response
