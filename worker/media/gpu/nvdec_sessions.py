"""NVDEC sessions: their input, and how they are shared. No GPU is needed here.

What this relies on is how PyNvVideoCodec's open source behaves (NvDecoder.cpp of release 2.1): the frames of
one `Decode` lie in the decoder's own memory until the next, they are copied there on the stream that the
decoder was given, a packet without data makes it give out what it holds, and a decoder can be reconfigured
for another size, up to the largest that it was made for.
"""

import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from time import monotonic
from typing import Any, NamedTuple, Protocol

import numpy as np

from worker.media.decoder.runs import FrameLook, Run
from worker.media.gpu.surface import Surface

CODECS = {"h264": "H264", "hevc": "HEVC", "vp8": "VP8", "vp9": "VP9", "av1": "AV1", "mpeg4": "MPEG4"}
"""FFmpeg's names of codecs to NVIDIA's."""
# FFmpeg's pixel formats to chroma formats and bits. Grey ones are left out: NVDEC writes chroma for them.
PIXELS = {
    "yuv420p": ("420", 8), "yuvj420p": ("420", 8), "yuv420p10le": ("420", 10), "yuv420p12le": ("420", 12),
    "yuv422p": ("422", 8), "yuvj422p": ("422", 8), "yuv422p10le": ("422", 10), "yuv422p12le": ("422", 12),
    "yuv444p": ("444", 8), "yuvj444p": ("444", 8), "yuv444p10le": ("444", 10), "yuv444p12le": ("444", 12),
}  # fmt: skip


class SessionKind(NamedTuple):
    """What a session decodes: codec and pixel format by FFmpeg's names, the size, and the sequence parameter
    sets.

    NVIDIA's parser keeps room for as many reference pictures as the first stream needed. A stream of the same
    size that needs more comes out wrong without an error (seen on an H200): other parameter sets are another
    kind."""

    codec: str
    pixels: str
    width: int
    height: int
    sequence: bytes = b""


class CoreDecoder(Protocol):
    """What PyNvVideoCodec.CreateDecoder gives."""

    def Decode(self, packet: Any, /) -> "Sequence[Surface]":  # noqa: N802 - NVIDIA's name
        """Return the frames that are ready after this packet."""

    def setReconfigParams(self, width: int = 0, height: int = 0) -> int:  # noqa: N802 - NVIDIA's name
        """Expect another size."""


class Stream(AbstractContextManager[object], Protocol):
    """A CUDA stream, which is the calling thread's current one within `with`."""

    def synchronize(self) -> None:
        """Wait until all of its work is done."""


