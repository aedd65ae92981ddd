"""Draws decoded pictures into clips on an NVIDIA GPU, with CuPy."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cupy
import numpy as np
from numpy.typing import NDArray

from worker.media.decoder.runs import FrameLook
from worker.media.gpu.clip_slots import Slots
from worker.media.gpu.surface import Coefficients, Picture

BLOCK = (32, 8, 1)
FOLDER = Path(__file__).parent


def source() -> str:
    """Return the kernel `draw_picture` in one piece: what CuPy keeps of compiled kernels goes by their
    text."""
    header = (FOLDER / "pixels.h").read_text()
    return (FOLDER / "pixels.cu").read_text().replace('#include "pixels.h"', header)


class Canvas(Slots[cupy.cuda.Event]):
    """Slots on the current GPU: `slots` clips of up to `frames` frames of `size` x `size` pixels.

    Raises what CuPy raises where there is too little memory.
    """

    def __init__(self, slots: int, frames: int, size: int) -> None:
        super().__init__(cupy.empty((slots, frames, 3, size, size), np.uint8))
        self._size = size
        self._kernel = cupy.RawModule(code=source()).get_function("draw_picture")
        self._grid = (-(-size // BLOCK[0]), -(-size // BLOCK[1]), 1)

    def _draw(self, source: Picture, colours: Coefficients, look: FrameLook, slot: int, index: int) -> None:
        arguments = (
            *_pointers(source[:3]),
            *(np.int32(value) for value in source[3:]),
            *(np.float32(value) for value in colours),
            *(np.int32(value) for value in look.turn),
            self.array[slot, index],
            np.int32(self._size),
        )
        self._kernel(self._grid, BLOCK, arguments)

    def _record(self) -> cupy.cuda.Event:
        return cupy.cuda.get_current_stream().record(cupy.cuda.Event(disable_timing=True))

    def _wait(self, event: cupy.cuda.Event) -> None:
        cupy.cuda.get_current_stream().wait_event(event)

    def _empty(self, shape: tuple[int, ...]) -> cupy.ndarray:
        return cupy.empty(shape, np.uint8)

    def _copy(self, target: cupy.ndarray, frames: cupy.ndarray) -> None:
        target.data.copy_from_device_async(frames.data, frames.nbytes)

    def _upload(self, target: cupy.ndarray, frames: NDArray[np.uint8]) -> None:
        target.set(frames)

    def _download(self, frames: cupy.ndarray) -> NDArray[np.uint8]:
        return np.asarray(frames.get())


def _pointers(addresses: Sequence[int]) -> list[Any]:
    return [np.uintp(address) for address in addresses]
