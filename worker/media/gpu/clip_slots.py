"""Clips in GPU memory: slots of one buffer, their owners, and batches of clips.

No GPU is needed here: what touches its memory is left to a subclass (`pixels.Canvas`).
"""

from __future__ import annotations

import asyncio
import contextlib
import heapq
import threading
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from shared.chunks import Chunk
from worker.media.clip_source import Clip
from worker.media.decoder.pictures.thumbnail import thumbnail_of, thumbnail_size
from worker.media.decoder.runs import FrameLook
from worker.media.gpu.surface import Coefficients, Picture, Surface, coefficients, picture

Event = TypeVar("Event")


class Slots(ABC, Generic[Event]):
    """The buffer that clips are drawn into: `array`, uint8 [slots, frames, 3, size, size], on a GPU.

    Drawing is only put into a queue of the GPU. Each slot therefore has an event that happens when everything
    drawn into it is there: the next to draw waits for it, and so does who reads it, without stopping the
    host. Methods may be called from any thread.
    """

    def __init__(self, array: Any) -> None:
        self.array = array
        self._drawn: dict[int, Event] = {}
        self._turn = threading.Lock()

    def draw(self, surface: Surface, look: FrameLook, slot: int, index: int) -> None:
        """Put `surface`, resized, into frame `index` of the slot, in the calling thread's current queue."""
        with self._turn:
            previous = self._drawn.get(slot)
            if previous is not None:
                self._wait(previous)
            self._draw(picture(surface), coefficients(look), look, slot, index)
            self._drawn[slot] = self._record()

    def stack(self, clips: Sequence[Clip], frames: int) -> Any:
        """uint8 [len(clips), frames, 3, size, size] in the GPU's memory, complete in the calling thread's
        current queue. Full clips in slots one after the other are passed on without a copy."""
        ours = [clip for clip in clips if isinstance(clip, DeviceClip)]
        for mine in ours:
            self._wait(self._drawn[mine.slot])
        first = ours[0].slot
        if frames == self.array.shape[1] and _consecutive(clips, frames):
            return self.array[first : first + len(clips)]
        batch = self._empty((len(clips), frames, *self.array.shape[2:]))
        for target, clip in zip(batch, clips, strict=True):
            count = len(clip.frames)
            put = self._copy if clip in ours else self._upload
            put(target[:count], clip.frames)
            for index in range(count, frames):
                self._copy(target[index], target[count - 1])
        return batch

    def fetch(self, slot: int, index: int) -> NDArray[np.uint8]:
        """Return frame `index` of the slot, uint8 [3, size, size], in the host's memory. Blocks until it is
        drawn."""
        self._wait(self._drawn[slot])
        return self._download(self.array[slot, index])

    @abstractmethod
    def _draw(
        self, source: Picture, colours: Coefficients, look: FrameLook, slot: int, index: int
    ) -> None: ...

    @abstractmethod
    def _record(self) -> Event: ...

    @abstractmethod
    def _wait(self, event: Event) -> None: ...

    @abstractmethod
    def _empty(self, shape: tuple[int, ...]) -> Any: ...

    @abstractmethod
    def _copy(self, target: Any, frames: Any) -> None: ...

    @abstractmethod
    def _upload(self, target: Any, frames: Any) -> None: ...

    @abstractmethod
    def _download(self, frames: Any) -> NDArray[np.uint8]: ...


class DeviceClip(Clip):
    """A clip in a slot. Its `frames` are a CuPy array."""

    def __init__(
        self,
        chunk: Chunk,
        slots: Slots[Any],
        slot: int,
        times: list[int],
        start: float,
        *,
        release: Callable[[int], None],
    ) -> None:
        super().__init__(chunk, slots.array[slot, : len(times)], times, start, time.monotonic())
        self.slots = slots
        self.slot = slot
        self._release = release
        self._lock = threading.Lock()
        self._held = True

    def draw_thumbnail(self, look: FrameLook) -> None:
        """Make the clip's thumbnail, by what its frames look like. Blocks until they are drawn."""
        size = thumbnail_size(look.width, look.height, look.aspect, look.turn)
        self.thumbnail = thumbnail_of(self.slots.fetch(self.slot, len(self.times) // 2), size)

    def release(self) -> None:
        """Give the slot back, from any thread."""
        with self._lock:
            held, self._held = self._held, False
        if held:
            self._release(self.slot)


class Stock:
    """The free slots. Belongs to one event loop; `give_back` may be called from any thread."""

    def __init__(self, count: int) -> None:
        self._free = list(range(count))
        self._waiting: deque[tuple[int, asyncio.Future[list[int]]]] = deque()
        self._loop: asyncio.AbstractEventLoop | None = None

    @property
    def free(self) -> int:
        """How many are free."""
        return len(self._free)

    async def take(self, count: int) -> list[int]:
        """So many slots, all at once, the first ones that are free; the longest waiter is served first."""
        self._loop = asyncio.get_running_loop()
        slots: asyncio.Future[list[int]] = self._loop.create_future()
        waiter = (count, slots)
        self._waiting.append(waiter)
        self._serve()
        try:
            return await slots
        except asyncio.CancelledError:
            if slots.done() and not slots.cancelled():
                for slot in slots.result():
                    self._put(slot)
            else:
                with contextlib.suppress(ValueError):
                    self._waiting.remove(waiter)
                self._serve()
            raise

    def give_back(self, slot: int) -> None:
        """Free the slot."""
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._put, slot)

    def _put(self, slot: int) -> None:
        heapq.heappush(self._free, slot)
        self._serve()

    def _serve(self) -> None:
        while self._waiting and len(self._free) >= self._waiting[0][0]:
            count, slots = self._waiting.popleft()
            if not slots.done():
                slots.set_result([heapq.heappop(self._free) for _ in range(count)])


def _consecutive(clips: Sequence[Clip], frames: int) -> bool:
    """Return whether the clips are full and lie one after the other."""
    first = clips[0]
    return isinstance(first, DeviceClip) and all(
        isinstance(clip, DeviceClip) and clip.slot == first.slot + i and len(clip.frames) == frames
        for i, clip in enumerate(clips)
    )
