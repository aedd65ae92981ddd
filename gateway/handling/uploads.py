"""Reading a form: its fields into bounded memory, its one file straight into the asset store."""

import re
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from urllib.parse import parse_qsl, unquote

import msgspec
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.exceptions import HTTPException
from starlette.requests import Request as HttpRequest

from gateway.handling.body import read_up_to
from gateway.store.asset_store import AssetStore
from gateway.store.storage import Writer
from shared.errors import BadParameters, FileTooLarge, InvalidParameters

MAX_NAME = 255
"""Characters of a file's name."""
_NOT_IN_A_NAME = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029/\\]")
"""Control characters, and what separates the parts of a path."""
_UNSAFE = re.compile(r"[^A-Za-z0-9_.\- ]")
_EXTENDED_NAME = re.compile(rb"filename\*=(utf-8|iso-8859-1)'[^']*'([^;\s]+)", re.IGNORECASE)
"""RFC 5987's form of a name, which some clients use for names that are not ASCII."""
SAFE_LENGTH = 100
MAX_FIELDS = 1000
MAX_FIELD_BYTES = 1 << 20
"""Bytes of all fields together, without the file."""
WRITE_BYTES = 1 << 20
"""Bytes of a file that are collected before they are written."""


class TooManyFields(HTTPException):
    """A form with more than MAX_FIELDS fields."""


class Form(msgspec.Struct):
    """The fields of a form; `file` is the client's name for an uploaded file, which lies at `path` in the
    store and has `size` bytes."""

    fields: dict[str, str]
    size: int = 0
    path: str = ""


async def read_form(request: HttpRequest, store: AssetStore, folder: str, limit: int) -> Form:
    """Read a form; the part named `file` is written to `folder` under a safe name as it arrives.

    Raises BadParameters for a file name that is not allowed, FileTooLarge beyond `limit` bytes,
    InvalidParameters for a body that is not a form, TooManyFields.
    """
    kind, options = parse_options_header(request.headers.get("content-type"))
    if kind == b"multipart/form-data" and b"boundary" in options:
        try:
            reader = _MultipartReader(store, folder, limit, options[b"boundary"])
        except FormParserError as error:
            raise InvalidParameters(f"('body',): The multipart form cannot be read: {error}") from error
        return await reader.read(request.stream())
    if kind == b"application/x-www-form-urlencoded":
        body = await read_up_to(MAX_FIELD_BYTES, request)
        try:
            fields = dict(parse_qsl(body.decode("utf-8", "replace"), max_num_fields=MAX_FIELDS))
        except ValueError as error:
            raise _too_many_fields() from error
        if "file" in fields:
            raise _no_file()
        return Form(fields)
    raise InvalidParameters("('body',): Send multipart/form-data or application/x-www-form-urlencoded")


def stored_name(name: str) -> str:
    """Return the name under which a file called `name` is kept, on a disk or in a bucket: at most SAFE_LENGTH
    letters, digits, spaces and `_.-`, with the extension of `name`."""
    safe = _UNSAFE.sub("_", name)
    stem, dot, extension = safe.rpartition(".")
    if len(safe) <= SAFE_LENGTH or not dot or len(extension) > SAFE_LENGTH // 2:
        return safe[:SAFE_LENGTH]
    return stem[: SAFE_LENGTH - len(extension) - 1] + dot + extension


def _disposition(value: bytes) -> dict[bytes, bytes]:
    """Return the parameters of a part's Content-Disposition; `filename` is in UTF-8."""
    found: dict[bytes, bytes] = parse_options_header(value)[1]
    if extended := _EXTENDED_NAME.search(value):
        charset, encoded = extended[1].decode(), extended[2].decode("ascii", "replace")
        found[b"filename"] = unquote(encoded, charset, "replace").encode()
    elif b"filename" in found:
        found[b"filename"] = found[b"filename"].replace(b"%22", b'"')  # what browsers make of quotes
    return found


def _too_many_fields() -> TooManyFields:
    return TooManyFields(400, f"Too many fields. Maximum number of fields is {MAX_FIELDS}.")


def _no_file() -> InvalidParameters:
    return InvalidParameters("('body', 'file'): Must be an uploaded file with a name")


