"""Reads media in separate processes, so that no file can harm the worker."""

import asyncio
import itertools
import signal
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from pathlib import Path, PurePosixPath
from weakref import WeakValueDictionary

import structlog

from shared.chunks import SECOND, Chunk
from shared.errors import DecodeError, InvalidFile, Unavailable
from shared.lifecycle.cores import cores
from worker.children import ChildDied
from worker.isolation.sandbox import SECCOMP
from worker.media.clip_source import BEFORE_THE_VIDEO, Clip, LeftOut
from worker.media.decoder.decoder_messages import (
    ClipDone,
    Decode,
    DecodeCounts,
    DecodeRuns,
    Empty,
    Finished,
    Found,
    Images,
    Probe,
    Setup,
    Spare,
)
from worker.media.decoder.limits import MediaLimits
from worker.media.decoder.media_facts import MediaFacts
from worker.media.decoder.runs import Run
from worker.media.decoder_job import Job, JobFailed, SharedClip
from worker.media.fetching import Buckets, Fetching
from worker.media.process_slot import Slot

log = structlog.get_logger(__name__)

FOREIGN_KILLS = 3
PROBE_KILLS = 1
"""Processes that other programs may kill during one probe before the file is refused."""
MOST_HANGS = 2
"""Chunks of one call that may time out before the rest is left out."""


