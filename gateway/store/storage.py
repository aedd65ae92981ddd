"""The seam between the asset store and where its bytes lie: a folder, or a bucket of objects.

Paths and directories are texts, as they stand in an asset's record.
"""

import time
from collections.abc import Awaitable, Callable, Collection, Mapping
from pathlib import Path
from typing import Protocol, Self

import msgspec
import structlog
from starlette.responses import FileResponse, Response

from shared.assets import Asset
from shared.errors import RtEmbedError

log = structlog.get_logger(__name__)

PATIENCE = 15.0
"""Seconds for which something must have been in nobody's use, or missing, before that is believed."""

Require = Callable[[int], Awaitable[None]]
"""Called before so many bytes are written; raises if there is no room for them."""


class Home(msgspec.Struct, frozen=True):
    """Where the bytes of one asset lie: when that was last changed (seconds since 1970), and how many."""

    id: str
    changed: float
    size: int


class Contents(msgspec.Struct, frozen=True):
    """What lies in the store: all bytes, those of uploads under way included, and the assets' homes."""

    size: int
    homes: list[Home]


class Writer(Protocol):
    """Writes one file in large pieces, off the event loop. As a context, an error inside aborts it."""

    size: int

    async def __aenter__(self) -> Self:
        """The writer itself."""

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Close, or abort after an error."""

    async def write(self, data: bytes) -> None:
        """Append `data`. Raises ServerBusy if the store has no room for it."""

    async def close(self) -> None:
        """Finish the file, which may be empty. Harmless when called again."""

    async def abort(self) -> None:
        """Give the file up, unless it is finished already."""


class AssetStorage(Protocol):
    """Where bytes lie. Whatever it cannot do because the place is away raises Unavailable."""

    async def check(self) -> None:
        """Return if files can be written."""

    def close(self) -> None:
        """Wait for what is being written."""

    # Arriving

    async def add_incoming(self, name: str) -> str:
        """A directory for one upload."""

    def writer(self, path: str, require: Require) -> Writer:
        """A file in such a directory."""

    async def bring(self, path: str, to: str) -> str:
        """A finished file under a new name, `to`, if files here have any; where it is then."""

    def settled(self, asset: Asset) -> Asset:
        """The record that the asset in an upload's directory has once `settle` is done with it."""

    async def settle(self, asset: Asset, settled: Asset) -> None:
        """Take the asset out of its upload's directory. What a crash left in its place goes."""

    async def remove_incoming(self, name: str) -> None:
        """Remove the directory of an upload and what is left in it."""

    # Known

    async def contents(self) -> Contents:
        """Look at everything. What disappears meanwhile is left out."""

    async def size(self, asset: Asset) -> int:
        """The file's bytes, 0 if it has vanished."""

    async def ages(self, assets: Collection[Asset]) -> list[float]:
        """Seconds since the home of each asset was changed, where it has one."""

    async def content(self, asset: Asset, headers: Mapping[str, str], *, head: bool) -> Response | None:
        """The file, whole or in the ranges that `headers` ask for; None if it has vanished. `head`: without
        its bytes."""

    # Gone

    def home(self, asset_id: str) -> str:
        """Where a crash may have left the files of an asset without a record."""

    async def remove(self, directory: str) -> None:
        """Remove a directory; what cannot be removed now goes later."""

    async def sweep(self, leased: set[str]) -> None:
        """Remove uploads that have not been `leased` for PATIENCE seconds."""

    async def missing(self, assets: Collection[Asset]) -> set[str]:
        """The ids of those that have had no file here for PATIENCE seconds."""


def lasting(found: set[str], since: dict[str, float]) -> set[str]:
    """Those of `found` that `since`, kept from look to look, has known for PATIENCE seconds."""
    now = time.monotonic()
    for name in since.keys() - found:
        del since[name]
    for name in found:
        since.setdefault(name, now)
    return {name for name in found if now - since[name] >= PATIENCE}


def local_size(path: str) -> int:
    """Bytes of a local file, 0 if there is none. Blocks."""
    try:
        return Path(path).stat().st_size
    except OSError:
        return 0


def local_file(asset: Asset) -> FileResponse | None:
    """A local file as an answer; None if there is none. Blocks."""
    if not Path(asset.path).is_file():
        return None
    return FileResponse(asset.path, filename=asset.filename, content_disposition_type="inline")


def vanished(asset: Asset) -> RtEmbedError:
    """The error of an asset without its file."""
    log.error("asset without its file", asset=asset.id, path=asset.path)
    return RtEmbedError(f"the file of {asset.id} has vanished from the asset store")
