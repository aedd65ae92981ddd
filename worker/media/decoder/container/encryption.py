"""Recognises encrypted videos. FFmpeg decodes them to noise, without an error."""

from __future__ import annotations

from collections.abc import Iterator

from worker.media.decoder.container.boxes import ByteFile, boxes, find, read_at, size_of

HEADER = 256 << 10
"""Bytes at the front of Matroska and ASF files that are searched."""
TS_PACKET, TS_PACKETS = 188, 20_000
MOST_ELEMENTS = 10_000
EBML, ASF = b"\x1a\x45\xdf\xa3", b"\x30\x26\xb2\x75"
ENCRYPTED = "the video is encrypted"

SAMPLE_ENTRIES = (b"moov", b"trak", b"mdia", b"minf", b"stbl", b"stsd")
SEGMENT, TRACKS, TRACK, TRACK_TYPE, VIDEO = 0x18538067, 0x1654AE6B, 0xAE, 0x83, b"\x01"
ENCODINGS, ENCODING, ENCRYPTION = 0x6D80, 0x6240, 0x5035
# ASF specification, 10.3: the objects of content encryption, in its plain, extended and advanced form.
ASF_OBJECTS = (
    bytes.fromhex("fbb3112223bdd211b4b700a0c955fc6e"),
    bytes.fromhex("14e68a292226174cb935dae07ee9289c"),
    bytes.fromhex("338505438169e6499b74ad12cb86d58c"),
)


def is_encrypted(file: ByteFile, pid: int = -1) -> bool:
    """Return whether the video of a file is encrypted, in part at least. `pid`: its number in a transport
    stream."""
    head = read_at(file, 0, HEADER)
    if head[4:8] in (b"ftyp", b"moov", b"mdat", b"styp", b"moof"):
        return _is_mp4_encrypted(file)
    if head[:4] == EBML:
        return _is_matroska_encrypted(head)
    if head[:4] == ASF:
        return any(found in head for found in ASF_OBJECTS)
    return pid >= 0 and _is_scrambled(read_at(file, 0, TS_PACKETS * TS_PACKET), pid)


def _is_mp4_encrypted(file: ByteFile) -> bool:
    """ISO/IEC 14496-12, 8.12: the sample entries of protected video have a name of their own; `drmi` is
    Apple's."""
    descriptions = find(file, boxes(file, 0, size_of(file)), *SAMPLE_ENTRIES)
    return any(
        entry.kind in (b"encv", b"drmi")
        for description in descriptions
        for entry in boxes(file, description.start + 8, description.end)
    )


def _is_matroska_encrypted(data: bytes) -> bool:
    """RFC 9559, 5.1.4.1.31: a video track whose content has an encoding that is encryption."""
    for track in _find(data, SEGMENT, TRACKS, TRACK):
        types = list(_elements(track))
        is_video = any(number == TRACK_TYPE and value == VIDEO for number, value in types)
        if is_video and any(True for _ in _find(track, ENCODINGS, ENCODING, ENCRYPTION)):
            return True
    return False


def _find(data: bytes, number: int, *deeper: int) -> Iterator[bytes]:
    for found, value in _elements(data):
        if found == number and deeper:
            yield from _find(value, *deeper)
        elif found == number:
            yield value


def _elements(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield the EBML elements in `data` with their content (RFC 8794, 5 to 7), as far as it is there."""
    at = 0
    for _ in range(MOST_ELEMENTS):
        number, at = _vint(data, at, keep_marker=True)
        size, at = _vint(data, at, keep_marker=False)
        if at > len(data) or not number:
            return
        yield number, data[at : at + size]
        at += size


def _vint(data: bytes, at: int, *, keep_marker: bool) -> tuple[int, int]:
    """Return the number at `at`, and where it ends. One of ones alone is an unknown size: all that
    follows."""
    first = data[at] if at < len(data) else 0
    length = 9 - first.bit_length()
    if length > 8:
        return 0, len(data) + 1
    value = int.from_bytes(data[at : at + length], "big")
    return value if keep_marker else value & (1 << 7 * length) - 1, at + length


def _is_scrambled(data: bytes, pid: int) -> bool:
    """ISO/IEC 13818-1, 2.4.3.3: transport_scrambling_control of most of the packets of the track."""
    start = next((n for n in range(TS_PACKET) if data[n::TS_PACKET][:5] == b"G" * 5), 0)
    scrambled = clear = 0
    for at in range(start, len(data) - 3, TS_PACKET):
        if data[at] == 0x47 and int.from_bytes(data[at + 1 : at + 3], "big") & 0x1FFF == pid:
            scrambled += data[at + 3] >> 6 != 0
            clear += data[at + 3] >> 6 == 0
    return scrambled > clear