class DecoderPool:
    """Reads media in `slots` decoder processes, and probes in `probers` more.

    A chunk that cannot be decoded is tried `attempts` times, by a rebuilt decoder. `sparse` decodes only what
    the wanted frames need; `reuse` keeps a file and its decoders open for the next job. `lanes` threads (0:
    one per core) are divided among the files being decoded when a job starts, at least one for each. Jobs of
    one file begin in turn, each when the one before has lanes to spare, so that clips come in order and the
    first comes soon. At most `ahead` clips of one `clips` call are unreleased at a time: the call then waits
    for a release. `counts` holds what has been done so far. Without `buckets` it reads no objects.
    """

    def __init__(
        self,
        slots: int = 2,
        *,
        probers: int = 1,
        limits: MediaLimits | None = None,
        attempts: int = 2,
        sparse: bool = True,
        reuse: bool = True,
        lanes: int = 0,
        ahead: int = 4,
        niceness: int = 5,
        buckets: Buckets | None = None,
    ) -> None:
        self.counts = DecodeCounts()
        self._limits = limits or MediaLimits()
        self._attempts = attempts
        self._ahead = ahead
        self._lanes = lanes or cores()
        setup = Setup(limits=self._limits, lanes=self._lanes, sparse=sparse, reuse=reuse)
        fetching = (lambda: Fetching(buckets, self.counts)) if buckets else None
        self._idle = [Slot(setup, niceness, self.counts, fetching) for _ in range(slots)]
        self._slots = list(self._idle)
        self._room = asyncio.Semaphore(slots)
        self._turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._jobs = 0
        self._probers = [Slot(setup, 0, self.counts, fetching) for _ in range(probers)]
        self._idle_probers = self._probers[::-1]
        self._probing = asyncio.Semaphore(probers)
        self._closed = False

    @property
    def slots(self) -> int:
        """How many files can be decoded at a time."""
        return len(self._slots)

    @property
    def busy(self) -> int:
        """How many files are being decoded now."""
        return len(self._slots) - len(self._idle)

    @property
    def trouble(self) -> str:
        """Why a decoder process could not be started; empty while all work."""
        return next((slot.trouble for slot in (*self._slots, *self._probers) if slot.trouble), "")

    async def start(self) -> None:
        """Start the processes. Raises DecodeError."""
        try:
            async with asyncio.TaskGroup() as group:
                for slot in (*self._slots, *self._probers):
                    group.create_task(slot.ready())
        except* DecodeError as errors:
            await self.close()
            raise errors.exceptions[0] from None
        prober = self._probers[0].process
        isolation = prober.sandbox if prober else ""
        log.info("decoders started", slots=len(self._slots), isolation=isolation)
        if SECCOMP not in isolation:
            log.warning(
                "decoders run without a seccomp filter: a file that takes one over can act as this user; "
                "run the worker where seccomp is allowed",
                isolation=isolation,
            )

    async def close(self) -> None:
        """End every process."""
        self._closed = True
        for slot in (*self._slots, *self._probers):
            await slot.drop()

    async def probe(self, path: str | Path) -> MediaFacts:
        """Return the file's facts. Raises InvalidFile saying what is wrong with it, and Unavailable if its
        bucket cannot be reached."""
        for kills in itertools.count(1):
            try:
                return await self._probe(path)
            except ChildDied as error:
                if not _is_foreign(error) or kills > PROBE_KILLS:
                    raise InvalidFile(f"the file cannot be read: {error}") from error
                log.warning("probing again", file=PurePosixPath(path).name, reason=str(error))
                self.counts.retries += 1
        raise AssertionError("unreachable")

    async def _probe(self, path: str | Path) -> MediaFacts:
        limit = self._limits.probe_seconds
        try:
            async with self._free_prober() as slot, self._job(slot, (0,), limit) as job:
                message = await job.ask(Probe(str(path)))
        except TimeoutError as error:
            raise InvalidFile(f"the file could not be read within {limit:g} s") from error
        except JobFailed as failed:
            if failed.kind == "away":
                raise Unavailable(failed.detail) from failed
            raise InvalidFile(failed.detail) from failed
        if not isinstance(message, Found):
            raise TypeError(message)
        return message.facts

    async def clips(
        self,
        path: str | Path,
        chunks: Sequence[Chunk],
        frames: int,
        size: int,
        *,
        joined: bool = False,
        skip: bool = False,
        thumbnails: bool = False,
    ) -> AsyncGenerator[Clip | LeftOut, None]:
        """Yield the clips of `chunks`, in order. Raises DecodeError at the first that cannot be decoded; with
        `skip`, that one is left out."""
        left = list(chunks)
        attempts = _Attempts(self._attempts, self.counts)
        while left:
            try:
                async with (
                    self._turn(str(path)) as turn,
                    self._lease(str(path)) as slot,
                    aclosing(
                        self._decode(slot, left, frames, size, turn, joined=joined, thumbnails=thumbnails)
                    ) as clips,
                ):
                    async for clip in clips:
                        left = left[1:]
                        attempts.reset()
                        yield clip
                return
            except (ChildDied, JobFailed, TimeoutError) as error:
                if not left:  # it died after its last clip
                    return
                left_out = attempts.failed_chunk(error, left, skip=skip)
                what = "chunks left out" if left_out else "decoding again"
                log.warning(what, file=PurePosixPath(path).name, chunk=left[0].index, reason=str(error))
            for item in left_out:
                yield item
            left = left[len(left_out) :]

    async def images(self, paths: Sequence[str | Path], size: int, *, thumbnails: bool = False) -> Clip:
        """One clip with one frame per image. Raises DecodeError."""
        shape = (len(paths), 3, size, size)
        attempts = _Attempts(self._attempts, self.counts)
        while True:
            try:
                async with self._lease() as slot, self._job(slot, shape, self._limits.seconds) as job:
                    offset, files = job.take(), [str(path) for path in paths]
                    request = Images(files, size, job.process.memory.size, offset, thumbnails)
                    return await _only_clip(job, Chunk(0, 0, 0), request)
            except (ChildDied, JobFailed, TimeoutError) as error:
                attempts.failed(error)

    async def runs(
        self,
        chunk: Chunk,
        codec: str,
        runs: Sequence[Run],
        frames: int,
        size: int,
        *,
        thumbnails: bool = False,
    ) -> Clip:
        """Return the clip of a chunk from its packets. Raises DecodeError."""
        shape = (frames, 3, size, size)
        try:
            async with self._lease() as slot, self._job(slot, shape, self._limits.seconds) as job:
                offset, arena = job.take(), job.process.memory.size
                request = DecodeRuns(codec, list(runs), frames, size, arena, offset, thumbnails)
                return await _only_clip(job, chunk, request)
        except (ChildDied, JobFailed, TimeoutError) as error:
            raise DecodeError(_detail(error)) from error

    async def _decode(
        self,
        slot: Slot,
        chunks: Sequence[Chunk],
        frames: int,
        size: int,
        turn: AsyncExitStack,
        *,
        joined: bool,
        thumbnails: bool,
    ) -> AsyncGenerator[SharedClip | LeftOut]:
        span = max(chunk.end - chunk.start for chunk in chunks) / SECOND
        limit = self._limits.seconds + self._limits.pace * span
        async with self._job(slot, (frames, 3, size, size), limit) as job:
            offsets = [job.take() for _ in range(self._ahead)]
            lanes, threads = self._shares()
            arena = job.process.memory.size
            await job.send(
                Decode(
                    *(slot.path, list(chunks), frames, size, lanes, threads, arena, offsets),
                    joined=joined,
                    thumbnails=thumbnails,
                )
            )
            while not isinstance(message := await job.receive(), Finished):
                match message:
                    case ClipDone():
                        yield job.clip(chunks[message.position], message)
                    case Empty(position):
                        yield LeftOut(chunks[position], BEFORE_THE_VIDEO)
                    case Spare():
                        await turn.aclose()
                    case _:
                        raise TypeError(message)

    def _shares(self) -> tuple[int, int]:
        """Return how many GOPs a new job may decode at a time, shared with the files that are being decoded,
        and on how many threads each, shared with all jobs, waiting ones included."""
        files = min(self.busy, sum(turn.locked() for turn in self._turns.values()))
        return max(1, self._lanes // files), max(1, self._lanes // min(self._jobs, self.slots))

    @asynccontextmanager
    async def _turn(self, path: str) -> AsyncIterator[AsyncExitStack]:
        """Yield a job's turn among the jobs of its file. The next turn begins when this one exits, or when
        the stack that it yields is closed. A caller that asks for no clips keeps its turn: it has enough."""
        async with AsyncExitStack() as turn:
            self._jobs += 1
            try:
                await turn.enter_async_context(self._turns.setdefault(path, asyncio.Lock()))
                yield turn
            finally:
                self._jobs -= 1

    @asynccontextmanager
    async def _lease(self, path: str = "") -> AsyncIterator[Slot]:
        """Yield a free slot, if possible the one that has `path` open already."""
        async with self._room:
            slot = next((slot for slot in self._idle if slot.path == path), self._idle[0])
            self._idle.remove(slot)
            slot.path = path
            try:
                yield slot
            finally:
                self._idle.append(slot)

    @asynccontextmanager
    async def _free_prober(self) -> AsyncIterator[Slot]:
        """Yield a slot for a probe, if possible one whose process runs."""
        async with self._probing:
            slot = self._idle_probers.pop()
            try:
                yield slot
            finally:
                self._idle_probers.append(slot)

    @asynccontextmanager
    async def _job(self, slot: Slot, shape: tuple[int, ...], limit: float) -> AsyncIterator[Job]:
        """Yield a job for the slot's process. If the caller leaves early, the process stops working on it."""
        if self._closed:
            raise DecodeError("the decoders are closed")
        job = Job(await slot.ready(), shape, limit, self.counts)
        try:
            yield job
        except (ChildDied, TimeoutError):
            job.running = False
            await slot.drop()
            raise
        finally:
            if job.running and not await job.stop():
                await slot.drop()
            job.end()


class _Attempts:
    """Counts attempts at one thing."""

    def __init__(self, most: int, counts: DecodeCounts) -> None:
        self._most = most
        self._counts = counts
        self._hangs = 0
        self.reset()

    def reset(self) -> None:
        """Reset the count for another thing."""
        self._failures = 0
        self._kills = 0

    def failed(self, error: ChildDied | JobFailed | TimeoutError) -> None:
        """Return if it is worth another attempt, else raise DecodeError.

        A refusal and a hang are final. A process that another program has killed says nothing about the
        file, so the first FOREIGN_KILLS of these do not count.
        """
        if _is_foreign(error) and self._kills < FOREIGN_KILLS:
            self._kills += 1
        else:
            self._failures += 1
        again = isinstance(error, ChildDied) or (
            isinstance(error, JobFailed) and error.kind in ("decode", "away")
        )
        if self._failures >= self._most or not again:
            raise DecodeError(_detail(error)) from error
        self._counts.retries += 1

    def failed_chunk(
        self, error: ChildDied | JobFailed | TimeoutError, left: Sequence[Chunk], *, skip: bool
    ) -> list[LeftOut]:
        """Return which chunks to leave out, as the first of those `left` has failed: none if it is worth
        another attempt, all where the others would fail or hang, too. Raises DecodeError unless `skip`."""
        try:
            self.failed(error)
        except DecodeError as final:
            if not skip:
                raise
            self._hangs += isinstance(error, TimeoutError)
            refused = isinstance(error, JobFailed) and error.kind in ("invalid", "refused")
            self.reset()
            lost = left if refused or self._hangs >= MOST_HANGS else left[:1]
            return [LeftOut(chunk, final.message) for chunk in lost]
        return []


def _is_foreign(error: Exception) -> bool:
    """Return whether another program has killed the process: no limit of ours does so while it is waited
    for."""
    return isinstance(error, ChildDied) and error.signal == signal.SIGKILL


async def _only_clip(job: Job, chunk: Chunk, request: Images | DecodeRuns) -> Clip:
    done = await job.ask(request)
    if not isinstance(done, ClipDone):
        raise TypeError(done)
    await job.receive()
    return job.clip(chunk, done)


def _detail(error: Exception) -> str:
    return "the decoder did not answer in time" if isinstance(error, TimeoutError) else str(error)
