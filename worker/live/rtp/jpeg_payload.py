"""Motion JPEG in RTP packets (RFC 2435): pictures come without headers, which are made here."""

import struct
from collections.abc import Callable
from functools import lru_cache

from worker.live.rtp.excess import Note, ignore
from worker.live.rtp.rtp_packets import RtpPacket

LARGEST_PICTURE = 16 << 20
"""Bytes of one picture; a larger one is dropped."""
ONE_TABLE = 133
"""Bytes of the largest DQT segment with one table."""
EXTENSION = b"\xff\xd8"
"""The header extension that holds JPEG segments to use instead (ONVIF Streaming Specification, 5.1.3)."""

# RFC 2435, appendix A: the tables of quality 50, in zig-zag order.
_LUMA = bytes(
    [
        *(16, 11, 12, 14, 12, 10, 16, 14, 13, 14, 18, 17, 16, 19, 24, 40),
        *(26, 24, 22, 22, 24, 49, 35, 37, 29, 40, 58, 51, 61, 60, 57, 51),
        *(56, 55, 64, 72, 92, 78, 64, 68, 87, 69, 55, 56, 80, 109, 81, 87),
        *(95, 98, 103, 104, 103, 62, 77, 113, 121, 112, 100, 120, 92, 101, 103, 99),
    ]
)
_CHROMA = bytes([17, 18, 18, 24, 21, 24, 47, 26, 26, 47, 99, 66, 56, 66] + [99] * 50)
# ISO/IEC 10918-1, K.3: how many codes there are of each length, and their values.
_DC_LUMA = bytes([0, 1, 5, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0, 0, 0, 0, *range(12)])
_DC_CHROMA = bytes([0, 3, 1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0, 0, *range(12)])
_AC_LUMA = bytes.fromhex(
    "0002010303020403050504040000017d01020300041105122131410613516107227114328191a1082342b1c11552d1f0"
    "2433627282090a161718191a25262728292a3435363738393a434445464748494a535455565758595a63646566676869"
    "6a737475767778797a838485868788898a92939495969798999aa2a3a4a5a6a7a8a9aab2b3b4b5b6b7b8b9bac2c3c4c5"
    "c6c7c8c9cad2d3d4d5d6d7d8d9dae1e2e3e4e5e6e7e8e9eaf1f2f3f4f5f6f7f8f9fa"
)
_AC_CHROMA = bytes.fromhex(
    "00020102040403040705040400010277000102031104052131061241510761711322328108144291a1b1c109233352f0"
    "156272d10a162434e125f11718191a262728292a35363738393a434445464748494a535455565758595a636465666768"
    "696a737475767778797a82838485868788898a92939495969798999aa2a3a4a5a6a7a8a9aab2b3b4b5b6b7b8b9bac2c3"
    "c4c5c6c7c8c9cad2d3d4d5d6d7d8d9dae2e3e4e5e6e7e8e9eaf2f3f4f5f6f7f8f9fa"
)


