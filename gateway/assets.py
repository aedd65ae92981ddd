"""The asset store: bytes in a folder that all gateways and workers share, records in Redis.

A file is written under `.incoming`, opened by a worker there, and moved to its own folder only when it is
accepted; until then nobody sees it.
"""

import asyncio
import os
import shutil
import uuid
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import msgspec
import structlog

from shared import keys
from shared.assets import Asset
from shared.errors import BadParameter, DuplicateAssetId, ResourceInUse
from shared.redis import Redis, RedisError, script
from shared.settings import Settings

log = structlog.get_logger(__name__)
T = TypeVar("T")

INCOMING = ".incoming"
THREADS = 8
SWEEP_INTERVAL = 5.0
"""Seconds between looks at assets that may have outlived their request."""


class AssetStore:
    """Files and their records. Every method that touches the disk does so in a thread."""

    def __init__(self, redis: Redis, settings: Settings) -> None:
        self._redis = redis
        self._folder = settings.asset_dir
        self._threads = ThreadPoolExecutor(THREADS, "assets")

    async def in_thread(self, call: Callable[[], T]) -> T:
        """Run a blocking call on the store's threads."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, call)

    def close(self) -> None:
        """Wait for what is being written."""
        self._threads.shutdown()

    @asynccontextmanager
    async def incoming(self) -> AsyncIterator[Path]:
        """A fresh folder for one upload; what is left in it at the end is removed."""
        folder = self._folder / INCOMING / uuid.uuid4().hex
        await self.in_thread(lambda: folder.mkdir(parents=True))
        try:
            yield folder
        finally:
            await asyncio.shield(self.in_thread(lambda: shutil.rmtree(folder, ignore_errors=True)))

    async def keep(self, asset: Asset, folder: Path) -> Asset:
        """Move `folder`, which holds the asset's one file, to its place, and record the asset.

        Raises DuplicateAssetId when the id is taken.
        """
        home = self._folder / asset.id
        kept = msgspec.structs.replace(asset, directory=str(home), path=str(home / asset.filename))
        if await self._redis.exists(keys.asset(asset.id)):
            raise _duplicate(asset)
        await self.in_thread(lambda: _move(folder, home))
        try:
            return await self.register(kept)
        except BaseException:
            await asyncio.shield(self.in_thread(lambda: shutil.rmtree(home, ignore_errors=True)))
            raise

    async def register(self, asset: Asset) -> Asset:
        """Record an asset whose bytes are in place. Raises DuplicateAssetId when the id is taken."""
        pairs = [part for pair in asset.to_fields().items() if pair[0] != "created" for part in pair]
        created = await script(self._redis, "register_asset")(
            keys=[keys.asset(asset.id), keys.ASSETS], args=[asset.id, *pairs]
        )
        if not created:
            raise _duplicate(asset)
        return msgspec.structs.replace(asset, created=created)

    async def update(self, asset: Asset) -> None:
        """Write a changed record."""
        fields: Any = asset.to_fields()
        await self._redis.hset(keys.asset(asset.id), mapping=fields)

    async def find(self, asset_id: str) -> Asset | None:
        """The record, or None."""
        fields: Any = await self._redis.hgetall(keys.asset(asset_id))
        return Asset.from_fields(fields) if fields else None

    async def get(self, asset_id: str) -> Asset:
        """The record. Raises BadParameter for an unknown id."""
        asset = await self.find(asset_id)
        if asset is None:
            raise BadParameter(f"No such resource {asset_id}")
        return asset

    async def file(self, asset_id: str) -> Asset:
        """The record of a file. Raises BadParameter for an unknown id and for a live stream."""
        asset = await self.get(asset_id)
        if asset.kind != "file":
            raise BadParameter(f"{asset_id} is a live stream, not a file")
        return asset

    async def all(self) -> list[Asset]:
        """Every record, oldest first."""
        ids: Any = await self._redis.zrange(keys.ASSETS, 0, -1)
        async with self._redis.pipeline(transaction=False) as pipe:
            for asset_id in ids:
                pipe.hgetall(keys.asset(asset_id.decode()))
            records = await pipe.execute()
        return [Asset.from_fields(fields) for fields in records if fields]

    async def delete(self, asset: Asset) -> None:
        """Forget the asset and remove its bytes, if they are ours.

        Raises ResourceInUse while a request holds it, BadParameter when it is gone already.
        """
        outcome = await script(self._redis, "delete_asset")(
            keys=[keys.asset(asset.id), keys.asset_users(asset.id), keys.ASSETS], args=[asset.id]
        )
        if outcome == b"busy":
            raise ResourceInUse(f"{asset.id} is in use by a running request")
        if outcome == b"unknown":
            raise BadParameter(f"No such resource {asset.id}")
        if asset.directory:
            await self.in_thread(lambda: shutil.rmtree(asset.directory, ignore_errors=True))
        log.info("asset deleted", asset=asset.id, bytes=asset.size)

    async def hold(self, asset: Asset, holder: str, seconds: float) -> None:
        """Keep a temporary asset that is about to be recorded from being swept, for some seconds."""
        now, _ = await self._redis.time()
        async with self._redis.pipeline() as pipe:
            pipe.zadd(keys.asset_users(asset.id), {holder: now + seconds})
            pipe.zadd(keys.TEMPORARY_ASSETS, {asset.id: now})
            await pipe.execute()

    async def release(self, asset: Asset, holder: str) -> None:
        """Let go of a temporary asset, and remove it unless a request still holds it."""
        await self._redis.zrem(keys.asset_users(asset.id), holder)
        await self._sweep(asset.id)

    async def sweep(self) -> None:
        """Remove the temporary assets that nobody holds any more."""
        ids: Any = await self._redis.zrange(keys.TEMPORARY_ASSETS, 0, -1)
        for asset_id in ids:
            await self._sweep(asset_id.decode())

    async def _sweep(self, asset_id: str) -> None:
        asset = await self.find(asset_id)
        if asset is None and await self._is_held(asset_id):
            return  # about to be recorded
        try:
            if asset is not None and asset.temporary:
                await self.delete(asset)
        except ResourceInUse:
            return
        except BadParameter:
            pass  # another gateway was faster
        await self._redis.zrem(keys.TEMPORARY_ASSETS, asset_id)

    async def _is_held(self, asset_id: str) -> bool:
        now, _ = await self._redis.time()
        return bool(await self._redis.zcount(keys.asset_users(asset_id), now, "+inf"))

    async def run(self) -> None:
        """Sweep until cancelled."""
        while True:
            await asyncio.sleep(SWEEP_INTERVAL)
            try:
                await self.sweep()
            except RedisError as error:
                log.warning("temporary assets not swept", error=str(error))

    async def size(self, asset: Asset) -> int:
        """The file's bytes now, 0 if it has vanished."""

        def measure() -> int:
            try:
                return Path(asset.path).stat().st_size
            except OSError:
                return 0

        return await self.in_thread(measure)

    def writer(self, path: Path) -> "Writer":
        """A file to write an upload into."""
        return Writer(self, path)


class Writer:
    """Writes one file in large pieces, off the event loop."""

    def __init__(self, store: AssetStore, path: Path) -> None:
        self._store = store
        self._path = path
        self._file: BinaryIO | None = None
        self.size = 0

    async def write(self, data: bytes) -> None:
        """Append `data`."""

        def append() -> None:
            if self._file is None:
                self._file = self._path.open("wb")
            self._file.write(data)

        await self._store.in_thread(append)
        self.size += len(data)

    async def close(self) -> None:
        """Finish the file."""
        if self._file is None:
            await self.write(b"")
        await self._store.in_thread(self._finish)

    def _finish(self) -> None:
        if self._file:
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()


def _move(folder: Path, home: Path) -> None:
    """Rename `folder` to `home`; a folder left there without a record is in nobody's use."""
    try:
        folder.rename(home)
    except OSError:
        if not home.is_dir():
            raise
        shutil.rmtree(home)
        folder.rename(home)


def _duplicate(asset: Asset) -> DuplicateAssetId:
    return DuplicateAssetId(f"the id {asset.id} is already in use")
