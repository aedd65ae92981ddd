"""Assembles RTP packets of any payload format into coded pictures."""

from collections.abc import Callable
from typing import NamedTuple, Protocol, TypeAlias

from shared.chunks import SECOND
from worker.live.rtp.excess import Note, ignore
from worker.live.rtp.jpeg_payload import JpegPayload
from worker.live.rtp.nal_payload import H264Payload, H265Payload, NalPayload
from worker.live.rtp.rtcp import SenderClock
from worker.live.rtp.rtp_packets import RtpPacket, signed
from worker.live.rtp.session_description import START_CODE, Track

LARGEST_UNIT, MOST_PIECES = 16 << 20, 16_384
"""Bytes and pieces of one access unit; a larger one is dropped."""

Emit: TypeAlias = Callable[[int, bytes], None]
"""Takes a piece of the picture of an RTP timestamp: a NAL unit, or whatever the codec's pieces are."""


class AccessUnit(NamedTuple):
    """One coded picture. `time` is ns on the stream's own clock, which starts anywhere; `wall` is ns since
    1970 by the last of `reports` sender reports, None before the first; `data` is in Annex B form where the
    codec has NAL units, which are in `nals`, too."""

    time: int
    wall: int | None
    data: bytes
    nals: tuple[bytes, ...] = ()
    reports: int = 0


class PayloadDecoder(Protocol):
    """Finds the pieces of pictures in the payloads of packets."""

    def push(self, packet: RtpPacket, *, lost: bool) -> None:
        """Add the next packet; `lost` says that some before it are missing."""

    def flush(self) -> None:
        """Hand on what is complete and forget the rest: the source changes or ends."""


class PlainPayload:
    """MPEG-4: each packet holds a piece of the elementary stream (RFC 6416, 5)."""

    def __init__(self, emit: Emit) -> None:
        self._emit = emit

    def push(self, packet: RtpPacket, *, lost: bool) -> None:
        """Hand on the piece."""
        self._emit(packet.timestamp, packet.payload)

    def flush(self) -> None:
        """Nothing is held."""


class Assembler:
    """Puts pieces together to access units: those of one RTP timestamp are one picture.

    Not every camera sets the marker bit, and only there: a picture is whole when the next begins.
    """

    def __init__(self, track: Track, take: Callable[[AccessUnit], None], note: Note = ignore) -> None:
        self.clock = SenderClock(track.clock_rate)
        self._rate = track.clock_rate
        self._take = take
        self._note = note
        self._payload = _payload(track, self._add, note)
        self._start = START_CODE if isinstance(self._payload, NalPayload) else b""
        self._source: int | None = None
        self._timestamp: int | None = None
        self._ticks = 0
        self._pieces: list[bytes] = []
        self._size = 0
        self._excessive = False

    def push(self, packet: RtpPacket, lost: bool) -> None:
        """Add the next packet; `lost` says that some before it are missing."""
        if packet.source != self._source:
            self.flush()
            if self._source is not None:
                self.clock = SenderClock(self._rate)
            self._source, self._timestamp = packet.source, None  # whose timestamps go on from anywhere
        self._payload.push(packet, lost=lost)

    def flush(self) -> None:
        """Hand on the picture under way."""
        self._payload.flush()
        self._complete()

    def _add(self, timestamp: int, piece: bytes) -> None:
        if timestamp != self._timestamp:
            self._complete()
            if self._timestamp is not None:
                self._ticks += signed(timestamp - self._timestamp, 32)
            self._timestamp = timestamp
        if not piece or self._excessive:
            return
        self._size += len(piece)
        if self._start and b"\0\0\1" in piece:  # several, as in a file: some cameras send them so
            parts = piece.split(b"\0\0\1", MOST_PIECES)
            self._pieces += [nal for nal in (part.rstrip(b"\0") for part in parts) if nal]
        else:
            self._pieces.append(piece)
        if self._size > LARGEST_UNIT or len(self._pieces) > MOST_PIECES:
            self._excessive = True
            self._pieces.clear()
            self._note(f"pictures of more than {LARGEST_UNIT >> 20} MiB or {MOST_PIECES} pieces are dropped")

    def _complete(self) -> None:
        pieces, self._pieces = self._pieces, []
        self._size, self._excessive = 0, False
        if pieces and self._timestamp is not None:
            wall, time = self.clock.wall(self._timestamp), self._ticks * SECOND // self._rate
            data = self._start + self._start.join(pieces)
            nals = tuple(pieces) if self._start else ()
            self._take(AccessUnit(time, wall, data, nals, self.clock.reports))


def _payload(track: Track, emit: Emit, note: Note) -> PayloadDecoder:
    """Return what reads the payload format of a track."""
    match track.codec:
        case "h264":
            return H264Payload(emit, track.disorder, note)
        case "hevc":
            return H265Payload(emit, track.disorder, note)
        case "mjpeg":
            return JpegPayload(emit, track.size, note)
        case _:
            return PlainPayload(emit)
