"""The gateway: a Starlette application that validates, stores bytes, writes jobs and relays results."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import structlog
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect
from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse, Response

from gateway.access.admission import AccessMiddleware
from gateway.access.exposure import warn_of_exposure
from gateway.access.origins import OriginMiddleware
from gateway.access.request_log import REQUEST_ID, RequestLog
from gateway.access.root_path import RootPath
from gateway.all_endpoints import ENDPOINTS, routes
from gateway.api.responses import error_response, json_response
from gateway.api.schemas import Error
from gateway.console import page
from gateway.context import Context
from gateway.disconnect import ClientGone
from gateway.endpoints import docs
from gateway.handling.uploads import TooManyFields
from shared.errors import RtEmbedError, Unavailable
from shared.lifecycle.garbage import settle
from shared.lifecycle.heartbeat import beating
from shared.redis.connection import RedisError
from shared.redis.failures import ReplicasBehind, WritesRefused
from shared.settings import Settings
from shared.telemetry.export import SWITCHED_OFF, Telemetry
from shared.telemetry.start_summary import log_start

log = structlog.get_logger(__name__)

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
            settle()
            yield
        # Not after uvicorn.run: by then uvicorn has sent itself the signal that stopped it.
        await asyncio.to_thread(telemetry.close)

    return Starlette(
        routes=[*routes(), *page.routes(), *docs.routes(ENDPOINTS)],
        lifespan=lifespan,
        middleware=_middleware(settings),
        exception_handlers={
            RtEmbedError: _refused,
            HTTPException: _http_error,
            RedisError: _redis_away,
            ClientDisconnect: _client_gone,
            ClientGone: _client_gone,
            Exception: _unexpected,
        },
    )


def _middleware(settings: Settings) -> list[Middleware]:
    """Return the middleware, from the outside in."""
    unkeyed = frozenset(endpoint.path for endpoint in ENDPOINTS if not endpoint.needs_key)
    admin = frozenset(path for endpoint in ENDPOINTS if endpoint.admin for path in endpoint.paths())
    cors = Middleware(
        CORSMiddleware,
        allow_origins=list(settings.cors_origins),
        allow_methods=["GET", "POST", "PUT", "DELETE", "HEAD"],
        allow_headers=["*"],
        expose_headers=["Location", "Retry-After", "Preference-Applied", "Content-Range", REQUEST_ID],
    )
    return [
        *([Middleware(RootPath, prefix=settings.root_path)] if settings.root_path else []),
        Middleware(RequestLog),
        Middleware(OriginMiddleware, settings=settings, free=unkeyed),
        *([cors] if settings.cors_origins else []),
        Middleware(AccessMiddleware, settings=settings, free=docs.PAGES | unkeyed, admin=admin),
    ]


async def _refused(_: HttpRequest, error: Exception) -> Response:
    assert isinstance(error, RtEmbedError)  # noqa: S101 - for the type checker
    if error.status >= 500:
        log.warning("request failed", code=error.code, status=error.status, error=error.message)
    return error_response(error)


async def _redis_away(request: HttpRequest, error: Exception) -> Response:
    log.error("request failed: redis is unusable now", path=request.url.path, error=str(error))
    why = f"is unusable now: {error}" if isinstance(error, WritesRefused | ReplicasBehind) else "is away"
    return await _refused(request, Unavailable(f"redis {why}; try again later"))


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
    response = json_response(Error(code="InternalServerError", message="An internal error occurred"), 500)
    response.headers[REQUEST_ID] = request.scope[REQUEST_ID]  # this answer does not pass through RequestLog
    return response
