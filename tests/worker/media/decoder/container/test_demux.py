"""What a file is said to be, when its video starts and ends, and what is not opened at all."""

import ctypes
import gc
import wave
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from shared.chunks import SECOND
from shared.errors import InvalidFile
from tests.worker.media.films import FILMS, copy, picture
from tests.worker.media.reading import facts_of as facts
from worker.media.decoder.container.demux import VideoSource
from worker.media.decoder.limits import MediaLimits

FindFilm = Callable[[str], Path]
LIMITS = MediaLimits()


def frame_times(path: Path) -> list[int]:
    source = VideoSource(str(path), LIMITS)
    times = sorted(source.time(p.pts) for p in source.packets() if p.pts is not None and not p.is_discard)
    source.close()
    return times


def make(path: Path, *, video: bool = True, audio_seconds: float = 0, audio_start: float = 0) -> Path:
    """A film of 2 s at 30 a second, with or without sound."""
    with av.open(str(path), "w") as container:
        streams: list[tuple[Any, list[Any]]] = []
        if video:
            stream = container.add_stream("mpeg4", rate=30)
            stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
            streams.append((stream, _pictures()))
        if audio_seconds:
            sound = container.add_stream("aac", rate=48000)
            streams.append((sound, _silence(audio_seconds, audio_start)))
        for stream, frames in streams:
            for frame in frames:
                container.mux(stream.encode(frame))
            container.mux(stream.encode())
    return path


def _pictures() -> list[av.VideoFrame]:
    frames = [av.VideoFrame.from_ndarray(picture(i, 64, 48), format="rgb24") for i in range(60)]
    for index, frame in enumerate(frames):
        frame.pts, frame.time_base = index, Fraction(1, 30)
    return frames


def _silence(seconds: float, start: float) -> list[av.AudioFrame]:
    frames = []
    for begin in range(0, int(seconds * 48000), 1024):
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = 48000, begin + int(start * 48000), Fraction(1, 48000)
        frames.append(frame)
    return frames


CODECS = {
    "libx264": "h264", "libx265": "hevc", "libvpx": "vp8", "libvpx-vp9": "vp9", "libsvtav1": "av1",
    "prores_ks": "prores", "flv": "flv1",
}  # fmt: skip


@pytest.mark.parametrize("name", sorted(FILMS))
def test_every_film_is_known_for_what_it_is(name: str, film: FindFilm) -> None:
    described, found = FILMS[name], facts(film(name))
    assert (found.kind, found.width, found.height) == ("video", 128, 96)
    assert found.codec == CODECS.get(described.codec, described.codec)
    if not described.times:
        assert found.frame_rate == 30
        assert abs(found.duration - described.frames * SECOND // 30) < SECOND // 10


@pytest.mark.parametrize("name", sorted(FILMS))
def test_the_first_frame_lies_at_the_start_of_the_file(name: str, film: FindFilm) -> None:
    times = frame_times(film(name))
    assert times[0] == 0
    assert 0 < facts(film(name)).duration - times[-1] < SECOND // 2


def test_durations_are_whole_milliseconds(film: FindFilm) -> None:
    assert all(
        facts(film(name)).duration % 1_000_000 == 0 for name in ("h264-gop30", "h264-vfr", "h264-late-start")
    )


def test_sound_that_outlasts_the_video_does_not_count(tmp_path: Path) -> None:
    assert facts(make(tmp_path / "long.mp4", audio_seconds=3)).duration == 2 * SECOND
    assert abs(facts(make(tmp_path / "long.mkv", audio_seconds=3)).duration - 2 * SECOND) < SECOND // 20


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "ts"])
def test_primed_sound_does_not_shift_the_video(suffix: str, tmp_path: Path) -> None:
    """An AAC encoder's first samples lie before 0 and are not heard."""
    times = frame_times(make(tmp_path / f"sound.{suffix}", audio_seconds=2))
    assert 0 <= times[0] <= SECOND // 40


