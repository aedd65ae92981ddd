"""Every endpoint of the API. A new module in `gateway/endpoints` is added here.

`python -m gateway.all_endpoints` prints their OpenAPI document.
"""

import json

from starlette.routing import Route

from gateway.api.endpoint import endpoints_of
from gateway.api.openapi import openapi_document
from gateway.endpoints import (
    cameras,
    config,
    deferred,
    embeddings,
    files,
    fleet_inspection,
    health,
    index_search,
    metrics,
    models,
    streams,
    text,
    triggers,
    video,
)

ENDPOINTS = endpoints_of(
    text,
    video,
    embeddings,
    deferred,
    index_search,
    triggers,
    files,
    streams,
    cameras,
    models,
    health,
    metrics,
    fleet_inspection,
    config,
)  # fmt: skip
"""The most requested ones come first: Starlette tries routes in order."""


def routes() -> list[Route]:
    """Return the routes of the API."""
    return [route for endpoint in ENDPOINTS for route in endpoint.routes()]


if __name__ == "__main__":
    print(json.dumps(openapi_document(ENDPOINTS), indent=2, ensure_ascii=False))
