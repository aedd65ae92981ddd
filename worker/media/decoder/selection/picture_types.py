"""Which packets of a codec hold a picture that needs no other, read from their first bits.

For codecs in which such a key picture resets everything, and no picture is presented before one that it is
coded after. What a container says of its packets is no help: in AVI all of H.263 is key frames to FFmpeg.
"""

from collections.abc import Callable
from typing import NamedTuple

from worker.media.decoder.selection.bits import Bits

HEAD = 16  # bytes that hold all that is read of most headers


class PictureType(NamedTuple):
    """Whether the packet begins with a key picture, and whether a frame comes out of it."""

    is_key: bool
    is_shown: bool = True


def _intra(_: memoryview) -> PictureType:
    """Every picture of the codec is a key picture."""
    return PictureType(is_key=True)


def _vp8(data: memoryview) -> PictureType:
    """RFC 6386, 9.1: a frame of which others are built may itself not be shown."""
    is_key = not data[0] & 1 and bytes(data[3:6]) == b"\x9d\x01\x2a"
    return PictureType(is_key, is_shown=bool(data[0] & 0x10))


def _vp9(data: memoryview) -> PictureType:
    """VP9 bitstream specification, 6.2 and annex B: a packet may hold several frames, most of them hidden."""
    frames = [_vp9_frame(data[at : at + HEAD]) for at in _vp9_frames(data)]
    return PictureType(frames[0].is_key, any(frame.is_shown for frame in frames))


def _vp9_frame(head: memoryview) -> PictureType:
    bits = Bits(head)
    bits.read(2)
    profile = bits.read(1) | bits.read(1) << 1
    if profile == 3:
        bits.read(1)
    if bits.read(1):  # show_existing_frame
        return PictureType(is_key=False)
    is_key, is_shown = not bits.read(1), bool(bits.read(1))
    bits.read(1)
    return PictureType(is_key and bits.read(24) == 0x498342, is_shown)


def _vp9_frames(data: memoryview) -> list[int]:
    """Return where the frames of a packet begin."""
    marker = data[-1]
    count, width = (marker & 7) + 1, (marker >> 3 & 3) + 1
    index = data[-2 - count * width :]
    if marker >> 5 != 6 or index[0] != marker or len(index) < 2 + count * width:
        return [0]
    sizes = [int.from_bytes(index[1 + width * n : 1 + width * (n + 1)], "little") for n in range(count)]
    starts = [sum(sizes[:n]) for n in range(count)]
    return [start for start in starts if start < len(data) - len(index)] or [0]


SEQUENCE_HEADER, FRAME_HEADER, FRAME = 1, 3, 6


def _av1(data: memoryview) -> PictureType:
    """AV1 bitstream specification, 5.9.2: the first frame is a key frame that is shown. (One that is shown
    later begins nothing: pictures that are shown before it need what was before.)"""
    at = 0
    for _ in range(HEAD):
        if at + 2 > len(data):
            break
        kind, has_extension, has_size = data[at] >> 3 & 15, data[at] >> 2 & 1, data[at] >> 1 & 1
        at += 1 + has_extension
        size, at = _leb128(data, at) if has_size else (len(data) - at, at)
        if kind == SEQUENCE_HEADER and at < len(data) and data[at] >> 3 & 1:  # reduced_still_picture_header
            return PictureType(is_key=True)
        if kind in (FRAME_HEADER, FRAME):
            bits = Bits(data[at : at + 1])
            shows_existing, frame_type, is_shown = bits.read(1), bits.read(2), bits.read(1)
            return PictureType(not shows_existing and frame_type == 0 and bool(is_shown))
        at += size
    return PictureType(is_key=False)


def _leb128(data: memoryview, at: int) -> tuple[int, int]:
    """Return the number at `at`, and where it ends (section 4.10.5)."""
    value = 0
    for index, byte in enumerate(data[at : at + 8]):
        value |= (byte & 127) << 7 * index
        if byte < 128:
            return value, at + index + 1
    return value, at + 8


def _theora(data: memoryview) -> PictureType:
    """Theora specification, 7.1. Packets that begin with 1 are headers."""
    return PictureType(data[0] & 0xC0 == 0, is_shown=not data[0] & 0x80)


def _ffv1(data: memoryview) -> PictureType:
    """RFC 9043, 4.3 and 3.8.1: the first symbol of the range coder, at even odds, is `keyframe`."""
    return PictureType(int.from_bytes(data[:2], "big") >= 0x7F80)


def _h263(data: memoryview) -> PictureType:
    """ITU-T H.263, 5.1.3 and 5.1.4."""
    bits = Bits(data[:HEAD])
    bits.read(22 + 8 + 5)
    if bits.read(3) != 7:
        return PictureType(is_key=not bits.read(1))
    if bits.read(3) == 1:  # the optional part of PLUSPTYPE is there
        bits.read(18)
    return PictureType(is_key=not bits.read(3))


def _flv1(data: memoryview) -> PictureType:
    """Sorenson's H.263, Video File Format Specification 10, annex E.4.2."""
    bits = Bits(data[:HEAD])
    bits.read(17 + 5 + 8)
    size = bits.read(3)
    bits.read({0: 16, 1: 32}.get(size, 0))
    return PictureType(is_key=not bits.read(2))


def _msmpeg4(data: memoryview) -> PictureType:
    """MS MPEG-4 versions 2 and 3, Windows Media Video 7: two bits, 0 for I, 1 for P."""
    return PictureType(is_key=not data[0] >> 6)


def _wmv2(data: memoryview) -> PictureType:
    """Windows Media Video 8: one bit, 0 for I."""
    return PictureType(is_key=not data[0] >> 7)


PICTURE_TYPES: dict[str, Callable[[memoryview], PictureType]] = {
    "vp8": _vp8, "vp9": _vp9, "av1": _av1, "theora": _theora, "ffv1": _ffv1,
    "h263": _h263, "flv1": _flv1, "msmpeg4v2": _msmpeg4, "msmpeg4v3": _msmpeg4, "wmv1": _msmpeg4,
    "wmv2": _wmv2,
    **dict.fromkeys(
        ("mjpeg", "prores", "dnxhd", "dvvideo", "huffyuv", "ffvhuff", "utvideo", "png", "jpeg2000"), _intra
    ),
}  # fmt: skip
"""By FFmpeg's names of codecs. What is given is not empty."""
