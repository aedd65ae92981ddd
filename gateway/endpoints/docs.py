"""The API description, and two pages that show it. Everything that they load comes from this server."""

import json
from collections.abc import Sequence
from pathlib import Path

import msgspec
import openapi_ui_bundles
from starlette.requests import Request as HttpRequest
from starlette.responses import HTMLResponse, Response
from starlette.routing import BaseRoute, Mount, Route
from starlette.staticfiles import StaticFiles

from gateway.api.endpoint import Endpoint
from gateway.api.examples import MODEL
from gateway.api.openapi import TITLE, openapi_document
from gateway.context import context

PAGES = frozenset({"/", "/openapi.json", "/docs", "/redoc"})
"""Paths of the console and the API description, which need no API key."""

_POLICY = (
    "default-src 'none'; script-src 'self' 'unsafe-inline'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data:; font-src 'self' data:; connect-src 'self'; worker-src blob:; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'"
)
_REDOC_SCRIPT = "redoc.standalone.js"
_REDOC_LOGO = "https://cdn.redoc.ly/redoc/logo-mini.svg"
"""What its script would load from elsewhere."""
NO_IMAGE = "data:image/svg+xml,%3Csvg xmlns=%27http://www.w3.org/2000/svg%27/%3E"
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
SwaggerUIBundle({{
  url: "openapi.json", dom_id: "#api", deepLinking: true, validatorUrl: null,
  tryItOutEnabled: true, displayRequestDuration: true, defaultModelsExpandDepth: 0,
}})
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
<redoc spec-url="openapi.json"></redoc>
<script src="docs/redoc/{_REDOC_SCRIPT}"></script>
</html>
"""


def routes(endpoints: Sequence[Endpoint]) -> list[BaseRoute]:
    """Return the routes of `/openapi.json`, `/docs` (Swagger UI) and `/redoc`."""
    document = msgspec.json.encode(openapi_document(endpoints)).decode()

    redoc = (Path(openapi_ui_bundles.redoc.static_path) / _REDOC_SCRIPT).read_text(encoding="utf-8")
    redoc = redoc.replace(_REDOC_LOGO, NO_IMAGE)

    async def serve_redoc(_: HttpRequest) -> Response:
        return Response(redoc, media_type="text/javascript", headers={"Cache-Control": "max-age=3600"})

    async def serve_document(request: HttpRequest) -> Response:
        models = context(request).view.models
        served = document.replace(MODEL, json.dumps(models[0].id)[1:-1]) if models else document
        if prefix := context(request).settings.root_path:
            served = served.replace('"servers":[{"url":"/"}]', f'"servers":[{{"url":"{prefix}"}}]', 1)
        return Response(served, media_type="application/json")

    return [
        Route("/openapi.json", serve_document),
        Route("/docs", _swagger),
        Route("/redoc", _redoc),
        Route(f"/docs/redoc/{_REDOC_SCRIPT}", serve_redoc),
        Mount("/docs/swagger-ui", StaticFiles(directory=openapi_ui_bundles.swagger_ui.static_path)),
    ]


async def _swagger(_: HttpRequest) -> Response:
    return HTMLResponse(_SWAGGER, headers={"Content-Security-Policy": _POLICY})


async def _redoc(_: HttpRequest) -> Response:
    return HTMLResponse(_REDOC, headers={"Content-Security-Policy": _POLICY})