class JpegPayload:
    """Puts the fragments of a picture together, and its headers before them.

    A picture that lacks a fragment is dropped: the data after a gap cannot be read. `size` is used where the
    packets do not tell it."""

    def __init__(
        self, emit: Callable[[int, bytes], None], size: tuple[int, int] = (0, 0), note: Note = ignore
    ) -> None:
        self._emit = emit
        self._note = note
        self._size = size
        self._tables: dict[int, bytes] = {}
        self._timestamp = 0
        self._head = b""
        self._data = bytearray()

    def push(self, packet: RtpPacket, *, lost: bool) -> None:
        """Add the next packet; `lost` says that some before it are missing."""
        if lost:
            self._forget()
        payload = packet.payload
        if len(payload) < 8:
            return
        offset, kind, quality = int.from_bytes(payload[1:4], "big"), payload[4], payload[5]
        at = 12 if kind & 64 else 8
        if offset == 0:
            self.flush()
            tables, at = self._read_tables(payload, at, quality)
            interval = int.from_bytes(payload[8:10], "big") if kind & 64 else 0
            width, height = payload[6] * 8 or self._size[0], payload[7] * 8 or self._size[1]
            if tables:
                self._head = _headers(kind & 63, (width, height), tables, interval, packet.extension)
                self._timestamp = packet.timestamp
        if not self._head or offset != len(self._data) or packet.timestamp != self._timestamp:
            self._forget()
            return
        self._data += payload[at:]
        if len(self._data) > LARGEST_PICTURE:
            self._forget()
            self._note(f"pictures larger than {LARGEST_PICTURE >> 20} MiB are dropped")
        elif packet.marker:
            self.flush()

    def flush(self) -> None:
        """Hand on the picture under way."""
        if self._head and self._data:
            end = b"" if self._data.endswith(b"\xff\xd9") else b"\xff\xd9"
            self._emit(self._timestamp, self._head + bytes(self._data) + end)
        self._forget()

    def _forget(self) -> None:
        self._head = b""
        self._data.clear()

    def _read_tables(self, payload: bytes, at: int, quality: int) -> tuple[bytes, int]:
        """Return the DQT segments of a picture, and where its data begins (3.1.4 and 3.1.8). Tables that were
        sent once with a quality of 128 to 254 are used for all later pictures of that quality."""
        if quality < 128:
            return (_scaled(quality) if 0 < quality < 100 else b""), at
        precision, length = payload[at + 1 : at + 2], int.from_bytes(payload[at + 2 : at + 4], "big")
        data = payload[at + 4 : at + 4 + length]
        if data and precision and len(data) == length:
            self._tables[quality] = _dqt(data, precision[0])
        return self._tables.get(quality, b""), at + 4 + length


@lru_cache(maxsize=100)
def _scaled(quality: int) -> bytes:
    """Return the tables of a quality from 1 to 99 (appendix A)."""
    factor = 5000 // quality if quality < 50 else 200 - 2 * quality
    return _dqt(bytes(min(255, max(1, (q * factor + 50) // 100)) for q in _LUMA + _CHROMA), 0)


def _dqt(data: bytes, precision: int) -> bytes:
    """Return DQT segments of tables that follow one another; `precision` has a bit for each of 16 bits."""
    segments, at, number = b"", 0, 0
    while at < len(data) and number < 4:
        wide = precision >> number & 1
        table = data[at : at + (128 if wide else 64)]
        segments += _segment(0xDB, bytes([wide << 4 | number]) + table)
        at, number = at + len(table), number + 1
    return segments


@lru_cache(maxsize=32)
def _headers(kind: int, size: tuple[int, int], tables: bytes, interval: int, extension: bytes) -> bytes:
    """Return everything before a picture's data (appendix B): `kind` 0 is 4:2:2, 1 is 4:2:0. Segments of the
    extension take the place of these."""
    own = _segments(extension[2:]) if extension[:2] == EXTENSION else {}
    sampling = 0x22 if kind & 1 else 0x21
    chroma = int(len(tables) > ONE_TABLE)
    frame = struct.pack(">BHHB", 8, size[1], size[0], 3)
    frame += bytes([1, sampling, 0, 2, 0x11, chroma, 3, 0x11, chroma])
    codes = ((0x00, _DC_LUMA), (0x10, _AC_LUMA), (0x01, _DC_CHROMA), (0x11, _AC_CHROMA))
    made: dict[int, bytes | bytearray] = {
        0xDB: tables,
        0xDD: _segment(0xDD, struct.pack(">H", interval)) if interval else b"",
        0xC0: _segment(0xC0, frame) if all(size) else b"",
        0xC4: b"".join(_segment(0xC4, bytes([number]) + table) for number, table in codes),
        0xDA: _segment(0xDA, bytes([3, 1, 0x00, 2, 0x11, 3, 0x11, 0, 63, 0])),
    }
    made |= own
    return b"\xff\xd8" + b"".join(made.values()) if made[0xC0] else b""


def _segment(marker: int, data: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, len(data) + 2) + data


def _segments(data: bytes) -> dict[int, bytearray]:
    """Return the segments of JPEG headers that matter, by marker."""
    found: dict[int, bytearray] = {}
    at = 0
    while at + 4 <= len(data):
        if data[at] != 0xFF or data[at + 1] in (0xFF, 0xD8):
            at += 1
            continue
        marker, size = data[at + 1], 2 + int.from_bytes(data[at + 2 : at + 4], "big")
        if marker in (0xDB, 0xDD, 0xC0, 0xC4, 0xDA):
            found.setdefault(marker, bytearray()).extend(data[at : at + size])
        at += size
    return found
