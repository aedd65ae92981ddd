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
from starlette.requests import ClientDisconnect
from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway.access.admission import AccessMiddleware
from gateway.access.exposure import warn_of_exposure
from gateway.api.responses import error_response, json_response
from gateway.api.schemas import Error
from gateway.context import Context
from gateway.disconnect import ClientGone
from gateway.endpoints import docs
from gateway.intake.uploads import TooManyFields
from gateway.routing import ENDPOINTS, routes
from shared.errors import RtEmbedError, Unavailable
from shared.lifecycle.heartbeat import beating
from shared.redis.connection import RedisError
from shared.settings import Settings
from shared.telemetry.export import SWITCHED_OFF, Telemetry
from shared.telemetry.instruments import http_duration, http_requests
from shared.telemetry.logs import PERF
from shared.telemetry.start_summary import log_start

log = structlog.get_logger(__name__)
access_log = logging.getLogger("gateway.access")
"""A logger of the standard library: structlog has no level PERF."""

CLIENT_CLOSED_REQUEST = 499


def create_app(settings: Settings, telemetry: Telemetry = SWITCHED_OFF) -> Starlette:
    """Return the application. Its connections and the telemetry of its process close at shutdown."""

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        warn_of_exposure(settings)
        ctx = Context(settings, telemetry.registry)
        async with ctx.running(), beating(settings.stall_timeout):
            app.state.context = ctx
            await log_start(settings, ctx.redis)
            log.info("gateway listening", host=settings.host, port=settings.port)
            yield
        # Not after uvicorn.run: by then uvicorn has sent itself the signal that stopped it.
        await asyncio.to_thread(telemetry.close)

    free = docs.PAGES | {endpoint.path for endpoint in ENDPOINTS if not endpoint.needs_key}
    return Starlette(
        routes=[*routes(), *docs.routes(ENDPOINTS)],
        lifespan=lifespan,
        middleware=[Middleware(RequestLog), Middleware(AccessMiddleware, settings=settings, free=free)],
        exception_handlers={
            RtEmbedError: _refused,
            HTTPException: _http_error,
            RedisError: _redis_away,
            ClientDisconnect: _client_gone,
            ClientGone: _client_gone,
            Exception: _unexpected,
        },
    )


async def _refused(_: HttpRequest, error: Exception) -> Response:
    assert isinstance(error, RtEmbedError)  # noqa: S101 - for the type checker
    if error.status >= 500:
        log.warning("request failed", code=error.code, status=error.status, error=error.message)
    return error_response(error)


async def _redis_away(request: HttpRequest, error: Exception) -> Response:
    log.error("request failed: redis is away", path=request.url.path, error=str(error))
    return await _refused(request, Unavailable("the service's queue is away; try again later"))


async def _http_error(_: HttpRequest, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101 - for the type checker
    if error.status_code in {404, 405} or isinstance(error, TooManyFields):
        return JSONResponse({"detail": error.detail}, error.status_code, headers=error.headers)
    return JSONResponse(
        {"code": error.detail, "message": error.detail}, error.status_code, headers=error.headers
    )


async def _client_gone(request: HttpRequest, _: Exception) -> Response:
    log.info("client disconnected before its answer", path=request.url.path)
    return Response(status_code=CLIENT_CLOSED_REQUEST)


async def _unexpected(request: HttpRequest, error: Exception) -> Response:
    log.error("request failed unexpectedly", path=request.url.path, exc_info=error)
    return json_response(Error(code="InternalServerError", message="An internal error occurred"), 500)


class RequestLog:
    """Gives each request its own log context and, at level PERF, a log line with its duration."""

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
