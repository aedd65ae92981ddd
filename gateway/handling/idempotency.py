"""Idempotency-Key: a request that is sent again, with the key and the body of an earlier one, is that one.

The key decides the request's id, so that any gateway finds what another made of it, as long as that is kept
(draft-ietf-httpapi-idempotency-key-header).
"""

import re
import uuid
from copy import copy
from hashlib import sha256

import msgspec
import structlog
from starlette.requests import Request as HttpRequest

from gateway.api.caller import caller
from gateway.context import Context
from gateway.results.request_records import KnownRequest, find_record, read_end, stored_answer
from gateway.submission import collect
from shared import requests
from shared.errors import IdempotencyKeyReused, InvalidParameters, Unavailable
from shared.results import Result

log = structlog.get_logger(__name__)

HEADER = "Idempotency-Key"
DESCRIPTION = (
    "A text of the client's choice for one request, up to 255 visible ASCII characters. Sent again with the "
    "same body, it gives the same request and its results, also at another gateway; with another body, 422."
)
_SPACE = uuid.UUID("7d6ff8f6-40a6-4d4b-8a43-0f8c1f0b7a9d")
_KEY = re.compile(r"[\x21-\x7e]{1,255}")


class IdempotencyKey:
    """The key of one HTTP request, empty if it has none, and a digest of the body that came with it."""

    def __init__(self, request: HttpRequest) -> None:
        """Raises InvalidParameters for a key that is too long or not visible ASCII."""
        given = request.headers.getlist(HEADER)
        key = given[0].strip() if given else ""
        if len(key) > 1 and key[0] == key[-1] == '"':  # a structured field (RFC 8941), as the draft wants it
            key = key[1:-1]
        if given and (len(given) > 1 or not _KEY.fullmatch(key)):
            raise InvalidParameters(
                "('header', 'idempotency-key'): Must be one key of 1 to 255 visible ASCII characters"
            )
        self._key = key
        self._part = ""
        self._digest = sha256(request.url.path.encode() if key else b"")

    def __bool__(self) -> bool:
        return bool(self._key)

    def add(self, body: bytes) -> None:
        """Add the next piece of the request's body to the digest."""
        if self._key:
            self._digest.update(body)

    @property
    def body(self) -> str:
        """The digest of the body; empty without a key."""
        return self._digest.hexdigest() if self._key else ""

    def of(self, part: str) -> "IdempotencyKey":
        """Return the key of one of several requests that are made of the HTTP request."""
        found = copy(self)
        found._part = part  # noqa: SLF001 - our own copy
        return found

    def request_id(self, ctx: Context) -> str:
        """Return the id of the request: a new one without a key."""
        if not self._key:
            return ctx.listener.new_id()
        return str(uuid.uuid5(_SPACE, "\n".join((caller.get(), self._key, self._part))))

    async def known(self, ctx: Context) -> KnownRequest | None:
        """Return the request that was made with this key; None if none can be used.

        One that was cancelled, or failed for a reason that passes, is forgotten. Raises IdempotencyKeyReused
        for another body.
        """
        if not self._key:
            return None
        request_id = self.request_id(ctx)
        record = await find_record(ctx.redis, request_id)
        if record is None:
            return None
        if record.body != self.body:
            raise IdempotencyKeyReused
        end = await read_end(ctx.redis, request_id) if record.state == "failed" else None
        if record.state == "cancelled" or (end and end.status == Unavailable.status):
            await requests.forget(ctx.redis, request_id, record.state)
            return None
        log.info("request sent again", request_id=request_id, state=record.state)
        structlog.contextvars.bind_contextvars(request_id=request_id)
        return msgspec.structs.replace(record, id=request_id)


async def results_of(ctx: Context, record: KnownRequest) -> list[Result]:
    """Return the results of a request that was accepted before, once it has ended.

    Raises FailedEnd, RequestLost.
    """
    async with ctx.listener.subscribe(record.id) as follower:
        return await collect(follower, record.planned, stored=True)


async def answer_again(ctx: Context, record: KnownRequest) -> msgspec.Struct:
    """Return the answer of a request that was accepted before, once it has ended. Raises as `results_of`."""
    found = await results_of(ctx, record)
    return stored_answer(record.id, await find_record(ctx.redis, record.id) or record, found)
