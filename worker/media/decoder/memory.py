"""Where clips are written: regions of memory that a worker shares with one decoder process."""

import mmap
import threading
from collections import deque
from collections.abc import Callable, Iterable

import numpy as np
from numpy.typing import NDArray


class Cancelled(Exception):
    """The job's caller has gone."""


class Interrupted(Exception):
    """The present pass over the file is being given up."""


class Arena:
    """The decoder's view of the shared memory, which its worker may have made larger."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._map: mmap.mmap | None = None

    def region(self, arena: int, offset: int, shape: tuple[int, ...]) -> NDArray[np.uint8]:
        """uint8 of `shape` at `offset`, in an arena that is `arena` bytes long."""
        if self._map is None or len(self._map) < arena:
            self._map = mmap.mmap(self._fd, arena)  # arrays in the old mapping keep that one alive
        count = int(np.prod(shape))
        return np.frombuffer(self._map, np.uint8, count, offset).reshape(shape)


class ClipMemory:
    """The regions of one job, one per clip.

    Clips take them in order, whichever thread asks first, so that a later clip can never starve an earlier
    one. Threads wait here while the worker has not yet released enough clips.
    """

    def __init__(self, region: Callable[[int], NDArray[np.uint8]], offsets: Iterable[int]) -> None:
        self._region = region
        self._free = deque(offsets)
        self._taken: dict[int, tuple[int, NDArray[np.uint8]]] = {}
        self._turn = 0
        self._changed = threading.Condition()
        self._cancelled = False
        self._interrupted = False

    def grant(self, offset: int, region: Callable[[int], NDArray[np.uint8]]) -> None:
        """Add a region."""
        with self._changed:
            self._region = region
            self._free.append(offset)
            self._changed.notify_all()

    def take(self, position: int) -> NDArray[np.uint8]:
        """The region of the clip at `position` of the job. Waits until there is one."""
        with self._changed:
            while True:
                self.check()
                if position in self._taken:
                    return self._taken[position][1]
                if position == self._turn and self._free:
                    offset = self._free.popleft()
                    self._taken[position] = offset, self._region(offset)
                    self._turn += 1
                    self._changed.notify_all()
                else:
                    self._changed.wait()

    def finish(self, position: int) -> int:
        """The clip at `position` is complete: forget its region and return where it lies."""
        with self._changed:
            return self._taken.pop(position)[0]

    def cancel(self) -> None:
        """The caller has gone: everyone who waits or comes raises Cancelled from now on."""
        with self._changed:
            self._cancelled = True
            self._changed.notify_all()

    def interrupt(self, on: bool) -> None:
        """While `on`, everyone who waits or comes raises Interrupted."""
        with self._changed:
            self._interrupted = on
            self._changed.notify_all()

    def check(self) -> None:
        """Raise Cancelled or Interrupted if that is so."""
        if self._cancelled:
            raise Cancelled
        if self._interrupted:
            raise Interrupted
