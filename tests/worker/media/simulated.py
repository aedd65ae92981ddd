"""CuPy and PyNvVideoCodec as far as decoding uses them, for machines without a GPU: device memory is numpy's,
kernels are run by the same source compiled for the CPU, and FFmpeg decodes. Names and arguments are those of
the stubs in `typings/`."""

import ctypes
from collections.abc import Iterable
from enum import Enum
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tests.worker.media.kernel import Kernel
from tests.worker.media.recorder import EVERYTHING, Event, Packet, RecordingDecoder
from worker.media.decoder.pictures.orientation import Turn
from worker.media.gpu.nvdec_sessions import CODECS, SessionKind
from worker.media.gpu.surface import Coefficients, Picture

CAPABILITIES = EVERYTHING | {"num_decoder_engines": 3}


class Pointer:
    """A CuPy array's memory."""

    def __init__(self, values: NDArray[Any]) -> None:
        self.values = values
        self.ptr = values.ctypes.data

    def copy_from_device_async(self, src: "Pointer", size: int) -> None:
        assert size == self.values.nbytes == src.values.nbytes
        assert self.values.flags.c_contiguous
        self.values[...] = src.values


class Array:
    """A CuPy array: what numpy does with one of its own by itself, it does not do."""

    __array_ufunc__ = None

    def __init__(self, values: NDArray[Any]) -> None:
        self.values = values
        self.data = Pointer(values)
        self.shape, self.dtype, self.nbytes = values.shape, values.dtype, values.nbytes

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, part: Any) -> "Array":
        return Array(self.values[part])

    def set(self, arr: NDArray[Any]) -> None:
        assert isinstance(arr, np.ndarray)
        assert arr.flags.c_contiguous
        self.values[...] = arr

    def get(self) -> NDArray[Any]:
        return self.values.copy()


class Cuda:
    """Streams and events, in the order of what happened to them."""

    def __init__(self) -> None:
        self.happened: list[tuple[str, int]] = []
        self.current: list[int] = [0]
        self._streams = self._events = 0

    def stream(self, *, non_blocking: bool) -> Any:
        assert non_blocking
        self._streams += 1
        return Stream(self, self._streams)

    def event(self, *, disable_timing: bool) -> int:
        assert disable_timing
        self._events += 1
        return self._events

    def get_current_stream(self) -> "Stream":
        return Stream(self, self.current[-1])


class Stream:
    def __init__(self, cuda: Cuda, number: int) -> None:
        self._cuda = cuda
        self.ptr = number

    def __enter__(self) -> "Stream":
        self._cuda.current.append(self.ptr)
        return self

    def __exit__(self, *_: object) -> None:
        self._cuda.current.pop()

    def record(self, event: int) -> int:
        self._cuda.happened.append(("record", self.ptr))
        return event

    def wait_event(self, event: int) -> None:
        self._cuda.happened.append(("wait", event))

    def synchronize(self) -> None:
        self._cuda.happened.append(("synchronize", self.ptr))


def make_cupy(cuda: Cuda, kernel: Kernel) -> ModuleType:
    """`cupy`, with a kernel that draws on the CPU and looks at how it is launched."""

    def launch(grid: tuple[int, ...], block: tuple[int, ...], args: tuple[Any, ...]) -> None:
        *numbers, out, size = args
        assert [type(number) for number in numbers] == (
            [np.uintp] * 3 + [np.int32] * 8 + [np.float32] * 6 + [np.int32] * 4
        )
        assert isinstance(out, Array)
        assert type(size) is np.int32
        assert out.shape == (3, size, size)
        assert all(cells * threads >= size for cells, threads in zip(grid[:2], block[:2], strict=True))
        assert np.prod(block) <= 1024
        plain = [number.item() for number in numbers]
        kernel.draw(Picture(*plain[:11]), Coefficients(*plain[11:17]), out.values, Turn(*plain[17:]))
        cuda.happened.append(("draw", cuda.current[-1]))

    def module(*, code: str) -> Any:
        assert "__global__" in code
        assert '#include "pixels.h"' not in code
        return SimpleNamespace(get_function=lambda name: {"draw_picture": launch}[name])

    cupy: Any = ModuleType("cupy")
    cupy.ndarray = Array
    cupy.empty = lambda shape, dtype: Array(np.full(shape, 0xA5, dtype))
    cupy.RawModule = module
    cupy.cuda = SimpleNamespace(
        Stream=cuda.stream, Event=cuda.event, get_current_stream=cuda.get_current_stream
    )
    return cupy  # type: ignore[no-any-return] # a module


class Library:
    """PyNvVideoCodec: `asked` are the arguments of its functions, `events` as in the recorder."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self.events: list[Event] = []
        self.flags: list[Any] = []
        self.looks: dict[int, SessionKind] = {}

    def module(self) -> ModuleType:
        """`PyNvVideoCodec`."""
        nvc: Any = ModuleType("PyNvVideoCodec")
        kinds = {
            "cudaVideoCodec": [*CODECS.values(), "JPEG"],
            "cudaVideoChromaFormat": ["Monochrome", "420", "422", "444"],
            "DisplayDecodeLatencyType": ["NATIVE", "LOW", "ZERO"],
            "VideoPacketFlag": ["ENDOFPICTURE"],
        }
        for kind, members in kinds.items():
            setattr(nvc, kind, _enumeration(kind, members))
        nvc.PacketData = _PacketData
        nvc.GetDecoderCaps = self._capabilities
        nvc.CreateDecoder = self._create
        return nvc  # type: ignore[no-any-return] # a module

    def _capabilities(self, *, gpuid: int, codec: Enum, chromaformat: Enum, bitdepth: int) -> dict[str, int]:
        arguments = {"codec": codec.name, "chromaformat": chromaformat.name, "bitdepth": bitdepth}
        self.asked.append(("GetDecoderCaps", arguments))
        assert gpuid == 0
        return CAPABILITIES

    def _create(self, *, gpuid: int, codec: Enum, usedevicememory: bool, **more: Any) -> Any:
        assert gpuid == 0
        assert usedevicememory is True
        self.asked.append(("CreateDecoder", {"codec": codec.name, **more}))
        name = next(name for name, theirs in CODECS.items() if theirs == codec.name)
        return _Decoder(self, SessionKind(name, "", 0, 0))


def _enumeration(name: str, members: Iterable[str]) -> Any:
    return Enum(name, list(members))


class _PacketData:
    __slots__ = ("bsl", "bsl_data", "decode_flag", "pts")
    bsl: int
    bsl_data: int
    pts: int


class _Decoder(RecordingDecoder):
    """Takes packets as the library's own, and decodes videos of any size."""

    def __init__(self, library: Library, kind: SessionKind) -> None:
        super().__init__(0, kind, library.events)
        self._library = library

    def Decode(self, told: Any, /) -> Any:  # noqa: N802 - NVIDIA's name
        assert isinstance(told, _PacketData)
        self._library.flags.append(getattr(told, "decode_flag", None))
        data = ctypes.string_at(told.bsl_data, told.bsl) if told.bsl else b""
        return super().Decode(Packet(data, told.pts))

    def _surface(self, frame: Any) -> Any:
        self._size = (frame.width, frame.height)
        return super()._surface(frame)
