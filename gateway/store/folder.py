"""The asset store's bytes in a folder that all gateways and workers share.

A file is written under `.incoming` and opened by a worker there. It is moved to its asset's folder when it is
accepted; until then clients cannot see it.
"""

import asyncio
import os
import shutil
import threading
import time
import uuid
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, Self, TypeVar

import msgspec
from starlette.responses import Response

from gateway.store.storage import Contents, Require, StoredAsset, lasting, local_file, local_size
from shared.assets import Asset
from shared.errors import StoreUnusable

T = TypeVar("T")

INCOMING = ".incoming"
THREADS = 8
CHECK_BYTES = 64 << 10
"""Size of the file that is written to see whether files can be."""


@contextmanager
def writable(root: Path) -> Iterator[None]:
    """Raise StoreUnusable, with the system's reason, where writing below `root` fails."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        raise StoreUnusable(f"the asset store {root} cannot be written to: {reason}") from error


class DiskThreads:
    """Threads for blocking calls to a disk."""

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(THREADS, "assets")

    async def run(self, call: Callable[[], T]) -> T:
        """Run a blocking call in a thread and return its result."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, call)

    def close(self) -> None:
        """Wait for the calls that are running."""
        self._threads.shutdown()


class FolderStorage:
    """The shared folder: one folder per asset, named by its id, and `.incoming`. Calls run in threads."""

    def __init__(self, root: Path, disk: DiskThreads) -> None:
        self._root = root
        self._disk = disk
        self._unleased: dict[str, float] = {}
        self._missing: dict[str, float] = {}

    async def check(self) -> None:
        """Write a file and remove it. Raises StoreUnusable if that fails."""
        await self._disk.run(self._check)

    def _check(self) -> None:
        try:
            self._root.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StoreUnusable(
                f"the asset store {self._root} cannot be created: {error.strerror}"
            ) from error
        with writable(self._root):
            folder = self._root / INCOMING / f"check-{uuid.uuid4().hex}"
            try:
                folder.mkdir(parents=True)
                _write(folder / "file", bytes(CHECK_BYTES))
            finally:
                shutil.rmtree(folder, ignore_errors=True)

    def directory(self, asset_id: str) -> str:
        """Return the folder of an asset."""
        return str(self._root / asset_id)

    def writer(self, path: str, require: Require) -> "FileWriter":
        """Return a writer of one file of an upload."""
        return FileWriter(self._disk, self._root, Path(path), require)

    async def rename(self, path: str, to: str) -> str:
        """Rename a file and return its new path."""
        with writable(self._root):
            return str(await self._disk.run(lambda: Path(path).rename(to)))

    def accepted(self, asset: Asset) -> Asset:
        """Return the record of the asset in its own folder."""
        directory = self.directory(asset.id)
        path = str(Path(directory, Path(asset.path).name))
        return msgspec.structs.replace(asset, directory=directory, path=path)

    async def accept(self, asset: Asset, accepted: Asset) -> None:
        """Rename the upload's folder to the asset's. An unused one that a crash left there is removed."""
        folder, target = Path(asset.path).parent, Path(accepted.directory)

        def move() -> None:
            try:
                folder.rename(target)
            except OSError:
                if not target.is_dir():
                    raise
                shutil.rmtree(target)
                folder.rename(target)

        with writable(self._root):
            await self._disk.run(move)

    async def remove(self, directory: str) -> None:
        """Remove the folder of an asset."""
        await self._remove(Path(directory))

    async def add_incoming(self, name: str) -> str:
        """Make and return a folder for one upload."""
        folder = self._root / INCOMING / name
        with writable(self._root):
            await self._disk.run(lambda: folder.mkdir(parents=True))
        return str(folder)

    async def remove_incoming(self, name: str) -> None:
        """Remove the folder of an upload and what is left in it."""
        await self._remove(self._root / INCOMING / name)

    async def _remove(self, folder: Path) -> None:
        await self._disk.run(lambda: shutil.rmtree(folder, ignore_errors=True))

    async def sweep(self, leased: set[str]) -> None:
        """Remove the folders of uploads that have not been `leased` for CONFIRMATION_TIME seconds."""
        names = await self._disk.run(lambda: _names(self._root / INCOMING))
        for name in lasting(names - leased, self._unleased):
            await self.remove_incoming(name)

    async def missing(self, assets: Collection[Asset]) -> set[str]:
        """Return the ids of assets below this folder that have had no file for CONFIRMATION_TIME seconds."""
        ours = {asset.id: Path(asset.path) for asset in assets if Path(asset.path).is_relative_to(self._root)}
        gone = await self._disk.run(lambda: {name for name, path in ours.items() if not path.exists()})
        return lasting(gone, self._missing)

    async def sizes(self, assets: Sequence[Asset]) -> list[int]:
        """Return each file's size in bytes now, 0 if it has vanished."""
        return await self._disk.run(lambda: [local_size(asset.path) for asset in assets])

    async def content(self, asset: Asset, headers: Mapping[str, str], *, head: bool) -> Response | None:
        """Return the file; None if it has vanished."""
        return await self._disk.run(lambda: local_file(asset))

    async def ages(self, assets: Collection[Asset]) -> list[float]:
        """Return the seconds since each asset's folder last changed, without assets that have none."""
        changes = await self._disk.run(lambda: [_changed(Path(self.directory(asset.id))) for asset in assets])
        now = time.time()
        return [max(0.0, now - changed) for changed in changes if changed is not None]

    async def contents(self) -> Contents:
        """List everything. Files that disappear meanwhile are left out."""
        return await self._disk.run(self._list)

    def _list(self) -> Contents:
        stored = [
            StoredAsset(path.name, changed, _size(path))
            for path in self._root.glob("*")
            if _is_id(path.name) and (changed := _changed(path)) is not None
        ]
        return Contents(_size(self._root / INCOMING) + sum(asset.size for asset in stored), stored)


