"""Media in a JSON body: the payload of a long data: URL is decoded and written to the store as it arrives.

The rest of the body, with a token in the payload's place, is small enough to be parsed and validated.
"""

import uuid
from collections.abc import Callable
from contextlib import AsyncExitStack

import msgspec
from starlette.requests import Request as HttpRequest

from gateway.api.embedding_schemas import VideoRequest
from gateway.api.validation import problem, validate_json
from gateway.context import Context
from gateway.handling.body import require_json
from gateway.intake.data_source import DataPayload, is_base64
from gateway.store.storage import Writer
from shared.errors import FileTooLarge

THRESHOLD = 256 << 10
"""Bytes of a string above which its payload is taken out of the body."""
LONGEST_HEADER = 1024
PIECE = 64 << 10
"""Bytes that are searched at once."""
_BEGIN = b'"data:'


class Inline(msgspec.Struct, frozen=True):
    """A payload that was taken out: the token in its place, the path of the decoded file, and its size."""

    token: str
    path: str
    size: int


async def read_video_request(
    ctx: Context, request: HttpRequest, held: AsyncExitStack, seen: Callable[[bytes], None] | None = None
) -> tuple[VideoRequest, Inline | None]:
    """Return the body of a video request, and the payload of its data: URL, kept until `held` exits.

    `seen` is called with each piece of the body as it comes.

    Raises InvalidParameters, InvalidDataUrl, and FileTooLarge if the payload exceeds the limit for fetched
    files, or the rest of the body the limit for bodies.
    """
    require_json(request)
    reader = _BodyReader(ctx, held)
    async for piece in request.stream():
        if seen:
            seen(piece)
        await reader.add(piece)
    body = validate_json(bytes(reader.kept), VideoRequest)
    inline = reader.inline
    if inline and not (body.url or "").endswith(inline.token):
        raise FileTooLarge(f"only url may have more than {THRESHOLD} bytes")
    return body, inline


class _BodyReader:
    """Collects JSON text, and takes the payload out of a long string that begins with data:.

    In JSON, a quote that no backslash precedes and that `data:` follows can only begin a string. So strings
    need not be followed byte by byte; a body that is not JSON is refused when the rest is parsed.
    """

    def __init__(self, ctx: Context, held: AsyncExitStack) -> None:
        self._ctx, self._held = ctx, held
        self._limit = ctx.settings.body_limit_bytes
        self._looked = self._at = 0
        """Where in `kept` the last string was found, and from where the next is searched."""
        self._start = self._searched = -1
        """Where a string begins that may have to be taken out, and up to where it is known to continue."""
        self._token = uuid.uuid4().hex
        self._payload: DataPayload | None = None
        self._backslash = b""
        self._writer: Writer | None = None
        self._path = ""
        self.kept = bytearray()

    @property
    def inline(self) -> Inline | None:
        """The payload that was taken out of the body, once that has been read."""
        return Inline(self._token, self._path, self._writer.size) if self._writer else None

    async def add(self, data: bytes) -> None:
        """Add the next part of the body. Raises FileTooLarge, InvalidParameters, InvalidDataUrl."""
        for start in range(0, len(data), PIECE):
            await self._add(data[start : start + PIECE])

    async def _add(self, piece: bytes) -> None:
        if self._payload:
            payload, quote, piece = piece.partition(b'"')
            await self._take(self._payload, payload, last=bool(quote))
            if quote:
                await self._end_payload(self._payload)
                self.kept += quote
        self.kept += piece
        if len(self.kept) > self._limit:
            raise FileTooLarge(f"the request body is larger than {self._limit} bytes, without its data: URL")
        while self._writer is None and self._find():
            await self._begin_payload()

    def _find(self) -> bool:
        """Return whether a string that begins with data: is now long, perhaps after several short ones."""
        while True:
            if self._start < 0:
                at = self.kept.find(_BEGIN, self._at)
                if at < 0:
                    self._at = max(self._at, len(self.kept) - len(_BEGIN) + 1)
                    return False
                before = self.kept[self._looked : at]
                self._looked = self._at = at + 1
                if (len(before) - len(before.rstrip(b"\\"))) % 2 == 0:
                    self._start = self._searched = at + 1
                continue
            if self.kept.find(b'"', self._searched) < 0:
                self._searched = len(self.kept)
                return len(self.kept) - self._start > THRESHOLD
            self._start = -1

    async def _begin_payload(self) -> None:
        start, self._start = self._start, -1
        head = bytes(self.kept[start : start + LONGEST_HEADER]).replace(b"\\/", b"/").partition(b",")[0]
        comma = self.kept.find(b",", start, start + LONGEST_HEADER)
        encoded = is_base64(head.decode("latin-1"))
        if comma < 0 or encoded is None:
            return
        folder = await self._held.enter_async_context(self._ctx.assets.incoming())
        self._path = f"{folder}/inline"
        self._writer = await self._held.enter_async_context(self._ctx.assets.writer(self._path))
        self._payload = DataPayload(self._ctx.downloads.limit, self._writer.write, is_base64=encoded)
        begun = bytes(self.kept[comma + 1 :])
        del self.kept[comma + 1 :]
        await self._take(self._payload, begun, last=False)

    async def _take(self, payload: DataPayload, data: bytes, *, last: bool) -> None:
        """Pass on the payload without JSON's escapes, of which only escaped slashes are accepted."""
        data, self._backslash = self._backslash + data, b""
        if data.endswith(b"\\") and not last:
            data, self._backslash = data[:-1], b"\\"
        data = data.replace(b"\\/", b"/")
        if b"\\" in data:
            raise problem(("body", "url"), "The data URL's payload has characters that are not accepted")
        await payload.add(data)

    async def _end_payload(self, payload: DataPayload) -> None:
        await payload.finish()
        assert self._writer  # noqa: S101 - for the type checker: a payload has a writer
        await self._writer.close()
        self.kept += self._token.encode()
        self._payload = None