class _MultipartReader:
    """Collects the parser's events for one piece of the body, then handles them in order."""

    def __init__(self, store: AssetStore, folder: str, limit: int, boundary: bytes) -> None:
        self._store, self._folder, self._limit = store, folder, limit
        self._parser = MultipartParser(
            boundary,
            {
                "on_part_begin": lambda: self._events.append(("begin", b"")),
                "on_header_field": lambda data, a, b: self._events.append(("name", data[a:b])),
                "on_header_value": lambda data, a, b: self._events.append(("value", data[a:b])),
                "on_header_end": lambda: self._events.append(("header", b"")),
                "on_headers_finished": lambda: self._events.append(("headers", b"")),
                "on_part_data": lambda data, a, b: self._events.append(("data", data[a:b])),
                "on_part_end": lambda: self._events.append(("end", b"")),
                "on_end": lambda: self._events.append(("finish", b"")),
            },
        )
        self._events: list[tuple[str, bytes]] = []
        self._header_name, self._header_value = b"", b""
        self._disposition: dict[bytes, bytes] = {}
        self._data = bytearray()
        self._held = AsyncExitStack()
        self._writer: Writer | None = None
        self._fields_size = 0
        self._complete = False
        self.form = Form({})

    async def read(self, stream: AsyncIterator[bytes]) -> Form:
        async with self._held:
            try:
                async for piece in stream:
                    self._parser.write(piece)
                    for event, data in self._events:
                        await self._handle(event, data)
                    self._events.clear()
            except FormParserError as error:
                raise InvalidParameters(f"('body',): The multipart form cannot be read: {error}") from error
            if not self._complete:
                raise InvalidParameters("('body',): The multipart form ends in the middle")
        return self.form

    async def _handle(self, event: str, data: bytes) -> None:
        match event:
            case "begin":
                self._disposition, self._data = {}, bytearray()
            case "name":
                self._header_name += data
            case "value":
                self._header_value += data
            case "header":
                if self._header_name.lower() == b"content-disposition":
                    self._disposition = _disposition(self._header_value)
                self._header_name, self._header_value = b"", b""
            case "headers":
                await self._begin_part()
            case "data":
                self._data += data
                await self._take_data()
            case "end":
                await self._end_part()
            case "finish":
                self._complete = True

    @property
    def _name(self) -> str:
        return self._disposition.get(b"name", b"").decode("utf-8", "replace")

    @property
    def _is_file(self) -> bool:
        return self._name == "file" and bool(self._disposition.get(b"filename"))

    async def _begin_part(self) -> None:
        if len(self.form.fields) >= MAX_FIELDS:
            raise _too_many_fields()
        if not self._is_file:
            if self._name == "file":
                raise _no_file()
            return
        if self._writer:
            raise BadParameters("only one file can be uploaded at a time")
        name = self._disposition[b"filename"].decode("utf-8", "replace")
        if _NOT_IN_A_NAME.search(name) or name in {".", ".."} or len(name) > MAX_NAME:
            raise BadParameters(
                f"the file name {name[:256]!r} must have 1 to {MAX_NAME} characters, none of them a control "
                "character, / or \\"
            )
        self.form.fields["file"] = name
        self.form.path = f"{self._folder}/{stored_name(name)}"
        self._writer = await self._held.enter_async_context(self._store.writer(self.form.path))

    async def _take_data(self) -> None:
        if not self._is_file:
            if self._fields_size + len(self._data) > MAX_FIELD_BYTES:
                raise InvalidParameters(
                    f"('body', {self._name!r}): The fields are longer than {MAX_FIELD_BYTES} bytes"
                )
            return
        if len(self._data) >= WRITE_BYTES:
            await self._write()

    async def _end_part(self) -> None:
        if self._is_file:
            await self._write()
        else:
            self._fields_size += len(self._data)
            self.form.fields[self._name] = self._data.decode("utf-8", "replace")

    async def _write(self) -> None:
        assert self._writer is not None  # noqa: S101 - for the type checker: a file part has a writer
        if self._writer.size + len(self._data) > self._limit:
            raise FileTooLarge(f"the file is larger than {self._limit} bytes")
        await self._writer.write(bytes(self._data))
        self.form.size = self._writer.size
        self._data.clear()
