"""NAL units in RTP packets: H.264 (RFC 6184) and H.265 (RFC 7798)."""

import heapq
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import NamedTuple

from worker.live.rtp.excess import Note, ignore
from worker.live.rtp.rtp_packets import RtpPacket, signed

LARGEST_NAL = 16 << 20
"""Bytes of one NAL unit; a larger one is dropped."""
LARGEST_DISORDER, MOST_DISORDER = 16 << 20, 4096
"""Bytes and number of NAL units that may wait for their turn; beyond, the first of them is handed on."""


class _Waiting(NamedTuple):
    number: int
    arrival: int
    timestamp: int
    nal: bytes


class DecodingOrder:
    """Puts NAL units back into decoding order where they are sent out of it, by their decoding order numbers
    (RFC 6184, 7.2; RFC 7798, 6).

    One is handed on when more than `depth` of those that `counts` wait.
    """

    def __init__(
        self, emit: Callable[[int, bytes], None], depth: int, counts: Callable[[bytes], bool]
    ) -> None:
        self._emit = emit
        self._depth = depth
        self._counts = counts
        self._waiting: list[_Waiting] = []
        self._counted = self._size = self._arrived = 0
        self._latest: int | None = None

    def push(self, number: int, timestamp: int, nal: bytes) -> None:
        """Add a NAL unit with its number, which wraps at 2**16."""
        latest = number if self._latest is None else self._latest
        unwrapped = latest + signed(number - latest, 16)
        self._latest = max(latest, unwrapped)
        self._arrived += 1
        heapq.heappush(self._waiting, _Waiting(unwrapped, self._arrived, timestamp, nal))
        self._size += len(nal)
        self._counted += self._counts(nal)
        while (
            self._counted > self._depth or self._size > LARGEST_DISORDER or len(self._waiting) > MOST_DISORDER
        ):
            self._hand_on()

    def _hand_on(self) -> None:
        first = heapq.heappop(self._waiting)
        self._size -= len(first.nal)
        self._counted -= self._counts(first.nal)
        self._emit(first.timestamp, first.nal)

    def flush(self) -> None:
        """Hand on the NAL units that wait."""
        while self._waiting:
            self._hand_on()


class NalPayload(ABC):
    """Finds the NAL units in packets. With `disorder` of 0 or more they carry decoding order numbers, and
    that many come before their turn."""

    def __init__(self, emit: Callable[[int, bytes], None], disorder: int = -1, note: Note = ignore) -> None:
        self._emit = emit
        self._note = note
        self._numbered = disorder >= 0
        self._order = DecodingOrder(emit, max(0, disorder), self._is_counted)
        self._fragments = bytearray()
        self._timestamp = 0
        self._number = 0

    def push(self, packet: RtpPacket, *, lost: bool) -> None:
        """Add the next packet; `lost` says that some before it are missing."""
        if lost or packet.timestamp != self._timestamp:
            self._fragments.clear()
        self._timestamp = packet.timestamp
        self._read(packet.payload)

    def flush(self) -> None:
        """Hand on the NAL units that wait, and forget one that is not complete."""
        self._fragments.clear()
        self._order.flush()

    @abstractmethod
    def _is_counted(self, nal: bytes) -> bool:
        """Return whether a NAL unit counts towards those sent out of order."""

    @abstractmethod
    def _read(self, payload: bytes) -> None:
        """Take apart one packet."""

    def _add(self, nal: bytes, number: int = -1, later: int = 0) -> None:
        """Hand on a NAL unit, by its decoding order number if it has one, `later` ticks after the packet."""
        if not nal:
            return
        timestamp = (self._timestamp + later) & 0xFFFFFFFF
        if number < 0:
            self._emit(timestamp, nal)
        else:
            self._order.push(number & 0xFFFF, timestamp, nal)

    def _fragment(self, flags: int, header: bytes, part: bytes, number: int = -1) -> None:
        """Add a part of a NAL unit that comes in several packets; one that lacks a part is dropped."""
        if flags & 0x80:
            self._fragments[:], self._number = header, number
        if not self._fragments:
            return
        if len(self._fragments) + len(part) > LARGEST_NAL:
            self._fragments.clear()
            self._note(f"NAL units larger than {LARGEST_NAL >> 20} MiB are dropped")
            return
        self._fragments += part
        if flags & 0x40:
            nal = bytes(self._fragments)
            self._fragments.clear()
            self._add(nal, self._number)


