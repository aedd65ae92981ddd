"""Media inside a JSON body: the payload of a long data: URL goes to the disk as it comes, decoded.

What is left of the body, with a token in the payload's place, is small enough to be parsed and validated.
"""

import re
import uuid
from contextlib import AsyncExitStack

import msgspec
from starlette.requests import Request as HttpRequest

from gateway.api.schemas import VideoRequest
from gateway.api.validation import problem, validate_json
from gateway.context import Context
from gateway.intake.data_source import Payload, is_base64
from gateway.store.storage import Writer
from shared.errors import FileTooLarge

THRESHOLD = 256 << 10
"""Bytes of a string from which it may be taken out of the body."""
LONGEST_HEADER = 1024
_QUOTE = re.compile(rb'["\\]')
_PREFIX = b"data:"


class Inline(msgspec.Struct, frozen=True):
    """A payload that was taken out: the token in its place, and where it lies, decoded."""

    token: str
    path: str
    size: int


async def read_video_request(
    ctx: Context, request: HttpRequest, held: AsyncExitStack
) -> tuple[VideoRequest, Inline | None]:
    """The body of a video request, and the payload of its data: URL, kept until `held` is left.

    Raises InvalidParameters, InvalidDataUrl, and FileTooLarge for a payload beyond the limit of fetched files
    or a body that is, without it, beyond its own.
    """
    reader = _BodyReader(ctx, held)
    async for piece in request.stream():
        await reader.add(piece)
    body = validate_json(bytes(reader.kept), VideoRequest)
    inline = reader.inline
    if inline and not (body.url or "").endswith(inline.token):
        raise FileTooLarge(f"a text of more than {THRESHOLD} bytes belongs into no field but url")
    return body, inline


class _BodyReader:
    """Follows the strings of JSON text, byte by byte where it matters and in bulk elsewhere."""

    def __init__(self, ctx: Context, held: AsyncExitStack) -> None:
        self._ctx, self._held = ctx, held
        self._limit = ctx.settings.body_limit_bytes
        self._in_string = self._escaped = False
        self._start = 0
        """Where in `kept` the current string begins."""
        self._token = uuid.uuid4().hex
        self._payload: Payload | None = None
        self._writer: Writer | None = None
        self._path = ""
        self._done = False
        self.kept = bytearray()

    @property
    def inline(self) -> Inline | None:
        """What was taken out of the body, once that has been read."""
        return Inline(self._token, self._path, self._writer.size) if self._writer else None

    async def add(self, piece: bytes) -> None:
        """Read on. Raises FileTooLarge, InvalidParameters, InvalidDataUrl."""
        at = 0
        while at < len(piece):
            if self._escaped:
                await self._keep(self._unescaped(piece[at : at + 1]))
                self._escaped, at = False, at + 1
                continue
            found = _QUOTE.search(piece, at) if self._in_string else None
            end = found.start() if found else -1
            if not self._in_string:
                end = piece.find(b'"', at)
            await self._keep(piece[at : end if end >= 0 else len(piece)])
            if end < 0:
                return
            await self._mark(piece[end : end + 1])
            at = end + 1

    async def _mark(self, mark: bytes) -> None:
        """A quote, or a backslash inside a string."""
        if mark == b"\\":
            self._escaped = True
            if not self._payload:
                self.kept += mark
            return
        if self._payload:
            await self._end_payload()
        self.kept += mark
        self._in_string = not self._in_string
        self._start = len(self.kept)

    def _unescaped(self, letter: bytes) -> bytes:
        """What a backslash before `letter` means inside a payload, which may only have escaped slashes."""
        if self._payload and letter != b"/":
            raise problem(("body", "url"), "The data URL's payload has characters that are not accepted")
        return letter

    async def _keep(self, data: bytes) -> None:
        if self._payload:
            await self._payload.add(data)
            return
        self.kept += data
        if self._in_string and not self._done and len(self.kept) - self._start > THRESHOLD:
            await self._begin_payload()
        if len(self.kept) > self._limit:
            raise FileTooLarge(f"the request body is larger than {self._limit} bytes, beside its data: URL")

    async def _begin_payload(self) -> None:
        head = bytes(self.kept[self._start : self._start + LONGEST_HEADER]).replace(b"\\/", b"/")
        comma = self.kept.find(b",", self._start, self._start + LONGEST_HEADER)
        encoded = is_base64(head.partition(b",")[0].decode("latin-1")) if head.startswith(_PREFIX) else None
        if comma < 0 or encoded is None:
            return
        folder = await self._held.enter_async_context(self._ctx.assets.incoming())
        self._path = f"{folder}/inline"
        self._writer = await self._held.enter_async_context(self._ctx.assets.writer(self._path))
        self._payload = Payload(self._ctx.downloads.limit, self._writer.write, is_base64=encoded)
        begun = bytes(self.kept[comma + 1 :]).replace(b"\\/", b"/")
        del self.kept[comma + 1 :]
        await self._payload.add(begun)

    async def _end_payload(self) -> None:
        assert self._payload and self._writer  # noqa: S101, PT018 - for the type checker
        await self._payload.finish()
        await self._writer.close()
        self.kept += self._token.encode()
        self._payload, self._done = None, True
