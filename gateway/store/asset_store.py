"""The asset store: bytes in a folder or a bucket that all gateways and workers share, records in Redis.

A file is written to a directory of its upload, opened by a worker there, and gets a record only when it is
accepted; until then nobody sees it.
"""

import asyncio
import itertools
import uuid
from collections.abc import AsyncIterator, Callable, Collection, Mapping
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import msgspec
import structlog
from starlette.responses import Response

from gateway.store.bucket import Objects
from gateway.store.folder import Disk, Folder
from gateway.store.quota import Room
from gateway.store.storage import AssetStorage, Writer, vanished
from shared import keys
from shared.assets import ASSETS, NEW_ASSETS, Asset
from shared.errors import BadParameter, DuplicateAssetId, ResourceInUse, Unavailable
from shared.redis.connection import Redis, RedisError, script
from shared.settings import Settings

log = structlog.get_logger(__name__)
T = TypeVar("T")

SWEEP_INTERVAL = 5.0
"""Seconds between looks at what may have outlived its request."""
SWEEPS_PER_HEALING = 12
CHECK_INTERVAL = 30.0
"""Seconds between looks whether files can be written."""
INCOMING_LEASE = 60
"""Seconds after which a directory that is being written counts as left behind, if its gateway is silent."""
MOVE_LEASE = 60
"""Seconds that moving a file to its place may take."""
AGED_OUT_KEPT = 100_000
"""Most ids of evicted assets that are remembered."""


