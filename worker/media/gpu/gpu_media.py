"""Media for a worker with an NVIDIA GPU. Files are read in decoder processes, which only choose packets.
Those are decoded, resized and collected into clips on the GPU, where the clips stay."""

import asyncio
import time
from collections import Counter, deque
from collections.abc import AsyncGenerator, Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing, closing
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import msgspec
import structlog

from shared.chunks import SECOND, Chunk
from worker.children import ChildDied
from worker.media.clip_source import Clip, LeftOut
from worker.media.decoder.decoder_messages import Choose, Chosen, Empty, Finished, Look, Looked, Planned
from worker.media.decoder.memory import Cancelled
from worker.media.decoder.runs import FrameLook, Run
from worker.media.decoder.selection.bitstream import sequence_sets
from worker.media.decoder_job import Job, JobFailed
from worker.media.decoder_pool import DecoderPool
from worker.media.gpu.clip_slots import DeviceClip, Slots, Stock
from worker.media.gpu.growing import Growing
from worker.media.gpu.nvdec_sessions import SessionKind, Sessions, refusal
from worker.media.gpu.surface import Surface, picture

log = structlog.get_logger(__name__)

MOST_LOOKS, MOST_CAUSES = 1000, 100


class Unsuited(Exception):
    """The GPU cannot decode this, or failed; the CPU may succeed."""


class Device(NamedTuple):
    """What a GPU decodes and draws with. `capabilities` as in nvdec; `software_av1` leaves AV1 to the CPU.

    `damaged` counts the pictures that the decoder has reported as damaged so far; `check` raises DeviceLost
    if the GPU is lost."""

    sessions: Sessions
    slots: Slots[Any]
    capabilities: Callable[[str, str], dict[str, int]]
    software_av1: bool = False
    damaged: Callable[[], int] = lambda: 0
    check: Callable[[], None] = lambda: None


def open_device(
    slots: int,
    frames: int,
    size: int,
    *,
    low_latency: bool = False,
    reuse: bool = True,
    software_av1: bool = False,
) -> Device:
    """Return the worker's GPU, with memory for `slots` clips, and as many decoding sessions as it has
    engines. Blocks for a second or two: the driver is asked what it can decode here, and not when the first
    film comes."""
    from worker.media.gpu import nvdec, pixels  # noqa: PLC0415 - need the extra [gpu]
    from worker.media.gpu.native_output import native_output  # noqa: PLC0415 - only a worker's output is read

    nvdec.ask()
    return Device(
        Sessions(
            lambda kind: nvdec.open_session(kind, low_latency=low_latency), nvdec.engines(), reuse=reuse
        ),
        pixels.Canvas(slots, frames, size),
        nvdec.capabilities,
        software_av1,
        native_output().errors,
        nvdec.check,
    )


