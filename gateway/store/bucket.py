"""The asset store's bytes in a bucket of S3, or of a server that speaks its protocol.

Each upload has a random name below the prefix and stays there when it is accepted: objects cannot be renamed,
and only small ones copied. Until then an empty object below `.incoming` marks it as an upload in progress.
"""

import asyncio
import contextlib
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence
from typing import Any, Self

import msgspec
import obstore
import structlog
from obstore.exceptions import BaseError
from obstore.store import S3Store
from starlette.responses import Response

from gateway.store.object_content import object_content
from gateway.store.storage import Contents, Require, StoredAsset, lasting, local_file, local_size
from shared import keys, s3
from shared.assets import OBJECT_SCHEME, Asset, is_object
from shared.errors import Unavailable
from shared.redis.connection import Redis
from shared.redis.ending import uninterrupted
from shared.settings import Settings

log = structlog.get_logger(__name__)

PART = 12 << 20
"""Bytes per part of an upload: 10,000 parts, the most that S3 accepts, hold the largest upload."""
PARTS_AT_ONCE = 2
INCOMING = ".incoming"
SWEEP_INTERVAL = 30.0
"""Seconds between searches for uploads that were left behind."""
_UPLOAD_NAME = re.compile(r"[0-9a-f]{32}")

Known = Callable[[], Awaitable[Mapping[str, str]]]
"""Returns the asset's id for every directory that a record names."""


class Abandoned(Exception):
    """The upload was aborted."""


