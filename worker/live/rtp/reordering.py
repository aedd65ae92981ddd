"""Puts RTP packets back in order (RFC 3550)."""

import heapq
from collections.abc import Callable

from worker.live.rtp.rtp_packets import RtpPacket, signed

REORDERED = 1024
"""Packets that may wait for one that is late."""
REORDERED_BYTES = 4 << 20
"""Bytes that may wait for a packet that is late."""
RESTARTED = 4096
"""A larger step ahead in the sequence numbers means that the camera counts anew."""


class Reorder:
    """Hands packets on in order; one that stays away for `patience` seconds is given up.

    `lost` counts those. Over TCP nothing is late, so `patience` is 0.
    """

    def __init__(self, take: Callable[[RtpPacket, bool], None], patience: float) -> None:
        self.lost = 0
        self._take = take
        self._patience = patience
        self._next: int | None = None
        """The number that comes next: a sequence number, counted on where those wrap."""
        self._waiting: list[tuple[int, RtpPacket]] = []
        self._numbers: set[int] = set()
        self._bytes = 0
        self._since = 0.0

    def push(self, packet: RtpPacket, now: float) -> None:
        """Add a packet that arrived at `now` (s). `take` gets each, and whether one before it is lost."""
        if self._next is None:
            self._next = packet.sequence
        ahead = signed(packet.sequence - self._next, 16)
        number = self._next + ahead
        if ahead == 0 and not self._waiting:
            self._next += 1
            self._take(packet, False)
            return
        if -REORDERED < ahead < 0 or number in self._numbers:
            return  # a copy, or too late
        if ahead < 0 or ahead > RESTARTED:
            self.flush()
            self._next = packet.sequence + 1
            self._take(packet, True)
            return
        if not self._waiting:
            self._since = now
        heapq.heappush(self._waiting, (number, packet))
        self._numbers.add(number)
        self._bytes += _weight(packet)
        self._deliver(self._next, now)

    def _deliver(self, following: int, now: float) -> None:
        while self._waiting:
            missing = self._waiting[0][0] - following
            if missing and (
                now - self._since < self._patience
                and len(self._waiting) < REORDERED
                and self._bytes < REORDERED_BYTES
            ):
                break
            self.lost += missing
            number, packet = self._pop()
            self._take(packet, missing > 0)
            following, self._since = number + 1, now
        self._next = following

    def _pop(self) -> tuple[int, RtpPacket]:
        number, packet = heapq.heappop(self._waiting)
        self._numbers.remove(number)
        self._bytes -= _weight(packet)
        return number, packet

    def flush(self) -> None:
        """Hand on the packets that wait."""
        while self._waiting:
            number, packet = self._pop()
            self._take(packet, True)
            self._next = number + 1


def _weight(packet: RtpPacket) -> int:
    return len(packet.payload) + len(packet.extension)
