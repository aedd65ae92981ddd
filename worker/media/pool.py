"""Media for a worker, read in processes of its own, so that no file can hurt the worker."""

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import aclosing, asynccontextmanager
from pathlib import Path

import numpy as np
import structlog
from numpy.typing import NDArray

from shared.chunks import SECOND, Chunk
from shared.errors import DecodeError, InvalidFile
from worker.media.base import Clip, MediaFacts
from worker.media.limits import MediaLimits
from worker.media.process import DecoderDied, DecoderProcess
from worker.media.runs import Run
from worker.media.wire import (
    Cancel,
    ClipDone,
    Counts,
    Decode,
    DecodeRuns,
    Failed,
    Finished,
    Found,
    FromDecoder,
    Grant,
    Images,
    Probe,
    Request,
    Setup,
)

log = structlog.get_logger(__name__)

CANCEL_GRACE = 2.0
FOREIGN_KILLS = 3


class SharedClip(Clip):
    """A clip in memory shared with a decoder process."""

    def __init__(
        self, chunk: Chunk, frames: NDArray[np.uint8], done: ClipDone, release: Callable[[], None]
    ) -> None:
        super().__init__(chunk, frames, done.times, done.start, done.end)
        self._release: Callable[[], None] | None = release
        self._loop = asyncio.get_running_loop()

    def release(self) -> None:
        """Give the frames' memory back, from any thread."""
        release, self._release = self._release, None
        if release is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(release)


class Job:
    """One request to a decoder process, and the regions of shared memory that go to and fro for it."""

    def __init__(self, process: DecoderProcess, shape: tuple[int, ...], limit: float, counts: Counts) -> None:
        self._counts = counts
        self.process = process
        self.shape = shape
        self.running = False
        self._limit = limit
        self._granted: set[int] = set()
        self._clock: asyncio.Timeout | None = None

    def take(self) -> int:
        """A region for the process to write to."""
        offset = self.process.memory.take(int(np.prod(self.shape)))
        self._granted.add(offset)
        return offset

    def clip(self, chunk: Chunk, done: ClipDone) -> SharedClip:
        """The clip that the process has written, in its region."""
        self._granted.discard(done.offset)
        frames = self.process.memory.array(done.offset, (len(done.times), *self.shape[1:]))
        return SharedClip(chunk, frames, done, lambda: self._released(done.offset))

    def _released(self, offset: int) -> None:
        if not self.running:
            self.process.memory.give_back(offset)
            return
        if not self._granted and self._clock:
            self._clock.reschedule(asyncio.get_running_loop().time() + self._limit)
        self._granted.add(offset)
        self.process.send(Grant(self.process.memory.size, offset))

    def send(self, request: Request) -> None:
        """Start the job."""
        self.running = True
        self.process.send(request)

    async def ask(self, request: Request) -> FromDecoder:
        """Start the job and wait for its answer."""
        self.send(request)
        return await self.receive()

    async def receive(self) -> FromDecoder:
        """The next message. Raises JobFailed, DecoderDied, or TimeoutError after the limit.

        No time counts while the process has no region to write to.
        """
        starved = self.running and self.shape != (0,) and not self._granted
        async with asyncio.timeout(None if starved else self._limit) as self._clock:
            message = await self.process.receive()
        self._clock = None
        if isinstance(message, Finished | Failed | Found):
            self.running = False
        if isinstance(message, Finished | Failed):
            self._counts.add(message.counts)
        if isinstance(message, Failed):
            raise JobFailed(message.kind, message.detail)
        return message

    def end(self) -> None:
        """The process writes no more: take its regions back."""
        self.running = False
        while self._granted:
            self.process.memory.give_back(self._granted.pop())


class Slot:
    """Room for one decoder process, which is started when it is needed and is not there."""

    def __init__(self, setup: Setup, niceness: int, counts: Counts) -> None:
        self.path = ""
        self.process: DecoderProcess | None = None
        self._setup = setup
        self._niceness = niceness
        self._counts = counts
        self._started = False

    async def ready(self) -> DecoderProcess:
        """The running process. Raises DecodeError if none can be started."""
        if self.process is not None and self.process.alive:
            return self.process
        await self.drop()
        if self._started:
            self._counts.restarts += 1
        try:
            self.process = await DecoderProcess.start(self._setup, self._niceness)
        except (OSError, TimeoutError, DecoderDied) as error:
            raise DecodeError(f"no decoder process could be started: {error}") from error
        self._started = True
        return self.process

    async def drop(self) -> None:
        """End the process."""
        process, self.process = self.process, None
        if process is not None:
            await process.kill()


