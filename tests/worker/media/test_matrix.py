"""deploy/media.md says what is so: its films are read, its refusals are given, its tests are there."""

import re
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import pytest
from PIL import Image
from pillow_heif import from_pillow

from shared.chunks import SECOND, plan_chunks
from shared.errors import InvalidFile
from tests.worker.media.films import BROKEN, FILMS, rewritten
from tests.worker.media.matrix import (
    FURTHER,
    IMAGES,
    PARSED,
    PROPERTIES,
    REFUSED,
    SITUATIONS,
    document,
)
from tests.worker.media.numbered import ffmpeg, numbers
from tests.worker.media.numbered import film as numbered_film
from tests.worker.media.reading import facts_of, read, setup
from worker.media.decoder.limits import MediaLimits
from worker.media.decoder.reader import Reader
from worker.media.decoder.selection.bitstream import parser

FindFilm = Callable[[str], Path]
HERE = Path(__file__).parent
ROOT = HERE.parents[2]


def test_the_page_is_what_the_tests_say() -> None:
    assert (ROOT / "deploy/media.md").read_text() == document(), "run: python -m tests.worker.media.matrix"


def test_every_film_is_described() -> None:
    assert list(PROPERTIES) == list(FILMS)
    assert all(parser(codec, None) for codec in PARSED)


def test_the_tests_that_the_page_names_are_there() -> None:
    named = [test for *_, test in SITUATIONS] + [
        f"decoder/pictures/test_images.py::{test}" for *_, test in IMAGES
    ]
    for name in named:
        path, _, function = name.partition("::")
        defined = re.findall(r"^(?:async )?def (\w+)", (HERE / path).read_text(), re.MULTILINE)
        assert function in defined, name


@pytest.mark.parametrize("name", FURTHER)
def test_further_films(name: str, tmp_path: Path) -> None:
    encoder, sparse = FURTHER[name]
    size = ("-s", "176x144") if encoder.startswith("h263") else ()
    pixels = {"ffv1": ("-pix_fmt", "yuv420p"), "utvideo": ("-pix_fmt", "yuv420p")}.get(encoder, ())
    path = numbered_film(tmp_path / name, 60, "-c:v", encoder, "-q:v", "2", "-g", "15", *size, *pixels)
    reader = Reader(setup())
    facts = facts_of(path)
    assert abs(facts.duration - 2 * SECOND) < SECOND // 10
    clips, counts = read(reader, path, plan_chunks(0, 2 * SECOND, SECOND, 0, None), 4)
    reader.close()
    shown = [number for clip in clips for number in numbers(clip)]
    assert shown == pytest.approx([0, 8, 15, 23, 30, 38, 45, 53], abs=1)
    assert (counts.dense_chunks == 0) is sparse


def picture(kind: str) -> bytes:
    buffer = BytesIO()
    Image.new("RGB", (64, 48), (200, 30, 30)).save(buffer, kind)
    return buffer.getvalue()


def heif() -> bytes:
    buffer = BytesIO()
    from_pillow(Image.new("RGB", (256, 192))).save(buffer, tile_size=128)
    return buffer.getvalue().replace(b"heic", b"abcd")


def sample(what: str, film: bytes) -> bytes:
    """A file of the kind that the page calls so."""
    made: dict[str, Callable[[], bytes]] = {
        "MP4 that was never closed": lambda: film[: len(film) // 2],
        "MP4 whose index is cut off": lambda: film[: film.index(b"moov") + 40],
        "encrypted MP4 (cenc, cbcs ...)": lambda: film.replace(b"avc1", b"encv"),
        "TIFF": lambda: picture("TIFF"),
        "PDF": lambda: picture("PDF"),
        "SVG": lambda: b'<svg xmlns="http://www.w3.org/2000/svg"/>',
        "a HEIF file of another brand": heif,
        "HLS and other playlists": lambda: b"#EXTM3U\n#EXTINF:5,\nfilm.ts\n",
        "a text": lambda: b"This is no film. " * 50,
    }
    return made.get(what, lambda: film)()


@pytest.mark.parametrize("what", REFUSED)
def test_refusals(what: str, film: FindFilm, tmp_path: Path) -> None:
    limits = MediaLimits()
    path = tmp_path / "file"
    if what == "a raw H.264 stream":
        ffmpeg("-f", "lavfi", "-i", "testsrc=duration=1", "-c:v", "libx264", "-f", "h264", path)
    elif what == "sound alone":
        ffmpeg("-f", "lavfi", "-i", "sine=duration=1", "-c:a", "aac", "-f", "mp4", path)
    elif what == "a film without a frame that can be decoded":
        path = rewritten(film("h264-gop1"), tmp_path / "file.mp4", lambda _, __: BROKEN)
    else:
        path.write_bytes(sample(what, film("h264-gop30").read_bytes()))
    if what == "frames of too many pixels":
        limits = MediaLimits(pixels=12_000)
    elif what == "too long a film":
        limits = MediaLimits(duration=3)
    with pytest.raises(InvalidFile) as caught:
        facts_of(path, limits)
    assert caught.value.message == REFUSED[what]
