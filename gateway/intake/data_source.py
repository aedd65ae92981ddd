"""Files in data: URLs (RFC 2397), decoded piece by piece."""

import binascii
import re
from collections.abc import Callable
from urllib.parse import unquote_to_bytes

from gateway.api.embedding_schemas import DATA_HEADER, TEXT_PAYLOAD
from gateway.intake.http_source import Write, too_large
from shared.errors import InvalidDataUrl

PIECE = 1 << 20
EXTENSIONS = {
    "video/mp4": ".mp4",
    "video/quicktime": ".mov",
    "video/mov": ".mov",
    "video/x-msvideo": ".avi",
    "video/avi": ".avi",
    "video/webm": ".webm",
    "video/mkv": ".mkv",
    "video/x-matroska": ".mkv",
    "image/jpeg": ".jpg",
    "image/jpg": ".jpg",
    "image/png": ".png",
    "image/gif": ".gif",
    "image/webp": ".webp",
    "image/avif": ".avif",
    "image/heic": ".heic",
    "image/heif": ".heif",
}
_OPEN_ESCAPE = re.compile(rb"%[0-9A-Fa-f]?\Z")


def file_name(url: str, media_type: str) -> str:
    """Return a name for the file, by the type in the URL, else by `media_type`."""
    fallback = ".jpg" if media_type == "image" else ".mp4"
    return "base64_media" + EXTENSIONS.get(_header(url)[0].lower(), fallback)


async def copy(url: str, limit: int, write: Write) -> None:
    """Write the payload, at most `limit` bytes. Raises InvalidDataUrl, FileTooLarge."""
    _, is_base64, start = _header(url)
    payload = DataPayload(limit, write, is_base64=is_base64)
    if is_base64 and (len(url) - start) // 4 * 3 - 2 > limit:
        raise too_large(limit)
    for begin in range(start, len(url), PIECE):
        await payload.add(url[begin : begin + PIECE].encode("utf-8", "replace"))
    await payload.finish()


def is_base64(header: str) -> bool | None:
    """Return whether a payload after `header`, without its comma, is base64; None if it is not a header."""
    match = DATA_HEADER.fullmatch(header)
    return None if match is None else match["base64"] is not None


class DataPayload:
    """Decodes the part after the comma as it arrives and writes it, at most `limit` bytes."""

    def __init__(self, limit: int, write: Write, *, is_base64: bool) -> None:
        self._limit, self._write = limit, write
        self._decode: Callable[[bytearray, bool], tuple[bytes, bytearray]] = (
            _base64 if is_base64 else _percent
        )
        self._rest = bytearray()
        self._size = 0

    async def add(self, encoded: bytes) -> None:
        """Decode the next part. Raises InvalidDataUrl, FileTooLarge."""
        self._rest += encoded
        if len(self._rest) >= PIECE:
            await self._take(last=False)

    async def finish(self) -> None:
        """Decode the rest. Raises InvalidDataUrl, FileTooLarge."""
        await self._take(last=True)

    async def _take(self, *, last: bool) -> None:
        try:
            data, self._rest = self._decode(self._rest, last)
        except ValueError as error:
            raise InvalidDataUrl(f"The data URL's payload cannot be decoded: {error}") from error
        self._size += len(data)
        if self._size > self._limit:
            raise too_large(self._limit)
        await self._write(data)


def _base64(encoded: bytearray, last: bool) -> tuple[bytes, bytearray]:
    """Return the bytes, and what is left for the next call: the last group, the only one that may be padded.

    Missing padding at the end is accepted. Raises ValueError.
    """
    end = len(encoded) if last else max(0, (len(encoded) - 1) // 4 * 4)
    if not last and b"=" in encoded[:end]:
        raise ValueError("padding in the middle")
    padding = b"=" * (-end % 4)
    return binascii.a2b_base64(encoded[:end] + padding, strict_mode=True), encoded[end:]


def _percent(encoded: bytearray, last: bool) -> tuple[bytes, bytearray]:
    """Return the bytes, and what is left for the next call: an incomplete escape. Raises ValueError."""
    if encoded.translate(None, TEXT_PAYLOAD):
        raise ValueError("characters that are not accepted")
    match = None if last else _OPEN_ESCAPE.search(encoded)
    end = match.start() if match else len(encoded)
    return unquote_to_bytes(bytes(encoded[:end])), encoded[end:]


def _header(url: str) -> tuple[str, bool, int]:
    """Return the media type, whether the payload is base64, and where it starts."""
    comma = url.find(",")
    header = DATA_HEADER.fullmatch(url, 0, comma) if comma > 0 else None
    if header is None:
        raise InvalidDataUrl("The data URL has no valid header")
    return header["type"], header["base64"] is not None, comma + 1
