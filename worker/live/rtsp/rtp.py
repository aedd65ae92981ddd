"""RTP for video: packets put back in order, H.264 and H.265 access units put together, sender reports.

RFC 3550 (RTP and RTCP), RFC 6184 (H.264), RFC 7798 (H.265).
"""

import struct
from collections.abc import Callable
from typing import NamedTuple

from shared.chunks import SECOND

START_CODE = b"\0\0\0\1"
LARGEST_UNIT = 16 << 20
"""Bytes of one access unit; a larger one is dropped."""
REORDERED = 256
"""Packets that may wait for one that is late."""
NTP_EPOCH = 2_208_988_800
"""Seconds from 1900, where NTP begins, to 1970."""
EARLIEST_CLOCK = 978_307_200 * SECOND
"""2001: a camera whose clock says less does not know the time (RFC 3550, 6.4.1, lets it count from 0)."""
SENDER_REPORT, RECEIVER_REPORT, BYE = 200, 201, 203


class AccessUnit(NamedTuple):
    """One coded picture. `time` is ns on the stream's own clock, which starts anywhere; `wall` is ns since
    1970 by the camera's sender reports, None before the first; `data` is in Annex B form; `sei` holds its SEI
    NAL units."""

    time: int
    wall: int | None
    data: bytes
    sei: tuple[bytes, ...] = ()


class RtpPacket(NamedTuple):
    """What is used of an RTP packet."""

    sequence: int
    timestamp: int
    source: int
    payload: bytes


def parse_rtp(data: bytes, payload_type: int) -> RtpPacket | None:
    """The packet, or None if it is none of this payload type (RFC 3550, 5.1)."""
    if len(data) < 12 or data[0] >> 6 != 2 or data[1] & 0x7F != payload_type:
        return None
    sequence, timestamp, source = struct.unpack_from(">HII", data, 2)
    start, end = 12 + 4 * (data[0] & 15), len(data)
    if data[0] & 0x10 and len(data) >= start + 4:
        start += 4 + 4 * int.from_bytes(data[start + 2 : start + 4], "big")
    if data[0] & 0x20:
        end -= data[-1]
    return RtpPacket(sequence, timestamp, source, data[start:end]) if start < end else None


def signed(difference: int, bits: int) -> int:
    """A difference of counters that wrap at 2**bits, as the nearest signed number."""
    half = 1 << bits - 1
    return (difference + half) % (1 << bits) - half


class Reorder:
    """Hands packets on in order; one that stays away for `patience` seconds is given up.

    `lost` counts those. Over TCP nothing is late, so `patience` is 0.
    """

    def __init__(self, take: Callable[[RtpPacket, bool], None], patience: float) -> None:
        self.lost = 0
        self._take = take
        self._patience = patience
        self._next: int | None = None
        self._waiting: dict[int, RtpPacket] = {}
        self._since = 0.0

    def push(self, packet: RtpPacket, now: float) -> None:
        """Add a packet that arrived at `now` (s). `take` gets each, and whether one before it is lost."""
        if self._next is None:
            self._next = packet.sequence
        ahead = signed(packet.sequence - self._next, 16)
        if ahead == 0 and not self._waiting:
            self._next = (self._next + 1) & 0xFFFF
            self._take(packet, False)
            return
        if -REORDERED < ahead < 0:
            return  # a copy, or too late
        if ahead < 0 or ahead > 4 * REORDERED:  # the camera began to count anew
            self.flush()
            self._next = (packet.sequence + 1) & 0xFFFF
            self._take(packet, True)
            return
        if not self._waiting:
            self._since = now
        self._waiting[packet.sequence] = packet
        self._deliver(now)

    def _deliver(self, now: float) -> None:
        lost = False
        while self._waiting and self._next is not None:
            packet = self._waiting.pop(self._next, None)
            if packet is not None:
                self._take(packet, lost)
                lost, self._since = False, now
            elif now - self._since < self._patience and len(self._waiting) < REORDERED:
                return
            else:
                lost = True
                self.lost += 1
            self._next = (self._next + 1) & 0xFFFF

    def flush(self) -> None:
        """Hand on what waits."""
        for sequence in sorted(self._waiting, key=lambda s: signed(s - (self._next or 0), 16)):
            self._take(self._waiting.pop(sequence), True)


class SenderClock:
    """What the camera's sender reports say about the time of day."""

    def __init__(self, clock_rate: int) -> None:
        self._rate = clock_rate
        self._report: tuple[int, int] | None = None

    def report(self, ntp: int, timestamp: int) -> None:
        """NTP time (32.32 fixed point) of an RTP timestamp."""
        wall = ((ntp >> 32) - NTP_EPOCH) * SECOND + ((ntp & 0xFFFFFFFF) * SECOND >> 32)
        self._report = (wall, timestamp) if wall >= EARLIEST_CLOCK else None

    def wall(self, timestamp: int) -> int | None:
        """The time of day (ns since 1970) of an RTP timestamp, None if it is not known."""
        if self._report is None:
            return None
        wall, reported = self._report
        return wall + signed(timestamp - reported, 32) * SECOND // self._rate


