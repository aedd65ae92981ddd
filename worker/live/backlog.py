"""The chunks of one live stream that wait to be embedded."""

from collections import deque

from worker.live.chunker import Cut

LARGEST_BACKLOG = 128 << 20
"""Bytes of packets that may wait."""
IN_FLIGHT = 16
"""Chunks more that may come from a camera that has been told to wait; and as many bytes again."""


class Backlog:
    """A queue of chunks with their numbers, `most` chunks and LARGEST_BACKLOG bytes long by plan."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._waiting: deque[tuple[int, Cut]] = deque()
        self._size = 0

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, index: int, cut: Cut) -> None:
        """Add the latest chunk."""
        self._waiting.append((index, cut))
        self._size += cut.size

    def take(self) -> tuple[int, Cut]:
        """Remove and return the oldest chunk and its number."""
        index, cut = self._waiting.popleft()
        self._size -= cut.size
        return index, cut

    @property
    def full(self) -> bool:
        """Whether more chunks wait than planned."""
        return len(self) > self._most or self._size > LARGEST_BACKLOG

    @property
    def has_room(self) -> bool:
        """Whether there is room for a chunk."""
        return len(self) < self._most and self._size <= LARGEST_BACKLOG

    def shed(self, *, blocking: bool) -> int:
        """Remove the oldest chunks that are too many, and return their number. With `blocking` the camera has
        been told to wait, and what was on its way may stay."""
        most = self._most + (IN_FLIGHT if blocking else 0)
        largest = LARGEST_BACKLOG * (2 if blocking else 1)
        removed = 0
        while len(self) > 1 and (len(self) > most or self._size > largest):
            self.take()
            removed += 1
        return removed

    def renumber(self, more: int) -> None:
        """Add `more` to every number."""
        self._waiting = deque((index + more, cut) for index, cut in self._waiting)

    def clear(self) -> None:
        """Forget every chunk."""
        self._waiting.clear()
        self._size = 0
