"""The kernel of `pixels.cu` on the CPU: the same header, compiled by g++."""

import ctypes
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from worker.media.decoder.pictures.orientation import UPRIGHT, Turn
from worker.media.decoder.runs import FrameLook
from worker.media.gpu.clip_slots import Slots
from worker.media.gpu.surface import Coefficients, Picture

SOURCE = Path(__file__).parents[3] / "worker" / "media" / "gpu"
DRIVER = """
#include "pixels.h"
extern "C" void draw_all(const Picture *picture, const Matrix *matrix, const Turn *turn, unsigned char *out,
                         int size) {
    for (int y = 0; y < size; ++y)
        for (int x = 0; x < size; ++x) draw(*picture, *matrix, *turn, out, size, x, y);
}
"""


class _Picture(ctypes.Structure):
    _fields_ = [
        (name, ctypes.c_void_p if name in ("luma", "u", "v") else ctypes.c_int) for name in Picture._fields
    ]


class _Matrix(ctypes.Structure):
    _fields_ = [(name, ctypes.c_float) for name in Coefficients._fields]


class _Turn(ctypes.Structure):
    _fields_ = [(name, ctypes.c_int) for name in Turn._fields]


class Kernel:
    """The compiled kernel."""

    def __init__(self, folder: Path) -> None:
        compiler = shutil.which("g++")
        if compiler is None:
            pytest.skip("g++ is not installed")
        (folder / "driver.cpp").write_text(DRIVER)
        library = folder / "pixels.so"
        subprocess.run(
            [compiler, "-std=c++17", "-O2", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", f"-I{SOURCE}",
             str(folder / "driver.cpp"), "-o", str(library)],
            check=True,
        )  # fmt: skip
        self._draw = ctypes.CDLL(str(library)).draw_all
        self._draw.argtypes = [ctypes.c_void_p] * 4 + [ctypes.c_int]
        self._draw.restype = None

    def draw(
        self, picture: Picture, colours: Coefficients, out: NDArray[np.uint8], turn: Turn = UPRIGHT
    ) -> None:
        """Draw to `out`, uint8 [3, size, size]."""
        structures = (_Picture(*picture), _Matrix(*colours), _Turn(*turn))
        self._draw(*(ctypes.addressof(part) for part in structures), out.ctypes.data, out.shape[-1])


class HostSlots(Slots[int]):
    """Slots in the host's memory. Events are numbers; `waited` holds those that were waited for."""

    def __init__(self, kernel: Kernel, slots: int, frames: int, size: int) -> None:
        super().__init__(np.zeros((slots, frames, 3, size, size), np.uint8))
        self._kernel = kernel
        self.events = 0
        self.waited: list[int] = []
        self.copied = 0

    def _draw(self, source: Picture, colours: Coefficients, look: FrameLook, slot: int, index: int) -> None:
        self._kernel.draw(source, colours, self.array[slot, index], look.turn)

    def _record(self) -> int:
        self.events += 1
        return self.events

    def _wait(self, event: int) -> None:
        self.waited.append(event)

    def _empty(self, shape: tuple[int, ...]) -> NDArray[np.uint8]:
        self.copied += 1
        return np.full(shape, 0xA5, np.uint8)

    def _copy(self, target: Any, frames: NDArray[np.uint8]) -> None:
        target[...] = frames

    def _upload(self, target: Any, frames: NDArray[np.uint8]) -> None:
        assert not np.shares_memory(frames, self.array)
        target[...] = frames

    def _download(self, frames: Any) -> NDArray[np.uint8]:
        return np.array(frames)


class HostSurface:
    """A frame in the host's memory, laid out as NVDEC lays it out: `planes` are luma, U and V."""

    def __init__(self, name: str, planes: Sequence[NDArray[Any]], time: int = 0) -> None:
        luma, u, v = planes
        chroma = [np.stack([u, v], axis=-1)] if name in ("NV12", "P016", "NV16", "P216") else [u, v]
        self._memory = np.concatenate([plane.reshape(-1) for plane in (luma, *chroma)])
        self._shape = [*luma.shape, 1]
        self._name = name
        self._time = time
        self.gone = False

    @property
    def format(self) -> "HostSurface":
        return self

    @property
    def name(self) -> str:
        return self._name

    @property
    def shape(self) -> list[int]:
        return self._shape

    def getPTS(self) -> int:  # noqa: N802 - NVIDIA's name
        assert not self.gone, "the surface is not valid any more"
        return self._time

    def GetPtrToPlane(self, index: int, /) -> int:  # noqa: N802 - NVIDIA's name
        assert index == 0
        assert not self.gone, "the surface is not valid any more"
        return int(self._memory.ctypes.data)

    def cuda(self) -> "list[HostSurface]":
        return [self]

    def lose(self) -> None:
        """Its decoder uses the memory for something else."""
        self._memory[:] = 0xA5
        self.gone = True
