"""A folder that all gateways and workers share, as the place of the asset store's bytes.

A file is written under `.incoming`, opened by a worker there, and moved to its asset's folder only when it is
accepted; until then nobody sees it.
"""

import asyncio
import os
import shutil
import threading
import time
import uuid
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO, Self, TypeVar

import msgspec
from starlette.responses import Response

from gateway.store.storage import Contents, Home, Require, lasting, local_file, local_size
from shared.assets import Asset
from shared.errors import Unavailable

T = TypeVar("T")

INCOMING = ".incoming"
THREADS = 8


class Disk:
    """Threads for calls that wait for a disk."""

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(THREADS, "assets")

    async def run(self, call: Callable[[], T]) -> T:
        """Run a blocking call."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, call)

    def close(self) -> None:
        """Wait for the calls that are running."""
        self._threads.shutdown()


class Folder:
    """The shared folder: one folder per asset, named after it, and `.incoming`. Disk calls run in threads."""

    def __init__(self, root: Path, disk: Disk) -> None:
        self._root = root
        self._disk = disk
        self._unleased: dict[str, float] = {}
        self._missing: dict[str, float] = {}

    async def check(self) -> None:
        """Return if files can be written. Raises Unavailable."""
        await self._disk.run(self._check)

    def _check(self) -> None:
        try:
            self._root.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise Unavailable(f"the asset store {self._root} cannot be made: {error.strerror}") from error
        if not os.access(self._root, os.R_OK | os.W_OK | os.X_OK):
            raise Unavailable(f"the asset store {self._root} cannot be written to")

    def close(self) -> None:
        """Nothing is left to wait for: the disk is closed by its owner."""

    def home(self, asset_id: str) -> str:
        """The folder of an asset."""
        return str(self._root / asset_id)

    def writer(self, path: str, require: Require) -> "FileWriter":
        """A file to write an upload into."""
        return FileWriter(self._disk, Path(path), require)

    async def bring(self, path: str, to: str) -> str:
        """Rename a file."""
        return str(await self._disk.run(lambda: Path(path).rename(to)))

    def settled(self, asset: Asset) -> Asset:
        """The asset in its own folder."""
        home = self.home(asset.id)
        return msgspec.structs.replace(asset, directory=home, path=str(Path(home, Path(asset.path).name)))

    async def settle(self, asset: Asset, settled: Asset) -> None:
        """Rename the upload's folder to the asset's; one left there by a crash, in nobody's use, goes."""
        folder, home = Path(asset.path).parent, Path(settled.directory)

        def move() -> None:
            try:
                folder.rename(home)
            except OSError:
                if not home.is_dir():
                    raise
                shutil.rmtree(home)
                folder.rename(home)

        await self._disk.run(move)

    async def remove(self, directory: str) -> None:
        """Remove the folder of an asset."""
        await self._remove(Path(directory))

    async def add_incoming(self, name: str) -> str:
        """Make a folder for one upload."""
        folder = self._root / INCOMING / name
        await self._disk.run(lambda: folder.mkdir(parents=True))
        return str(folder)

    async def remove_incoming(self, name: str) -> None:
        """Remove the folder of an upload and what is left in it."""
        await self._remove(self._root / INCOMING / name)

    async def _remove(self, folder: Path) -> None:
        await self._disk.run(lambda: shutil.rmtree(folder, ignore_errors=True))

    async def sweep(self, leased: set[str]) -> None:
        """Remove the folders of uploads that have not been `leased` for a while."""
        names = await self._disk.run(lambda: _names(self._root / INCOMING))
        for name in lasting(names - leased, self._unleased):
            await self.remove_incoming(name)

    async def missing(self, assets: Collection[Asset]) -> set[str]:
        """The ids of those below this folder that have had no file for a while."""
        ours = {asset.id: Path(asset.path) for asset in assets if Path(asset.path).is_relative_to(self._root)}
        gone = await self._disk.run(lambda: {name for name, path in ours.items() if not path.exists()})
        return lasting(gone, self._missing)

    async def size(self, asset: Asset) -> int:
        """The file's bytes now, 0 if it has vanished."""
        return await self._disk.run(lambda: local_size(asset.path))

    async def content(self, asset: Asset, headers: Mapping[str, str], *, head: bool) -> Response | None:
        """The file; None if it has vanished."""
        return await self._disk.run(lambda: local_file(asset))

    async def ages(self, assets: Collection[Asset]) -> list[float]:
        """Seconds since the folder of each asset was changed, where there is one."""
        changes = await self._disk.run(lambda: [_changed(Path(self.home(asset.id))) for asset in assets])
        now = time.time()
        return [max(0.0, now - changed) for changed in changes if changed is not None]

    async def contents(self) -> Contents:
        """Look at everything. What disappears meanwhile is left out."""
        return await self._disk.run(self._look)

    def _look(self) -> Contents:
        homes = [
            Home(path.name, changed, _size(path))
            for path in self._root.glob("*")
            if _is_id(path.name) and (changed := _changed(path)) is not None
        ]
        return Contents(_size(self._root / INCOMING) + sum(home.size for home in homes), homes)


class FileWriter:
    """Writes one file in large pieces, off the event loop."""

    def __init__(self, disk: Disk, path: Path, require: Require) -> None:
        self._disk = disk
        self._path = path
        self._require = require
        self._file: BinaryIO | None = None
        self._turn = threading.Lock()  # a cancelled write goes on in its thread
        self._closed = False
        self.size = 0

    async def __aenter__(self) -> Self:
        """The writer itself."""
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close the file: a folder that is given up is removed as a whole."""
        await self.close()

    async def write(self, data: bytes) -> None:
        """Append `data`. Raises ServerBusy if the store has no room for it."""
        await self._require(len(data))
        await self._disk.run(lambda: self._append(data))
        self.size += len(data)

    def _append(self, data: bytes) -> None:
        with self._turn:
            if not self._closed:
                self._file = self._file or self._path.open("wb")
                self._file.write(data)

    async def close(self) -> None:
        """Finish the file, which may be empty."""
        await asyncio.shield(self._disk.run(self._finish))

    async def abort(self) -> None:
        """Close the file."""
        await self.close()

    def _finish(self) -> None:
        with self._turn:
            if self._closed:
                return
            self._closed = True
            with self._file or self._path.open("wb") as file:
                file.flush()
                os.fsync(file.fileno())


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
    return sum(_bytes(Path(parent, name)) for parent, _, names in os.walk(folder) for name in names)


def _bytes(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0
