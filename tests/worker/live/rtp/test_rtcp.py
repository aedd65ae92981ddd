"""Sender reports, goodbyes, and the receiver reports that we send."""

import struct

from hypothesis import given
from hypothesis import strategies as st

from shared.chunks import SECOND
from worker.live.rtp.rtcp import NTP_EPOCH, Reception, SenderClock, SenderReport, parse_rtcp
from worker.live.rtp.rtp_packets import RtpPacket


def packet(sequence: int, timestamp: int = 0, source: int = 5) -> RtpPacket:
    return RtpPacket(sequence & 0xFFFF, timestamp & 0xFFFFFFFF, source, b"x")


def ntp(wall: float) -> int:
    return int((wall + NTP_EPOCH) * (1 << 32))


def test_compound_rtcp() -> None:
    report = struct.pack(">BBHIQIII", 0x80, 200, 6, 5, 77, 88, 0, 0)
    bye = struct.pack(">BBHII", 0x82, 203, 2, 5, 6)
    assert parse_rtcp(report + bye) == (SenderReport(5, 77, 88), frozenset({5, 6}))


@given(st.binary(max_size=64))
def test_rubbish_is_survived(data: bytes) -> None:
    assert parse_rtcp(data).bye is not None


def test_a_report_gives_the_time_of_day_of_any_timestamp() -> None:
    clock = SenderClock(90_000)
    assert clock.wall(0) is None
    clock.report(SenderReport(5, ntp(1_800_000_000.5), 2**32 - 90_000))
    assert clock.wall(2**32 - 90_000) == 1_800_000_000 * SECOND + SECOND // 2
    assert clock.wall(90_000) == 1_800_000_002 * SECOND + SECOND // 2
    assert clock.reports == 1


def test_a_report_without_a_time_takes_the_time_of_day_away() -> None:
    clock = SenderClock(90_000)
    clock.report(SenderReport(5, ntp(1_800_000_000), 0))
    clock.report(SenderReport(5, 3 << 32, 0))
    assert clock.wall(0) is None
    assert clock.reports == 1


def test_receiver_reports_tell_loss_and_order() -> None:
    """What RFC 3550, A.3, calls expected, received and fraction lost."""
    reception = Reception(90_000)
    for sequence in (65_534, 65_535, 0, 2, 3, 5):  # 1 and 4 are missing of 8
        reception.take(packet(sequence), 1.0)
    reception.reported(ntp(1_800_000_000), 2.0)
    report = reception.receiver_report(3.5)
    assert len(report) % 4 == 0
    ours, source, lost, highest, _, last, delay = struct.unpack_from(">IIIIIII", report, 4)
    assert (ours, source) == (0x72746D62, 5)
    assert (lost >> 24, lost & 0xFFFFFF) == (2 * 256 // 8, 2)
    assert highest == 65_536 + 5
    assert (last, delay) == (ntp(1_800_000_000) >> 16 & 0xFFFFFFFF, 65_536 * 3 // 2)
    for sequence in (6, 7, 8):
        reception.take(packet(sequence), 2.0)
    (lost,) = struct.unpack_from(">I", reception.receiver_report(5), 12)
    assert lost == 2, "the fraction is that since the last report"


def test_jitter_is_the_mean_change_of_the_transit_time() -> None:
    reception = Reception(1000)
    for number in range(200):
        reception.take(packet(number, number * 100), number * 0.1 + (0.008 if number % 2 else 0))
    assert 7.9 < reception.jitter < 8.1
    assert reception.lost == 0


def test_another_source_counts_anew() -> None:
    reception = Reception(90_000)
    reception.take(packet(10), 0)
    reception.take(packet(20_000, source=6), 0)
    reception.take(packet(20_001, source=6), 0)
    assert (reception.lost, reception.received) == (0, 3)
