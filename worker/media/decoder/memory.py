"""The regions of shared memory, between a worker and one decoder process, that clips are written to."""

import mmap
import threading
from collections import deque
from collections.abc import Callable, Iterable
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

Place = TypeVar("Place")


class Cancelled(Exception):
    """The job's caller has gone."""


class Interrupted(Exception):
    """The current pass over the file is being given up."""


class Arena:
    """The decoder's view of the shared memory, which its worker may have made larger."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._map: mmap.mmap | None = None

    def region(self, arena: int, offset: int, shape: tuple[int, ...]) -> NDArray[np.uint8]:
        """uint8 of `shape` at `offset`, in an arena that is `arena` bytes long."""
        if self._map is None or len(self._map) < arena:
            self._map = mmap.mmap(self._fd, arena)  # arrays keep the old mapping alive
        count = int(np.prod(shape))
        return np.frombuffer(self._map, np.uint8, count, offset).reshape(shape)


class ClipPlaces(Generic[Place]):
    """Gives each clip of one job a place, in order.

    The order does not depend on which thread asks first, so a later clip can never starve an earlier one.
    Threads wait here while too few clips have been released. With `patience`, TimeoutError is raised after
    that many seconds if clips that never come hold the places.
    """

    def __init__(self, free: Iterable[Place], patience: float | None = None) -> None:
        self._free = deque(free)
        self._patience = patience
        self._taken: dict[int, Place] = {}
        self._turn = 0
        self._left_out: set[int] = set()
        self._changed = threading.Condition()
        self._cancelled = False
        self._interrupted = False
        self._ended = False

    def take(self, position: int) -> Place:
        """Return the place of the clip at `position` of the job. Waits until there is one.

        Raises Cancelled, Interrupted, TimeoutError.
        """
        with self._changed:
            while True:
                self.check()
                if position in self._taken:
                    return self._taken[position]
                self._give_out(position)
                if position in self._taken:
                    self._changed.notify_all()
                elif not self._changed.wait(self._patience) and self._taken:
                    raise TimeoutError(f"clip {position} comes before clip {min(self._taken)}")

    def _give_out(self, last: int) -> None:
        """Give a place to every clip up to `last` without one, in order, while there are places."""
        while self._turn <= last and self._free:
            if self._turn not in self._left_out:
                self._taken[self._turn] = self._free.popleft()
            self._turn += 1

    def leave_out(self, position: int) -> None:
        """Skip `position`: it has no clip, so it needs no place."""
        with self._changed:
            self._left_out.add(position)
            if position in self._taken:
                self._free.appendleft(self._taken.pop(position))
            self._changed.notify_all()

    def add(self, place: Place) -> bool:
        """Add a place, unless no more are needed."""
        with self._changed:
            if self._ended:
                return False
            self._free.append(place)
            self._changed.notify_all()
            return True

    def finish(self, position: int) -> Place:
        """Forget and return the place of the complete clip at `position`."""
        with self._changed:
            return self._taken.pop(position)

    def end(self) -> list[Place]:
        """Return the places without a complete clip; no more are needed."""
        with self._changed:
            self._ended = True
            unused = [*self._free, *self._taken.values()]
            self._free.clear()
            self._taken.clear()
            return unused

    def cancel(self) -> None:
        """Cancel, because the caller has gone: current and later waiters raise Cancelled."""
        with self._changed:
            self._cancelled = True
            self._changed.notify_all()

    def interrupt(self, *, on: bool) -> None:
        """While `on`, current and later waiters raise Interrupted."""
        with self._changed:
            self._interrupted = on
            self._changed.notify_all()

    def check(self) -> None:
        """Raise Cancelled or Interrupted if that applies."""
        if self._cancelled:
            raise Cancelled
        if self._interrupted:
            raise Interrupted


class ClipMemory(ClipPlaces[int]):
    """The regions of one job, one per clip. A place is where a region begins."""

    def __init__(self, region: Callable[[int], NDArray[np.uint8]], offsets: Iterable[int]) -> None:
        super().__init__(offsets)
        self._region = region
        self._mapped: dict[int, NDArray[np.uint8]] = {}

    def grant(self, offset: int, region: Callable[[int], NDArray[np.uint8]]) -> None:
        """Add a region."""
        self._region = region
        self.add(offset)

    def region(self, position: int) -> NDArray[np.uint8]:
        """Return the region of the clip at `position`. Waits and raises as `take`."""
        offset = self.take(position)
        if position not in self._mapped:
            self._mapped.setdefault(position, self._region(offset))
        return self._mapped[position]

    def finish(self, position: int) -> int:
        """Forget the region of the complete clip at `position`, and return its offset."""
        self._mapped.pop(position, None)
        return super().finish(position)
