"""Encrypted videos are refused by their name, whatever the scheme and the container."""

import struct
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.errors import InvalidFile
from tests.worker.media.films import Film, make
from tests.worker.media.numbered import film as numbered_film
from tests.worker.media.reading import facts_of
from worker.media.decoder.container.encryption import (
    ASF_OBJECTS,
    _is_matroska_encrypted,
    _is_scrambled,
    _vint,
)

FindFilm = Callable[[str], Path]
KEY, KEY_ID = "76a6c65c5ea762046bd749a2e632ccbb", "a7e61c373e219033c21091fa607bf3b8"
CENC = ("-encryption_scheme", "cenc-aes-ctr", "-encryption_key", KEY, "-encryption_kid", KEY_ID)


def refusal(path: Path) -> str:
    with pytest.raises(InvalidFile) as caught:
        facts_of(path)
    return caught.value.message


@pytest.mark.parametrize("movflags", ["0", "frag_keyframe+empty_moov", "faststart"])
def test_common_encryption(movflags: str, tmp_path: Path) -> None:
    encoding = ("-c:v", "libx264", "-g", "30", "-pix_fmt", "yuv420p")
    path = numbered_film(tmp_path / "cenc.mp4", 60, *encoding, *CENC, "-movflags", movflags)
    assert refusal(path) == "the video is encrypted"


@pytest.mark.parametrize("scheme", [b"cbcs", b"cens", b"cbc1", b"piff"])
def test_other_schemes_of_common_encryption(scheme: bytes, tmp_path: Path) -> None:
    """The sample entry tells, not the scheme, which may also be one that comes later."""
    encoding = ("-c:v", "libx264", "-g", "30", "-pix_fmt", "yuv420p")
    path = numbered_film(tmp_path / "cenc.mp4", 60, *encoding, *CENC)
    data = path.read_bytes()
    assert data.count(b"cenc") >= 1
    path.write_bytes(data.replace(b"schm\0\0\0\0cenc", b"schm\0\0\0\0" + scheme))
    assert refusal(path) == "the video is encrypted"


def test_apples_protection(film: FindFilm, tmp_path: Path) -> None:
    path = tmp_path / "drm.mp4"
    path.write_bytes(film("h264-gop30").read_bytes().replace(b"avc1", b"drmi"))
    assert "encrypted" in refusal(path)


# Matroska -------------------------------------------------------------------------------------------------


def element(number: int, *content: bytes) -> bytes:
    """An EBML element, its size told in 8 bytes."""
    value = b"".join(content)
    name = number.to_bytes((number.bit_length() + 7) // 8, "big")
    return name + (len(value) | 1 << 56).to_bytes(8, "big") + value


def with_encryption(data: bytes, key_id: bytes) -> bytes:
    """A WebM that was never closed, and so can be longer, with an encryption in the entry of its track."""
    encryption = element(0x5035, element(0x47E1, b"\x05"), element(0x47E2, key_id) if key_id else b"")
    encodings = element(0x6D80, element(0x6240, element(0x5033, b"\x01"), encryption))
    tracks = data.rindex(b"\x16\x54\xae\x6b")
    size, begin = _vint(data, tracks + 4, keep_marker=False)
    entry_size, entry = _vint(data, begin + 1, keep_marker=False)
    assert data[begin] == 0xAE
    changed = element(0x1654AE6B, element(0xAE, data[entry : entry + entry_size], encodings))
    return data[:tracks] + changed + data[begin + size :]


@pytest.mark.parametrize("key_id", [b"0123456789abcdef", b""])
def test_encrypted_matroska(key_id: bytes, tmp_path: Path) -> None:
    path = tmp_path / "film.webm"
    make(path, Film("libvpx", "webm", {"deadline": "realtime"}, frames=30, gop=10, muxing={"live": "1"}))
    assert facts_of(path).codec == "vp8"
    path.write_bytes(with_encryption(path.read_bytes(), key_id))
    assert refusal(path) == "the video is encrypted"


def test_only_encrypted_video_tracks_count() -> None:
    encodings = element(0x6D80, element(0x6240, element(0x5035, b"")))
    compressed = element(0x6D80, element(0x6240, element(0x5034, b"")))

    def file(kind: bytes, more: bytes) -> bytes:
        track = element(0xAE, element(0x83, kind), more)
        return element(0x1A45DFA3, b"") + element(0x18538067, element(0x1654AE6B, track))

    assert _is_matroska_encrypted(file(b"\x01", encodings))
    assert not _is_matroska_encrypted(file(b"\x02", encodings))
    assert not _is_matroska_encrypted(file(b"\x01", compressed))
    assert not _is_matroska_encrypted(file(b"\x01", b""))


@given(st.binary(max_size=200), st.binary(max_size=20))
def test_any_bytes_are_looked_at_without_harm(data: bytes, more: bytes) -> None:
    _is_matroska_encrypted(data)
    _is_matroska_encrypted(element(0x18538067, element(0x1654AE6B, data)) + more)
    _is_scrambled(data, 256)


# Others ---------------------------------------------------------------------------------------------------


def test_a_scrambled_transport_stream(film: FindFilm, tmp_path: Path) -> None:
    """Only its pictures: tables stay in the clear, and so does what begins a picture."""
    data = bytearray(film("mpeg2-ts").read_bytes())
    for at in range(0, len(data), 188):
        if data[at + 1 : at + 3] == b"\x01\x00":
            data[at + 3] |= 0x80
    path = tmp_path / "scrambled.ts"
    path.write_bytes(data)
    assert refusal(path) == "the video is encrypted"


@pytest.mark.parametrize("number", range(len(ASF_OBJECTS)))
def test_windows_media_with_rights_management(number: int, film: FindFilm, tmp_path: Path) -> None:
    data = film("wmv2").read_bytes()
    size, count = struct.unpack_from("<QI", data, 16)
    added = ASF_OBJECTS[number] + struct.pack("<Q", 28) + bytes(4)
    path = tmp_path / "drm.wmv"
    path.write_bytes(data[:16] + struct.pack("<QI", size + 28, count + 1) + data[28:30] + added + data[30:])
    assert refusal(path) == "the video is encrypted"


@pytest.mark.parametrize("name", ["h264-gop30", "h264-open-mkv", "mpeg2-ts", "wmv2", "vp9", "mpeg4-avi"])
def test_clear_films_are_not_taken_for_encrypted(name: str, film: FindFilm) -> None:
    assert facts_of(film(name)).width == 128