class H264Payload(NalPayload):
    """RFC 6184, 5.6 to 5.8: single NAL units, STAP-A and -B, MTAP16 and 24, FU-A and -B."""

    def _is_counted(self, nal: bytes) -> bool:
        return 1 <= nal[0] & 31 <= 5

    def _read(self, payload: bytes) -> None:
        kind = payload[0] & 31
        if kind <= 23:  # 0 where a start code comes first, as in a file
            self._add(payload)
        elif kind == 24:
            self._aggregate(payload, 1)
        elif kind == 25:
            self._aggregate(payload, 3, int.from_bytes(payload[1:3], "big"))
        elif kind in (26, 27):
            self._aggregate_times(payload, kind - 24)
        elif kind in (28, 29) and len(payload) > 2:
            header = bytes([payload[0] & 0xE0 | payload[1] & 31])
            if kind == 28:
                self._fragment(payload[1], header, payload[2:])
            else:
                self._fragment(payload[1], header, payload[4:], int.from_bytes(payload[2:4], "big"))

    def _aggregate(self, payload: bytes, at: int, number: int = -1) -> None:
        while at + 2 < len(payload):
            size = int.from_bytes(payload[at : at + 2], "big")
            self._add(payload[at + 2 : at + 2 + size], number)
            at += 2 + size
            number += number >= 0

    def _aggregate_times(self, payload: bytes, width: int) -> None:
        """NAL units of several times; the offset of each has `width` bytes (5.7.2)."""
        base, at, head = int.from_bytes(payload[1:3], "big"), 3, 3 + width
        while at + head < len(payload):
            size = int.from_bytes(payload[at : at + 2], "big")
            later = int.from_bytes(payload[at + 3 : at + head], "big")
            self._add(payload[at + head : at + head + size], base + payload[at + 2], later)
            at += head + size


class H265Payload(NalPayload):
    """RFC 7798, 4.4: single NAL units, aggregation packets, fragmentation units, PACI."""

    def _is_counted(self, nal: bytes) -> bool:
        return True

    def _read(self, payload: bytes) -> None:
        kind = payload[0] >> 1 & 63
        if len(payload) < 3:
            return
        if kind == 48:
            self._aggregate(payload)
        elif kind == 49:
            self._part(payload)
        elif kind == 50 and len(payload) > 4:
            self._read(_without_paci(payload))
        elif kind < 48 and self._numbered:
            self._add(payload[:2] + payload[4:], int.from_bytes(payload[2:4], "big"))
        elif kind < 48:
            self._add(payload)

    def _part(self, payload: bytes) -> None:
        header = bytes([payload[0] & 0x81 | (payload[2] & 63) << 1, payload[1]])
        if self._numbered and payload[2] & 0x80:
            self._fragment(payload[2], header, payload[5:], int.from_bytes(payload[3:5], "big"))
        else:
            self._fragment(payload[2], header, payload[3:])

    def _aggregate(self, payload: bytes) -> None:
        """4.4.2: after the first, a NAL unit's number is a one-byte difference."""
        at, number = 2, -1
        while at + 2 < len(payload):
            if self._numbered and number < 0:
                number, at = int.from_bytes(payload[at : at + 2], "big"), at + 2
            elif self._numbered:
                number, at = number + payload[at] + 1, at + 1
            size = int.from_bytes(payload[at : at + 2], "big")
            self._add(payload[at + 2 : at + 2 + size], number)
            at += 2 + size


def _without_paci(payload: bytes) -> bytes:
    """Return what a PACI packet carries as it would be without (4.4.4); one within another is dropped."""
    fields = int.from_bytes(payload[2:4], "big")
    kind, extra = fields >> 9 & 63, fields >> 4 & 31
    header = bytes([fields >> 8 & 0x80 | kind << 1 | payload[0] & 1, payload[1]])
    return header + payload[4 + extra :] if kind != 50 else b"\x64\x01"
