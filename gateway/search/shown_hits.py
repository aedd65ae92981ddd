"""Chunks of the index, as clients see them."""

import base64
from typing import Any

from gateway.api.search_schemas import IndexHit
from gateway.search.hits import Hit
from shared.chunks import SECOND
from shared.timestamps import format_timestamp


def index_hit(hit: Hit) -> IndexHit:
    """Return the chunk as answers to searches show it."""
    return IndexHit(
        **stored_fields(hit),
        asset=hit.asset,
        name=hit.name,
        kind="stream" if hit.kind == "stream" else "file",
        media_type="image" if hit.media_type == "image" else "video",
        camera=hit.camera,
        chunks=hit.numbers,
        score=hit.score,
    )


def stored_fields(hit: Hit) -> dict[str, Any]:
    """Return the fields that all answers tell of a chunk."""
    base = hit.base
    dated = hit.kind == "stream" or bool(base)
    return {
        "chunk": hit.number,
        "start": None if base is None else (hit.start - base) / SECOND,
        "end": None if base is None else (hit.end - base) / SECOND,
        "start_time": format_timestamp(hit.start) if dated else None,
        "end_time": format_timestamp(hit.end) if dated else None,
        "request": hit.request,
        "thumbnail": base64.b64encode(hit.thumbnail).decode() if hit.thumbnail else None,
    }
