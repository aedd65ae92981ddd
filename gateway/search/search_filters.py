"""Which chunks of the search index count, and in what order pages of them are read."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class SearchFilters:
    """Which chunks count. Times are nanoseconds since 1970; a chunk counts if it overlaps the range.

    `deleted` are assets whose deletion the index has not heard of; `removed`, rows that are on their way out,
    as asset and last chunk; `not_chunk` is one row to leave out.
    """

    assets: Sequence[str] | None = None
    cameras: Sequence[str] | None = None
    start: int | None = None
    end: int | None = None
    deleted: Sequence[str] = ()
    removed: Sequence[tuple[int, int]] = ()
    not_chunk: int | None = None

    @property
    def narrow(self) -> bool:
        """Whether the client asked for some chunks only."""
        return any(given is not None for given in (self.assets, self.cameras, self.start, self.end))


@dataclass(frozen=True, kw_only=True)
class ChunkPage:
    """Which chunks of one asset: at most `count` after the first `after`, of `numbers` only if given."""

    asset: str
    numbers: Sequence[int] | None = None
    after: int = 0
    count: int = 1000
    thumbnails: bool = False
    vectors: bool = False
