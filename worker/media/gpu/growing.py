"""Collects the clips of one file on the GPU."""

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from shared.chunks import Chunk
from worker.media.clip_source import BEFORE_THE_VIDEO, LeftOut
from worker.media.decoder.decoder_messages import Planned
from worker.media.decoder.memory import ClipPlaces
from worker.media.decoder.runs import FrameLook
from worker.media.gpu.clip_slots import DeviceClip, Slots


class Growing:
    """Collects the frames of `chunks` in slots, and puts clips into `complete`, in order, then None."""

    def __init__(
        self,
        slots: Slots[Any],
        chunks: Sequence[Chunk],
        free: Sequence[int],
        *,
        give_back: Callable[[int], None],
        patience: float,
    ) -> None:
        self.complete: asyncio.Queue[DeviceClip | LeftOut | None] = asyncio.Queue()
        self.looks: dict[int, FrameLook] = {}
        """What the frames of the clips look like, by the index of their chunks."""
        self._slots = slots
        self._chunks = chunks
        self._places = ClipPlaces(free, patience)
        self._give_back = give_back
        self._first = 0
        self._ended = False
        self._there: Counter[int] = Counter()
        self._planned: dict[int, Planned] = {}
        self._left_out: set[int] = set()
        self._loop = asyncio.get_running_loop()

    def slot(self, position: int) -> int:
        """In any thread: where the clip at `position` grows. Waits until there is room.

        Raises Cancelled, and TimeoutError if there is room and the clips before it do not come.
        """
        return self._places.take(position)

    def drawn(self, places: Sequence[tuple[int, int]], look: FrameLook) -> None:
        """In any thread: one frame, which looks like this, has been drawn where it belongs."""
        self.looks.update((self._chunks[position].index, look) for position, _ in places)
        self._loop.call_soon_threadsafe(self._count, [position for position, _ in places])

    def _count(self, positions: Sequence[int]) -> None:
        self._there.update(positions)
        self._hand_over()

    def plan(self, planned: Planned) -> None:
        """Note the frames of one clip."""
        self._planned[planned.position] = planned
        self._hand_over()

    def leave_out(self, position: int) -> None:
        """Skip the chunk at `position`: it gets no clip and takes no slot."""
        self._left_out.add(position)
        self._places.leave_out(position)
        self._hand_over()

    def finish(self, _: object = None) -> None:
        """Nothing more comes after what is complete."""
        self._hand_over()
        self.complete.put_nowait(None)

    def cancel(self) -> None:
        """Make current and later waiters for a slot raise Cancelled."""
        self._places.cancel()

    def end(self) -> None:
        """No thread draws any more: give back what no clip holds. Clips are given back when released."""
        while not self.complete.empty():
            if isinstance(clip := self.complete.get_nowait(), DeviceClip):
                clip.release()
        self._ended = True
        for slot in self._places.end():
            self._give_back(slot)

    def _hand_over(self) -> None:
        while True:
            chunk = self._chunks[self._first] if self._first < len(self._chunks) else None
            if chunk is not None and self._first in self._left_out:
                self.complete.put_nowait(LeftOut(chunk, BEFORE_THE_VIDEO))
            elif chunk is None or (clip := self._clip(chunk)) is None:
                return
            else:
                self.complete.put_nowait(clip)
            self._first += 1

    def _clip(self, chunk: Chunk) -> DeviceClip | None:
        """Return the first pending clip, if all its frames are drawn."""
        planned = self._planned.get(self._first)
        if planned is None or self._ended or self._there[self._first] < len(planned.times):
            return None
        slot = self._places.finish(self._first)
        return DeviceClip(chunk, self._slots, slot, planned.times, planned.start, release=self._released)

    def _released(self, slot: int) -> None:
        if not self._places.add(slot):
            self._give_back(slot)