class GpuMedia(DecoderPool):
    """A DecoderPool whose clips of videos lie on the GPU. Images, and what the GPU cannot decode, are decoded
    by the processes; `fallbacks` counts the files and live chunks for which that was so, by cause.

    A job has up to `ahead` clips unreleased; `options` are those of DecoderPool. All calls ask for the number
    of frames and the size that the device's slots were made for.
    """

    def __init__(self, device: Device, slots: int, *, ahead: int, **options: Any) -> None:
        super().__init__(slots, ahead=ahead, **options)
        self.fallbacks: Counter[str] = Counter()
        self._device = device
        self._stock = Stock(len(device.slots.array))
        self._threads = ThreadPoolExecutor(device.sessions.most, "nvdec")
        self._looks: dict[tuple[str, bytes], FrameLook] = {}

    @property
    def trouble(self) -> str:
        """Why no decoder process could be started, or that NVDEC hangs; empty if all is well."""
        unanswered = self._device.sessions.unanswered
        if unanswered > self._limits.seconds:
            return f"NVDEC has not answered for {unanswered:.0f} s"
        return super().trouble

    async def close(self) -> None:
        """End every process and session."""
        await super().close()
        await asyncio.to_thread(self._threads.shutdown)
        self._device.sessions.close()

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
        try:
            on_gpu = self._clips_on_gpu(str(path), left, frames, joined=joined, thumbnails=thumbnails)
            async with aclosing(on_gpu) as clips:
                async for clip in clips:
                    left = left[1:]
                    yield clip
        except Unsuited as error:
            self._fall_back(str(error), file=PurePosixPath(path).name)
        except (ChildDied, JobFailed, TimeoutError) as error:
            log.warning("reading again", file=PurePosixPath(path).name, reason=str(error))
        if left:
            on_cpu = super().clips(path, left, frames, size, joined=joined, skip=skip, thumbnails=thumbnails)
            async with aclosing(on_cpu) as clips:
                async for clip in clips:
                    yield clip

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
        """Return the clip of a chunk whose packets are at hand. Raises DecodeError."""
        try:
            return await self._runs_on_gpu(chunk, codec, runs, frames, thumbnails=thumbnails)
        except Unsuited as error:
            self._fall_back(str(error), codec=codec)
            return await super().runs(chunk, codec, runs, frames, size, thumbnails=thumbnails)

    def _fall_back(self, cause: str, **where: str) -> None:
        if cause not in self.fallbacks:
            if len(self.fallbacks) >= MOST_CAUSES:
                cause = "other causes"
            log.warning("decoded by the CPU, not the GPU", cause=cause, **where)
        self.fallbacks[cause] += 1
        self.counts.fallbacks += 1

    # Files --------------------------------------------------------------------------------------------

    async def _clips_on_gpu(
        self, path: str, chunks: Sequence[Chunk], frames: int, *, joined: bool, thumbnails: bool
    ) -> AsyncGenerator[Clip | LeftOut, None]:
        span = max(chunk.end - chunk.start for chunk in chunks) / SECOND
        limit = self._limits.seconds + self._limits.pace * span
        slots = await self._stock.take(self._ahead)
        growing = Growing(
            self._device.slots, chunks, slots, give_back=self._stock.give_back, patience=self._limits.seconds
        )
        try:
            async with self._lease(path) as lease, self._job(lease, (0,), limit) as job:
                request = Choose(path, list(chunks), frames, joined)
                reading = asyncio.create_task(self._read(job, request, growing))
                reading.add_done_callback(growing.finish)
                try:
                    while (clip := await growing.complete.get()) is not None:
                        if thumbnails and isinstance(clip, DeviceClip):
                            await self._add_thumbnail(clip, growing.looks.pop(clip.chunk.index))
                        yield clip
                    await reading
                finally:
                    reading.cancel()
                    await asyncio.wait([reading])
        finally:
            growing.end()

    async def _read(self, job: Job, request: Choose, growing: Growing) -> None:
        """Have the runs that the process chooses decoded, a few at a time."""
        running: deque[asyncio.Future[None]] = deque()
        try:
            await job.send(request)
            while not isinstance(message := await job.receive(), Finished):
                if isinstance(message, Planned):
                    growing.plan(message)
                elif isinstance(message, Empty):
                    growing.leave_out(message.position)
                elif isinstance(message, Chosen):
                    await self._check(message.look)
                    if len(running) >= self._device.sessions.most:  # a lone file keeps every engine busy
                        await _result(running)
                    running.append(
                        asyncio.get_running_loop().run_in_executor(
                            self._threads, self._draw_chosen, message, growing
                        )
                    )
            while running:
                await _result(running)
        except JobFailed as failed:
            if failed.kind == "unsuited":
                raise Unsuited(failed.detail) from failed
            raise
        finally:
            growing.cancel()
            if running:
                await asyncio.wait(running)

    def _draw_chosen(self, chosen: Chosen, growing: Growing) -> None:
        """In a thread: draw the frames that are wanted of a run into their clips. A clip gets them once the
        run, or what comes before the next clip of it, is known to be sound."""
        places = dict(zip(chosen.run.wanted, chosen.places, strict=True))
        drawn: list[tuple[int, int]] = []
        clips: set[int] = set()
        damaged = self._device.damaged()
        with closing(self._frames(chosen.look, chosen.run)) as frames:
            for when, surface in frames:
                for position, index in sorted(places.pop(when)):
                    if position not in clips:
                        if self._device.damaged() == damaged:
                            growing.drawn(drawn, chosen.look)
                            drawn.clear()
                        clips.add(position)
                    self._device.slots.draw(surface, chosen.look, growing.slot(position), index)
                    drawn.append((position, index))
        if places:
            raise Unsuited(f"NVDEC left out frames of {chosen.look.codec} that were asked for")
        growing.drawn(drawn, chosen.look)

    # Live streams -------------------------------------------------------------------------------------

    async def _runs_on_gpu(
        self, chunk: Chunk, codec: str, runs: Sequence[Run], frames: int, *, thumbnails: bool
    ) -> Clip:
        looks = [await self._look(codec, run) for run in runs]
        for look in looks:
            await self._check(look)
        start = time.monotonic()
        (slot,) = await self._stock.take(1)
        drawing = asyncio.get_running_loop().run_in_executor(
            self._threads, self._draw_runs, looks, runs, slot, frames
        )
        try:
            await asyncio.wait([drawing])
            times = drawing.result()
        except BaseException:
            drawing.add_done_callback(lambda _: self._stock.give_back(slot))
            raise
        self.counts.frames_decoded += sum(len(run.packets) for run in runs)
        self.counts.frames_used += len(times)
        clip = DeviceClip(chunk, self._device.slots, slot, times, start, release=self._stock.give_back)
        if thumbnails:
            await self._add_thumbnail(clip, looks[len(looks) // 2])
        return clip

    def _draw_runs(self, looks: Sequence[FrameLook], runs: Sequence[Run], slot: int, count: int) -> list[int]:
        """In a thread: draw what is wanted of the runs into the slot, in the order of time, in whatever order
        it comes out; the frames' times (ns). Raises Unsuited if a frame does not come: the CPU does
        without."""
        times = sorted({when for run in runs for when in run.wanted})[:count]
        places = {when: index for index, when in enumerate(times)}
        for look, run in zip(looks, runs, strict=True):
            with closing(self._frames(look, run)) as frames:
                for when, surface in frames:
                    if (index := places.pop(when, None)) is not None:
                        self._device.slots.draw(surface, look, slot, index)
        if places or not times:
            raise Unsuited(f"NVDEC left out {len(places)} of {len(times)} frames of a live chunk")
        return times

    async def _look(self, codec: str, run: Run) -> FrameLook:
        """Return what the run's frames look like, which its parameter sets decide where there are any."""
        key = (codec, run.parameters)
        if look := self._looks.get(key):
            return look
        entry = msgspec.structs.replace(run, packets=run.packets[:1], wanted=[])
        try:
            async with self._lease() as lease, self._job(lease, (0,), self._limits.seconds) as job:
                answer = await job.ask(Look(codec, entry))
        except (ChildDied, JobFailed, TimeoutError) as error:
            raise Unsuited(f"the key frame of a live stream cannot be looked at: {error}") from error
        if not isinstance(answer, Looked):
            raise TypeError(answer)
        if run.parameters:
            if len(self._looks) >= MOST_LOOKS:
                self._looks.clear()
            self._looks[key] = answer.look
        return answer.look

    # Both ---------------------------------------------------------------------------------------------

    async def _check(self, look: FrameLook) -> None:
        """Raise Unsuited if this GPU cannot decode the video, or is configured not to."""
        if look.codec == "av1" and self._device.software_av1:
            raise Unsuited("FORCE_SW_AV1_DECODER")
        # The driver takes 0.2 s for its first answer about a format.
        if reason := await asyncio.to_thread(refusal, look, self._device.capabilities):
            raise Unsuited(reason)

    async def _add_thumbnail(self, clip: DeviceClip, look: FrameLook) -> None:
        try:
            await asyncio.to_thread(clip.draw_thumbnail, look)
        except BaseException as error:
            clip.release()
            if not isinstance(error, Exception):
                raise
            self._device.check()
            raise Unsuited(f"a frame cannot be read from the GPU: {error}") from error

    def _frames(self, look: FrameLook, run: Run) -> Generator[tuple[int, Surface]]:
        """Yield the wanted frames of a run with their times, on the calling thread's stream. Raises Unsuited,
        at the latest at the end, if the decoder reported a damaged picture meanwhile: of which run, it does
        not say."""
        left = set(run.wanted)
        sequence = sequence_sets(look.codec, run.parameters + run.packets[0][1])
        kind = SessionKind(look.codec, look.pixels, look.width, look.height, sequence)
        damaged = self._device.damaged()
        try:
            with self._device.sessions.lend(kind) as session, session.stream:
                with closing(session.decode(run)) as surfaces:
                    for surface in surfaces:
                        if (when := surface.getPTS()) in left:
                            _check_size(surface, look)
                            left.discard(when)
                            yield when, surface
                        if not left:
                            break
                if self._device.damaged() != damaged:
                    raise Unsuited(f"NVDEC reported a damaged picture of {look.codec}")
        except (Unsuited, Cancelled):
            raise
        except Exception as error:  # any error of the driver
            self._device.check()
            raise Unsuited(f"NVDEC failed: {type(error).__name__}: {error}") from error


async def _result(running: deque[asyncio.Future[None]]) -> None:
    """Wait for the first, without ending it when this is cancelled."""
    await asyncio.wait([running[0]])
    running.popleft().result()


def _check_size(surface: Surface, look: FrameLook) -> None:
    source = picture(surface)
    if (source.width, source.height) != (look.width, look.height):
        stated = f"{look.width}x{look.height}"
        raise Unsuited(f"{look.codec} frames of {source.width}x{source.height}, where {stated} was stated")
