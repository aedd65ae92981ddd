"""RTCP: the time of day from sender reports, and our receiver reports (RFC 3550, 6.4)."""

import struct
from typing import NamedTuple

from shared.chunks import SECOND
from worker.live.rtp.rtp_packets import RtpPacket, signed

NTP_EPOCH = 2_208_988_800
"""Seconds from 1900, where NTP begins, to 1970."""
EARLIEST_CLOCK = 978_307_200 * SECOND
"""2001: a camera whose clock says less does not know the time (RFC 3550, 6.4.1, lets it count from 0)."""
SENDER_REPORT, RECEIVER_REPORT, DESCRIPTION, BYE = 200, 201, 202, 203
OUR_SOURCE = 0x72746D62
OUR_NAME = b"rt-embed"


class SenderReport(NamedTuple):
    """NTP time (32.32 fixed point) of an RTP timestamp of a source."""

    source: int
    ntp: int
    timestamp: int


class Rtcp(NamedTuple):
    """The used parts of a compound RTCP packet: a sender report, and the sources that say goodbye."""

    report: SenderReport | None
    bye: frozenset[int]


def parse_rtcp(data: bytes) -> Rtcp:
    """Return the last sender report and the sources that say goodbye (RFC 3550, 6.4.1 and 6.6)."""
    report = None
    bye: set[int] = set()
    at = 0
    while at + 4 <= len(data):
        size = 4 + 4 * int.from_bytes(data[at + 2 : at + 4], "big")
        part = data[at : at + size]
        if part[1] == SENDER_REPORT and len(part) >= 20:
            report = SenderReport(*struct.unpack_from(">IQI", part, 4))
        elif part[1] == BYE:
            count = min(part[0] & 31, (len(part) - 4) // 4)
            bye.update(struct.unpack_from(f">{count}I", part, 4))
        at += size
    return Rtcp(report, frozenset(bye))


class SenderClock:
    """The time of day by the camera's sender reports. `reports` counts the usable ones."""

    def __init__(self, clock_rate: int) -> None:
        self.reports = 0
        self._rate = clock_rate
        self._report: tuple[int, int] | None = None

    def report(self, report: SenderReport) -> None:
        """Take a report; one from before 2001 says that the camera does not know the time."""
        wall = ((report.ntp >> 32) - NTP_EPOCH) * SECOND + ((report.ntp & 0xFFFFFFFF) * SECOND >> 32)
        self._report = (wall, report.timestamp) if wall >= EARLIEST_CLOCK else None
        self.reports += self._report is not None

    def wall(self, timestamp: int) -> int | None:
        """Return the time of day (ns since 1970) of an RTP timestamp, None if it is not known."""
        if self._report is None:
            return None
        wall, reported = self._report
        return wall + signed(timestamp - reported, 32) * SECOND // self._rate


class Reception:
    """How the camera's packets arrive: counts for receiver reports (RFC 3550, A.3 and A.8) and people."""

    def __init__(self, clock_rate: int) -> None:
        self.received = 0
        self.jitter = 0.0
        """Ticks of the clock."""
        self._rate = clock_rate
        self._source: int | None = None
        self._first = self._highest = 0
        self._counted = 0
        self._before = 0, 0
        self._transit: float | None = None
        self._reported = 0, 0.0

    @property
    def lost(self) -> int:
        """Packets of the present source that did not arrive."""
        return max(0, self._highest - self._first + 1 - self._counted) if self._counted else 0

    def take(self, packet: RtpPacket, now: float) -> None:
        """Count a packet that arrived at `now` (s)."""
        self.received += 1
        ahead = signed(packet.sequence - (self._highest & 0xFFFF), 16)
        if packet.source != self._source or abs(ahead) > 3000:
            self._source, self._transit = packet.source, None
            self._first = self._highest = packet.sequence
            self._counted, self._before = 0, (0, 0)
        elif ahead > 0:
            self._highest += ahead
        self._counted += 1
        transit = now * self._rate - packet.timestamp
        if self._transit is not None:
            difference = abs(transit - self._transit)
            if difference < self._rate:  # not a jump of the clock
                self.jitter += (difference - self.jitter) / 16
        self._transit = transit

    def reported(self, ntp: int, now: float) -> None:
        """Remember a sender report that arrived at `now` (s), so that the camera can tell the round trip."""
        self._reported = ntp >> 16 & 0xFFFFFFFF, now

    def receiver_report(self, now: float) -> bytes:
        """Return a receiver report, a sign of life that many cameras want, with our name (RFC 3550, 6.5)."""
        expected = self._highest - self._first + 1 if self._counted else 0
        new_expected, new_counted = expected - self._before[0], self._counted - self._before[1]
        self._before = expected, self._counted
        missing = new_expected - new_counted
        fraction = min(255, missing * 256 // new_expected) if new_expected > 0 and missing > 0 else 0
        last, at = self._reported
        delay = min(0xFFFFFFFF, int((now - at) * 65_536)) if last else 0
        lost = fraction << 24 | min(self.lost, 0x7FFFFF)
        report = struct.pack(">BBHII", 0x81, RECEIVER_REPORT, 7, OUR_SOURCE, self._source or 0)
        report += struct.pack(">IIIII", lost, self._highest & 0xFFFFFFFF, int(self.jitter), last, delay)
        items = struct.pack(">BB", 1, len(OUR_NAME)) + OUR_NAME
        items += bytes(4 - len(items) % 4)
        return report + struct.pack(">BBHI", 0x81, DESCRIPTION, 1 + len(items) // 4, OUR_SOURCE) + items
