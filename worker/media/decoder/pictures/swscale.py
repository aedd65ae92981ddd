"""Calls libswscale directly, so that it scales into shared memory with the colours that a frame states.

PyAV's reformatter shifts chroma where a stream states its place, and ignores the range that grey frames
state: other pixels than those of the CUDA kernel (`python -m tests.bench.scaling`). The functions used here
have had the same signatures since FFmpeg 0.8; the library is the one that PyAV itself has loaded.
"""

import ctypes
import functools
from pathlib import Path
from typing import NamedTuple

import numpy as np
from av.video.frame import VideoFrame
from numpy.typing import NDArray

BILINEAR, FULL_CHROMA_OUT, FULL_CHROMA_IN, ACCURATE = 0x2, 0x2000, 0x4000, 0x40000
BT709, BT601, BT2020, SMPTE240M, FCC = 1, 5, 9, 7, 4
FULL_RANGE = 2
HD_WIDTH, SD_HEIGHT = 1280, 576
# By the numbers of ITU-T H.273.
MATRICES = {1: BT709, 4: FCC, 5: BT601, 6: BT601, 7: SMPTE240M, 9: BT2020, 10: BT2020}
PRIMARIES = {1: BT709, 5: BT601, 6: BT601, 7: SMPTE240M, 9: BT2020}
TRANSFERS = {16: BT2020, 18: BT2020}  # PQ and HLG
UNIT = 1 << 16

_Planes = ctypes.c_void_p * 4
_Strides = ctypes.c_int * 4
_Table = ctypes.POINTER(ctypes.c_int * 4)


class _Work(NamedTuple):
    """What one context scales: pictures of one size, format, matrix and range to `across` x `down` pixels."""

    width: int
    height: int
    pixels: str
    matrix: int
    full_range: int
    across: int
    down: int


class Scaler:
    """Scales frames: bilinear, antialiased where it shrinks, aspect ratio not kept.

    Colours: the matrix and range that the frame states; where it states none, the matrix of the primaries or
    transfer function that it states, else BT.709 for HD (1280 columns or more than 576 lines) and BT.601
    below, and limited range (full for JPEG and grey formats). Transfer functions are left alone: HDR
    material (PQ, HLG) is converted by its matrix and range, not tone-mapped. An alpha channel is dropped.
    """

    def __init__(self) -> None:
        self._contexts: dict[_Work, int] = {}

    def scale(self, frame: VideoFrame, out: NDArray[np.uint8]) -> None:
        """Write `frame` to `out`, uint8 [3, height, width], planes R, G, B; each row is contiguous."""
        if frame.format.name == "pal8":
            frame = frame.reformat(format="rgb24")
        planes = frame.planes
        sources = _Planes(*(plane.buffer_ptr for plane in planes))
        strides = _Strides(*(plane.line_size for plane in planes))
        base, (plane_bytes, row_bytes, _) = out.ctypes.data, out.strides
        targets = _Planes(base + plane_bytes, base + 2 * plane_bytes, base)  # G, B, R is the order of gbrp
        context = self._context(frame, *out.shape[:0:-1])
        rows = _Strides(*[row_bytes] * 3)
        lines = _library().sws_scale(context, sources, strides, 0, frame.height, targets, rows)
        if lines != out.shape[1]:
            raise ValueError(f"cannot scale {frame.width}x{frame.height} {frame.format.name}")

    def close(self) -> None:
        """Free the contexts."""
        for context in self._contexts.values():
            _library().sws_freeContext(context)
        self._contexts.clear()

    def _context(self, frame: VideoFrame, width: int, height: int) -> int:
        pixels, colours = frame.format.name, (matrix_of(frame), is_full_range(frame))
        key = _Work(frame.width, frame.height, pixels, *colours, width, height)
        if key not in self._contexts:
            if len(self._contexts) >= 8:  # a stream that keeps changing its size must not fill memory
                self.close()
            self._contexts[key] = _create(key)
        return self._contexts[key]


def _create(work: _Work) -> int:
    library = _library()
    flags = BILINEAR | ACCURATE | FULL_CHROMA_OUT | FULL_CHROMA_IN
    source, target = (work.width, work.height), (work.across, work.down)
    formats = _pixel_format(work.pixels), _pixel_format("gbrp")
    context: int | None = library.sws_getContext(
        *source, formats[0], *target, formats[1], flags, None, None, None
    )
    if not context:
        raise ValueError(f"cannot scale {work.width}x{work.height} {work.pixels}")
    table = library.sws_getCoefficients(work.matrix)
    library.sws_setColorspaceDetails(context, table, work.full_range, table, 1, 0, UNIT, UNIT)
    return context


def matrix_of(frame: VideoFrame) -> int:
    """Return the matrix of the frame's colours, a number of libswscale."""
    usual = BT709 if frame.width >= HD_WIDTH or frame.height > SD_HEIGHT else BT601
    of_light = TRANSFERS.get(frame.color_trc, PRIMARIES.get(frame.color_primaries, usual))
    return MATRICES.get(frame.colorspace, of_light)


def is_full_range(frame: VideoFrame) -> int:
    """1 if the frame's samples use all values, 0 if they keep away from the ends."""
    name = frame.format.name
    unstated_is_full = name.startswith(("yuvj", "gray", "ya8", "ya16", "mono"))
    return int(frame.color_range == FULL_RANGE or (frame.color_range == 0 and unstated_is_full))


@functools.cache
def _pixel_format(name: str) -> int:
    utilities = _loaded("avutil")
    utilities.av_get_pix_fmt.argtypes = [ctypes.c_char_p]
    number: int = utilities.av_get_pix_fmt(name.encode())
    return number


@functools.cache
def _library() -> ctypes.CDLL:
    library = _loaded("swscale")
    library.sws_getContext.restype = ctypes.c_void_p
    library.sws_getContext.argtypes = [ctypes.c_int] * 7 + [ctypes.c_void_p] * 3
    library.sws_freeContext.argtypes = [ctypes.c_void_p]
    library.sws_freeContext.restype = None
    library.sws_getCoefficients.argtypes = [ctypes.c_int]
    library.sws_getCoefficients.restype = _Table
    number = ctypes.c_int
    library.sws_setColorspaceDetails.argtypes = [
        ctypes.c_void_p, _Table, number, _Table, number, number, number, number
    ]  # fmt: skip
    library.sws_scale.argtypes = [
        ctypes.c_void_p,
        _Planes,
        _Strides,
        ctypes.c_int,
        ctypes.c_int,
        _Planes,
        _Strides,
    ]
    return library


@functools.cache
def _loaded(name: str) -> ctypes.CDLL:
    """Return the FFmpeg library `name` that this process has already mapped."""
    begin = f"lib{name}.", f"lib{name}-"
    for line in Path("/proc/self/maps").read_text().splitlines():
        _, slash, path = line.partition("/")
        if path.rpartition("/")[2].startswith(begin):
            return ctypes.CDLL(slash + path)
    raise OSError(f"lib{name} is not loaded")
