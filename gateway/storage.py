"""The folder of the asset store, as this process sees it: what lies there, and writing into it."""

import asyncio
import os
import shutil
import threading
import time
import uuid
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO, TypeVar

import msgspec

T = TypeVar("T")

INCOMING = ".incoming"
THREADS = 8
PATIENCE = 15.0
"""Seconds for which something must have been in nobody's use, or missing, before that is believed."""

Require = Callable[[int], Awaitable[None]]
"""Called before so many bytes are written; raises if there is no room for them."""


class Home(msgspec.Struct, frozen=True):
    """The folder of one asset: when it was last changed (seconds since 1970), and the bytes in it."""

    id: str
    changed: float
    size: int


class Contents(msgspec.Struct, frozen=True):
    """What lies in the store: all bytes, those of uploads under way included, and the assets' folders."""

    size: int
    homes: list[Home]


class Folder:
    """The shared folder: one folder per asset, named after it, and `.incoming`. Disk calls run in threads."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._threads = ThreadPoolExecutor(THREADS, "assets")
        self._unleased: dict[str, float] = {}
        self._missing: dict[str, float] = {}

    async def in_thread(self, call: Callable[[], T]) -> T:
        """Run a blocking call on the store's threads."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, call)

    def close(self) -> None:
        """Wait for what is being written."""
        self._threads.shutdown()

    def home(self, asset_id: str) -> Path:
        """The folder of an asset."""
        return self._root / asset_id

    async def move_home(self, folder: Path, asset_id: str) -> None:
        """Rename `folder` to the asset's; one left there by a crash, in nobody's use, goes."""
        home = self.home(asset_id)

        def move() -> None:
            try:
                folder.rename(home)
            except OSError:
                if not home.is_dir():
                    raise
                shutil.rmtree(home)
                folder.rename(home)

        await self.in_thread(move)

    async def remove_home(self, asset_id: str) -> None:
        """Remove the folder of an asset."""
        await self._remove(self.home(asset_id))

    async def add_incoming(self, name: str) -> Path:
        """Make a folder for one upload."""
        folder = self._root / INCOMING / name
        await self.in_thread(lambda: folder.mkdir(parents=True))
        return folder

    async def remove_incoming(self, name: str) -> None:
        """Remove the folder of an upload and what is left in it."""
        await self._remove(self._root / INCOMING / name)

    async def _remove(self, folder: Path) -> None:
        await self.in_thread(lambda: shutil.rmtree(folder, ignore_errors=True))

    async def sweep_incoming(self, leased: set[str]) -> None:
        """Remove the folders of uploads that have not been `leased` for PATIENCE seconds."""
        names = await self.in_thread(lambda: _names(self._root / INCOMING))
        for name in _lasting(names - leased, self._unleased):
            await self.remove_incoming(name)

    async def missing(self, paths: Mapping[str, Path]) -> set[str]:
        """Which of the assets, given with their paths, have had no file for PATIENCE seconds."""
        gone = await self.in_thread(lambda: {name for name, path in paths.items() if not path.exists()})
        return _lasting(gone, self._missing)

    async def ages(self, asset_ids: Sequence[str]) -> list[float]:
        """Seconds since the folder of each asset was changed, where there is one."""
        changes = await self.in_thread(lambda: [_changed(self.home(asset_id)) for asset_id in asset_ids])
        now = time.time()
        return [max(0.0, now - changed) for changed in changes if changed is not None]

    async def contents(self) -> Contents:
        """Look at everything. What disappears meanwhile is left out."""
        return await self.in_thread(self._look)

    def _look(self) -> Contents:
        homes = [
            Home(path.name, changed, _size(path))
            for path in self._root.glob("*")
            if _is_id(path.name) and (changed := _changed(path)) is not None
        ]
        return Contents(_size(self._root / INCOMING) + sum(home.size for home in homes), homes)


class Writer:
    """Writes one file in large pieces, off the event loop."""

    def __init__(self, folder: Folder, path: Path, require: Require) -> None:
        self._folder = folder
        self._path = path
        self._require = require
        self._file: BinaryIO | None = None
        self._turn = threading.Lock()  # a cancelled write goes on in its thread
        self._closed = False
        self.size = 0

    async def write(self, data: bytes) -> None:
        """Append `data`. Raises ServerBusy if the store has no room for it."""
        await self._require(len(data))
        await self._folder.in_thread(lambda: self._append(data))
        self.size += len(data)

    def _append(self, data: bytes) -> None:
        with self._turn:
            if not self._closed:
                self._file = self._file or self._path.open("wb")
                self._file.write(data)

    async def close(self) -> None:
        """Finish the file, which may be empty."""
        await asyncio.shield(self._folder.in_thread(self._finish))

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


def _lasting(found: set[str], since: dict[str, float]) -> set[str]:
    """Those of `found` that `since`, kept from look to look, has known for PATIENCE seconds."""
    now = time.monotonic()
    for name in since.keys() - found:
        del since[name]
    for name in found:
        since.setdefault(name, now)
    return {name for name in found if now - since[name] >= PATIENCE}
