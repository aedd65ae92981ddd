"""The asset store: bytes in a folder or a bucket that all gateways and workers share, records in Redis.

A file is written to the directory of its upload and opened by a worker there. It gets a record when it is
accepted; until then clients cannot see it.
"""

import asyncio
import itertools
import time
import uuid
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import msgspec
import structlog
from starlette.responses import Response

from gateway.api.caller import caller
from gateway.store.bucket import BucketStorage
from gateway.store.folder import DiskThreads, FolderStorage
from gateway.store.quota import StorageQuota
from gateway.store.storage import AssetStorage, Writer, vanished
from shared import keys
from shared.assets import ASSETS, NEW_ASSETS, Asset
from shared.errors import BadParameter, DuplicateAssetId, ResourceInUse, StoreUnusable, Unavailable
from shared.redis.connection import Redis, RedisError, script
from shared.settings import Settings

log = structlog.get_logger(__name__)
T = TypeVar("T")

SWEEP_INTERVAL = 5.0
"""Seconds between searches for assets that have outlived their requests."""
SWEEPS_PER_HEALING = 12
"""Sweeps between searches for assets whose files have vanished."""
CHECK_INTERVAL = 30.0
"""Seconds between checks that files can be written; SWEEP_INTERVAL while they cannot."""
INCOMING_LEASE = 60
"""Seconds without renewal after which an upload's directory counts as left behind by its gateway."""
MOVE_LEASE = 60
"""Seconds that moving a file to its asset's directory may take."""
READ = 500
"""Records, and sizes, that are read at a time, so that a long list delays no other request for long."""
AGED_OUT_KEPT = 100_000
"""How many ids are remembered of evicted assets, and of those that are yet to leave the search index."""


