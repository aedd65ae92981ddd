"""One id per HTTP request, in its answer and in every log line about it; its duration in log and metrics."""

import logging
import re
import time
import uuid

import structlog
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from shared.telemetry.instruments import http_duration, http_requests
from shared.telemetry.logs import PERF

log = logging.getLogger("gateway.access")
"""A logger of the standard library: structlog has no level PERF."""

REQUEST_ID = "x-request-id"
_GIVEN_ID = re.compile(r"[A-Za-z0-9._:/+=@-]{1,128}")


class RequestLog:
    """Gives each request its own log context and id, and logs its duration at level PERF."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, and add its id to the answer."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        scope[REQUEST_ID] = request_id = _id_of(Headers(scope=scope))
        structlog.contextvars.clear_contextvars()
        structlog.contextvars.bind_contextvars(x_request_id=request_id)
        began = time.monotonic()
        status = 500  # of an error that nothing here answers

        async def watch(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)[REQUEST_ID] = request_id
            await send(message)

        try:
            await self._app(scope, receive, watch)
        finally:
            seconds = time.monotonic() - began
            route = getattr(scope.get("route"), "path", "none")
            http_requests.add(1, {"route": route, "method": scope["method"], "status": str(status)})
            http_duration.record(seconds, {"route": route})
            fields = {"method": scope["method"], "path": scope["path"], "status": status}
            log.log(PERF, "http request", extra={**fields, "ms": round(seconds * 1000, 1)})


def _id_of(headers: Headers) -> str:
    """Return the client's id for its request if it may be logged, else a new one."""
    given = headers.get(REQUEST_ID, "")
    return given if _GIVEN_ID.fullmatch(given[:129]) else str(uuid.uuid4())
