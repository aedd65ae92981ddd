"""The seam between the asset store and where its bytes are kept: a folder, or a bucket of objects.

Paths and directories are strings, as in an asset's record.
"""

import time
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Protocol, Self

import msgspec
import structlog
from starlette.responses import FileResponse, Response

from gateway.store.content_headers import content_headers
from shared.assets import Asset
from shared.errors import RtEmbedError

log = structlog.get_logger(__name__)

CONFIRMATION_TIME = 15.0
"""Seconds for which a file must have been unused, or missing, before it is removed or forgotten."""

Require = Callable[[int], Awaitable[None]]
"""Is called with the number of bytes about to be written; raises ServerBusy if they exceed the quota."""


class StoredAsset(msgspec.Struct, frozen=True):
    """One asset's files: its id, when they last changed (seconds since 1970), and their size in bytes."""

    id: str
    changed: float
    size: int


class Contents(msgspec.Struct, frozen=True):
    """What the store holds: the size of everything in bytes, with uploads in progress, and the assets."""

    size: int
    assets: list[StoredAsset]


class Writer(Protocol):
    """Writes one file in large pieces, off the event loop. As a context manager, it aborts on an error."""

    size: int

    async def __aenter__(self) -> Self:
        """Return the writer itself."""

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Close, or abort after an error."""

    async def write(self, data: bytes) -> None:
        """Append `data`. Raises ServerBusy if the store is full."""

    async def close(self) -> None:
        """Finish the file, which may be empty. Calling it again does nothing."""

    async def abort(self) -> None:
        """Discard the file, unless it is finished already."""


class AssetStorage(Protocol):
    """Where bytes are kept. Every method raises Unavailable while that place cannot be reached."""

    async def check(self) -> None:
        """Return if files can be written."""

    # Arriving

    async def add_incoming(self, name: str) -> str:
        """Make and return a directory for one upload."""

    def writer(self, path: str, require: Require) -> Writer:
        """Return a writer of a file in such a directory."""

    async def rename(self, path: str, to: str) -> str:
        """Rename a finished file, if files here have names, and return where it is then."""

    def accepted(self, asset: Asset) -> Asset:
        """Return the record that an asset in an upload's directory has after `accept`."""

    async def accept(self, asset: Asset, accepted: Asset) -> None:
        """Move the asset from its upload's directory to its own, removing what a crash left there."""

    async def remove_incoming(self, name: str) -> None:
        """Remove the directory of an upload and what is left in it."""

    # Known

    async def contents(self) -> Contents:
        """List everything. Files that disappear meanwhile are left out."""

    async def sizes(self, assets: Sequence[Asset]) -> list[int]:
        """Return each file's size in bytes, 0 if it has vanished."""

    async def ages(self, assets: Collection[Asset]) -> list[float]:
        """Return the seconds since each asset's files last changed, without assets that have none."""

    async def content(self, asset: Asset, headers: Mapping[str, str], *, head: bool) -> Response | None:
        """Return the file, whole or in the ranges in `headers`; None if it has vanished.

        With `head`, leave out its bytes.
        """

    # Gone

    def directory(self, asset_id: str) -> str:
        """Return where a crash may have left the files of an asset without a record."""

    async def remove(self, directory: str) -> None:
        """Remove a directory; what cannot be removed now is removed later."""

    async def sweep(self, leased: set[str]) -> None:
        """Remove uploads whose names have not been in `leased` for CONFIRMATION_TIME seconds."""

    async def missing(self, assets: Collection[Asset]) -> set[str]:
        """Return the ids of assets that have had no file here for CONFIRMATION_TIME seconds."""


def lasting(found: set[str], since: dict[str, float]) -> set[str]:
    """Return those names in `found` that were in it for CONFIRMATION_TIME seconds.

    `since` keeps, from call to call, when each name was found first.
    """
    now = time.monotonic()
    for name in since.keys() - found:
        del since[name]
    for name in found:
        since.setdefault(name, now)
    return {name for name in found if now - since[name] >= CONFIRMATION_TIME}


def local_size(path: str) -> int:
    """Return the size of a local file in bytes, 0 if there is none. Blocks."""
    try:
        return Path(path).stat().st_size
    except OSError:
        return 0


def local_file(asset: Asset) -> FileResponse | None:
    """Return a local file as a response; None if there is none. Blocks."""
    if not Path(asset.path).is_file():
        return None
    return FileResponse(asset.path, headers=content_headers(asset))


def vanished(asset: Asset) -> RtEmbedError:
    """Log that an asset has lost its file, and return the error to raise."""
    log.error("asset's file is missing", asset=asset.id, path=asset.path)
    return RtEmbedError(f"the file of {asset.id} has vanished from the asset store")
