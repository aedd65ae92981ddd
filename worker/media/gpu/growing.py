"""The clips of one file while they grow on the GPU."""

import asyncio
import threading
from collections import Counter, deque
from collections.abc import Callable, Sequence
from typing import Any

from shared.chunks import Chunk
from worker.media.decoder.decoder_messages import Planned
from worker.media.decoder.memory import Cancelled
from worker.media.gpu.clip_slots import DeviceClip, Slots


class Growing:
    """Collects the frames of `chunks` in slots, and puts clips into `complete`, in order, then None.

    Clips take slots in order, whichever thread asks first, so that a later clip can never starve an earlier
    one. `slot` waits while too few clips have been released.
    """

    def __init__(
        self,
        slots: Slots[Any],
        chunks: Sequence[Chunk],
        free: Sequence[int],
        *,
        give_back: Callable[[int], None],
        patience: float,
    ) -> None:
        self.complete: asyncio.Queue[DeviceClip | None] = asyncio.Queue()
        self._slots = slots
        self._chunks = chunks
        self._free = deque(free)
        self._give_back = give_back
        self._patience = patience
        self._taken: dict[int, int] = {}
        self._turn = 0
        self._first = 0
        self._there: Counter[int] = Counter()
        self._planned: dict[int, Planned] = {}
        self._changed = threading.Condition()
        self._cancelled = False
        self._ended = False
        self._loop = asyncio.get_running_loop()

    def slot(self, position: int) -> int:
        """In any thread: where the clip at `position` grows. Waits until there is room.

        Raises Cancelled, and TimeoutError if there is room and the clips before it do not come.
        """
        with self._changed:
            while True:
                if self._cancelled:
                    raise Cancelled
                if position in self._taken:
                    return self._taken[position]
                if position == self._turn and self._free:
                    self._taken[position] = self._free.popleft()
                    self._turn += 1
                    self._changed.notify_all()
                elif not self._changed.wait(self._patience) and self._free:
                    raise TimeoutError(f"clip {position} comes before clip {self._turn}")

    def drawn(self, places: Sequence[tuple[int, int]]) -> None:
        """In any thread: one frame has been drawn where it belongs."""
        with self._changed:
            self._there.update(position for position, _ in places)
        self._loop.call_soon_threadsafe(self._hand_over)

    def plan(self, planned: Planned) -> None:
        """The frames of one clip are known."""
        self._planned[planned.position] = planned
        self._hand_over()

    def finish(self, _: object = None) -> None:
        """Nothing more comes after what is complete."""
        self._hand_over()
        self.complete.put_nowait(None)

    def cancel(self) -> None:
        """Whoever waits for a slot, or comes for one, raises Cancelled."""
        with self._changed:
            self._cancelled = True
            self._changed.notify_all()

    def end(self) -> None:
        """No thread draws any more: give back what no clip holds. Clips are given back when released."""
        while not self.complete.empty():
            if clip := self.complete.get_nowait():
                clip.release()
        with self._changed:
            self._ended = True
            unused = [*self._free, *self._taken.values()]
            self._free.clear()
            self._taken.clear()
        for slot in unused:
            self._give_back(slot)

    def _hand_over(self) -> None:
        while planned := self._planned.get(self._first):
            with self._changed:
                if self._ended or self._there[self._first] < len(planned.times):
                    return
                slot = self._taken.pop(self._first)
            chunk = self._chunks[self._first]
            clip = DeviceClip(chunk, self._slots, slot, planned.times, planned.start, release=self._released)
            self._first += 1
            self.complete.put_nowait(clip)

    def _released(self, slot: int) -> None:
        with self._changed:
            if not self._ended:
                self._free.append(slot)
                self._changed.notify_all()
                return
        self._give_back(slot)
