"""The API description, and two pages that show it; everything they load comes from this server."""

import openapi_ui_bundles
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import BaseRoute, Mount, Route
from starlette.staticfiles import StaticFiles

from gateway.api.openapi import TITLE, openapi_document
from gateway.context import json

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


def routes() -> list[BaseRoute]:
    """`/openapi.json`, `/docs` (Swagger UI) and `/redoc`."""
    return [
        Route("/openapi.json", _document),
        Route("/docs", _swagger),
        Route("/redoc", _redoc),
        Mount("/docs/swagger-ui", StaticFiles(directory=openapi_ui_bundles.swagger_ui.static_path)),
        Mount("/docs/redoc", StaticFiles(directory=openapi_ui_bundles.redoc.static_path)),
    ]


async def _document(_: Request) -> Response:
    return json(openapi_document())


async def _swagger(_: Request) -> Response:
    return HTMLResponse(_SWAGGER, headers={"Content-Security-Policy": _POLICY})


async def _redoc(_: Request) -> Response:
    return HTMLResponse(_REDOC, headers={"Content-Security-Policy": _POLICY})
