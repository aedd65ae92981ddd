"""Films that stand still: screen recordings, slide shows, recorders with gaps, video that begins after sound.

The value to compare with is a full decode: by FFmpeg's program where frames carry their numbers, else by the
library, frame by frame and bit by bit.
"""

import functools
from collections.abc import Iterator, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shared.chunks import SECOND, Chunk, plan_chunks
from tests.worker.media.films import Film, make
from tests.worker.media.numbered import ffmpeg, film, full_decode, numbers
from tests.worker.media.reading import decode_everything, end_of, facts_of, read, same, setup, shown
from worker.media.decoder.reader import Reader

GAPS = "if(lt(N,30),N/30,if(lt(N,60),13+(N-30)/30,16+(N-60)/30))/TB"
"""A second of film, nothing for 12 s, a second, nothing for 2 s, a second."""
FRAGMENTS = ("-movflags", "frag_keyframe+empty_moov+default_base_moof")


@pytest.fixture(scope="module")
def reader() -> Iterator[Reader]:
    reader = Reader(setup())
    yield reader
    reader.close()


def duration_of(path: Path) -> int:
    return facts_of(path).duration


@functools.cache
def decoded(path: Path) -> list[tuple[float, int]]:
    """What ffmpeg shows of a film. Once for each: on a busy machine a run for every chunk takes minutes."""
    return full_decode(path)


def on_screen(path: Path, chunk: Chunk, count: int = 8) -> list[int]:
    """What is on the screen at the chunk's targets, by ffmpeg: the numbers of the frames."""
    frames = decoded(path)
    found = []
    for index in range(count):
        target = (chunk.start + index * (chunk.end - chunk.start) / count) / SECOND
        found.append(max([n for when, n in frames if when <= target + 1e-6], default=frames[0][1]))
    return found


def assert_on_screen(reader: Reader, path: Path, chunks: Sequence[Chunk]) -> None:
    """Every chunk shows what is on the screen, or the next frame where frames are dense."""
    clips, _ = read(reader, path, chunks, 8)
    for chunk, clip in zip(chunks, clips, strict=True):
        found = numbers(clip)
        padded = found + found[-1:] * (8 - len(found))
        for ours, theirs in zip(padded, on_screen(path, chunk), strict=True):
            assert ours - theirs in (0, 1), (chunk, found)


def late_video(path: Path) -> Path:
    """A film of two seconds that begins 5 s after its sound."""
    video = film(path.with_name("video.mp4"), 60, "-c:v", "libx264", "-g", "30")
    sound = ("-f", "lavfi", "-i", "sine=duration=9", "-itsoffset", "5")
    ffmpeg(*sound, "-i", video, "-map", "0:a", "-map", "1:v", "-c:v", "copy", path)
    return path


# Kinds of film --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("x264.mp4", ("-c:v", "libx264", "-g", "30")),
        ("open.mp4", ("-c:v", "libx264", "-x264-params", "keyint=24:open-gop=1:bframes=3")),
        ("fragments.mp4", ("-c:v", "libx264", "-g", "30", *FRAGMENTS)),
        ("x265.mp4", ("-c:v", "libx265", "-x265-params", "log-level=none:keyint=24:pools=1")),
        ("film.mkv", ("-c:v", "libx264", "-g", "30")),
        ("film.webm", ("-c:v", "libvpx-vp9", "-g", "30", "-deadline", "realtime", "-cpu-used", "8")),
        ("film.flv", ("-c:v", "libx264", "-g", "30")),
        ("film.mov", ("-c:v", "mpeg4", "-g", "30", "-q:v", "3", "-bf", "2")),
        ("whole.mp4", ("-c:v", "libx264", "-g", "999")),
    ],
)
def test_a_film_with_pauses_shows_what_is_on_the_screen(
    name: str, options: Sequence[str], reader: Reader, tmp_path: Path
) -> None:
    variable = ("-vf", f"setpts='{GAPS}'", "-fps_mode", "vfr", "-enc_time_base", "1:1000")
    path = film(tmp_path / name, 90, *variable, *options, "-pix_fmt", "yuv420p")
    assert abs(duration_of(path) - 17 * SECOND) < SECOND // 10
    for seconds in (1, 2, 5):
        assert_on_screen(reader, path, plan_chunks(0, duration_of(path), seconds * SECOND, 0, None))
    assert_on_screen(reader, path, [Chunk(0, 0, duration_of(path))])


def test_a_pause_is_the_frame_before_it_and_dense_frames_stay_as_they_are(
    reader: Reader, tmp_path: Path
) -> None:
    variable = ("-vf", f"setpts='{GAPS}'", "-fps_mode", "vfr", "-enc_time_base", "1:1000")
    path = film(tmp_path / "gaps.mp4", 90, *variable)
    clips, counts = read(reader, path, plan_chunks(0, 17 * SECOND, 2 * SECOND, 0, None), 8)
    assert list(map(numbers, clips[:2])) == [[0, 8, 15, 23, 29, 29, 29, 29], [29] * 8]
    assert list(map(numbers, clips[6:8])) == [[29, 29, 29, 29, 30, 38, 45, 53], [59] * 8]
    assert counts.dense_chunks == 0


