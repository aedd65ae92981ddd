"""When a video really ends, whatever its header says; and that something of it can be decoded."""

import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from shared.chunks import SECOND, Chunk
from shared.errors import InvalidFile
from tests.worker.media.films import BROKEN, Film, make, rewritten, x264
from tests.worker.media.numbered import film as numbered_film
from tests.worker.media.numbered import numbers
from tests.worker.media.reading import facts_of, read, setup
from worker.media.decoder import film_facts
from worker.media.decoder.limits import MediaLimits
from worker.media.decoder.reader import Reader

FindFilm = Callable[[str], Path]
DURATION = b"\x44\x89\x88"  # of Matroska, as a double


def stating(path: Path, seconds: float) -> Path:
    """The Matroska file with another duration in its header."""
    data = bytearray(path.read_bytes())
    at = data.index(DURATION) + 3
    data[at : at + 8] = struct.pack(">d", seconds * 1000)
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("options", [(), ("-live", "0", "-cues_to_front", "1"), ("-write_crc32", "0")])
@pytest.mark.parametrize("stated", [3, 9.9, 60])
def test_a_header_that_says_too_little_or_too_much(
    stated: float, options: tuple[str, ...], tmp_path: Path
) -> None:
    encoding = ("-c:v", "libx264", "-g", "30", "-pix_fmt", "yuv420p")
    path = stating(numbered_film(tmp_path / "film.mkv", 300, *encoding, *options), stated)
    assert facts_of(path).duration == 10 * SECOND
    clips, _ = read(Reader(setup()), path, [Chunk(0, 8 * SECOND, 10 * SECOND)], 8)
    assert numbers(clips[0]) == [240, 248, 255, 263, 270, 278, 285, 293]


def test_a_header_that_says_too_little_of_a_large_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More follows than is read to find the end: the index tells."""
    path = stating(numbered_film(tmp_path / "film.mkv", 300, "-c:v", "libx264", "-g", "30"), 1)
    monkeypatch.setattr(film_facts, "TAIL_BYTES", path.stat().st_size // 3)
    assert facts_of(path).duration == 10 * SECOND


@pytest.mark.parametrize("name", ["h264-gop30", "h264-open-mkv", "h264-open-ts", "mpeg4-avi", "vp9"])
def test_the_last_two_frames_of_an_even_film_take_two_thirtieths(name: str, film: FindFilm) -> None:
    assert abs(facts_of(film(name)).last_frames - SECOND // 15) <= 2_000_000


def test_the_last_two_frames_of_a_slide_show_take_as_long_as_they_stand(tmp_path: Path) -> None:
    slides = x264("mkv", "keyint=1", frames=4, times=[0, 4000, 8000, 9000])
    assert 1000 <= facts_of(make(tmp_path / "slides.mkv", slides)).last_frames // 1_000_000 <= 1100


def test_a_film_of_one_frame(tmp_path: Path) -> None:
    facts = facts_of(make(tmp_path / "one.mp4", Film("mpeg4", "mp4", frames=1)))
    assert 0 < facts.duration <= facts.last_frames < SECOND // 25


def test_a_film_of_which_nothing_can_be_decoded_is_refused(film: FindFilm, tmp_path: Path) -> None:
    path = rewritten(film("h264-gop1"), tmp_path / "broken.mp4", lambda _, __: BROKEN)
    with pytest.raises(InvalidFile) as caught:
        facts_of(path)
    assert caught.value.message == "no frame of the video can be decoded"


def test_a_film_of_which_something_can_be_decoded_is_not(film: FindFilm, tmp_path: Path) -> None:
    path = rewritten(film("h264-gop1"), tmp_path / "late.mp4", lambda i, p: BROKEN if i < 100 else bytes(p))
    assert facts_of(path).duration == 5 * SECOND


def test_a_frame_larger_than_the_header_says_is_refused(film: FindFilm, tmp_path: Path) -> None:
    """The container may lie; the picture counts."""
    data = film("h264-gop30").read_bytes()
    at = data.rindex(b"avc1") + 28
    assert struct.unpack_from(">HH", data, at) == (128, 96)
    path = tmp_path / "small.mp4"
    path.write_bytes(data[:at] + struct.pack(">HH", 16, 16) + data[at + 4 :])
    with pytest.raises(InvalidFile, match="more than the allowed 12000 pixels"):
        facts_of(path, MediaLimits(pixels=12_000))


def test_a_time_of_years_to_come_is_damage(film: FindFilm, tmp_path: Path) -> None:
    """IVF has the time of a frame in its own header, and two files joined make one of the second's."""
    made = numbered_film(
        tmp_path / "film.ivf", 60, "-c:v", "libvpx", "-deadline", "realtime", "-cpu-used", "8"
    )
    path = tmp_path / "joined.ivf"
    path.write_bytes(made.read_bytes() * 2)
    assert facts_of(path).duration == 2 * SECOND
