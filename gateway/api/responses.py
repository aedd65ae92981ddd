"""Responses from msgspec types and from errors."""

import msgspec
from starlette.responses import Response

from gateway.api.schemas import Error
from shared.errors import RtEmbedError, TooManyRequests

RETRY_AFTER = 5
"""Seconds that a client is asked to wait when the service is busy or away."""


def json_response(value: object, status: int = 200) -> Response:
    """Return a JSON response from msgspec types."""
    return Response(msgspec.json.encode(value), status, media_type="application/json")


def error_response(error: RtEmbedError) -> Response:
    """Return a failure as clients see it."""
    response = json_response(Error(code=error.code, message=error.message[:1024]), error.status)
    if error.status in {429, 503}:
        seconds = error.seconds if isinstance(error, TooManyRequests) else RETRY_AFTER
        response.headers["Retry-After"] = str(seconds)
    if error.status == 401:
        response.headers["WWW-Authenticate"] = "Bearer"
    return response
