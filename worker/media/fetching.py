"""Fetches bytes of objects for a decoder process, which has no network."""

import asyncio
import contextvars
from collections.abc import Collection
from pathlib import PurePosixPath

import msgspec
import obstore
import structlog
from obstore.exceptions import BaseError
from obstore.store import S3Store

from shared import s3
from shared.settings import Settings
from worker.media.decoder.container.byte_sources import ANSWER, AWAY, BLOCK, MISSING, REQUEST, BlockRequest
from worker.media.decoder.decoder_messages import DecodeCounts

log = structlog.get_logger(__name__)

SECONDS = 12
"""For one request to the bucket; less than a probe may take, so that its error tells what was waited for."""
AHEAD = 3
"""Most blocks that are fetched before they are asked for, while an object is read from block to block."""
MOST_REQUEST = 8192
"""Bytes: a path is shorter."""
NOWHERE = -2
"""What was read last in an object that has just been opened: nothing before its first block."""


class Buckets:
    """Clients of the buckets that objects lie in, made when they are first needed."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._opened: dict[str, S3Store] = {}

    def open(self, name: str) -> S3Store:
        """Return a client of the bucket."""
        if name not in self._opened:
            self._opened[name] = s3.open_bucket(self._settings, name, seconds=SECONDS)
        return self._opened[name]


class Fetching:
    """Answers one decoder process, which may only have the objects that it was `allowed`."""

    def __init__(self, buckets: Buckets, counts: DecodeCounts) -> None:
        self._buckets = buckets
        self._counts = counts
        self._allowed: set[str] = set()
        self._context = contextvars.copy_context()
        self._path = ""
        self._size = 0
        self._last = NOWHERE
        self._run = 0
        self._blocks: dict[int, asyncio.Task[bytes | Exception]] = {}

    def allow(self, paths: Collection[str]) -> None:
        """From now on the process may read these, and nothing else. Log lines belong to the caller's job."""
        self._allowed = set(paths)
        self._context = contextvars.copy_context()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer until the process is gone, or until cancelled."""
        try:
            async with asyncio.TaskGroup() as fetches:
                while True:
                    (length,) = REQUEST.unpack(await reader.readexactly(REQUEST.size))
                    if length > MOST_REQUEST:
                        raise ConnectionError(f"a request of {length} bytes")
                    request = msgspec.msgpack.decode(await reader.readexactly(length), type=BlockRequest)
                    size, data = await self._answer(request, fetches)
                    writer.write(ANSWER.pack(size, len(data)) + data)
                    await writer.drain()
        except* (asyncio.IncompleteReadError, ConnectionError, msgspec.MsgspecError):
            pass  # the process is gone, or no longer trusted
        finally:
            writer.close()

    async def _answer(self, request: BlockRequest, fetches: asyncio.TaskGroup) -> tuple[int, bytes]:
        name = PurePosixPath(request.path).name
        try:
            if request.path not in self._allowed:
                raise FileNotFoundError(request.path)
            if request.path != self._path:
                await self._open(request.path)
            return self._size, await self._block(request.block, fetches)
        except FileNotFoundError:  # obstore raises Python's own where there is one
            return MISSING, f"no such file: {name}".encode()
        except (BaseError, OSError) as error:
            self._context.run(log.warning, "object not read", path=request.path, error=s3.cause(error))
            return AWAY, f"the asset store cannot be used: {s3.cause(error)}".encode()

    async def _open(self, path: str) -> None:
        for task in self._blocks.values():
            task.cancel()
        self._blocks.clear()
        self._path, self._last, self._run = "", NOWHERE, 0
        bucket, key = s3.split(path)
        self._size = (await obstore.head_async(self._buckets.open(bucket), key))["size"]
        self._path = path

    async def _block(self, number: int, fetches: asyncio.TaskGroup) -> bytes:
        """Return the block. Blocks after it are fetched ahead: the longer reads are in order, the more."""
        self._run = self._run + 1 if number == self._last + 1 else 0
        self._last = number
        for wanted in range(number, number + 1 + min(self._run, AHEAD)):
            if wanted not in self._blocks and wanted * BLOCK < self._size:
                self._blocks[wanted] = fetches.create_task(self._fetch(wanted))
        for passed in [other for other in self._blocks if not number <= other <= number + AHEAD]:
            self._blocks.pop(passed).cancel()
        if number not in self._blocks:
            return b""
        data = await self._blocks[number]
        if isinstance(data, Exception):
            del self._blocks[number]  # asked for again, it is tried again
            raise data
        return data

    async def _fetch(self, number: int) -> bytes | Exception:
        """Return the block, or the error, which only matters once the block is requested."""
        start, end = number * BLOCK, min((number + 1) * BLOCK, self._size)
        self._counts.bytes_fetched += end - start
        bucket, key = s3.split(self._path)
        try:
            return bytes(await obstore.get_range_async(self._buckets.open(bucket), key, start=start, end=end))
        except (BaseError, OSError) as error:
            return error
