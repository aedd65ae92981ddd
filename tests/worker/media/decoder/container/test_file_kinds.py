"""What a file is that cannot be read, in words that tell what to do."""

from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from pillow_heif import from_pillow

from shared.errors import InvalidFile
from tests.worker.media.reading import facts_of
from worker.media.decoder.container.boxes import boxes, find
from worker.media.decoder.container.file_kinds import foreign_kind, missing_part

FindFilm = Callable[[str], Path]


def refusal(data: bytes, path: Path) -> str:
    path.write_bytes(data)
    with pytest.raises(InvalidFile) as caught:
        facts_of(path)
    return caught.value.message


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("TIFF", "a TIFF image"),
        ("PDF", "a PDF document"),
        ("ICO", "an icon"),
        ("JPEG2000", "a JPEG 2000 image"),
        ("PPM", "a portable pixmap"),
        ("EPS", "a PostScript document"),
    ],
)
def test_pictures_of_other_kinds_are_named(kind: str, name: str, tmp_path: Path) -> None:
    picture = BytesIO()
    Image.new("RGB", (64, 48), (200, 30, 30)).save(picture, kind)
    assert refusal(picture.getvalue(), tmp_path / "picture") == (
        f"{name} is not supported; images may be JPEG, PNG, WebP, GIF, BMP, HEIC and AVIF, "
        "videos in mov,matroska,webm,avi,mpegts,mpeg,flv,asf,ogg,ivf,mxf,nut"
    )


@pytest.mark.parametrize(
    ("head", "name"),
    [
        (b'<svg xmlns="http://www.w3.org/2000/svg"/>', "an SVG drawing"),
        (b'\xef\xbb\xbf<?xml version="1.0"?>\n<!-- x -->\n<svg width="1">', "an SVG drawing"),
        (b"<html><svg ", "an SVG drawing"),
        (b"<html><body>", None),
        (b"a text with <svg > in it", None),
        (b"8BPS\0\1", "a Photoshop image"),
        (b"RIFF\x10\0\0\0WAVEfmt ", "a WAVE sound file"),
        (b"\0\0\0\x18ftypcrx \0\0\0\1", "a raw image of a camera"),
        (b"\0\0\0\x18ftypisom\0\0\0\1", None),
        (b"\xff\x0a\xff", "a JPEG XL image"),
        (b"", None),
    ],
)
def test_first_bytes_tell(head: bytes, name: str | None) -> None:
    assert foreign_kind(head) == name


def test_pictures_of_an_unknown_brand_are_no_films(tmp_path: Path) -> None:
    """FFmpeg would give one tile after the other."""
    picture = BytesIO()
    from_pillow(Image.new("RGB", (256, 192), (200, 30, 30))).save(picture, tile_size=128)
    path = tmp_path / "picture"
    path.write_bytes(picture.getvalue().replace(b"heic", b"abcd"))
    with pytest.raises(InvalidFile, match="a HEIF picture of the brand 'abcd' is not supported; images may"):
        facts_of(path)


@pytest.mark.parametrize("part", [0.05, 0.3, 0.9])
def test_a_recording_that_was_not_finished_has_no_index(part: float, film: FindFilm, tmp_path: Path) -> None:
    """A camera that lost its power: MP4 writes the index last."""
    data = film("h264-gop30").read_bytes()
    assert refusal(data[: int(len(data) * part)], tmp_path / "cut.mp4") == (
        "the index (moov) is missing: the file is incomplete"
    )


def test_an_index_that_is_cut_off(film: FindFilm, tmp_path: Path) -> None:
    data = film("h264-gop30").read_bytes()
    at = data.index(b"moov") - 4
    assert refusal(data[: at + 40], tmp_path / "cut.mp4") == (
        "the index (moov) is cut off: the file is incomplete"
    )


def test_other_files_lack_nothing(film: FindFilm) -> None:
    for name in ("h264-gop30", "h264-fragmented", "vp9", "mpeg2-ts"):
        assert missing_part(BytesIO(film(name).read_bytes())) is None


def test_a_box_that_ends_where_no_file_can() -> None:
    endless = b"\0\0\0\1ftyp" + b"\xff" * 8
    assert missing_part(BytesIO(endless)) == "the index (moov) is missing: the file is incomplete"
    inside = b"\0\0\0\1moov" + b"\xff" * 8 + endless
    assert list(find(BytesIO(inside), boxes(BytesIO(inside), 0, len(inside)), b"moov", b"trak")) == []


@given(st.binary(max_size=300))
def test_any_bytes_are_looked_at_without_harm(data: bytes) -> None:
    foreign_kind(data)
    missing_part(BytesIO(data))
    missing_part(BytesIO(b"\0\0\0\x08ftyp" + data))
