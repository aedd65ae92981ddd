"""Chunks that were found: rows of the index, and neighbours as one."""

from collections.abc import Sequence
from typing import Any

import msgspec

from shared.chunks import SECOND

GAP = SECOND // 2
"""Chunks with less than this between them, in nanoseconds, are neighbours."""


class Hit(msgspec.Struct, frozen=True, kw_only=True):
    """One row of the index, or several neighbours as one. Times are nanoseconds since 1970; `base` is what
    offsets into a file count from, None for a stream and where it is unknown."""

    key: int
    asset: str
    name: str
    kind: str
    media_type: str
    camera: str
    base: int | None
    number: int
    """The chunk, or the best of them."""
    numbers: list[int]
    start: int
    end: int
    request: str
    score: float
    thumbnail: bytes | None = None
    vector: list[float] = []


def read_row(row: Sequence[Any]) -> Hit:
    """Return the chunk in a row of the queries in `search_queries`."""
    key, asset, name, kind, media_type, camera, base, *rest = row
    number, start, end, request, score, thumbnail, vector = rest
    return Hit(
        key=key, asset=asset, name=name, kind=kind, media_type=media_type, camera=camera, base=base,
        number=number, numbers=[number], start=start, end=end, request=request, score=score,
        thumbnail=thumbnail, vector=vector.to_list() if vector is not None else [],
    )  # fmt: skip


def merged(chunks: Sequence[Hit]) -> list[Hit]:
    """Return the chunks with neighbours and overlapping ones of each asset as one, which has the score and
    the picture of the best of them; the best first."""
    groups: list[Hit] = []
    for chunk in sorted(chunks, key=lambda chunk: (chunk.asset, chunk.start, chunk.end)):
        if groups and groups[-1].asset == chunk.asset and chunk.start - groups[-1].end < GAP:
            groups[-1] = _joined(groups[-1], chunk)
        else:
            groups.append(chunk)
    return sorted(groups, key=lambda chunk: -chunk.score)


def _joined(first: Hit, second: Hit) -> Hit:
    best = first if first.score >= second.score else second
    return msgspec.structs.replace(
        best,
        numbers=sorted({*first.numbers, *second.numbers}),
        start=min(first.start, second.start),
        end=max(first.end, second.end),
    )