class JobFailed(Exception):
    """A decoder process gave up on its job; `kind` as in Failed."""

    def __init__(self, kind: str, detail: str) -> None:
        super().__init__(detail)
        self.kind = kind
        self.detail = detail


class DecoderPool:
    """Reads media in `slots` decoder processes, and probes in one more.

    A chunk that cannot be decoded is tried `attempts` times, by a rebuilt decoder. `sparse` decodes only what
    the wanted frames need; `reuse` keeps decoders and open files between jobs. Each process decodes on
    `lanes` threads (0: one per core). At most `ahead` clips of one `clips` call are unreleased at a time: it
    waits for a release before it goes on. `counts` tells what has been done so far.
    """

    def __init__(
        self,
        slots: int = 2,
        *,
        limits: MediaLimits | None = None,
        attempts: int = 2,
        sparse: bool = True,
        reuse: bool = True,
        lanes: int = 0,
        ahead: int = 4,
        niceness: int = 5,
    ) -> None:
        self.counts = Counts()
        self._limits = limits or MediaLimits()
        self._attempts = attempts
        self._ahead = ahead
        lanes = lanes or len(os.sched_getaffinity(0))
        setup = Setup(limits=self._limits, lanes=lanes, sparse=sparse, reuse=reuse)
        self._idle = [Slot(setup, niceness, self.counts) for _ in range(slots)]
        self._slots = list(self._idle)
        self._room = asyncio.Semaphore(slots)
        self._prober = Slot(setup, 0, self.counts)
        self._probing = asyncio.Lock()
        self._closed = False

    @property
    def slots(self) -> int:
        """How many files can be decoded at a time."""
        return len(self._slots)

    @property
    def busy(self) -> int:
        """How many files are being decoded now."""
        return len(self._slots) - len(self._idle)

    async def start(self) -> None:
        """Start the processes. Raises DecodeError."""
        try:
            async with asyncio.TaskGroup() as group:
                for slot in (*self._slots, self._prober):
                    group.create_task(slot.ready())
        except* DecodeError as errors:
            await self.close()
            raise errors.exceptions[0] from None
        isolation = self._prober.process.sandbox if self._prober.process else ""
        log.info("decoders started", slots=len(self._slots), isolation=isolation)

    async def close(self) -> None:
        """End every process."""
        self._closed = True
        for slot in (*self._slots, self._prober):
            await slot.drop()

    async def probe(self, path: Path) -> MediaFacts:
        """What the file is. Raises InvalidFile naming what is wrong with it."""
        try:
            async with self._probing, self._job(self._prober, (0,), self._limits.seconds) as job:
                message = await job.ask(Probe(str(path)))
        except DecoderDied as error:
            raise InvalidFile(f"the file cannot be read: {error}") from error
        except TimeoutError as error:
            raise InvalidFile(f"the file could not be read within {self._limits.seconds:g} s") from error
        except JobFailed as failed:
            raise InvalidFile(failed.detail) from failed
        if not isinstance(message, Found):
            raise TypeError(message)
        return message.facts

    async def clips(
        self, path: Path, chunks: Sequence[Chunk], frames: int, size: int
    ) -> AsyncGenerator[Clip, None]:
        """The clips of `chunks`, in order. Raises DecodeError at the first that cannot be had."""
        left = list(chunks)
        failures = kills = 0
        while left:
            try:
                async with (
                    self._lease(str(path)) as slot,
                    aclosing(self._decode(slot, left, frames, size)) as clips,
                ):
                    async for clip in clips:
                        left = left[1:]
                        failures = kills = 0
                        yield clip
                return
            except (DecoderDied, JobFailed, TimeoutError) as error:
                if (
                    isinstance(error, DecoderDied)
                    and error.signal == signal.SIGKILL
                    and kills < FOREIGN_KILLS
                ):
                    kills += 1  # somebody else did that, so it says nothing about the file
                else:
                    failures += 1
                if failures >= self._attempts or not _may_succeed(error):
                    raise DecodeError(_detail(error)) from error
                self.counts.retries += 1
                log.warning("decoding again", file=path.name, chunk=left[0].index, reason=_detail(error))

    async def images(self, paths: Sequence[Path], size: int) -> Clip:
        """One clip with one frame per image. Raises DecodeError."""
        shape = (len(paths), 3, size, size)
        failures = 0
        while True:
            try:
                async with self._lease() as slot, self._job(slot, shape, self._limits.seconds) as job:
                    start, offset = time.monotonic(), job.take()
                    request = Images([str(path) for path in paths], size, job.process.memory.size, offset)
                    await job.ask(request)
                    done = ClipDone(0, offset, [0] * len(paths), start, time.monotonic())
                    return job.clip(Chunk(0, 0, 0), done)
            except (DecoderDied, JobFailed, TimeoutError) as error:
                failures += 1
                if failures >= self._attempts or not _may_succeed(error):
                    raise DecodeError(_detail(error)) from error
                self.counts.retries += 1

    async def runs(self, chunk: Chunk, codec: str, runs: Sequence[Run], frames: int, size: int) -> Clip:
        """The clip of a chunk whose packets are at hand. Raises DecodeError."""
        shape = (frames, 3, size, size)
        try:
            async with self._lease() as slot, self._job(slot, shape, self._limits.seconds) as job:
                offset = job.take()
                job.send(DecodeRuns(codec, list(runs), frames, size, job.process.memory.size, offset))
                done = await job.receive()
                if not isinstance(done, ClipDone):
                    raise TypeError(done)
                await job.receive()
                return job.clip(chunk, done)
        except (DecoderDied, JobFailed, TimeoutError) as error:
            raise DecodeError(_detail(error)) from error

    async def _decode(
        self, slot: Slot, chunks: Sequence[Chunk], frames: int, size: int
    ) -> AsyncGenerator[SharedClip]:
        span = max(chunk.end - chunk.start for chunk in chunks) / SECOND
        limit = self._limits.seconds + self._limits.pace * span
        async with self._job(slot, (frames, 3, size, size), limit) as job:
            offsets = [job.take() for _ in range(self._ahead)]
            job.send(Decode(slot.path, list(chunks), frames, size, job.process.memory.size, offsets))
            while isinstance(message := await job.receive(), ClipDone):
                yield job.clip(chunks[message.position], message)

    @asynccontextmanager
    async def _lease(self, path: str = "") -> AsyncIterator[Slot]:
        """A free slot, if possible the one that has `path` open already."""
        async with self._room:
            slot = next((slot for slot in self._idle if slot.path == path), self._idle[0])
            self._idle.remove(slot)
            slot.path = path
            try:
                yield slot
            finally:
                self._idle.append(slot)

    @asynccontextmanager
    async def _job(self, slot: Slot, shape: tuple[int, ...], limit: float) -> AsyncIterator[Job]:
        """A job for the slot's process. When it is left early, the process stops working on it."""
        if self._closed:
            raise DecodeError("the decoders are closed")
        job = Job(await slot.ready(), shape, limit, self.counts)
        try:
            yield job
        except (DecoderDied, TimeoutError):
            job.running = False
            await slot.drop()
            raise
        finally:
            if job.running:
                await _stop(slot, job)
            job.end()


async def _stop(slot: Slot, job: Job) -> None:
    """Make the process give up its job, or give up the process."""
    try:
        job.process.send(Cancel())
        async with asyncio.timeout(CANCEL_GRACE):
            while job.running:
                with contextlib.suppress(JobFailed):
                    await job.receive()
    except (TimeoutError, DecoderDied):
        await slot.drop()
    except BaseException:
        job.process.terminate()
        raise


def _may_succeed(error: Exception) -> bool:
    """Whether trying again can help: not after a refusal, and not after a hang, which takes too long."""
    return isinstance(error, DecoderDied) or (isinstance(error, JobFailed) and error.kind == "decode")


def _detail(error: Exception) -> str:
    return "the decoder did not answer in time" if isinstance(error, TimeoutError) else str(error)
