"""The clips of a job while they grow."""

import threading
import time
from collections.abc import Callable, Sequence

from shared.errors import DecodeError
from worker.media.decoder.decoder_messages import Choose, Decode, DecodeCounts
from worker.media.decoder.selection.select import Sampler

Wanted = dict[int, list[tuple[int, int]]]
"""Frame time to the clips that it goes into: (position of the chunk in the job, index in the clip)."""


class Collector:
    """Chooses frames for a job's chunks, and hands clips over in order as they are complete: `emit` gets the
    clip's position, the times of its frames (ns) and when the first was chosen (s, monotonic).

    Frames may arrive from several threads.
    """

    def __init__(
        self, job: Decode | Choose, emit: Callable[[int, list[int], float], None], counts: DecodeCounts
    ) -> None:
        self.first = 0
        self.last = len(job.chunks)
        self._job = job
        self._emit = emit
        self._counts = counts
        self._lock = threading.Lock()
        self._clips = [_Growing(job, position) for position in range(self.last)]

    def next_target(self, stop: int) -> int | None:
        """The earliest time (ns) at which a chunk before position `stop` still wants a frame."""
        targets = [clip.sampler.next_target for clip in self._clips[self.first : stop] if not clip.closed]
        return min((target for target in targets if target is not None), default=None)

    def stop_for(self, overlapping: int) -> int:
        """The position before which no more than `overlapping` unfinished chunks overlap at any time."""
        chunks = self._job.chunks
        for stop in range(self.first + 1, self.last):
            begin = chunks[stop].start
            if sum(chunk.end > begin for chunk in chunks[self.first : stop]) >= overlapping:
                return stop
        return self.last

    def choose(self, times: Sequence[int], stop: int) -> Wanted:
        """Which of the frames at `times` (ns, ascending) the chunks before position `stop` want."""
        wanted: Wanted = {}
        with self._lock:
            for position in range(self.first, stop):
                clip = self._clips[position]
                for when in times:
                    if clip.sampler.take(when):
                        clip.start = clip.start if clip.times else time.monotonic()
                        wanted.setdefault(when, []).append((position, len(clip.times)))
                        clip.times.append(when)
        self._hand_over()
        return wanted

    def placed(self, places: Sequence[tuple[int, int]]) -> None:
        """One frame has been put where it belongs."""
        with self._lock:
            for position, _ in places:
                self._clips[position].there += 1
            self._counts.frames_used += len(places)
        self._hand_over()

    def close(self, stop: int) -> None:
        """No more frames come for chunks before position `stop`."""
        with self._lock:
            for clip in self._clips[self.first : stop]:
                clip.closed = True
        self._hand_over()

    def restart(self) -> None:
        """Forget what unfinished chunks have got, for another pass over the file."""
        for position in range(self.first, self.last):
            self._clips[position] = _Growing(self._job, position)

    def _hand_over(self) -> None:
        """Emit the clips that are complete. Raises DecodeError at the first that is empty."""
        with self._lock:
            while self.first < self.last and self._clips[self.first].complete:
                clip = self._clips[self.first]
                if not clip.times:
                    raise DecodeError("decoded 0 frame(s), required at least 1")
                self._emit(self.first, clip.times, clip.start)
                self.first += 1


class _Growing:
    """One clip: the times of its frames so far, and how many of those are in place."""

    def __init__(self, job: Decode | Choose, position: int) -> None:
        self.sampler = Sampler(job.chunks[position], job.frames)
        self.times: list[int] = []
        self.there = 0
        self.closed = False
        self.start = time.monotonic()

    @property
    def complete(self) -> bool:
        """Whether it will not change any more."""
        return (self.closed or self.sampler.next_target is None) and self.there == len(self.times)
