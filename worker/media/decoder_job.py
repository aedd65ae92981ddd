"""The worker's side of one job of a decoder process."""

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from pathlib import PurePosixPath

import numpy as np
from numpy.typing import NDArray

from shared.assets import is_object
from shared.chunks import Chunk
from shared.errors import InvalidFile
from worker.children import ChildDied
from worker.media.clip_source import Clip
from worker.media.decoder.container.byte_sources import OpenedFile, open_file
from worker.media.decoder.decoder_messages import (
    Cancel,
    ClipDone,
    DecodeCounts,
    Failed,
    Finished,
    Found,
    FromDecoder,
    Grant,
    Looked,
    Request,
    paths,
)
from worker.media.decoder_client import DecoderProcess

CANCEL_GRACE = 2.0


class JobFailed(Exception):
    """A decoder process gave up on its job; `kind` as in Failed."""

    def __init__(self, kind: str, detail: str) -> None:
        super().__init__(detail)
        self.kind = kind
        self.detail = detail


class SharedClip(Clip):
    """A clip in memory shared with a decoder process."""

    def __init__(
        self, chunk: Chunk, frames: NDArray[np.uint8], done: ClipDone, release: Callable[[], None]
    ) -> None:
        super().__init__(chunk, frames, done.times, done.start, done.end)
        self.thumbnail = done.thumbnail
        self._release: Callable[[], None] | None = release
        self._loop = asyncio.get_running_loop()

    def release(self) -> None:
        """Give the frames' memory back, from any thread."""
        release, self._release = self._release, None
        if release is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(release)


class Job:
    """One request to a decoder process, and its regions of shared memory."""

    def __init__(
        self, process: DecoderProcess, shape: tuple[int, ...], limit: float, counts: DecodeCounts
    ) -> None:
        self._counts = counts
        self.process = process
        self.shape = shape
        self.running = False
        self._limit = limit
        self._granted: set[int] = set()
        self._held = 0
        self._clock: asyncio.Timeout | None = None

    def take(self) -> int:
        """Return a region for the process to write to."""
        offset = self.process.memory.take(int(np.prod(self.shape)))
        self._granted.add(offset)
        return offset

    def clip(self, chunk: Chunk, done: ClipDone) -> SharedClip:
        """Return the clip that the process has written, in its region."""
        self._granted.discard(done.offset)
        self._held += 1
        frames = self.process.memory.array(done.offset, (len(done.times), *self.shape[1:]))
        return SharedClip(chunk, frames, done, lambda: self._released(done.offset))

    def _released(self, offset: int) -> None:
        self._held -= 1
        if not self.running:
            self.process.memory.give_back(offset)
            return
        if not self._held and self._clock:
            self._clock.reschedule(asyncio.get_running_loop().time() + self._limit)
        self._granted.add(offset)
        self.process.send(Grant(self.process.memory.size, offset))

    async def send(self, request: Request) -> None:
        """Start the job. Raises JobFailed when one of its files cannot be opened."""
        wanted = paths(request)
        if self.process.fetching:
            self.process.fetching.allow(wanted)
        if local := [path for path in wanted if not is_object(path)]:
            self.process.hand_over(await asyncio.to_thread(_open_all, local))
        self.running = True
        self.process.send(request)

    async def ask(self, request: Request) -> FromDecoder:
        """Start the job and wait for its answer."""
        await self.send(request)
        return await self.receive()

    async def receive(self) -> FromDecoder:
        """Return the next message. Raises JobFailed, ChildDied, or TimeoutError after the limit.

        No time counts while clips are unreleased: the process may be waiting for their memory.
        """
        async with asyncio.timeout(None if self._held else self._limit) as self._clock:
            message = await self.process.receive()
        self._clock = None
        if isinstance(message, Finished | Failed | Found | Looked):
            self.running = False
        if isinstance(message, Finished | Failed):
            self._counts.add(message.counts)
        if isinstance(message, Failed):
            raise JobFailed(message.kind, message.detail)
        return message

    def end(self) -> None:
        """Take the regions back: the process writes no more."""
        self.running = False
        while self._granted:
            self.process.memory.give_back(self._granted.pop())

    async def stop(self) -> bool:
        """Make the process stop the job. Return False if it does not respond and must be killed."""
        try:
            self.process.send(Cancel())
            async with asyncio.timeout(CANCEL_GRACE):
                while self.running:
                    with contextlib.suppress(JobFailed):
                        await self.receive()
        except (TimeoutError, ChildDied):
            return False
        except BaseException:
            self.process.terminate()
            raise
        return True


def _open_all(wanted: Sequence[str]) -> list[OpenedFile]:
    opened = []
    for path in wanted:
        try:
            opened.append(open_file(path))
        except InvalidFile as error:
            raise JobFailed("invalid", error.message) from error
        except (OSError, ValueError) as error:  # ValueError: a NUL in it
            reason = getattr(error, "strerror", None) or str(error)
            raise JobFailed("invalid", f"cannot read {PurePosixPath(path).name}: {reason}") from error
    return opened
