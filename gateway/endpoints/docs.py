"""The API description, and two pages that show it. Everything that they load comes from this server."""

from collections.abc import Sequence

import openapi_ui_bundles
from starlette.requests import Request as HttpRequest
from starlette.responses import HTMLResponse, Response
from starlette.routing import BaseRoute, Mount, Route
from starlette.staticfiles import StaticFiles

from gateway.api.endpoint import Endpoint
from gateway.api.openapi import TITLE, openapi_document
from gateway.api.responses import json_response

PAGES = frozenset({"/openapi.json", "/docs", "/redoc"})
"""Paths of the API description, which need no API key."""

_POLICY = (
    "default-src 'none'; script-src 'self' 'unsafe-inline'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data:; font-src 'self' data:; connect-src 'self'; worker-src blob:; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'"
)
_SWAGGER = f"""<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{TITLE}</title>
<link rel="stylesheet" href="docs/swagger-ui/swagger-ui.css">
<link rel="icon" href="docs/swagger-ui/favicon-32x32.png">
<div id="api"></div>
<script src="docs/swagger-ui/swagger-ui-bundle.js"></script>
<script>
SwaggerUIBundle({{url: "openapi.json", dom_id: "#api", deepLinking: true, validatorUrl: null}})
</script>
</html>
"""
_REDOC = f"""<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{TITLE}</title>
<link rel="icon" href="docs/swagger-ui/favicon-32x32.png">
<style>body {{ margin: 0 }}</style>
<redoc spec-url="openapi.json" disable-search="true"></redoc>
<script src="docs/redoc/redoc.standalone.js"></script>
</html>
"""


def routes(endpoints: Sequence[Endpoint]) -> list[BaseRoute]:
    """Return the routes of `/openapi.json`, `/docs` (Swagger UI) and `/redoc`."""
    document = json_response(openapi_document(endpoints))

    async def serve_document(_: HttpRequest) -> Response:
        return document

    return [
        Route("/openapi.json", serve_document),
        Route("/docs", _swagger),
        Route("/redoc", _redoc),
        Mount("/docs/swagger-ui", StaticFiles(directory=openapi_ui_bundles.swagger_ui.static_path)),
        Mount("/docs/redoc", StaticFiles(directory=openapi_ui_bundles.redoc.static_path)),
    ]


async def _swagger(_: HttpRequest) -> Response:
    return HTMLResponse(_SWAGGER, headers={"Content-Security-Policy": _POLICY})


async def _redoc(_: HttpRequest) -> Response:
    return HTMLResponse(_REDOC, headers={"Content-Security-Policy": _POLICY})