class BucketStorage:
    """The objects below the prefix: one directory per upload, under a random name, with one object in it."""

    def __init__(self, redis: Redis, settings: Settings, known: Known) -> None:
        bucket, prefix = s3.split(settings.asset_store)
        self._prefix = prefix.strip("/") + "/" if prefix.strip("/") else ""
        self._root = f"{OBJECT_SCHEME}{bucket}/{self._prefix}"
        self._store = s3.open_bucket(settings, bucket)
        self._redis = redis
        self._known = known
        self._accepted: set[str] = set()
        self._left: dict[str, float] = {}
        self._missing: dict[str, float] = {}
        self._swept = -SWEEP_INTERVAL

    async def check(self) -> None:
        """List, write and remove. Raises Unavailable naming the bucket and what is wrong."""
        probe = f"{self._prefix}.check"
        try:
            async for _ in obstore.list(self._store, self._prefix or None, chunk_size=1):
                break
            await obstore.put_async(self._store, probe, b"", use_multipart=False)
            await obstore.delete_async(self._store, probe)
        except (BaseError, OSError) as error:
            raise Unavailable(f"the asset store {self._root} cannot be used: {s3.cause(error)}") from error

    # Arriving -----------------------------------------------------------------------------------------

    async def add_incoming(self, name: str) -> str:
        """Mark an upload as in progress and return its directory. Raises Unavailable."""
        with s3.answering():
            await obstore.put_async(self._store, self._mark(name), b"", use_multipart=False)
        return self._root + name

    def _mark(self, name: str) -> str:
        """Return the key of the object that marks an upload as in progress."""
        return f"{self._prefix}{INCOMING}/{name}"

    def writer(self, path: str, require: Require) -> "ObjectWriter":
        """Return a writer of the object of an upload."""
        name = _upload_name(path)

        async def counted(size: int) -> None:
            await require(size)
            await self._redis.hincrby(keys.INCOMING_BYTES, name, size)

        return ObjectWriter(self._store, s3.split(path)[1], counted)

    async def rename(self, path: str, to: str) -> str:
        """Return the unchanged path: objects cannot be renamed."""
        return path

    def accepted(self, asset: Asset) -> Asset:
        """Return the record of the asset in the directory of its upload."""
        return msgspec.structs.replace(asset, directory=asset.path.rpartition("/")[0])

    async def accept(self, asset: Asset, accepted: Asset) -> None:
        """Keep the object where it is when the upload ends."""
        self._accepted.add(_upload_name(asset.path))

    async def remove_incoming(self, name: str) -> None:
        """Remove an upload, unless it became an asset. What cannot be removed now is removed later."""
        await self._redis.hdel(keys.INCOMING_BYTES, name)
        accepted = name in self._accepted
        self._accepted.discard(name)
        if accepted or await self._try_to_remove(self._prefix + name):
            await self._try_to_remove(self._mark(name), whole=True)

    # Known --------------------------------------------------------------------------------------------

    async def _list(self) -> tuple[list[StoredAsset], set[str]]:
        """Return every upload's directory, with its name as id, and the names of uploads in progress."""
        found: dict[str, StoredAsset] = {}
        marked: set[str] = set()
        with s3.answering():
            async for batch in obstore.list(self._store, self._prefix or None):
                for item in batch:
                    name, _, file = item["path"].removeprefix(self._prefix).partition("/")
                    if name == INCOMING:
                        marked.add(file)
                    if not _UPLOAD_NAME.fullmatch(name) or not file:
                        continue
                    known = found.get(name) or StoredAsset(name, 0.0, 0)
                    changed = max(known.changed, item["last_modified"].timestamp())
                    found[name] = StoredAsset(name, changed, known.size + item["size"])
        return list(found.values()), marked

    async def _incoming(self) -> dict[str, int]:
        """Return the bytes that each upload in progress has written so far, sent to the bucket or not."""
        sizes: Any = await self._redis.hgetall(keys.INCOMING_BYTES)
        return {name.decode(): int(size) for name, size in sizes.items()}

    async def contents(self) -> Contents:
        """List everything. Accepted uploads have the ids of their assets; those that no record names keep
        their own names as ids."""
        stored, marked = await self._list()
        known, incoming = await self._known(), await self._incoming()
        listed = {asset.id: asset.size for asset in stored}
        size = sum(max(listed.get(name, 0), incoming.get(name, 0)) for name in listed.keys() | incoming)
        ids = {_upload_name(directory + "/"): asset_id for directory, asset_id in known.items()}
        accepted = [asset for asset in stored if asset.id in ids or asset.id not in marked]
        return Contents(size, [StoredAsset(ids.get(h.id, h.id), h.changed, h.size) for h in accepted])

    async def sizes(self, assets: Sequence[Asset]) -> list[int]:
        """Return each object's size in bytes, as recorded; of a local file, its size now."""
        local = [asset.path for asset in assets if not is_object(asset.path)]
        found = await asyncio.to_thread(lambda: iter([local_size(path) for path in local]))
        return [asset.size if is_object(asset.path) else next(found) for asset in assets]

    async def content(self, asset: Asset, headers: Mapping[str, str], *, head: bool) -> Response | None:
        """Return the object, or the local file, in the ranges asked for; None if it has vanished."""
        if not is_object(asset.path):
            return await asyncio.to_thread(local_file, asset)
        with s3.answering():
            try:
                found = await obstore.head_async(self._store, s3.split(asset.path)[1])
            except FileNotFoundError:
                return None
        return object_content(self._store, found, asset, headers, head=head)

    async def ages(self, assets: Collection[Asset]) -> list[float]:
        """Return the seconds since each asset's object was written, without assets that have none."""
        wanted, now = {_upload_name(asset.path) for asset in assets}, time.time()
        return [max(0.0, now - found.changed) for found in (await self._list())[0] if found.id in wanted]

    # Gone ---------------------------------------------------------------------------------------------

    def directory(self, asset_id: str) -> str:
        """Return the directory of that name: one without a record counts as an asset of its own name."""
        return self._root + asset_id

    async def remove(self, directory: str) -> None:
        """Remove the objects of an upload. If that fails now, mark them as an upload in progress, which
        `sweep` then removes."""
        if directory.startswith(self._root) and not await self._try_to_remove(s3.split(directory)[1]):
            with contextlib.suppress(Unavailable):
                await self.add_incoming(directory.rpartition("/")[2])

    async def _try_to_remove(self, key: str, *, whole: bool = False) -> bool:
        """Remove the objects below `key`, or, if it is the `whole` key, that one object."""
        try:
            if whole:
                await obstore.delete_async(self._store, key)
                return True
            async for batch in obstore.list(self._store, key):
                await obstore.delete_async(self._store, [item["path"] for item in batch])
        except (BaseError, OSError) as error:
            log.warning("objects not removed yet", key=key, error=s3.cause(error))
            return False
        return True

    async def sweep(self, leased: set[str]) -> None:
        """Remove uploads that have not been `leased` for CONFIRMATION_TIME seconds.

        Calls within SWEEP_INTERVAL seconds of the last one do nothing.
        """
        if time.monotonic() - self._swept < SWEEP_INTERVAL:
            return
        self._swept = time.monotonic()
        left = lasting(await self._marked() - leased, self._left)
        known = {_upload_name(directory + "/") for directory in await self._known()} if left else set()
        for name in left:
            log.warning("upload left behind by a gateway that died", directory=self._root + name)
            if name in known:
                self._accepted.add(name)
            await self.remove_incoming(name)

    async def _marked(self) -> set[str]:
        """Return the names of uploads that are in progress, or were left behind."""
        with s3.answering():
            return {
                item["path"].rpartition("/")[2]
                async for batch in obstore.list(self._store, f"{self._prefix}{INCOMING}")
                for item in batch
            }

    async def missing(self, assets: Collection[Asset]) -> set[str]:
        """Return the ids of assets below this prefix without an object for CONFIRMATION_TIME seconds."""
        ours = {asset.id: _upload_name(asset.path) for asset in assets if asset.path.startswith(self._root)}
        there = {found.id for found in (await self._list())[0]} if ours else set()
        return lasting({asset_id for asset_id, name in ours.items() if name not in there}, self._missing)


