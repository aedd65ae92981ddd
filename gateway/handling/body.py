"""Reading a whole request body, up to its limit."""

from starlette.requests import Request as HttpRequest

from gateway.context import context
from shared.errors import FileTooLarge, InvalidParameters


async def read_body(request: HttpRequest) -> bytes:
    """Return the JSON body. Raises FileTooLarge beyond the limit for bodies, and as `require_json`."""
    require_json(request)
    return await read_up_to(context(request).settings.body_limit_bytes, request)


async def read_up_to(limit: int, request: HttpRequest) -> bytes:
    """Return the request's body. Raises FileTooLarge beyond `limit` bytes."""
    body = bytearray()
    async for data in request.stream():
        body += data
        if len(body) > limit:
            raise FileTooLarge(f"the request body is larger than {limit} bytes")
    return bytes(body)


def require_json(request: HttpRequest) -> None:
    """Raise InvalidParameters unless the body is said to be JSON.

    A page of another site may send what it likes as text/plain, but as JSON only after a preflight.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json" and not (kind.startswith("application/") and kind.endswith("+json")):
        raise InvalidParameters("('body',): Send JSON, with the header Content-Type: application/json")
