"""Chooses the frames of a file's chunk.

Pure arithmetic on integers; times are nanoseconds from the start of the file.
"""

from shared.chunks import SECOND, Chunk, frame_targets

STILL = SECOND // 2
"""A frame shown longer than this, and longer than the distance of two targets, stands still."""


class FilmSampler:
    """Chooses the frames of one chunk while the frames of its file pass by in presentation order.

    A target is served by the first frame at or after it that is not beyond the chunk's end, and that frame
    serves all targets up to its own time (spec of RT-Embed). Where a frame stands still, that would choose
    what is shown long after the target, or nothing. There every target is served by the frame that is on
    screen, which is the last one presented before it; before the first frame of the film, that first one.
    A chunk that would get no frame in this way gets the last one presented before it.

    So a chunk gets between 1 and `count` frames, their times ascending, the same one several times where it
    stands still; and none only if it ends before the first frame of the film.
    """

    def __init__(self, chunk: Chunk, count: int) -> None:
        self.chunk = chunk
        self._targets = frame_targets(chunk.start, chunk.end, count)
        self._next = 0
        self._still = max(STILL, (chunk.end - chunk.start) // count)
        self._is_empty = True

    @property
    def next_target(self) -> int | None:
        """The earliest time that still needs a frame."""
        return self._targets[self._next] if self._next < len(self._targets) else None

    def take(self, time: int, before: int | None) -> list[int]:
        """Return the times of the frames that the chunk gets as the frame at `time` follows the one at
        `before`, which is None where `time` is the first of the film."""
        if self.next_target is None:
            return []
        taken: list[int] = []
        if time - (before or 0) > self._still:
            on_screen = time if before is None else before
            passed = self._pass(time - 1)
            taken = [on_screen] * passed if on_screen <= self.chunk.end else []
        if self._pass(time) and time <= self.chunk.end:
            taken.append(time)
        if time >= self.chunk.end:
            self._next = len(self._targets)
        return self._checked(taken, before)

    def finish(self, before: int | None, end: int) -> list[int]:
        """Return the times of the frames that the chunk gets as the film ends, after a frame that was
        presented at `before` and until `end`; None if there was no frame at all."""
        if self.next_target is None:
            return []
        taken: list[int] = []
        if before is not None and end - before > self._still:
            taken = [before] * self._pass(end - 1)
        self._next = len(self._targets)
        return self._checked(taken, before)

    def _pass(self, time: int) -> int:
        """Remove the targets up to `time`; return their number."""
        first = self._next
        while self._next < len(self._targets) and self._targets[self._next] <= time:
            self._next += 1
        return self._next - first

    def _checked(self, taken: list[int], before: int | None) -> list[int]:
        """Return the frames `taken`; or, if the chunk has no more targets and no frame, the last one before
        it."""
        if self._is_empty and not taken and before is not None and self.next_target is None:
            taken = [before]
        self._is_empty = self._is_empty and not taken
        return taken