def test_video_that_starts_after_the_sound_keeps_its_distance(film: FindFilm, tmp_path: Path) -> None:
    late = tmp_path / "late.mkv"
    with av.open(str(late), "w") as container:
        stream = container.add_stream("mpeg4", rate=30)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        sound = container.add_stream("aac", rate=48000)
        for heard in _silence(2, 0):
            container.mux(sound.encode(heard))
        for frame in _pictures():
            frame.pts = (frame.pts or 0) + 15
            container.mux(stream.encode(frame))
        container.mux(sound.encode())
        container.mux(stream.encode())
    assert abs(frame_times(late)[0] - SECOND // 2) < SECOND // 20


@pytest.mark.parametrize("part", [0.3, 0.7, 0.95])
@pytest.mark.parametrize(
    "name", ["h264-gop30", "h264-open-mkv", "h264-ts", "h264-flv", "mpeg4-avi", "h264-fragmented"]
)
def test_a_file_that_is_cut_off_ends_where_its_packets_do(
    name: str, part: float, film: FindFilm, tmp_path: Path
) -> None:
    whole = film(name)
    if name == "h264-gop30":  # its index must be in front to survive
        whole = copy(whole, tmp_path / "front.mp4", movflags="faststart")
    cut = tmp_path / f"cut{whole.suffix}"
    cut.write_bytes(whole.read_bytes()[: int(whole.stat().st_size * part)])
    times, found = frame_times(cut), facts(cut)
    assert 0 < len(times) < len(frame_times(whole))
    assert times[-1] < found.duration <= times[-1] + SECOND // 10


def test_sound_that_begins_after_the_file_was_opened_hides_no_video(tmp_path: Path) -> None:
    silent = make(tmp_path / "silent.ts").read_bytes()
    loud = make(tmp_path / "loud.ts", audio_seconds=2).read_bytes()
    nothing = (b"\x47\x1f\xff\x10" + bytes(184)) * 40_000  # more than FFmpeg looks at, at either end
    path = tmp_path / "both.ts"
    path.write_bytes(silent + nothing + loud + nothing + silent)
    source = VideoSource(str(path), LIMITS)
    assert len(source.container.streams) == 1, "the sound was found at once, so that this shows nothing"
    packets = list(source.packets())
    assert len(packets) == 3 * 60
    source.close()


def test_a_recording_without_duration_has_one(film: FindFilm, tmp_path: Path) -> None:
    """What a browser's MediaRecorder makes: Matroska that was never closed."""
    endless = copy(film("vp9"), tmp_path / "endless.webm", live="1")
    with av.open(str(endless)) as container:
        assert container.duration is None
    assert abs(facts(endless).duration - facts(film("vp9")).duration) <= SECOND // 30


# What is refused ------------------------------------------------------------------------------------------


def refusal(path: Path, limits: MediaLimits = LIMITS) -> str:
    with pytest.raises(InvalidFile) as caught:
        facts(path, limits)
    return caught.value.message


def test_frames_of_too_many_pixels(film: FindFilm) -> None:
    assert refusal(film("vp9"), MediaLimits(pixels=12_000)) == (
        "the video is 128x96, more than the allowed 12000 pixels per frame"
    )


def test_too_long_a_video(film: FindFilm) -> None:
    assert refusal(film("h264-gop30"), MediaLimits(duration=4)) == (
        "the video lasts 5.000 s, more than the allowed 4 s"
    )


def test_sound_alone(tmp_path: Path) -> None:
    path = make(tmp_path / "sound.mp4", video=False, audio_seconds=1)
    assert refusal(path) == "the file has no video track, only audio"


def test_sound_with_a_cover_picture(tmp_path: Path) -> None:
    path = tmp_path / "cover.mp4"
    with av.open(str(path), "w") as container:
        sound = container.add_stream("aac", rate=48000)
        cover = container.add_stream("mjpeg", rate=1)
        cover.width, cover.height, cover.pix_fmt = 64, 48, "yuvj420p"
        cover.disposition = av.stream.Disposition.attached_pic
        for frame in _silence(1, 0):
            container.mux(sound.encode(frame))
        container.mux(sound.encode())
        container.mux(cover.encode(av.VideoFrame.from_ndarray(picture(0, 64, 48), format="rgb24")))
        container.mux(cover.encode())
    assert refusal(path) == "the file has no video track, only audio, cover picture"


def test_a_missing_file(tmp_path: Path) -> None:
    assert refusal(tmp_path / "gone.mp4") == "no such file: gone.mp4"


def test_a_folder(tmp_path: Path) -> None:
    assert refusal(tmp_path) == f"{tmp_path.name} is not a regular file"


@pytest.mark.parametrize("data", [b"", b"hello", bytes(range(256)) * 40, b"\0" * 5000])
def test_no_media_at_all(data: bytes, tmp_path: Path) -> None:
    path = tmp_path / "nothing.mp4"
    path.write_bytes(data)
    assert refusal(path).startswith("not a readable video file: ")


def test_subtitles_alone(tmp_path: Path) -> None:
    path = tmp_path / "words.mp4"
    path.write_text("1\n00:00:00,000 --> 00:00:02,000\nHello\n")
    assert refusal(path).startswith("not a ")


def test_a_sound_file(tmp_path: Path) -> None:
    path = tmp_path / "sound.mp4"
    with wave.open(str(path), "wb") as sound:
        sound.setnchannels(1)
        sound.setsampwidth(2)
        sound.setframerate(8000)
        sound.writeframes(bytes(16_000))
    assert refusal(path).startswith("a WAVE sound file is not supported; images may be ")


@pytest.mark.parametrize(
    "listing",
    [
        "ffconcat version 1.0\nfile '{film}'\n",
        "#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:5,\nfile://{film}\n#EXT-X-ENDLIST\n",
        "#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:5,\nhttp://127.0.0.1:9/film.ts\n#EXT-X-ENDLIST\n",
        '<MPD xmlns="urn:mpeg:dash:schema:mpd:2011"><Period><BaseURL>{film}</BaseURL></Period></MPD>',
    ],
    ids=["concat", "HLS of files", "HLS of addresses", "DASH"],
)
def test_files_that_name_other_files(listing: str, film: FindFilm, tmp_path: Path) -> None:
    path = tmp_path / "list.mp4"
    path.write_text(listing.format(film=film("h264-ts")))
    assert refusal(path).startswith(("a playlist is not supported", "not a "))


@pytest.mark.parametrize(
    "name", ["concat:{film}", "http://127.0.0.1:9/film.mp4", "subfile,,start,0,end,0,,:{film}"]
)
def test_names_are_no_addresses(name: str, film: FindFilm) -> None:
    with pytest.raises(InvalidFile, match=r"no such file|not a readable"):
        VideoSource(name.format(film=film("h264-ts")), LIMITS)


def test_a_file_with_an_odd_name_is_a_file(film: FindFilm, tmp_path: Path) -> None:
    path = tmp_path / "http:%3A concat:a|b, ünï.mp4"
    path.write_bytes(film("h264-gop30").read_bytes())
    assert facts(path).codec == "h264"


class Malloc(ctypes.Structure):
    """glibc's `struct mallinfo2`."""

    _fields_ = [("sizes", ctypes.c_size_t * 10)]


def allocated() -> int:
    """Bytes that C code and Python hold of malloc's."""
    libc = ctypes.CDLL(None)
    libc.mallinfo2.restype = Malloc
    gc.collect()
    return int(libc.mallinfo2().sizes[7])  # uordblks


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallinfo2"), reason="needs glibc 2.33")
def test_reading_that_is_given_up_leaves_nothing_behind(film: FindFilm) -> None:
    """A job reads up to its last chunk and leaves the rest: PyAV kept 150 bytes each time."""
    source = VideoSource(str(film("h264-gop30")), LIMITS)

    def read(times: int) -> None:
        for _ in range(times):
            source.seek(0)
            next(source.packets())

    read(100)
    before = allocated()
    read(1000)
    assert allocated() - before < 50_000
    source.close()
