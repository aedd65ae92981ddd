"""What a packet's first bytes say about it: whether decoding may begin there, and whether other pictures are
predicted from it.

Containers say too little for this. MP4 does not mark references, its sync samples may be pictures after which
decoding is correct only later, and many files mark every packet as a key frame.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple, TypeAlias

from av.packet import Packet
from av.video.stream import VideoStream

from worker.media.decoder.selection.bits import Bits
from worker.media.decoder.selection.picture_types import PICTURE_TYPES, PictureType

Data: TypeAlias = bytes | memoryview
VideoPacket: TypeAlias = "Packet[VideoStream]"

START_CODE = b"\0\0\0\1"
ALONE = 255  # the layer of a picture that no other picture may depend on


class Coding(NamedTuple):
    """How one packet depends on others.

    `entry`: decoding may begin here, and everything that is presented later comes out right. `closed`: an
    entry whose following pictures are all presented after it, or need nothing before it. `reference`: other
    pictures of the same layer may be predicted from it; pictures of higher layers always may. `leading`: True
    or False where the codec says whether the picture is presented before the entry that it follows and needs
    pictures before that entry, None where only its time can tell. `shown`: a frame comes out of it.
    `parameters` are the parameter sets in the packet.
    """

    entry: bool = False
    closed: bool = False
    reference: bool = True
    layer: int = 0
    leading: bool | None = None
    shown: bool = True
    parameters: tuple[bytes, ...] = ()


Parser: TypeAlias = Callable[[VideoPacket], Coding]


def parser(codec: str, extradata: bytes | None) -> Parser | None:
    """Return the parser for a codec by its FFmpeg name, or None if selection is unreliable for it."""
    data = extradata or b""
    if codec == "h264":
        split = _splitter(data, _LENGTH_AT[codec])
        return lambda packet: _h264(packet, split)
    if codec == "hevc":
        split = _splitter(data, _LENGTH_AT[codec])
        return lambda packet: _hevc(packet, split)
    if codec in _MPEG:
        return _MPEG[codec]
    return _whole(PICTURE_TYPES[codec]) if codec in PICTURE_TYPES else None


def nal_parser(codec: str) -> Callable[[Iterable[bytes]], Coding]:
    """Return the parser for pictures of h264 or hevc whose NAL units are at hand."""
    parse: Any = _h264 if codec == "h264" else _hevc
    return lambda nals: parse(nals, iter)


def parameter_sets(codec: str, extradata: bytes | None) -> set[bytes]:
    """Return the parameter sets that a decoder is given before the first packet."""
    return set(_parameter_nals(codec, extradata or b"")) if codec in _LENGTH_AT else set()


def _parameter_nals(codec: str, data: bytes) -> list[bytes]:
    if codec == "h264":
        nals = _avcc_sets(data) if data[:1] == b"\x01" else nal_units(data)
        return [bytes(nal) for nal in nals if nal[0] & 31 in _H264_SETS]
    nals = _hvcc_sets(data) if data[:1] == b"\x01" else nal_units(data)
    return [bytes(nal) for nal in nals if nal[0] >> 1 & 63 in _HEVC_SETS]


def header(codec: str, extradata: bytes | None) -> bytes:
    """Return what a decoder must read before the first packet, in the form of a raw stream."""
    data = extradata or b""
    if codec in _LENGTH_AT:
        return b"".join(START_CODE + nal for nal in _parameter_nals(codec, data))
    if codec == "av1":
        return data[4:] if data[:1] >= b"\x80" else data  # AV1CodecConfigurationRecord, then OBUs
    return data if codec in _MPEG else b""


def annex_b(codec: str, extradata: bytes | None, packet: VideoPacket) -> bytes:
    """Return the packet in the form of a raw stream: NAL units with start codes (H.264, annex B)."""
    if codec in _LENGTH_AT and _has_lengths(extradata or b"", _LENGTH_AT[codec]):
        split = _splitter(extradata or b"", _LENGTH_AT[codec])
        return b"".join(START_CODE + bytes(nal) for nal in split(packet))
    return bytes(packet)


def first_units(codec: str, extradata: bytes | None, packet: VideoPacket, size: int) -> Iterator[bytes]:
    """Yield the first `size` bytes of each NAL unit of a packet of H.264 or HEVC, up to its first slice."""
    for nal in _splitter(extradata or b"", _LENGTH_AT[codec])(packet):
        yield bytes(nal[:size])
        if (codec == "h264" and nal[0] & 31 in (1, 5)) or (codec == "hevc" and nal[0] >> 1 & 63 < 32):
            return


def sequence_sets(codec: str, data: bytes) -> bytes:
    """Return the sequence parameter sets at the start of a byte stream of H.264 or HEVC, which decide how
    many pictures a decoder keeps; empty for other codecs."""
    found = []
    if codec in _LENGTH_AT:
        for nal in nal_units(data):
            kind = nal[0] & 31 if codec == "h264" else nal[0] >> 1 & 63
            if kind == (7 if codec == "h264" else 33):
                found.append(bytes(nal))
            elif (codec == "h264" and kind in (1, 5)) or (codec == "hevc" and kind < 32):
                break
    return b"".join(START_CODE + nal for nal in found)


def parse_keys(packet: VideoPacket) -> Coding:
    """Return what the container alone says: decoding may begin at key frames."""
    return Coding(entry=bool(packet.is_keyframe))


def _whole(look: Callable[[memoryview], PictureType]) -> Parser:
    """Return the parser for a codec whose key frames reset everything; every picture counts as a
    reference."""

    def parse(packet: VideoPacket) -> Coding:
        is_key, is_shown = look(memoryview(packet))
        return Coding(entry=is_key, closed=is_key, shown=is_shown)

    return parse


# NAL units (H.264 and HEVC) ----------------------------------------------------------------------------

Splitter: TypeAlias = Callable[[VideoPacket], Iterator[Data]]


_LENGTH_AT = {"h264": 4, "hevc": 21}  # the byte of the container's record that holds the size of lengths


def _has_lengths(extradata: bytes, length_at: int) -> bool:
    return extradata[:1] == b"\x01" and len(extradata) > length_at


def _splitter(extradata: bytes, length_at: int) -> Splitter:
    """Return how packets are cut into NAL units: by lengths in MP4 and Matroska, else by start codes."""
    if not _has_lengths(extradata, length_at):
        return lambda packet: nal_units(bytes(packet))
    size = (extradata[length_at] & 3) + 1
    return lambda packet: _by_length(memoryview(packet), size)


def _by_length(data: memoryview, size: int) -> Iterator[Data]:
    at = 0
    while at + size < len(data):
        length = int.from_bytes(data[at : at + size], "big")
        at += size
        if length:
            yield data[at : at + length]
        at += length


def nal_units(data: bytes) -> Iterator[bytes]:
    """Yield the NAL units of a byte stream (ITU-T H.264, annex B)."""
    at = data.find(b"\0\0\1")
    while at >= 0:
        end = data.find(b"\0\0\1", at + 3)
        nal = data[at + 3 : end if end >= 0 else len(data)].rstrip(b"\0")
        if nal:
            yield nal
        at = end


def _avcc_sets(extradata: bytes) -> Iterator[bytes]:
    """ISO/IEC 14496-15, 5.3.3.1: sequence, then picture parameter sets."""
    at = 5
    for mask in (31, 255):
        if at >= len(extradata):
            return
        count, at = extradata[at] & mask, at + 1
        for _ in range(count):
            length = int.from_bytes(extradata[at : at + 2], "big")
            if not extradata[at + 2 : at + 2 + length]:
                return
            yield extradata[at + 2 : at + 2 + length]
            at += 2 + length


def _hvcc_sets(extradata: bytes) -> Iterator[bytes]:
    """ISO/IEC 14496-15, 8.3.3.1: arrays of NAL units of one type each."""
    at = 23
    for _ in range(extradata[22] if len(extradata) > 22 else 0):
        count = int.from_bytes(extradata[at + 1 : at + 3], "big")
        at += 3
        for _ in range(count):
            length = int.from_bytes(extradata[at : at + 2], "big")
            if not extradata[at + 2 : at + 2 + length]:
                return
            yield extradata[at + 2 : at + 2 + length]
            at += 2 + length


_H264_SETS, _HEVC_SETS = (7, 8), (32, 33, 34)
_SEI, _RECOVERY_POINT = 6, 6


def _h264(packet: VideoPacket, split: Splitter) -> Coding:
    """ITU-T H.264, 7.4.1: a picture is a reference if its nal_ref_idc is not 0.

    Decoding may begin at an IDR picture, or at an intra picture whose recovery point (D.2.8) is itself.
    """
    parameters: list[bytes] = []
    recovers = reference = coded = False
    for nal in split(packet):
        kind = nal[0] & 31
        if kind in _H264_SETS:
            parameters.append(bytes(nal))
        elif kind == _SEI:
            recovers = recovers or _recovers_at_once(bytes(nal[:64]))
        elif kind == 5:
            return Coding(entry=True, closed=True, parameters=tuple(parameters))
        elif kind in (1, 2):
            coded = True
            if recovers and not _is_intra(bytes(nal[:16])):
                recovers = False
            reference = bool(nal[0] & 0x60)
            if reference and not recovers:
                break
    if not coded:
        return Coding(shown=False, parameters=tuple(parameters))
    return Coding(entry=recovers, reference=reference, parameters=tuple(parameters))


def _recovers_at_once(nal: bytes) -> bool:
    """Return whether an SEI NAL unit starts with messages among which is a recovery point of 0 frames."""
    data = nal[1:].replace(b"\0\0\3", b"\0\0")
    at = 0
    while at + 2 < len(data):
        kind, at = sei_number(data, at)
        size, at = sei_number(data, at)
        if kind == _RECOVERY_POINT:
            return at < len(data) and Bits(data[at:]).exp_golomb() == 0
        at += size
    return False


def sei_number(data: bytes, at: int) -> tuple[int, int]:
    """Return a number of an SEI message's head (ITU-T H.264, 7.3.2.3.1), and where it ends."""
    value = 0
    while at < len(data) and data[at] == 255:
        value, at = value + 255, at + 1
    return value + (data[at] if at < len(data) else 0), at + 1