def _upload_name(path: str) -> str:
    """Return the name of the upload whose directory an object is in."""
    return path.rpartition("/")[0].rpartition("/")[2]


async def _ended(upload: asyncio.Future[Any]) -> None:
    await asyncio.wait([upload])


class ObjectWriter:
    """Writes one object: a small one at once, a large one in parts, which S3 removes if it is aborted."""

    def __init__(self, store: S3Store, key: str, require: Require) -> None:
        self._store = store
        self._key = key
        self._require = require
        self._part = bytearray()
        self._parts: asyncio.Queue[bytes | None] = asyncio.Queue(1)
        self._upload: asyncio.Future[Any] | None = None
        self._abandoned = False
        self._closed = False
        self.size = 0

    async def __aenter__(self) -> Self:
        """Return the writer itself."""
        return self

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Close, or abort after an error."""
        await (self.abort() if kind else self.close())

    async def write(self, data: bytes) -> None:
        """Append `data`. Raises ServerBusy if the store is full, Unavailable if it cannot be reached."""
        await self._require(len(data))
        self._part += data
        self.size += len(data)
        while len(self._part) >= PART:
            await self._send(bytes(self._part[:PART]))
            del self._part[:PART]

    async def close(self) -> None:
        """Finish the object, which may be empty. Raises Unavailable."""
        if self._closed:
            return
        try:
            with s3.answering():
                if self._upload is None:
                    self._start(bytes(self._part))
                else:
                    await self._send(bytes(self._part))
                    await self._send(None)
                await asyncio.shield(self._started)
        except BaseException:
            await self.abort()
            raise
        self._closed = True

    async def abort(self) -> None:
        """Abort the object. Waits until S3 was told to remove its parts, or cannot be reached."""
        self._abandoned = self._abandoned or not self._closed
        self._closed = True
        if self._upload is None:
            return
        if not self._upload.done():
            if self._parts.empty():
                self._parts.put_nowait(None)
            await uninterrupted(_ended(self._upload))
        self._upload.exception()  # not raised: the caller aborts for another reason

    @property
    def _started(self) -> asyncio.Future[Any]:
        assert self._upload is not None  # noqa: S101 - for the type checker
        return self._upload

    def _start(self, data: bytes | AsyncIterator[bytes]) -> None:
        whole = isinstance(data, bytes)
        self._upload = asyncio.ensure_future(
            obstore.put_async(
                self._store, self._key, data,
                use_multipart=not whole, chunk_size=PART, max_concurrency=PARTS_AT_ONCE,
            )
        )  # fmt: skip

    async def _send(self, part: bytes | None) -> None:
        """Wait until the upload takes a part, or None for the end. Raises the error that ended the upload."""
        if self._upload is None:
            self._start(self._taken())
        upload = self._started
        handing = asyncio.ensure_future(self._parts.put(part))
        try:
            await asyncio.wait({handing, upload}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            handing.cancel()
        if upload.done() and (error := upload.exception()):
            with s3.answering():
                raise error

    async def _taken(self) -> AsyncIterator[bytes]:
        """Yield the parts. An exception, not a cancellation, makes obstore abort the upload in S3."""
        while (part := await self._parts.get()) is not None and not self._abandoned:
            yield part
        if self._abandoned:
            raise Abandoned
