"""Reading one video file inside a decoder process: chunks in, clips out."""

import time
from collections.abc import Callable

from av.video.frame import VideoFrame

from shared.errors import DecodeError
from worker.media.demux import Source, open_decoder
from worker.media.memory import ClipMemory
from worker.media.select import Sampler
from worker.media.software import SoftwareDecoder
from worker.media.swscale import Scaler
from worker.media.wire import ClipDone, Counts, Decode, Setup

Emit = Callable[[ClipDone], None]


class Reader:
    """Decodes the chunks of one job after the other; the file and its decoders stay open in between."""

    def __init__(self, setup: Setup) -> None:
        self._setup = setup

    def run(self, job: Decode, memory: ClipMemory, emit: Emit, counts: Counts) -> None:
        """Decode the job's chunks, in order. Raises InvalidFile, DecodeError or what `memory` raises."""
        source = Source(job.path, self._setup.limits)
        decoder = SoftwareDecoder(open_decoder(source, self._setup.limits))
        walk = Walk(job, memory, Scaler(job.size), emit, counts)
        source.seek(job.chunks[0].start)
        for frame in decoder.decode(source.packets()):
            memory.check()
            if frame.pts is not None and walk.see(source.time(frame.pts), frame):
                break
        walk.end()
        counts.frames_decoded += decoder.decoded
        source.close()


class Walk:
    """Collects the clips of a job while all frames of a file pass by."""

    def __init__(self, job: Decode, memory: ClipMemory, scaler: Scaler, emit: Emit, counts: Counts) -> None:
        self._samplers = [Sampler(chunk, job.frames) for chunk in job.chunks]
        self._times: list[list[int]] = [[] for _ in job.chunks]
        self._starts: list[float] = [time.monotonic()] * len(job.chunks)
        self._done = 0
        self._memory = memory
        self._scaler = scaler
        self._emit = emit
        self._counts = counts

    def see(self, when: int, frame: VideoFrame) -> bool:
        """Offer the next frame to the chunks; True when no chunk wants any more."""
        for position in range(self._done, len(self._samplers)):
            if self._samplers[position].chunk.start > when:
                break
            if self._samplers[position].take(when):
                out = self._memory.take(position)[len(self._times[position])]
                self._scaler.scale(frame, out)
                self._times[position].append(when)
                self._counts.frames_used += 1
        while self._done < len(self._samplers) and self._samplers[self._done].next_target is None:
            self._finish()
        return self._done == len(self._samplers)

    def end(self) -> None:
        """No more frames: complete what is left."""
        while self._done < len(self._samplers):
            self._finish()

    def _finish(self) -> None:
        times = self._times[self._done]
        if not times:
            raise DecodeError("decoded 0 frame(s), required at least 1")
        now = time.monotonic()
        offset = self._memory.finish(self._done)
        self._emit(ClipDone(self._done, offset, times, self._starts[self._done], now))
        self._done += 1
        if self._done < len(self._starts):
            self._starts[self._done] = now