def test_a_recorder_with_a_gap_of_half_a_minute(reader: Reader, tmp_path: Path) -> None:
    late = ("-vf", "setpts='if(lt(N,60),N/30,30+N/30)/TB'", "-fps_mode", "vfr", "-enc_time_base", "1:1000")
    path = film(tmp_path / "gap.mp4", 120, *late, "-c:v", "libx264", "-g", "30", *FRAGMENTS)
    chunks = plan_chunks(0, duration_of(path), 10 * SECOND, 0, None)
    assert [chunk.start // SECOND for chunk in chunks] == [0, 10, 20, 30]
    assert_on_screen(reader, path, chunks)
    assert numbers(read(reader, path, chunks, 8)[0][1]) == [59] * 8


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "avi", "mov"])
def test_a_slide_show(suffix: str, reader: Reader, tmp_path: Path) -> None:
    """A frame every three seconds, which is what the container says of the rate, too."""
    path = tmp_path / f"slides.{suffix}"
    film(path, 5, "-vf", "setpts=N*90/30/TB", "-r", "1/3", "-c:v", "mpeg4", "-q:v", "3", "-g", "1")
    assert duration_of(path) == 15 * SECOND
    for seconds in (2, 4, 10):
        chunks = plan_chunks(0, 15 * SECOND, seconds * SECOND, 0, None)
        clips, _ = read(reader, path, chunks, 8)
        for chunk, clip in zip(chunks, clips, strict=True):
            targets = [chunk.start + i * (chunk.end - chunk.start) // 8 for i in range(8)]
            assert numbers(clip) == [target // (3 * SECOND) for target in targets]


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "ts"])
def test_video_that_begins_after_the_sound(suffix: str, reader: Reader, tmp_path: Path) -> None:
    path = late_video(tmp_path / f"late.{suffix}")
    clips, _ = read(reader, path, plan_chunks(0, 7 * SECOND, 2 * SECOND, 0, None), 8)
    assert [numbers(clip) for clip in clips[:2]] == [[], []]
    assert numbers(clips[2])[:4] == [0, 0, 0, 0]
    assert numbers(clips[3])[0] in (29, 30, 31)


# Any film -------------------------------------------------------------------------------------------------


@st.composite
def times(draw: st.DrawFn) -> list[int]:
    """Frame times (ms): bursts at any rate, and pauses between them."""
    steps: list[int] = []
    for _ in range(draw(st.integers(1, 4))):
        steps += [draw(st.integers(20, 700))] * draw(st.integers(1, 15))
        steps.append(draw(st.sampled_from([40, 501, 1500, 6000, 25_000])))
    return [0, *accumulate(steps)]


KINDS = {
    "mp4": Film("libx264", "mp4", {"preset": "ultrafast", "x264-params": "keyint=12:bframes=2:scenecut=0"}),
    "open": Film("libx264", "mp4", {"preset": "veryfast", "x264-params": "keyint=8:open-gop=1:bframes=3"}),
    "mkv": Film("libx264", "mkv", {"preset": "ultrafast", "x264-params": "keyint=250:scenecut=0"}),
    "webm": Film("libvpx", "webm", {"deadline": "realtime", "cpu-used": "8"}, gop=10),
    "mov": Film("mpeg4", "mov", gop=12, b_frames=2),
}  # fmt: skip


@pytest.mark.parametrize("sparse", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_any_pauses_give_the_frames_of_full_decoding(kind: str, sparse: bool, tmp_path: Path) -> None:
    reader = Reader(setup(sparse=sparse))
    films = iter(range(1000))

    @settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck), database=None)
    @given(times(), st.data())
    def check(film_times: list[int], data: st.DataObject) -> None:
        described = KINDS[kind]
        path = tmp_path / f"{next(films)}.{described.suffix}"
        make(path, Film(**{**_fields(described), "frames": len(film_times), "times": film_times}), (64, 48))
        length = data.draw(st.integers(SECOND // 2, 12 * SECOND))
        overlap = data.draw(st.sampled_from([0, length // 2, -length]))
        chunks = plan_chunks(data.draw(st.integers(0, SECOND)), duration_of(path), length, overlap, None)[:16]
        frames, count = decode_everything(path), data.draw(st.sampled_from([1, 3, 8]))
        clips, _ = read(reader, path, chunks, count)
        assert same(clips, [shown(frames, chunk, count, end_of(path)) for chunk in chunks])
        path.unlink()

    check()
    reader.close()


def _fields(described: Film) -> dict[str, Any]:
    return {name: getattr(described, name) for name in described.__struct_fields__}
