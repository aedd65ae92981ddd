"""Which frames a chunk consists of, and which packets must be decoded to obtain them.

Pure arithmetic on integers; times are nanoseconds from the start of the file.
"""

from collections.abc import Sequence

from shared.chunks import Chunk, frame_targets


class Sampler:
    """Chooses the frames of one chunk while frames pass by in presentation order.

    A frame is taken if it lies at or after the next target and not after the chunk's end; it serves all
    targets up to its own time. A frame at or beyond the end serves whatever is left. So a chunk gets between
    0 and `count` frames.
    """

    def __init__(self, chunk: Chunk, count: int) -> None:
        self.chunk = chunk
        self._targets = frame_targets(chunk.start, chunk.end, count)
        self._next = 0

    @property
    def next_target(self) -> int | None:
        """The earliest time that still wants a frame."""
        return self._targets[self._next] if self._next < len(self._targets) else None

    def take(self, time: int) -> bool:
        """Whether the frame at `time` belongs to the chunk."""
        target = self.next_target
        if target is None:
            return False
        taken = target <= time <= self.chunk.end
        if time >= self.chunk.end:
            self._next = len(self._targets)
        while self._next < len(self._targets) and self._targets[self._next] <= time:
            self._next += 1
        return taken


def samplers(chunks: Sequence[Chunk], count: int) -> list[Sampler]:
    """One sampler per chunk."""
    return [Sampler(chunk, count) for chunk in chunks]
