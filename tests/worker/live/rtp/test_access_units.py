"""Access units from RTP packets: pieces of one timestamp are a picture, whatever carries them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.camera import packetize
from worker.live.rtp.access_units import AccessUnit, Assembler
from worker.live.rtp.rtp_packets import RtpPacket
from worker.live.rtp.session_description import Track


def packet(sequence: int, timestamp: int = 0, payload: bytes = b"\x41x", source: int = 1) -> RtpPacket:
    return RtpPacket(sequence & 0xFFFF, timestamp & 0xFFFFFFFF, source, payload)


def assembled(codec: str, *packets: RtpPacket) -> list[AccessUnit]:
    units: list[AccessUnit] = []
    assembler = Assembler(Track(codec, 96), units.append)
    for one in packets:
        assembler.push(one, lost=False)
    assembler.flush()
    return units


@given(
    sizes=st.lists(st.integers(1, 5000), min_size=1, max_size=5),
    first=st.integers(0, 2**32 - 1),
    step=st.integers(1, 90_000),
)
def test_nal_units_of_any_size_come_through_any_wrap(sizes: list[int], first: int, step: int) -> None:
    units: list[AccessUnit] = []
    assembler = Assembler(Track("h264", 96), units.append)
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


def test_a_picture_that_is_too_large_is_dropped() -> None:
    packets = [packet(number, 0, b"\x41" + bytes([7]) * 16_000) for number in range(1100)]
    units = assembled("h264", *packets, packet(1100, 3000, b"\x41y"))
    assert [unit.data for unit in units] == [b"\0\0\0\1\x41y"]


def test_several_slices_are_one_picture() -> None:
    units = assembled("h264", packet(1, 9, b"\x09\xf0"), packet(2, 9, b"\x65a"), packet(3, 9, b"\x65b"))
    (unit,) = units
    assert unit.nals == (b"\x09\xf0", b"\x65a", b"\x65b")
    assert unit.data == b"\0\0\0\1\x09\xf0\0\0\0\1\x65a\0\0\0\1\x65b"


@pytest.mark.parametrize("start", [b"", b"\0\0\1", b"\0\0\0\1"])
def test_nal_units_with_start_codes_in_one_packet(start: bytes) -> None:
    """Some cameras put what belongs into a file into one packet."""
    payload = start + b"\x67a\0\0\0\1\x68b\0\0\1\x65c"
    (unit,) = assembled("h264", packet(1, 0, payload))
    assert unit.nals == (b"\x67a", b"\x68b", b"\x65c")


def test_mpeg4_pieces_are_put_together() -> None:
    units = assembled(
        "mpeg4", packet(1, 0, b"\0\0\1\xb6a"), packet(2, 0, b"b"), packet(3, 3000, b"\0\0\1\xb6c")
    )
    assert [unit.data for unit in units] == [b"\0\0\1\xb6ab", b"\0\0\1\xb6c"]
    assert [unit.nals for unit in units] == [(), ()]


def test_a_new_source_goes_on_in_time() -> None:
    """Its timestamps have nothing to do with those before."""
    units = assembled(
        "h264", packet(1, 0), packet(2, 3000), packet(9, 10**9, source=2), packet(10, 10**9 + 3000, source=2)
    )
    assert [round(unit.time * 9 / 100_000) for unit in units] == [0, 3000, 3000, 6000]


@given(
    st.sampled_from(["h264", "hevc", "mjpeg", "mpeg4"]),
    st.lists(st.binary(min_size=1, max_size=64), max_size=6),
)
def test_rubbish_is_survived(codec: str, payloads: list[bytes]) -> None:
    for disorder in (-1, 2):
        units: list[AccessUnit] = []
        assembler = Assembler(Track(codec, 96, disorder=disorder), units.append)
        for number, payload in enumerate(payloads):
            assembler.push(RtpPacket(number, number // 2, 1, payload, bool(payload[0] & 1)), lost=number == 3)
        assembler.flush()
        assert all(unit.data for unit in units)