class Assembler:
    """Puts NAL units together to access units: those of one RTP timestamp are one picture.

    Not every camera sets the marker bit, and only there: a picture is whole when the next begins.
    """

    def __init__(self, codec: str, clock_rate: int, take: Callable[[AccessUnit], None]) -> None:
        self.clock = SenderClock(clock_rate)
        self._hevc = codec == "hevc"
        self._rate = clock_rate
        self._take = take
        self._source: int | None = None
        self._timestamp = 0
        self._ticks = 0
        self._nals: list[bytes] = []
        self._sei: list[bytes] = []
        self._size = 0
        self._fragments: list[bytes] = []

    def push(self, packet: RtpPacket, lost: bool) -> None:
        """Add the next packet; `lost` says that some before it are missing."""
        if lost:
            self._fragments.clear()
        if packet.source != self._source:
            self._start(packet)
        if packet.timestamp != self._timestamp:
            self.flush()
            self._ticks += signed(packet.timestamp - self._timestamp, 32)
            self._timestamp = packet.timestamp
        if self._hevc:
            self._h265(packet.payload)
        else:
            self._h264(packet.payload)

    def _start(self, packet: RtpPacket) -> None:
        """The first packet of a source, whose timestamps have nothing to do with those before."""
        self.flush()
        if self._source is not None:
            self.clock = SenderClock(self._rate)
        self._source, self._timestamp = packet.source, packet.timestamp

    def flush(self) -> None:
        """Hand on the picture that is there."""
        self._fragments.clear()
        nals, self._nals = self._nals, []
        sei, self._sei = self._sei, []
        size, self._size = self._size, 0
        if nals and size <= LARGEST_UNIT:
            data = START_CODE + START_CODE.join(nals)
            wall = self.clock.wall(self._timestamp)
            self._take(AccessUnit(self._ticks * SECOND // self._rate, wall, data, tuple(sei)))

    def _add(self, nal: bytes) -> None:
        self._size += len(nal)
        if not nal or self._size > LARGEST_UNIT:
            return
        self._nals.append(nal)
        if (nal[0] >> 1 & 63) == 39 if self._hevc else (nal[0] & 31) == 6:
            self._sei.append(nal)

    def _h264(self, payload: bytes) -> None:
        """RFC 6184, 5.6 to 5.8."""
        kind = payload[0] & 31
        if 1 <= kind <= 23:
            self._add(payload)
        elif kind in (24, 25):
            self._aggregate(payload, 1 if kind == 24 else 3)
        elif kind in (28, 29) and len(payload) > 2:
            header = bytes([payload[0] & 0xE0 | payload[1] & 31])
            self._fragment(payload[1], header, payload[4 if kind == 29 and payload[1] & 0x80 else 2 :])

    def _h265(self, payload: bytes) -> None:
        """RFC 7798, 4.4."""
        kind = payload[0] >> 1 & 63
        if kind == 48:
            self._aggregate(payload, 2)
        elif kind == 49 and len(payload) > 3:
            header = bytes([payload[0] & 0x81 | (payload[2] & 63) << 1, payload[1]])
            self._fragment(payload[2], header, payload[3:])
        elif kind < 48:
            self._add(payload)

    def _aggregate(self, payload: bytes, at: int) -> None:
        while at + 2 < len(payload):
            size = int.from_bytes(payload[at : at + 2], "big")
            self._add(payload[at + 2 : at + 2 + size])
            at += 2 + size

    def _fragment(self, flags: int, header: bytes, part: bytes) -> None:
        """A NAL unit in several packets; one that lacks a part is dropped."""
        if flags & 0x80:
            self._fragments = [header]
        if not self._fragments:
            return
        self._size += len(part)
        if self._size > LARGEST_UNIT:
            self._fragments.clear()
            return
        self._fragments.append(part)
        if flags & 0x40:
            nal = b"".join(self._fragments)
            self._fragments = []
            self._size -= len(nal) - 1
            self._add(nal)


class Rtcp(NamedTuple):
    """What is used of a compound RTCP packet."""

    report: tuple[int, int, int] | None
    """Source, NTP time, RTP timestamp."""
    bye: frozenset[int]


def parse_rtcp(data: bytes) -> Rtcp:
    """The sender report and the sources that say goodbye (RFC 3550, 6.4.1 and 6.6)."""
    report = None
    bye: set[int] = set()
    at = 0
    while at + 4 <= len(data):
        size = 4 + 4 * int.from_bytes(data[at + 2 : at + 4], "big")
        part = data[at : at + size]
        if part[1] == SENDER_REPORT and len(part) >= 20:
            source, ntp, timestamp = struct.unpack_from(">IQI", part, 4)
            report = (source, ntp, timestamp)
        elif part[1] == BYE:
            count = min(part[0] & 31, (len(part) - 4) // 4)
            bye.update(struct.unpack_from(f">{count}I", part, 4))
        at += size
    return Rtcp(report, frozenset(bye))


def receiver_report(us: int, source: int, highest_sequence: int) -> bytes:
    """A receiver report: a sign of life that many cameras want (RFC 3550, 6.4.2), with our name (6.5)."""
    report = struct.pack(">BBHIIIIIII", 0x81, RECEIVER_REPORT, 7, us, source, 0, highest_sequence, 0, 0, 0)
    name = b"rt-embed"
    items = struct.pack(">BB", 1, len(name)) + name
    items += bytes(4 - len(items) % 4)
    return report + struct.pack(">BBHI", 0x81, 202, 1 + len(items) // 4, us) + items
