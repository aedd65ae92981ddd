"""The gateway: a Starlette application that validates, stores bytes, writes jobs and relays results."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import structlog
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway.access import AccessMiddleware
from gateway.api.schemas import Error
from gateway.context import ClientGone, Context, json, refusal
from gateway.endpoints import (
    asset_statistics,
    cameras,
    config,
    deferred,
    docs,
    embeddings,
    files,
    health,
    models,
    streams,
    text,
    video,
)
from gateway.fleet_metrics_page import metrics_page
from gateway.intake.uploads import TooManyFields
from shared.errors import RtEmbedError, Unavailable
from shared.redis.connection import RedisError
from shared.settings import Settings
from shared.telemetry.export import SWITCHED_OFF, Telemetry
from shared.telemetry.instruments import http_duration, http_requests
from shared.telemetry.logs import PERF

log = structlog.get_logger(__name__)
access_log = logging.getLogger("gateway.access")
"""The standard library's: structlog knows no level PERF."""

CLIENT_CLOSED_REQUEST = 499


def routes() -> list[Route]:
    """Every endpoint; those that are asked most come first, for they are tried in order."""
    return [
        Route("/v1/generate_text_embeddings", text.generate_text_embeddings, methods=["POST"]),
        Route("/v1/generate_video_embeddings", video.generate_video_embeddings, methods=["POST"]),
        Route("/v1/ready", health.ready),
        Route("/v1/live", health.live),
        Route("/v1/startup", health.startup),
        Route("/v1/metrics", metrics_page, name="metrics"),
        Route("/v1/assets/stats", asset_statistics.assets_stats),
        Route("/v1/metadata", models.metadata),
        Route("/v1/version", models.version),
        Route("/v1/manifest", models.manifest),
        Route("/v1/models", models.models),
        Route("/v1/files", files.upload, methods=["POST"]),
        Route("/v1/files", files.files),
        Route("/v1/files/{file_id}", files.file_information),
        Route("/v1/files/{file_id}", files.delete_file, methods=["DELETE"]),
        Route("/v1/files/{file_id}/content", files.file_content),
        Route("/v1/streams/add", streams.add_streams, methods=["POST"]),
        Route("/v1/streams/get-stream-info", streams.get_stream_info),
        Route("/v1/streams/delete/{stream_id}", streams.delete_stream, methods=["DELETE"]),
        Route("/v1/streams/delete-batch", streams.delete_streams, methods=["DELETE"]),
        Route("/v1/stream/add", cameras.add_camera, methods=["POST"]),
        Route("/v1/stream/remove", cameras.remove_camera, methods=["POST"]),
        Route("/v1/stream/get-stream-info", cameras.get_camera_info),
        *camera_aliases(),
        Route("/v1/requests/{request_id}", deferred.request_status),
        Route("/v1/requests/{request_id}/results", deferred.request_results),
        Route("/v1/embeddings", embeddings.create_embeddings, methods=["POST"]),
        Route("/v1/config", config.configure, methods=["POST"]),
        Route("/api/v1/config", config.configure, methods=["POST"], include_in_schema=False),
        Route("/v1/generate_video_embeddings/{stream_id}", streams.stop_embedding, methods=["DELETE"]),
    ]


def camera_aliases() -> list[Route]:
    """Other paths at which services announce cameras; not in the API's description."""
    return [
        Route(f"{prefix}/v1/camera/{name}", endpoint, methods=methods, include_in_schema=False)
        for prefix in ("", "/api")
        for name, endpoint, methods in (
            ("add", cameras.add_camera, ["POST"]),
            ("streaming", cameras.add_camera, ["PUT"]),
            ("remove", cameras.remove_camera, ["POST", "DELETE"]),
        )
    ]


def create_app(settings: Settings, telemetry: Telemetry = SWITCHED_OFF) -> Starlette:
    """The application; its connections, and the telemetry of its process, live until shutdown."""

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        ctx = Context(settings, telemetry.registry)
        async with ctx.running():
            app.state.context = ctx
            log.info("gateway ready", assets=settings.asset_store or str(settings.asset_dir))
            yield
        # Not after the server has ended: uvicorn then sends itself the signal that ended it.
        await asyncio.to_thread(telemetry.close)

    return Starlette(
        routes=[*routes(), *docs.routes()],
        lifespan=lifespan,
        middleware=[Middleware(RequestLog), Middleware(AccessMiddleware, settings=settings)],
        exception_handlers={
            RtEmbedError: _refused,
            HTTPException: _http_error,
            RedisError: _redis_away,
            ClientDisconnect: _client_gone,
            ClientGone: _client_gone,
            Exception: _unexpected,
        },
    )


async def _refused(_: Request, error: Exception) -> Response:
    assert isinstance(error, RtEmbedError)  # noqa: S101 - for the type checker
    if error.status >= 500:
        log.warning("request failed", code=error.code, status=error.status, error=error.message)
    return refusal(error)


async def _redis_away(request: Request, error: Exception) -> Response:
    log.error("request failed: redis is away", path=request.url.path, error=str(error))
    return await _refused(request, Unavailable("the service's queue is away; try again later"))


async def _http_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101 - for the type checker
    if error.status_code in {404, 405} or isinstance(error, TooManyFields):
        return JSONResponse({"detail": error.detail}, error.status_code, headers=error.headers)
    return JSONResponse(
        {"code": error.detail, "message": error.detail}, error.status_code, headers=error.headers
    )


async def _client_gone(request: Request, _: Exception) -> Response:
    log.info("client gone", path=request.url.path)
    return Response(status_code=CLIENT_CLOSED_REQUEST)


async def _unexpected(request: Request, error: Exception) -> Response:
    log.error("request failed unexpectedly", path=request.url.path, exc_info=error)
    return json(Error(code="InternalServerError", message="An internal error occurred"), 500)


class RequestLog:
    """Gives each request a log context of its own and, at level PERF, a line with its duration."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        structlog.contextvars.clear_contextvars()
        began = time.monotonic()
        status = 0

        async def watch(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, watch)
        finally:
            seconds = time.monotonic() - began
            milliseconds = round(seconds * 1000, 1)
            route = getattr(scope.get("route"), "path", "none")
            http_requests.add(1, {"route": route, "method": scope["method"], "status": str(status)})
            http_duration.record(seconds, {"route": route})
            fields = {"method": scope["method"], "path": scope["path"], "status": status, "ms": milliseconds}
            access_log.log(PERF, "http request", extra=fields)