class NvdecSession:
    """A decoder on a GPU, used by one thread at a time. `room` is the largest size that it was made for;
    `packet` makes packets of an address, a size and a time."""

    def __init__(
        self,
        kind: SessionKind,
        room: tuple[int, int],
        decoder: CoreDecoder,
        stream: Stream,
        packet: Callable[[int, int, int], Any],
    ) -> None:
        self.kind = kind
        self.stream = stream
        self.asked: float | None = None
        """When the decoder was given the packet that it has not answered yet (s, monotonic)."""
        self._room = room
        self._decoder: CoreDecoder | None = decoder
        self._packet = packet

    def decode(self, run: Run) -> Generator[Surface]:
        """Yield the frames of the run in the order in which they are shown, each valid until the next is
        asked for.

        Close the iterator: what the decoder still holds must come out before the next run.
        """
        try:
            for number, (time, data) in enumerate(run.packets):
                yield from self._send(data if number else run.parameters + data, time)
        finally:
            left = self._send(b"", 0)
        yield from left

    def reconfigure(self, kind: SessionKind) -> bool:
        """Get ready for videos of another size. False where that takes another session.

        The library looks at the new size only when the coded one changes, which is rounded up to 16 at most.
        """
        fits = kind.width <= self._room[0] and kind.height <= self._room[1]
        coded = [(-(-k.width // 16), -(-k.height // 16)) for k in (kind, self.kind)]
        if kind[:2] != self.kind[:2] or not fits or coded[0] == coded[1] or self._decoder is None:
            return False
        self._decoder.setReconfigParams(kind.width, kind.height)
        self.kind = kind
        return True

    def close(self) -> None:
        """Wait until the frames are no longer read, and end the session."""
        self.stream.synchronize()
        self._decoder = None

    def _send(self, data: bytes, time: int) -> Sequence[Surface]:
        assert self._decoder is not None  # noqa: S101 - for the type checker
        buffer = np.frombuffer(data, np.uint8)
        self.asked = monotonic()
        try:
            return self._decoder.Decode(self._packet(buffer.ctypes.data if data else 0, len(data), time))
        finally:
            self.asked = None


class Sessions:
    """Up to `most` sessions, each lent to one thread at a time. One that fits is used again, else another is
    reconfigured, else the one that has been idle longest makes room for a new one. Without `reuse` each is
    ended after its use."""

    def __init__(
        self, create: Callable[[SessionKind], NvdecSession], most: int, *, reuse: bool = True
    ) -> None:
        self.most = most
        self._reuse = reuse
        self._create = create
        self._lent = 0
        self._used: list[NvdecSession] = []
        self._idle: list[NvdecSession] = []
        self._changed = threading.Condition()

    @contextmanager
    def lend(self, kind: SessionKind) -> Iterator[NvdecSession]:
        """Yield a session for videos of this kind. One in whose use something goes wrong is ended."""
        session = self._take(kind)
        self._used.append(session)
        fine = False
        try:
            yield session
            fine = self._reuse
        finally:
            self._used.remove(session)
            try:
                if not fine:
                    session.close()
            finally:
                self._returned(session if fine else None)

    @property
    def unanswered(self) -> float:
        """For how many seconds a decoder has not answered, at most."""
        asked = [session.asked for session in list(self._used)]
        return max((monotonic() - since for since in asked if since is not None), default=0.0)

    def close(self) -> None:
        """End the idle sessions."""
        with self._changed:
            while self._idle:
                self._idle.pop().close()

    def _take(self, kind: SessionKind) -> NvdecSession:
        with self._changed:
            self._changed.wait_for(lambda: self._lent < self.most)
            self._lent += 1
            found = next((s for s in self._idle if s.kind == kind), None)
            found = found or next((s for s in self._idle if s.reconfigure(kind)), None)
            if found is not None:
                self._idle.remove(found)
                return found
            last = self._idle.pop(0) if self._lent + len(self._idle) > self.most else None
        try:
            if last is not None:
                last.close()
            return self._create(kind)
        except BaseException:
            self._returned(None)
            raise

    def _returned(self, session: NvdecSession | None) -> None:
        with self._changed:
            self._lent -= 1
            if session is not None:
                self._idle.append(session)
            self._changed.notify()


def refusal(look: FrameLook, capabilities: Callable[[str, str], dict[str, int]]) -> str:
    """Return why a GPU with these `capabilities` cannot decode such videos; empty if it can."""
    if look.codec not in CODECS or look.pixels not in PIXELS:
        return f"{look.codec} with {look.pixels} pixels is not decoded on GPUs"
    can = capabilities(look.codec, look.pixels)
    if not can["supported"]:
        return f"this GPU decodes no {look.codec} with {look.pixels} pixels"
    fits = (
        can["width_min"] <= look.width <= can["width_max"]
        and can["height_min"] <= look.height <= can["height_max"]
        and -(-look.width // 16) * -(-look.height // 16) <= can["mb_num_max"]
    )
    size = f"{look.width}x{look.height}"
    if not fits:
        least, most = (f"{can[f'width_{end}']}x{can[f'height_{end}']}" for end in ("min", "max"))
        return f"this GPU decodes {look.codec} from {least} to {most}, not {size}"
    if look.width % 2 or look.height % 2:
        return f"{size} is odd, where PyNvVideoCodec cuts chroma off"
    return ""