class AssetStore:
    """Files and their records. Methods that use a disk do so in a thread.

    `problem` says why files cannot be written now, and is empty if they can. `seen` says if they ever could.
    """

    def __init__(self, redis: Redis, settings: Settings) -> None:
        self._redis = redis
        self._disk = DiskThreads()
        self._storage: AssetStorage = (
            BucketStorage(redis, settings, self._directories)
            if settings.asset_store
            else FolderStorage(settings.asset_dir, self._disk)
        )
        self._incoming: set[str] = set()
        self._searched = settings.search_url is not None
        self.quota = StorageQuota(redis, self._storage, settings, self.age_out)
        self.problem = "not checked yet"
        self.seen = False

    async def in_thread(self, call: Callable[[], T]) -> T:
        """Run a blocking call to a disk in a thread and return its result."""
        return await self._disk.run(call)

    def close(self) -> None:
        """Wait for disk calls that are running."""
        self._disk.close()

    async def check(self) -> None:
        """Check whether files can be written now."""
        try:
            await self._storage.check()
            self.problem, self.seen = "", True
        except Unavailable as error:
            self._unusable(error)

    def _unusable(self, error: Unavailable) -> None:
        self.problem = error.message
        log.error("asset store not usable", error=error.message)

    def writer(self, path: str) -> Writer:
        """Return a writer of one file of an upload."""
        return self._storage.writer(path, self.quota.require)

    async def rename(self, path: str, to: str) -> str:
        """Rename a finished file, if files in this store have names, and return where it is then."""
        return await self._storage.rename(path, to)

    # Arriving -----------------------------------------------------------------------------------------

    @asynccontextmanager
    async def incoming(self) -> AsyncIterator[str]:
        """Yield a new directory for one upload; what is still in it on exit is removed."""
        name = uuid.uuid4().hex
        self._incoming.add(name)
        try:
            await self._renew_incoming()
            yield await self._storage.add_incoming(name)
        except StoreUnusable as error:
            self._unusable(error)
            raise
        finally:
            self._incoming.discard(name)
            await asyncio.shield(self._drop_incoming(name))

    async def _renew_incoming(self) -> None:
        if self._incoming:
            now, _ = await self._redis.time()
            leases: Any = dict.fromkeys(self._incoming, now + INCOMING_LEASE)
            await self._redis.zadd(keys.INCOMING_FOLDERS, leases)

    async def _drop_incoming(self, name: str) -> None:
        await self._storage.remove_incoming(name)
        try:
            await self._redis.zrem(keys.INCOMING_FOLDERS, name)
        except RedisError as error:
            log.warning("lease of an upload not removed, it expires by itself", error=str(error))

    async def keep(self, asset: Asset) -> Asset:
        """Move the asset, the one file in an upload's directory, to its own directory, and record it.

        Raises DuplicateAssetId when the id is taken.
        """
        kept = self._storage.accepted(asset)
        if await self._claim(asset.id) != b"claimed":
            raise _duplicate(asset)
        try:
            await self._storage.accept(asset, kept)
            return await self.register(kept)
        except BaseException:
            await asyncio.shield(self._abandon(kept))
            raise

    async def _claim(self, asset_id: str) -> bytes:
        outcome: bytes = await script(self._redis, "claim_asset")(
            keys=[keys.asset(asset_id), keys.ARRIVING_ASSETS], args=[asset_id, MOVE_LEASE]
        )
        return outcome

    async def _abandon(self, asset: Asset) -> None:
        """Undo `keep`, wherever it stopped."""
        found = await self.find(asset.id)
        if found and found.directory == asset.directory:
            await self.delete(found)
        else:
            await self._storage.remove(asset.directory)
        await self._redis.zrem(keys.ARRIVING_ASSETS, asset.id)

    async def register(self, asset: Asset) -> Asset:
        """Record an asset whose file is in place. Raises DuplicateAssetId when the id is taken."""
        asset = msgspec.structs.replace(asset, caller=caller.get())
        record = NEW_ASSETS.fields(asset)
        created = await script(self._redis, "register_asset").durably(
            keys=[keys.asset(asset.id), keys.ASSETS, keys.AGED_OUT_ASSETS, keys.ARRIVING_ASSETS],
            args=[asset.id, uuid.uuid4().hex, *record],
        )
        if not created:
            raise _duplicate(asset)
        return msgspec.structs.replace(asset, created=created)

    async def update(self, asset: Asset) -> None:
        """Write a changed record."""
        fields: Any = ASSETS.fields(asset, whole=True)
        await self._redis.hset(keys.asset(asset.id), items=fields)

    # Known --------------------------------------------------------------------------------------------

    async def find(self, asset_id: str) -> Asset | None:
        """Return the record, or None."""
        fields: Any = await self._redis.hgetall(keys.asset(asset_id))
        return ASSETS.read(fields) if fields else None

    async def get(self, asset_id: str) -> Asset:
        """Return the record. Raises BadParameter for an unknown id, and for one that was evicted."""
        asset = await self.find(asset_id)
        if asset is not None:
            return asset
        if await self._redis.zscore(keys.AGED_OUT_ASSETS, asset_id) is not None:
            raise BadParameter(f"The resource {asset_id} has aged out of the asset store")
        raise BadParameter(f"No such resource {asset_id}")

    async def file(self, asset_id: str) -> Asset:
        """Return the record of a file. Raises BadParameter for an unknown id and for a live stream."""
        asset = await self.get(asset_id)
        if asset.kind != "file":
            raise BadParameter(f"{asset_id} is a live stream, not a file")
        return asset

    async def all(self) -> list[Asset]:
        """Return every record, oldest first."""
        ids: Any = await self._redis.zrange(keys.ASSETS, 0, -1)
        return [asset for at in range(0, len(ids), READ) for asset in await self._read(ids[at : at + READ])]

    async def _read(self, ids: Sequence[bytes]) -> list[Asset]:
        async with self._redis.pipeline(transaction=False) as pipe:
            for asset_id in ids:
                pipe.hgetall(keys.asset(asset_id.decode()))
            records = await pipe.execute()
        return [ASSETS.read(fields) for fields in records if fields]

    async def files(self, after: str, count: int) -> list[Asset]:
        """Return the records of at most `count` files, oldest first: those that follow `after`, where it is
        given. Raises BadParameter if that file is unknown."""
        place, found = 0, list[Asset]()
        if after:
            rank: Any = await self._redis.zrank(keys.ASSETS, after)
            if rank is None:
                raise BadParameter(f"No such resource {after}, so what follows it cannot be listed")
            place = rank + 1
        while len(found) < count:
            ids: Any = await self._redis.zrange(keys.ASSETS, place, place + READ - 1)
            found += [asset for asset in await self._read(ids) if asset.kind == "file"]
            if len(ids) < READ:
                break
            last: Any = await self._redis.zrank(keys.ASSETS, ids[-1])
            place = place + READ if last is None else last + 1  # others may have been deleted meanwhile
        return found[:count]

    async def _directories(self) -> Mapping[str, str]:
        """Return the ids of the assets that have a directory here, by directory."""
        return {asset.directory: asset.id for asset in await self.all() if asset.directory}

    async def size(self, asset: Asset) -> int:
        """Return the file's size in bytes now, 0 if it has vanished."""
        return (await self._storage.sizes([asset]))[0]

    async def sizes(self, assets: Sequence[Asset]) -> list[int]:
        """Return each file's size in bytes now, 0 if it has vanished."""
        return [
            size
            for at in range(0, len(assets), READ)
            for size in await self._storage.sizes(assets[at : at + READ])
        ]

    async def content(self, asset: Asset, headers: Mapping[str, str], *, head: bool) -> Response:
        """Return the file, whole or in the ranges in `headers`; with `head`, without its bytes.

        Raises RtEmbedError if it has vanished.
        """
        answer = await self._storage.content(asset, headers, head=head)
        if answer is None:
            raise vanished(asset)
        return answer

    async def ages(self, assets: Collection[Asset]) -> list[float]:
        """Return the seconds since each asset's files last changed, without assets that have none."""
        return await self._storage.ages(assets)

    async def aged_out(self) -> int:
        """Return how many ids of evicted assets are remembered."""
        count: int = await self._redis.zcard(keys.AGED_OUT_ASSETS)
        return count

    # Gone ---------------------------------------------------------------------------------------------

    async def delete(self, asset: Asset) -> None:
        """Delete the asset's record, and its file unless that was registered in place.

        Raises ResourceInUse while a request uses it, BadParameter when it is gone already.
        """
        outcome = await self._forget(asset.id)
        if outcome == b"busy":
            raise ResourceInUse(f"{asset.id} is in use by a running request")
        if outcome == b"unknown":
            raise BadParameter(f"No such resource {asset.id}")
        if asset.directory:
            await self._storage.remove(asset.directory)
        log.info("asset deleted", asset=asset.id, bytes=asset.size)

    async def age_out(self, asset_id: str) -> bool:
        """Evict an asset, remembering its id, or remove what a crash left in its directory.

        Returns False if it is in use, or arriving right now.
        """
        asset = await self.find(asset_id)
        if asset is None:
            return await self._remove_leftover(asset_id)
        if not asset.directory or await self._forget(asset_id, remember=True) != b"deleted":
            return False
        await self._storage.remove(asset.directory)
        log.info("asset aged out", asset=asset_id, bytes=asset.size)
        return True

    async def _forget(self, asset_id: str, *, remember: bool = False) -> bytes:
        known = [keys.asset(asset_id), keys.asset_users(asset_id), keys.ASSETS, keys.SEARCH_DELETED]
        outcome: bytes = await script(self._redis, "delete_asset")(
            keys=[*known, keys.AGED_OUT_ASSETS] if remember else known,
            args=[asset_id, AGED_OUT_KEPT, int(self._searched)],
        )
        return outcome

    async def _remove_leftover(self, asset_id: str) -> bool:
        outcome = await self._claim(asset_id)
        if outcome == b"claimed":
            await self._storage.remove(self._storage.directory(asset_id))
        if outcome != b"arriving":
            await self._redis.zrem(keys.ARRIVING_ASSETS, asset_id)
        return outcome == b"claimed"

    # Temporary ----------------------------------------------------------------------------------------

    async def hold(self, asset: Asset, holder: str, seconds: float) -> None:
        """Protect a temporary asset that is about to be recorded from the sweep, for `seconds`."""
        now, _ = await self._redis.time()
        async with self._redis.pipeline() as pipe:
            pipe.zadd(keys.asset_users(asset.id), {holder: now + seconds})
            pipe.zadd(keys.TEMPORARY_ASSETS, {asset.id: now})
            await pipe.execute()

    async def release(self, asset: Asset, holder: str) -> None:
        """Give up a `hold`, and remove the temporary asset unless a request still uses it."""
        try:
            await self._redis.zrem(keys.asset_users(asset.id), holder)
            await self._sweep(asset.id)
        except RedisError as error:
            log.warning(
                "temporary asset not removed, the next sweep does it", asset=asset.id, error=str(error)
            )

    async def sweep(self) -> None:
        """Remove the temporary assets that no request uses any more."""
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
        if asset is None:  # a gateway died before it recorded the asset
            await self._redis.zremrangebyscore(
                keys.asset_users(asset_id), "-inf", (await self._redis.time())[0]
            )
        await self._redis.zrem(keys.TEMPORARY_ASSETS, asset_id)

    async def _is_held(self, asset_id: str) -> bool:
        now, _ = await self._redis.time()
        return bool(await self._redis.zcount(keys.asset_users(asset_id), now, "+inf"))

    # Left behind --------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Remove leftovers, enforce the quota and check the store until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self.quota.run())
            group.create_task(self._clean())
            group.create_task(self._watch())

    async def _watch(self) -> None:
        checked = time.monotonic()
        while True:
            await asyncio.sleep(SWEEP_INTERVAL)  # a request may find a problem at any time
            if self.problem or time.monotonic() - checked >= CHECK_INTERVAL:
                await self.check()
                checked = time.monotonic()

    async def _clean(self) -> None:
        for turn in itertools.count():
            try:
                await self._renew_incoming()
                await self.sweep()
                await self.sweep_leftovers()
                if turn % SWEEPS_PER_HEALING == 0:
                    await self.heal()
            except (RedisError, OSError, Unavailable) as error:
                log.warning("cleaning the asset store failed, trying again later", error=str(error))
            await asyncio.sleep(SWEEP_INTERVAL)

    async def sweep_leftovers(self) -> None:
        """Remove files that gateways were writing or moving when they died."""
        now, _ = await self._redis.time()
        leased: Any = await self._redis.zrangebyscore(keys.INCOMING_FOLDERS, now, "+inf")
        await self._redis.zremrangebyscore(keys.INCOMING_FOLDERS, "-inf", f"({now}")
        await self._storage.sweep({name.decode() for name in leased})
        expired: Any = await self._redis.zrangebyscore(keys.ARRIVING_ASSETS, "-inf", now)
        for asset_id in expired:
            await self._remove_leftover(asset_id.decode())

    async def heal(self) -> None:
        """Delete the records of assets whose files have been missing for a while, unless they are in use."""
        for asset_id in await self._storage.missing([asset for asset in await self.all() if asset.directory]):
            if await self._forget(asset_id) == b"deleted":
                log.warning("asset deleted: its file has vanished", asset=asset_id)


def _duplicate(asset: Asset) -> DuplicateAssetId:
    return DuplicateAssetId(f"the id {asset.id} is already in use")
