"""Every endpoint of the API. A new module of `gateway/endpoints` takes its place in this list."""

from starlette.routing import Route

from gateway.api.endpoint import endpoints_of
from gateway.endpoints import (
    asset_statistics,
    cameras,
    config,
    deferred,
    embeddings,
    files,
    health,
    metrics,
    models,
    streams,
    text,
    video,
)

ENDPOINTS = endpoints_of(
    text,
    video,
    embeddings,
    deferred,
    files,
    streams,
    cameras,
    models,
    health,
    metrics,
    asset_statistics,
    config,
)  # fmt: skip
"""Those that are asked most come first: Starlette tries paths in their order."""


def routes() -> list[Route]:
    """The routes of the API."""
    return [route for endpoint in ENDPOINTS for route in endpoint.routes()]
