"""Reading a whole request body, up to its limit."""

from starlette.requests import Request as HttpRequest

from gateway.context import context
from shared.errors import FileTooLarge


async def read_body(request: HttpRequest) -> bytes:
    """Return the request's body. Raises FileTooLarge beyond the limit for bodies."""
    return await read_up_to(context(request).settings.body_limit_bytes, request)


async def read_up_to(limit: int, request: HttpRequest) -> bytes:
    """Return the request's body. Raises FileTooLarge beyond `limit` bytes."""
    body = bytearray()
    async for data in request.stream():
        body += data
        if len(body) > limit:
            raise FileTooLarge(f"the request body is larger than {limit} bytes")
    return bytes(body)
