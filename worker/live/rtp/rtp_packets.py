"""RTP packets (RFC 3550)."""

import struct
from typing import NamedTuple


class RtpPacket(NamedTuple):
    """The used fields of an RTP packet. `extension` is the header extension: its kind, then its data."""

    sequence: int
    timestamp: int
    source: int
    payload: bytes
    marker: bool = False
    extension: bytes = b""


def parse_rtp(data: bytes, payload_type: int) -> RtpPacket | None:
    """Return the packet, or None if it has another payload type or is none (RFC 3550, 5.1)."""
    if len(data) < 12 or data[0] >> 6 != 2 or data[1] & 0x7F != payload_type:
        return None
    sequence, timestamp, source = struct.unpack_from(">HII", data, 2)
    start, end, extension = 12 + 4 * (data[0] & 15), len(data), b""
    if data[0] & 0x10 and len(data) >= start + 4:
        size = 4 * int.from_bytes(data[start + 2 : start + 4], "big")
        extension = data[start : start + 2] + data[start + 4 : start + 4 + size]
        start += 4 + size
    if data[0] & 0x20:
        end -= data[-1]
    if start >= end:
        return None
    return RtpPacket(sequence, timestamp, source, data[start:end], data[1] > 0x7F, extension)


def signed(difference: int, bits: int) -> int:
    """Return a difference of counters that wrap at 2**bits as the nearest signed number."""
    half = 1 << bits - 1
    return (difference + half) % (1 << bits) - half
