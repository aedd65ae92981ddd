"""RTP: order, loss, wrap-around, fragments, reports."""

import struct

from hypothesis import given
from hypothesis import strategies as st

from tests.camera import packetize
from worker.live.rtsp.rtp import (
    AccessUnit,
    Assembler,
    Reorder,
    RtpPacket,
    parse_rtcp,
    parse_rtp,
    receiver_report,
    signed,
)


def packet(sequence: int, timestamp: int = 0, payload: bytes = b"\x41x", source: int = 1) -> RtpPacket:
    return RtpPacket(sequence & 0xFFFF, timestamp & 0xFFFFFFFF, source, payload)


@given(
    start=st.integers(0, 65_535),
    order=st.permutations(range(1, 12)),
    missing=st.sets(st.integers(1, 11), max_size=3),
)
def test_packets_come_out_in_order_and_losses_are_told(
    start: int, order: list[int], missing: set[int]
) -> None:
    taken: list[tuple[int, bool]] = []
    reorder = Reorder(lambda p, lost: taken.append((p.sequence, lost)), patience=1.0)
    reorder.push(packet(start), 0)
    for number in order:
        if number not in missing:
            reorder.push(packet(start + number), 0.1)
    for number in range(12, 16):
        reorder.push(packet(start + number), 5 * number)
    expected = [n for n in range(16) if n not in missing]
    assert [s for s, _ in taken] == [(start + n) & 0xFFFF for n in expected]
    assert [lost for _, lost in taken] == [n - 1 in missing for n in expected]
    assert reorder.lost == len(missing)


def test_copies_and_late_packets_are_dropped() -> None:
    taken: list[int] = []
    reorder = Reorder(lambda p, lost: taken.append(p.sequence), patience=0)
    for sequence in (10, 11, 11, 10, 12, 14, 13, 15):
        reorder.push(packet(sequence), 0)
    assert taken == [10, 11, 12, 14, 15]


def test_a_camera_that_counts_anew() -> None:
    taken: list[tuple[int, bool]] = []
    reorder = Reorder(lambda p, lost: taken.append((p.sequence, lost)), patience=1)
    for sequence in (10, 11, 40_000, 40_001):
        reorder.push(packet(sequence), 0)
    assert taken == [(10, False), (11, False), (40_000, True), (40_001, False)]


@given(
    sizes=st.lists(st.integers(1, 5000), min_size=1, max_size=5),
    first=st.integers(0, 2**32 - 1),
    step=st.integers(1, 90_000),
)
def test_nal_units_of_any_size_come_through_any_wrap(sizes: list[int], first: int, step: int) -> None:
    units: list[AccessUnit] = []
    assembler = Assembler("h264", 90_000, units.append)
    sequence = 65_530
    for number, size in enumerate(sizes):
        for payload in packetize(b"\x41" + bytes([number + 1]) * size, "h264"):
            sequence += 1
            assembler.push(packet(sequence, first + number * step, payload), lost=False)
    assembler.flush()
    assert [unit.data for unit in units] == [
        b"\0\0\0\1\x41" + bytes([n + 1]) * size for n, size in enumerate(sizes)
    ]
    assert [unit.time for unit in units] == [n * step * 100_000 // 9 for n in range(len(sizes))]


def test_a_fragment_that_lost_its_middle_is_dropped() -> None:
    units: list[AccessUnit] = []
    assembler = Assembler("h264", 90_000, units.append)
    begin, _, end = packetize(b"\x65" + b"x" * 3000, "h264")
    assembler.push(packet(1, 0, begin), lost=False)
    assembler.push(packet(3, 0, end), lost=True)
    assembler.push(packet(4, 3000, b"\x41y"), lost=False)
    assembler.flush()
    assert [unit.data for unit in units] == [b"\0\0\0\1\x41y"]


def test_aggregated_units() -> None:
    units: list[AccessUnit] = []
    h264 = Assembler("h264", 90_000, units.append)
    h264.push(packet(1, 0, b"\x18\x00\x02\x67a\x00\x02\x68b"), lost=False)
    h264.flush()
    h265 = Assembler("hevc", 90_000, units.append)
    h265.push(packet(1, 0, b"\x60\x01\x00\x03\x40\x01a\x00\x03\x42\x01b"), lost=False)
    h265.flush()
    assert units[0].data == b"\0\0\0\1\x67a\0\0\0\1\x68b"
    assert units[1].data == b"\0\0\0\1\x40\x01a\0\0\0\1\x42\x01b"


def test_a_picture_that_is_too_large_is_dropped() -> None:
    units: list[AccessUnit] = []
    assembler = Assembler("h264", 90_000, units.append)
    for number in range(1100):
        assembler.push(packet(number, 0, b"\x41" + bytes(16_000)), lost=False)
    assembler.push(packet(1100, 3000, b"\x41y"), lost=False)
    assembler.flush()
    assert [unit.data for unit in units] == [b"\0\0\0\1\x41y"]


def test_headers_with_everything() -> None:
    extension = struct.pack(">HH", 0xBEDE, 1) + bytes(4)
    data = struct.pack(">BBHIII", 0xB1, 0x80 | 96, 7, 8, 9, 10) + extension + b"\x41ab" + b"\0\0\3"
    assert parse_rtp(data, 96) == RtpPacket(7, 8, 9, b"\x41ab")
    assert parse_rtp(data, 97) is None
    assert parse_rtp(data[:11], 96) is None
    assert parse_rtp(b"\x40" + data[1:], 96) is None


@given(st.binary(max_size=64))
def test_rubbish_is_survived(data: bytes) -> None:
    parse_rtp(data, 96)
    parse_rtcp(data)
    for codec in ("h264", "hevc"):
        assembler = Assembler(codec, 90_000, lambda unit: None)
        if data:
            assembler.push(packet(1, 0, data), lost=False)
            assembler.push(packet(2, 9, data), lost=False)
        assembler.flush()


def test_compound_rtcp() -> None:
    report = struct.pack(">BBHIQIII", 0x80, 200, 6, 5, 77, 88, 0, 0)
    bye = struct.pack(">BBHII", 0x82, 203, 2, 5, 6)
    assert parse_rtcp(report + bye) == ((5, 77, 88), frozenset({5, 6}))
    own = receiver_report(1, 5, 70_000)
    assert len(own) % 4 == 0
    assert parse_rtcp(own) == (None, frozenset())


def test_counters_wrap() -> None:
    assert signed(1 - 65_535, 16) == 2
    assert signed(65_535 - 1, 16) == -2