class FileWriter:
    """Writes one file in large pieces, off the event loop."""

    def __init__(self, disk: DiskThreads, root: Path, path: Path, require: Require) -> None:
        self._disk = disk
        self._root = root
        self._path = path
        self._require = require
        self._file: BinaryIO | None = None
        self._turn = threading.Lock()  # a cancelled write continues in its thread
        self._closed = False
        self.size = 0

    async def __aenter__(self) -> Self:
        """Return the writer itself."""
        return self

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Close the file, or give it up after an error: a failed upload is removed as a whole."""
        await (self.abort() if kind else self.close())

    async def write(self, data: bytes) -> None:
        """Append `data`. Raises ServerBusy if the store is full, StoreUnusable if its disk takes no more."""
        await self._require(len(data))
        with writable(self._root):
            await self._disk.run(lambda: self._append(data))
        self.size += len(data)

    def _append(self, data: bytes) -> None:
        with self._turn:
            if not self._closed:
                self._file = self._file or self._path.open("wb", buffering=0)
                _write_all(self._file, data)

    async def close(self) -> None:
        """Finish the file, which may be empty. Raises StoreUnusable."""
        with writable(self._root):
            await asyncio.shield(self._disk.run(self._finish))

    async def abort(self) -> None:
        """Close the file, whatever is in it."""
        await asyncio.shield(self._disk.run(self._give_up))

    def _finish(self) -> None:
        with self._turn:
            if self._closed:
                return
            self._closed = True
            with self._file or self._path.open("wb", buffering=0) as file:
                os.fsync(file.fileno())

    def _give_up(self) -> None:
        with self._turn, suppress(OSError):
            self._closed = True
            if self._file:
                self._file.close()


def _write(path: Path, data: bytes) -> None:
    with path.open("wb", buffering=0) as file:
        _write_all(file, data)
        os.fsync(file.fileno())


def _write_all(file: BinaryIO, data: bytes) -> None:
    """Write all of it: a disk that is nearly full takes a part."""
    left = memoryview(data)
    while left:
        left = left[file.write(left) :]


def _names(folder: Path) -> set[str]:
    try:
        return {path.name for path in folder.iterdir()}
    except FileNotFoundError:
        return set()


def _is_id(name: str) -> bool:
    try:
        return str(uuid.UUID(name)) == name
    except ValueError:
        return False


def _changed(path: Path) -> float | None:
    try:
        return path.stat().st_mtime
    except OSError:
        return None


def _size(folder: Path) -> int:
    return sum(local_size(str(Path(parent, name))) for parent, _, names in os.walk(folder) for name in names)