class AssetStore:
    """Files and their records. Every method that touches the disk does so in a thread.

    `problem` says why no file can be written now, empty if one can; `seen`, whether one ever could.
    """

    def __init__(self, redis: Redis, settings: Settings) -> None:
        self._redis = redis
        self._disk = Disk()
        self._storage: AssetStorage = (
            Objects(redis, settings, self._directories)
            if settings.asset_store
            else Folder(settings.asset_dir, self._disk)
        )
        self._incoming: set[str] = set()
        self.room = Room(redis, self._storage, settings, self.age_out)
        self.problem = "not looked at yet"
        self.seen = False

    async def in_thread(self, call: Callable[[], T]) -> T:
        """Run a call that waits for a disk on threads for that."""
        return await self._disk.run(call)

    def close(self) -> None:
        """Wait for what is being written."""
        self._disk.close()

    async def check(self) -> None:
        """See whether files can be written now."""
        try:
            await self._storage.check()
            self.problem, self.seen = "", True
        except Unavailable as error:
            self.problem = error.message
            log.error("asset store away", error=error.message)

    def writer(self, path: str) -> Writer:
        """A file to write an upload into."""
        return self._storage.writer(path, self.room.require)

    async def bring(self, path: str, to: str) -> str:
        """A finished file under the new name `to`, if files have names in this store; where it is then."""
        return await self._storage.bring(path, to)

    # Arriving -----------------------------------------------------------------------------------------

    @asynccontextmanager
    async def incoming(self) -> AsyncIterator[str]:
        """A fresh directory for one upload; what is left in it at the end is removed."""
        name = uuid.uuid4().hex
        self._incoming.add(name)
        try:
            await self._renew_incoming()
            yield await self._storage.add_incoming(name)
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
        await self._redis.zrem(keys.INCOMING_FOLDERS, name)

    async def keep(self, asset: Asset) -> Asset:
        """Bring the asset, the one file in the directory of an upload, to its place, and record it.

        Raises DuplicateAssetId when the id is taken.
        """
        kept = self._storage.settled(asset)
        if await self._claim(asset.id) != b"claimed":
            raise _duplicate(asset)
        try:
            await self._storage.settle(asset, kept)
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
        """Undo `keep`, however far it came."""
        found = await self.find(asset.id)
        if found and found.directory == asset.directory:
            await self.delete(found)
        else:
            await self._storage.remove(asset.directory)
        await self._redis.zrem(keys.ARRIVING_ASSETS, asset.id)

    async def register(self, asset: Asset) -> Asset:
        """Record an asset whose bytes are in place. Raises DuplicateAssetId when the id is taken."""
        record = NEW_ASSETS.fields(asset)
        created = await script(self._redis, "register_asset")(
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
        """The record, or None."""
        fields: Any = await self._redis.hgetall(keys.asset(asset_id))
        return ASSETS.read(fields) if fields else None

    async def get(self, asset_id: str) -> Asset:
        """The record. Raises BadParameter for an unknown id, and for one that was evicted."""
        asset = await self.find(asset_id)
        if asset is not None:
            return asset
        if await self._redis.zscore(keys.AGED_OUT_ASSETS, asset_id) is not None:
            raise BadParameter(f"The resource {asset_id} has aged out of the asset store")
        raise BadParameter(f"No such resource {asset_id}")

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
        return [ASSETS.read(fields) for fields in records if fields]

    async def _directories(self) -> Mapping[str, str]:
        """The ids of the assets that have a directory here, by it."""
        return {asset.directory: asset.id for asset in await self.all() if asset.directory}

    async def size(self, asset: Asset) -> int:
        """The file's bytes now, 0 if it has vanished."""
        return await self._storage.size(asset)

    async def content(self, asset: Asset, headers: Mapping[str, str], *, head: bool) -> Response:
        """The file as an answer, whole or in the ranges that `headers` ask for; `head`: without its bytes.

        Raises RtEmbedError if it has vanished.
        """
        answer = await self._storage.content(asset, headers, head=head)
        if answer is None:
            raise vanished(asset)
        return answer

    async def ages(self, assets: Collection[Asset]) -> list[float]:
        """Seconds since the home of each was last changed, where it has one."""
        return await self._storage.ages(assets)

    async def aged_out(self) -> int:
        """How many ids of evicted assets are remembered."""
        count: int = await self._redis.zcard(keys.AGED_OUT_ASSETS)
        return count

    # Gone ---------------------------------------------------------------------------------------------

    async def delete(self, asset: Asset) -> None:
        """Forget the asset and remove its bytes, if they are ours.

        Raises ResourceInUse while a request holds it, BadParameter when it is gone already.
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
        """Evict an asset, remembering its id, or remove what a crash left in its place.

        False if it is in use, or just arriving.
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
        known = [keys.asset(asset_id), keys.asset_users(asset_id), keys.ASSETS]
        outcome: bytes = await script(self._redis, "delete_asset")(
            keys=[*known, keys.AGED_OUT_ASSETS] if remember else known, args=[asset_id, AGED_OUT_KEPT]
        )
        return outcome

    async def _remove_leftover(self, asset_id: str) -> bool:
        outcome = await self._claim(asset_id)
        if outcome == b"claimed":
            await self._storage.remove(self._storage.home(asset_id))
        if outcome != b"arriving":
            await self._redis.zrem(keys.ARRIVING_ASSETS, asset_id)
        return outcome == b"claimed"

    # Temporary ----------------------------------------------------------------------------------------

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

    # Left behind --------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Keep the store clean and within its bounds until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self.room.run())
            group.create_task(self._clean())
            group.create_task(self._watch())

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(CHECK_INTERVAL if self.seen else SWEEP_INTERVAL)
            await self.check()

    async def _clean(self) -> None:
        for turn in itertools.count():
            try:
                await self._renew_incoming()
                await self.sweep()
                await self.sweep_leftovers()
                if turn % SWEEPS_PER_HEALING == 0:
                    await self.heal()
            except (RedisError, OSError, Unavailable) as error:
                log.warning("asset store not cleaned", error=str(error))
            await asyncio.sleep(SWEEP_INTERVAL)

    async def sweep_leftovers(self) -> None:
        """Remove what gateways that died were writing or moving."""
        now, _ = await self._redis.time()
        leased: Any = await self._redis.zrangebyscore(keys.INCOMING_FOLDERS, now, "+inf")
        await self._redis.zremrangebyscore(keys.INCOMING_FOLDERS, "-inf", f"({now}")
        await self._storage.sweep({name.decode() for name in leased})
        expired: Any = await self._redis.zrangebyscore(keys.ARRIVING_ASSETS, "-inf", now)
        for asset_id in expired:
            await self._remove_leftover(asset_id.decode())

    async def heal(self) -> None:
        """Forget assets whose files have been missing from the store for a while, unless they are in use."""
        for asset_id in await self._storage.missing([asset for asset in await self.all() if asset.directory]):
            if await self._forget(asset_id) == b"deleted":
                log.warning("asset forgotten: its file has vanished", asset=asset_id)


def _duplicate(asset: Asset) -> DuplicateAssetId:
    return DuplicateAssetId(f"the id {asset.id} is already in use")
