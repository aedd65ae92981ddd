"""An object of a bucket as a response: whole or in a range, read piece by piece."""

import re
from collections.abc import AsyncIterator, Mapping
from email.utils import format_datetime
from typing import TYPE_CHECKING

import obstore
from obstore.store import S3Store
from starlette.responses import Response, StreamingResponse

from gateway.store.content_headers import content_headers
from shared import s3
from shared.assets import Asset

if TYPE_CHECKING:  # these exist for the type checker only
    from obstore import GetOptions, ObjectMeta

PIECE = 4 << 20
_RANGE = re.compile(r"bytes=(?:([0-9]{1,19})-([0-9]{0,19})|-([0-9]{1,19}))")


def byte_range(header: str, size: int) -> tuple[int, int] | None:
    """Return start and end of the one range that a `Range` header asks for (RFC 9110, section 14).

    Returns None for several ranges or another kind, for which the whole file may be sent. The range is empty
    if the file has none of its bytes.
    """
    match = _RANGE.fullmatch(header.strip().lower())
    if match is None:
        return None
    first, last, suffix = match.groups()
    if suffix:
        return max(0, size - int(suffix)), size if int(suffix) else 0
    start, end = int(first), min(size, int(last) + 1) if last else size
    if last and int(last) < start:
        return None
    return start, max(start, end) if start < size else start


def object_content(
    store: S3Store, found: "ObjectMeta", asset: Asset, headers: Mapping[str, str], *, head: bool
) -> Response:
    """Return the object that `found` describes, in the range that the request's `headers` ask for.

    With `head`, leave out its bytes.
    """
    size, modified = found["size"], format_datetime(found["last_modified"], usegmt=True)
    sent = {**content_headers(asset), "accept-ranges": "bytes", "last-modified": modified}
    if found["e_tag"]:
        sent["etag"] = found["e_tag"]
    fresh = headers.get("if-range") in {None, found["e_tag"], modified}
    part = byte_range(headers["range"], size) if fresh and "range" in headers else None
    start, end = part or (0, size)
    if part and start >= end:
        return Response(status_code=416, headers={**sent, "content-range": f"bytes */{size}"})
    if part:
        sent["content-range"] = f"bytes {start}-{end - 1}/{size}"
    sent["content-length"] = str(end - start)
    status = 206 if part else 200
    if head:
        return Response(status_code=status, headers=sent)
    return StreamingResponse(_pieces(store, found, start, end), status, sent)


async def _pieces(store: S3Store, found: "ObjectMeta", start: int, end: int) -> AsyncIterator[bytes]:
    """Yield the bytes, with one request to S3 per piece, so that a slow client holds none open."""
    for at in range(start, end, PIECE):
        options: GetOptions = {"range": (at, min(at + PIECE, end)), "if_match": found["e_tag"]}
        with s3.answering():
            piece = await obstore.get_async(store, found["path"], options=options)
            data = await piece.bytes_async()
        yield bytes(data)
