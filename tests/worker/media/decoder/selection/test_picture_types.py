"""Types of pictures, in bytes made by hand. Packets of real encoders: test_key_flags."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.media.decoder.selection.picture_types import PICTURE_TYPES, PictureType

KEY, INTER, HIDDEN_KEY = PictureType(True), PictureType(False), PictureType(True, is_shown=False)
VP9_KEY, VP9_HIDDEN_KEY = b"\x82\x49\x83\x42\x00", b"\x80\x49\x83\x42\x00"
VP9_INTER, VP9_HIDDEN, VP9_EXISTING = b"\x86\x00\x40", b"\x84\x00\x40", b"\x88"


def look(codec: str, data: bytes) -> PictureType:
    return PICTURE_TYPES[codec](memoryview(data))


def superframe(*frames: bytes) -> bytes:
    """Several VP9 frames in one packet (VP9 specification, annex B)."""
    marker = bytes([0xC0 | len(frames) - 1])
    return b"".join(frames) + marker + bytes(map(len, frames)) + marker


def bits(text: str) -> bytes:
    """Bytes from bits, with zeros behind them."""
    text = text.replace(" ", "")
    return int(text.ljust(-(-len(text) // 8) * 8, "0"), 2).to_bytes(-(-len(text) // 8), "big") + bytes(8)


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"\x10\x02\0\x9d\x01\x2a\x40\x01", KEY),
        (b"\x10\x02\0\x9d\x01\x2b\x40\x01", INTER),
        (b"\x00\x02\0\x9d\x01\x2a\x40\x01", HIDDEN_KEY),
        (b"\x11\x02\0\x9d\x01\x2a", INTER),
        (b"\x01\x02", PictureType(False, is_shown=False)),
    ],
)
def test_vp8(data: bytes, expected: PictureType) -> None:
    assert look("vp8", data) == expected


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (VP9_KEY, KEY),
        (b"\x82\x49\x83\x43\x00", INTER),
        (VP9_INTER, INTER),
        (VP9_EXISTING, INTER),
        (VP9_HIDDEN, PictureType(False, is_shown=False)),
        (superframe(VP9_HIDDEN_KEY, VP9_INTER), KEY),
        (superframe(VP9_HIDDEN_KEY, VP9_HIDDEN), HIDDEN_KEY),
        (superframe(VP9_HIDDEN, VP9_INTER), INTER),
        (superframe(VP9_INTER, VP9_KEY), INTER),
    ],
)
def test_vp9(data: bytes, expected: PictureType) -> None:
    assert look("vp9", data) == expected


def test_a_vp9_index_that_does_not_fit_is_none() -> None:
    assert look("vp9", VP9_KEY + b"\xc1") == KEY
    assert look("vp9", b"\xc7") == INTER


@pytest.mark.parametrize(
    ("obus", "expected"),
    [
        ([(2, b""), (1, b"\0"), (6, b"\x10")], KEY),
        ([(6, b"\x10")], KEY),
        ([(3, b"\x10")], KEY),
        ([(6, b"\x00")], INTER),  # a key frame to be shown later
        ([(6, b"\x30")], INTER),
        ([(6, b"\x80")], INTER),
        ([(6, b"\x30"), (6, b"\x10")], INTER),
        ([(1, b"\x18"), (6, b"\x00")], KEY),  # reduced_still_picture_header: there is nothing else
        ([(5, b"\0")], INTER),
    ],
)
def test_av1(obus: list[tuple[int, bytes]], expected: PictureType) -> None:
    sized = b"".join(bytes([kind << 3 | 2, len(data)]) + data for kind, data in obus)
    extended = b"".join(bytes([kind << 3 | 6, 0, 0x80 | len(data), 0]) + data for kind, data in obus)
    assert look("av1", sized) == look("av1", extended) == expected


@pytest.mark.parametrize(
    ("codec", "data", "expected"),
    [
        ("theora", b"\x2f", KEY),
        ("theora", b"\x73", INTER),
        ("theora", b"\x80theora", PictureType(False, is_shown=False)),
        ("ffv1", b"\xfc\x28", KEY),
        ("ffv1", b"\x7f\x7f", INTER),
        ("ffv1", b"\x7f\x80", KEY),
        ("flv1", bits("00000000000000001 00001 00000000 010 00"), KEY),
        ("flv1", bits("00000000000000001 00001 00000000 010 01"), INTER),
        ("flv1", bits("00000000000000001 00001 00000000 000 1111111111111111 10"), INTER),
        ("flv1", bits("00000000000000001 00001 00000000 001" + "1" * 32 + "00"), KEY),
        ("h263", bits("0000000000000000100000 11111111 10000 010 0"), KEY),
        ("h263", bits("0000000000000000100000 11111111 10000 010 1"), INTER),
        ("h263", bits("0000000000000000100000 11111111 10000 111 001" + "1" * 18 + "000"), KEY),
        ("h263", bits("0000000000000000100000 11111111 10000 111 001" + "0" * 18 + "001"), INTER),
        ("h263", bits("0000000000000000100000 11111111 10000 111 000 000"), KEY),
        ("msmpeg4v2", b"\x07", KEY),
        ("msmpeg4v3", b"\x45", INTER),
        ("wmv1", b"\x45", INTER),
        ("wmv2", b"\x00", KEY),
        ("wmv2", b"\x88", INTER),
        ("prores", b"\x00", KEY),
    ],
)
def test_others(codec: str, data: bytes, expected: PictureType) -> None:
    assert look(codec, data) == expected


@pytest.mark.parametrize("codec", PICTURE_TYPES)
@given(st.binary(min_size=1, max_size=40))
def test_broken_packets_are_read_without_harm(codec: str, data: bytes) -> None:
    look(codec, data)
