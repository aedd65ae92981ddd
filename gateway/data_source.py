"""Files inside data: URLs (RFC 2397), decoded piece by piece."""

import binascii
from collections.abc import Iterator
from urllib.parse import unquote_to_bytes

from gateway.http_source import Write, too_large
from gateway.schemas import DATA_HEADER
from shared.errors import InvalidDataUrl

PIECE = 1 << 20
"""Characters per piece; a multiple of four, as base64 needs."""
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
}


def file_name(url: str, media_type: str) -> str:
    """A name for the file, by its own type or else by what the client says it is."""
    fallback = ".jpg" if media_type == "image" else ".mp4"
    return "base64_media" + EXTENSIONS.get(_header(url)[0].lower(), fallback)


async def copy(url: str, limit: int, write: Write) -> None:
    """Write the payload, at most `limit` bytes. Raises InvalidDataUrl, FileTooLarge."""
    _, is_base64, start = _header(url)
    if is_base64 and (len(url) - start) // 4 * 3 - 2 > limit:
        raise too_large(limit)
    size = 0
    for piece in (_base64 if is_base64 else _percent)(url, start):
        size += len(piece)
        if size > limit:
            raise too_large(limit)
        await write(piece)


def _header(url: str) -> tuple[str, bool, int]:
    """The media type, whether the payload is base64, and where it starts."""
    comma = url.find(",")
    header = DATA_HEADER.fullmatch(url, 0, comma) if comma > 0 else None
    if header is None:
        raise InvalidDataUrl("The data URL has no valid header")
    return header["type"], header["base64"] is not None, comma + 1


def _base64(url: str, start: int) -> Iterator[bytes]:
    """Missing padding at the end is forgiven."""
    for begin in range(start, len(url), PIECE):
        piece = url[begin : begin + PIECE]
        try:
            yield binascii.a2b_base64(piece + "=" * (-len(piece) % 4), strict_mode=True)
        except (binascii.Error, ValueError) as error:
            raise InvalidDataUrl(f"The data URL's payload is no base64: {error}") from error


def _percent(url: str, start: int) -> Iterator[bytes]:
    while start < len(url):
        end = min(start + PIECE, len(url))
        # No piece ends inside an escape.
        cut = url.rfind("%", max(start, end - 2), end)
        if cut > start and end < len(url):
            end = cut
        yield unquote_to_bytes(url[start:end])
        start = end