def _is_intra(nal: bytes) -> bool:
    """Return whether a slice holds no prediction from other pictures: slice_type I or SI."""
    bits = Bits(nal[1:].replace(b"\0\0\3", b"\0\0"))
    bits.exp_golomb()
    return bits.exp_golomb() % 5 in (2, 4)


def _hevc(packet: VideoPacket, split: Splitter) -> Coding:
    """ITU-T H.265, table 7-1: even types below 16 are no references within their sub-layer."""
    parameters: list[bytes] = []
    for nal in split(packet):
        kind = nal[0] >> 1 & 63
        if kind in _HEVC_SETS:
            parameters.append(bytes(nal))
        elif kind < 32 and len(nal) > 1 and not (nal[0] & 1 or nal[1] >> 3):  # the base layer
            return Coding(
                entry=16 <= kind <= 21,
                closed=kind in (19, 20),
                reference=kind >= 16 or bool(kind & 1),
                layer=max(0, (nal[1] & 7) - 1),
                leading=kind in (8, 9),
                parameters=tuple(parameters),
            )
    return Coding(shown=False, leading=False, parameters=tuple(parameters))


# MPEG-1, 2 and 4 ---------------------------------------------------------------------------------------


def _mpeg(
    packet: VideoPacket, start: bytes, kind_of: Callable[[bytes], int], i_picture: int, b_picture: int
) -> Coding:
    """Decoding may begin at an I picture. A B picture is never a reference. Two pictures in one packet are
    only left out together."""
    data = bytes(packet)
    kinds = []
    at = data.find(start)
    while at >= 0:
        kinds.append(kind_of(data[at + 4 : at + 6]))
        at = data.find(start, at + 4)
    if not kinds:
        return Coding(shown=False)
    alone = all(kind == b_picture for kind in kinds)
    return Coding(entry=kinds[0] == i_picture, reference=not alone, layer=ALONE if alone else 0)


def _mpeg12(packet: VideoPacket) -> Coding:
    """ISO/IEC 13818-2, 6.3.9: picture_coding_type is 1 for I, 3 for B."""
    return _mpeg(packet, b"\0\0\1\0", lambda head: head[1] >> 3 & 7 if len(head) > 1 else 0, 1, 3)


def _mpeg4(packet: VideoPacket) -> Coding:
    """ISO/IEC 14496-2, 6.3.5: vop_coding_type is 0 for I, 2 for B. Packed bitstreams hold two pictures in a
    packet."""
    coding = _mpeg(packet, b"\0\0\1\xb6", lambda head: head[0] >> 6 if head else 1, 0, 2)
    packed = bytes(packet).count(b"\0\0\1\xb6") > 1
    return coding._replace(reference=True, layer=0) if packed else coding


_MPEG: dict[str, Parser] = {"mpeg1video": _mpeg12, "mpeg2video": _mpeg12, "mpeg4": _mpeg4}
