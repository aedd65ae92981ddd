"""RTP packets: headers, wrap-around."""

import struct

from hypothesis import given
from hypothesis import strategies as st

from worker.live.rtp.rtp_packets import RtpPacket, parse_rtp, signed


def test_headers_with_everything() -> None:
    extension = struct.pack(">HH", 0xBEDE, 1) + bytes(4)
    data = struct.pack(">BBHIII", 0xB1, 0x80 | 96, 7, 8, 9, 10) + extension + b"\x41ab" + b"\0\0\3"
    assert parse_rtp(data, 96) == RtpPacket(7, 8, 9, b"\x41ab", True, b"\xbe\xde" + bytes(4))
    assert parse_rtp(data, 97) is None
    assert parse_rtp(data[:11], 96) is None
    assert parse_rtp(b"\x40" + data[1:], 96) is None


@given(st.binary(max_size=64))
def test_rubbish_is_survived(data: bytes) -> None:
    found = parse_rtp(data, 96)
    assert found is None or found.payload


def test_counters_wrap() -> None:
    assert signed(1 - 65_535, 16) == 2
    assert signed(65_535 - 1, 16) == -2
