"""Collects frames into the clips of a job."""

import threading
import time
from collections.abc import Callable, Sequence

from shared.errors import DecodeError
from worker.media.decoder.decoder_messages import Choose, Decode, DecodeCounts
from worker.media.decoder.selection.film_sampler import FilmSampler
from worker.media.decoder.selection.select import Irregular

Wanted = dict[int, list[tuple[int, int]]]
"""Frame time to the clips that it goes into: (position of the chunk in the job, index in the clip)."""

NO_FRAMES = "decoded 0 frame(s), required at least 1"


class BeganLate(Irregular):
    """Reading began after a frame that a chunk may need."""


class Collector:
    """Chooses frames for a job's chunks, and emits clips in order as they are complete.

    `emit` gets the clip's position, the times of its frames (ns) and when the first was chosen (s,
    monotonic). `leave_out` gets the position of a chunk that ends before the film's first frame. Frames may
    arrive from several threads.
    """

    def __init__(
        self,
        job: Decode | Choose,
        emit: Callable[[int, list[int], float], None],
        leave_out: Callable[[int], None],
        counts: DecodeCounts,
    ) -> None:
        self.first = 0
        self.last = len(job.chunks)
        self._job = job
        self._emit = emit
        self._leave_out = leave_out
        self._counts = counts
        self._lock = threading.Lock()
        self._clips = [_Growing(job, position) for position in range(self.last)]
        self._before: int | None = None
        self._is_whole = False
        self._has_failed = False

    def next_target(self, stop: int) -> int | None:
        """Return the earliest time (ns) at which a chunk before position `stop` still needs a frame."""
        targets = [clip.sampler.next_target for clip in self._clips[self.first : stop]]
        return min((target for target in targets if target is not None), default=None)

    def stop_for(self, overlapping: int) -> int:
        """Return the position before which at most `overlapping` unfinished chunks overlap at any time."""
        chunks = self._job.chunks
        for stop in range(self.first + 1, self.last):
            begin = chunks[stop].start
            if sum(chunk.end > begin for chunk in chunks[self.first : stop]) >= overlapping:
                return stop
        return self.last

    def begin(self, *, is_whole: bool) -> None:
        """Expect frames from another place in the file; `is_whole`: from its first frame."""
        self._before = None
        self._is_whole = is_whole
        self._has_failed = False

    def choose(self, times: Sequence[int], stop: int) -> Wanted:
        """Choose from the frames at `times` (ns, ascending) and the frame before them, for the chunks before
        position `stop`.

        Raises BeganLate if the first frame comes after a target, and there may be frames before it.
        """
        wanted: Wanted = {}
        if not times:
            return wanted
        if self._before is None and not self._is_whole:
            target = self.next_target(stop)
            if target is not None and target < times[0]:
                raise BeganLate(f"frames from {times[0]} ns on for a target at {target} ns")
        with self._lock:
            for position in range(self.first, stop):
                clip, before = self._clips[position], self._before
                clip.saw(times)
                for when in times:
                    self._take(position, clip.sampler.take(when, before), wanted)
                    before = when
        self._before = times[-1]
        self._hand_over()
        return wanted

    def finish(self, stop: int, end: int) -> Wanted:
        """Return where the last frame goes, once there are no more for chunks before position `stop`; it is
        shown until `end` (ns). Raises DecodeError if the file has no frame, BeganLate if it may have one."""
        wanted: Wanted = {}
        if self._before is None and self.next_target(stop) is not None:
            if self._is_whole:
                raise DecodeError(f"{NO_FRAMES}: no frame of the video can be decoded")
            raise BeganLate("no frame was found")
        with self._lock:
            for position in range(self.first, stop):
                self._take(position, self._clips[position].sampler.finish(self._before, end), wanted)
        self._hand_over()
        return wanted

    def middle(self, position: int) -> int | None:
        """Return the index of the middle frame of the clip at `position`; None while it is unknown."""
        clip = self._clips[position]
        if clip.middle is None and clip.times and clip.sampler.next_target is None:
            return len(clip.times) - 1
        return clip.middle

    def read(self, when: int, stop: int) -> None:
        """Note that a picture presented at `when` (ns) has been read, and will be decoded if possible."""
        for clip in self._clips[self.first : stop]:
            clip.pictures += clip.chunk.start <= when < clip.chunk.end

    def failed(self) -> None:
        """Note that packets read since `begin` could not be decoded."""
        self._has_failed = True

    def _take(self, position: int, frames: list[int], wanted: Wanted) -> None:
        clip = self._clips[position]
        for frame in frames:
            clip.start = clip.start if clip.times else time.monotonic()
            wanted.setdefault(frame, []).append((position, len(clip.times)))
            clip.times.append(frame)
        if frames and clip.middle is None:
            clip.find_middle()

    def placed(self, places: Sequence[tuple[int, int]]) -> None:
        """Note that one frame is in its place."""
        with self._lock:
            for position, _ in places:
                self._clips[position].there += 1
            self._counts.frames_used += len(places)
        self._hand_over()

    def restart(self) -> None:
        """Discard the frames of unfinished chunks, for another pass over the file."""
        for position in range(self.first, self.last):
            self._clips[position] = _Growing(self._job, position)

    def _hand_over(self) -> None:
        """Emit complete clips. Raises DecodeError at a clip whose pictures are all damaged."""
        with self._lock:
            while self.first < self.last and self._clips[self.first].complete:
                clip = self._clips[self.first]
                if self._has_failed and clip.is_damaged:
                    raise DecodeError(f"{NO_FRAMES}: {clip.pictures} picture(s) are damaged")
                if clip.times:
                    self._emit(self.first, clip.times, clip.start)
                else:
                    self._leave_out(self.first)
                self.first += 1


class _Growing:
    """One clip: the times of its frames so far, and how many are in place."""

    def __init__(self, job: Decode | Choose, position: int) -> None:
        self.chunk = job.chunks[position]
        self.sampler = FilmSampler(self.chunk, job.frames)
        self.times: list[int] = []
        self.there = 0
        self.middle: int | None = None
        self.pictures = 0
        self._frames = job.frames
        self._half = job.frames // 2
        self._seen = 0
        self.start = time.monotonic()

    @property
    def complete(self) -> bool:
        """Whether the clip is final."""
        return self.sampler.next_target is None and self.there == len(self.times)

    def find_middle(self) -> None:
        """Find the middle frame: the clip has it as soon as the next target is a later one."""
        length = self.chunk.end - self.chunk.start
        halfway = self.chunk.start + self._half * length // self._frames
        target = self.sampler.next_target
        if target is None or target > halfway:
            self.middle = min(self._half, len(self.times) - 1)

    def saw(self, times: Sequence[int]) -> None:
        """Note that frames at `times` (ns) have been decoded."""
        if self.pictures:
            self._seen += sum(self.chunk.start <= when < self.chunk.end for when in times)

    @property
    def is_damaged(self) -> bool:
        """Whether pictures of the chunk were read, and none of them came out, as some before it did."""
        return self.pictures > 0 and self._seen == 0 and bool(self.times)
