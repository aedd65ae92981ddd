"""Every way in which RTP carries NAL units: RFC 6184 and RFC 7798."""

import random
import struct
from itertools import pairwise

import pytest

from tests.camera import packetize
from worker.live.rtp.access_units import AccessUnit, Assembler
from worker.live.rtp.rtp_packets import RtpPacket
from worker.live.rtp.session_description import Track

Sent = tuple[int, bytes]
"""Timestamp and payload of a packet."""


def received(codec: str, sent: list[Sent], disorder: int = -1, missing: int = -1) -> list[tuple[bytes, ...]]:
    """The NAL units of each picture."""
    units: list[AccessUnit] = []
    assembler = Assembler(Track(codec, 96, disorder=disorder), units.append)
    for number, (timestamp, payload) in enumerate(sent):
        if number != missing:
            assembler.push(RtpPacket(number, timestamp, 1, payload), lost=number == missing + 1 > 0)
    assembler.flush()
    return [unit.nals for unit in units]


def sized(nal: bytes) -> bytes:
    return struct.pack(">H", len(nal)) + nal


SPS, PPS, IDR = b"\x67abc", b"\x68d", b"\x65" + b"efg" * 900


def test_single_nal_units() -> None:
    assert received("h264", [(0, SPS), (0, PPS), (3000, b"\x41x")]) == [(SPS, PPS), (b"\x41x",)]


def test_stap_a() -> None:
    assert received("h264", [(0, b"\x78" + sized(SPS) + sized(PPS))]) == [(SPS, PPS)]


def test_stap_a_that_is_cut_off() -> None:
    assert received("h264", [(0, b"\x78" + sized(SPS) + sized(PPS)[:1])]) == [(SPS,)]


def test_fu_a() -> None:
    assert received("h264", [(0, part) for part in packetize(IDR, "h264")]) == [(IDR,)]


@pytest.mark.parametrize("missing", [0, 1, 2])
def test_a_nal_unit_that_lost_a_fragment_is_dropped(missing: int) -> None:
    parts = [(0, part) for part in packetize(IDR, "h264")]
    assert len(parts) == 3
    assert received("h264", [*parts, (3000, b"\x41y"), (6000, b"\x41z")], missing=missing)[-2:] == [
        (b"\x41y",), (b"\x41z",),
    ]  # fmt: skip
    assert (IDR,) not in received("h264", [*parts, (3000, b"\x41y")], missing=missing)


def test_fragments_of_two_pictures_are_not_put_together() -> None:
    """The end of one was lost, and the start of the next, and nobody noticed."""
    first, _, last = packetize(IDR, "h264")
    assert received("h264", [(0, first), (3000, last)]) == []


# Out of order (packetization-mode=2) ------------------------------------------------------------------------


def stap_b(number: int, *nals: bytes) -> bytes:
    return b"\x79" + struct.pack(">H", number) + b"".join(map(sized, nals))


def test_stap_b() -> None:
    assert received("h264", [(0, stap_b(65_535, SPS, PPS))], disorder=0) == [(SPS, PPS)]


@pytest.mark.parametrize(("kind", "width"), [(26, 2), (27, 3)])
def test_mtap(kind: int, width: int) -> None:
    """Two pictures in one packet, the second one first."""
    later, now = b"\x41later", b"\x41now"
    payload = bytes([0x60 | kind]) + struct.pack(">H", 7)
    payload += struct.pack(">HB", len(later), 1) + (3000).to_bytes(width, "big") + later
    payload += struct.pack(">HB", len(now), 0) + (0).to_bytes(width, "big") + now
    assert received("h264", [(1000, payload)], disorder=1) == [(now,), (later,)]


def test_fu_b() -> None:
    first, *rest = packetize(IDR, "h264")
    begins = bytes([first[0] & 0xE0 | 29, first[1]]) + struct.pack(">H", 5) + first[2:]
    sent = [(0, begins), *((0, part) for part in rest), (0, stap_b(4, SPS, b"\x41")[: 3 + len(sized(SPS))])]
    assert received("h264", sent, disorder=1) == [(SPS, IDR)]


@pytest.mark.parametrize("seed", range(5))
def test_pictures_sent_before_their_turn(seed: int) -> None:
    """Within a window of 4, across the number's wrap-around."""
    nals = [b"\x41" + bytes([number + 1]) for number in range(40)]
    sent = [(number * 3000, stap_b((65_520 + number) & 0xFFFF, nal)) for number, nal in enumerate(nals)]
    order = sorted(range(40), key=lambda n: n + random.Random(seed * 100 + n).uniform(0, 4))
    assert any(b < a for a, b in pairwise(order))
    assert received("h264", [sent[n] for n in order], disorder=4) == [(nal,) for nal in nals]


# H.265 --------------------------------------------------------------------------------------------------


VPS5, SPS5, SLICE5 = b"\x40\x01a", b"\x42\x01bc", b"\x26\x01" + b"xyz" * 900


def test_hevc_single_aggregated_and_fragmented() -> None:
    aggregated = b"\x60\x01" + sized(VPS5) + sized(SPS5)
    parts = packetize(SLICE5, "hevc")
    assert len(parts) == 3
    sent = [(0, aggregated), *((0, part) for part in parts), (3000, b"\x02\x01z")]
    assert received("hevc", sent) == [(VPS5, SPS5, SLICE5), (b"\x02\x01z",)]


def test_hevc_with_decoding_order_numbers() -> None:
    """A single NAL unit, an aggregation packet and a fragmented one, in reverse."""
    single = b"\x02\x01" + struct.pack(">H", 3) + b"s"
    aggregated = b"\x60\x01" + struct.pack(">H", 0) + sized(VPS5) + b"\0" + sized(SPS5)
    first, *rest = packetize(SLICE5, "hevc")
    parts = [first[:3] + struct.pack(">H", 2) + first[3:], *rest]
    sent = [(0, single), *((0, part) for part in parts), (0, aggregated)]
    assert received("hevc", sent, disorder=4) == [(VPS5, SPS5, SLICE5, b"\x02\x01s")]


def test_paci_is_taken_off() -> None:
    """RFC 7798, 4.4.4: here with three bytes of extension, around a NAL unit of type 1."""
    fields = 1 << 9 | 3 << 4
    payload = b"\x64\x01" + struct.pack(">H", fields) + b"ext" + b"body"
    assert received("hevc", [(0, payload)]) == [(b"\x02\x01body",)]


def test_paci_within_paci_is_dropped() -> None:
    payload = b"\x64\x01" + struct.pack(">H", 50 << 9) + b"body"
    assert received("hevc", [(0, payload), (3000, b"\x02\x01z")]) == [(b"\x02\x01z",)]
