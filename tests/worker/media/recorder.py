"""A decoder in the place of NVDEC's: it writes down what it is told, and FFmpeg decodes."""

import ctypes
import threading
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, cast

import av
import numpy as np
from av.video.codeccontext import VideoCodecContext
from numpy.typing import NDArray

from tests.worker.media.kernel import HostSlots, HostSurface, Kernel
from tests.worker.media.reading import SIZE
from worker.media.decoder.runs import DECODERS
from worker.media.decoder.selection.copies import padded
from worker.media.gpu.gpu_media import Device
from worker.media.gpu.nvdec_sessions import NvdecSession, SessionKind, Sessions

LAYOUT_OF = {
    "yuv420p": "NV12", "yuvj420p": "NV12", "yuv420p10le": "P016", "yuv422p": "NV16", "yuv444p": "YUV444",
    "yuv444p10le": "YUV444_16Bit",
}  # fmt: skip
EVERYTHING = {
    "supported": 1, "num_decoder_engines": 2, "width_min": 48, "height_min": 16, "width_max": 4096,
    "height_max": 4096, "mb_num_max": 65536,
}  # fmt: skip


class Event(NamedTuple):
    """What happened to decoder number `decoder`. `size` is that of a reconfiguration."""

    decoder: int
    what: Literal["create", "packet", "end", "reconfigure", "wait", "close"]
    time: int = 0
    data: bytes = b""
    size: tuple[int, int] = (0, 0)


class Packet(NamedTuple):
    """What is decoded."""

    data: bytes
    time: int


def packet(address: int, size: int, time: int) -> Packet:
    """The bytes are taken at once, as the library does in its own memory only while it decodes."""
    return Packet(ctypes.string_at(address, size) if size else b"", time)


def planes_of(frame: av.VideoFrame) -> list[NDArray[Any]]:
    """Luma, U and V as NVDEC writes them: samples of more than 8 bits at the top of 16."""
    bits = frame.format.components[0].bits
    dtype = np.uint8 if bits == 8 else np.uint16
    planes = []
    for plane in frame.planes:
        memory: Any = plane
        rows: NDArray[Any] = np.frombuffer(memory, dtype).reshape(plane.height, -1)[:, : plane.width]
        planes.append((rows << (16 - bits)).astype(dtype) if bits > 8 else rows.copy())
    return planes


class RecordingDecoder:
    """What PyNvVideoCodec.CreateDecoder gives. The memory of its frames is overwritten at the next call, and
    it minds being used by two threads at once, or for a size that it was not made for."""

    def __init__(self, number: int, kind: SessionKind, events: list[Event]) -> None:
        self._number = number
        self._size = (kind.width, kind.height)
        self._events = events
        self._given: list[HostSurface] = []
        self._turn = threading.Lock()
        self._context = cast(
            "VideoCodecContext", av.CodecContext.create(DECODERS.get(kind.codec, kind.codec), "r")
        )
        self.failure: Exception | None = None

    def Decode(self, told: Packet, /) -> Sequence[HostSurface]:  # noqa: N802 - NVIDIA's name
        assert self._turn.acquire(blocking=False), "two threads use one decoder"
        try:
            self._lose()
            if told.data:
                self._events.append(Event(self._number, "packet", told.time, told.data))
                if self.failure:
                    raise self.failure
                made = padded(told.data)
                made.pts = told.time
                try:
                    frames = self._context.decode(made)
                except av.error.InvalidDataError:  # NVIDIA's parser says nothing of it
                    frames = []
            else:
                self._events.append(Event(self._number, "end"))
                frames = self._context.decode(None)
                self._context.flush_buffers()
            self._given = [self._surface(frame) for frame in frames]
            return self._given
        finally:
            self._turn.release()

    def setReconfigParams(self, width: int = 0, height: int = 0) -> int:  # noqa: N802 - NVIDIA's name
        self._lose()
        self._events.append(Event(self._number, "reconfigure", size=(width, height)))
        self._size = (width, height)
        return 1

    def _surface(self, frame: av.VideoFrame) -> HostSurface:
        assert (frame.width, frame.height) == self._size, "the library would have resized it"
        return HostSurface(LAYOUT_OF[frame.format.name], planes_of(frame), frame.pts or 0)

    def _lose(self) -> None:
        for surface in self._given:
            surface.lose()
        self._given = []


class RecordingStream:
    """A stream that is always done."""

    def __init__(self, number: int, events: list[Event]) -> None:
        self._number = number
        self._events = events

    def __enter__(self) -> object:
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing is left to do."""

    def synchronize(self) -> None:
        self._events.append(Event(self._number, "wait"))


class RecordedSession(NvdecSession):
    """A session whose end is written down."""

    def __init__(self, number: int, kind: SessionKind, room: tuple[int, int], events: list[Event]) -> None:
        self.number = number
        self.decoder = RecordingDecoder(number, kind, events)
        super().__init__(kind, room, self.decoder, RecordingStream(number, events), packet)
        self._events = events

    def close(self) -> None:
        super().close()
        self.decoder._lose()
        self._events.append(Event(self.number, "close"))


class Recorder:
    """A GPU that is none: `events` tells what its decoders did."""

    def __init__(
        self,
        kernel: Kernel,
        *,
        slots: int = 16,
        frames: int = 8,
        engines: int = 2,
        room: tuple[int, int] = (1920, 1088),
        reuse: bool = True,
        **can: int,
    ) -> None:
        self.events: list[Event] = []
        self.sessions: list[RecordedSession] = []
        self.slots = HostSlots(kernel, slots, frames, SIZE)
        self.failure: Exception | None = None
        self.damaged = 0
        """Pictures that the library has reported as damaged."""
        self.lost: Exception | None = None
        """What CUDA says when it is asked whether it still works."""
        self._room = room
        capabilities = EVERYTHING | can
        self.device = Device(
            Sessions(self._create, engines, reuse=reuse),
            self.slots,
            lambda _codec, _pixels: capabilities,
            damaged=lambda: self.damaged,
            check=self._check,
        )

    def _check(self) -> None:
        if self.lost:
            raise self.lost

    def _create(self, kind: SessionKind) -> NvdecSession:
        number = len(self.sessions)
        self.events.append(Event(number, "create", size=(kind.width, kind.height)))
        room = (max(kind.width, self._room[0]), max(kind.height, self._room[1]))
        self.sessions.append(RecordedSession(number, kind, room, self.events))
        self.sessions[-1].decoder.failure = self.failure
        return self.sessions[-1]

    def runs(self) -> list[list[Event]]:
        """The packets that were decoded, from one end of stream to the next, in the order of their ends."""
        under_way: dict[int, list[Event]] = {}
        done = []
        for event in self.events:
            if event.what == "packet":
                under_way.setdefault(event.decoder, []).append(event)
            elif event.what == "end":
                done.append(under_way.pop(event.decoder, []))
        assert not under_way, "a run was not ended"
        return done
