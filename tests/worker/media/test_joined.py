"""Files that were joined byte by byte: several recordings, each with a clock of its own, are one film."""

from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from pathlib import Path

import av
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shared.chunks import SECOND, Chunk, plan_chunks
from tests.worker.media.numbered import film, full_decode, numbers
from tests.worker.media.reading import facts_of, read, setup
from worker.media.decoder import film_facts
from worker.media.decoder.reader import Reader

RATE = 30
PIXELS = ("-pix_fmt", "yuv420p")
X264 = ("-c:v", "libx264", "-g", "30", *PIXELS)
VP8 = ("-c:v", "libvpx", "-g", "30", "-deadline", "realtime", "-cpu-used", "8", *PIXELS)
FRAGMENTS = ("-movflags", "frag_keyframe+empty_moov+default_base_moof")

Cut = Callable[[str, int, int], Path]


@pytest.fixture(scope="module")
def reader() -> Iterator[Reader]:
    reader = Reader(setup())
    yield reader
    reader.close()


def joined(target: Path, parts: Sequence[Path]) -> Path:
    target.write_bytes(b"".join(part.read_bytes() for part in parts))
    return target


def assert_one_film(reader: Reader, path: Path, frames: int, late: int = 0) -> None:
    """The file is a film of `frames` frames, all there and in order, whoever reads it. A few frames may come
    up to `late` frames later than at an even rate."""
    facts = facts_of(path)
    assert facts.joined
    assert abs(facts.duration - frames * SECOND // RATE) <= (late + 1) * SECOND // RATE
    chunks = plan_chunks(0, facts.duration, SECOND, 0, None)
    for source in (reader, Reader(setup(sparse=False))):
        clips, _ = read(source, path, chunks, 8, joined=True)
        for chunk, clip in zip(chunks, clips, strict=True):
            for index, found in enumerate(numbers(clip)):
                target = chunk.start + index * (chunk.end - chunk.start) // 8
                expected = -(-target * RATE // SECOND)
                assert expected - late <= found <= expected + 1
    seen = [n for chunk in chunks for n in numbers(read(reader, path, [chunk], 60, joined=True)[0][0])]
    assert seen == sorted(seen)
    assert len(set(seen)) >= frames - late


@pytest.mark.parametrize(
    ("suffix", "options", "late"),
    [
        ("ts", X264, 0),
        ("ts", ("-c:v", "mpeg2video", "-g", "15", "-bf", "2"), 0),
        ("ts", ("-c:v", "libx265", "-x265-params", "log-level=none:pools=1:keyint=30", *PIXELS), 0),
        ("mpg", ("-c:v", "mpeg2video", "-g", "15", "-bf", "2"), 2),
        ("webm", (*VP8, "-live", "1"), 0),
        ("webm", VP8, 0),
        ("mkv", (*X264, "-live", "1"), 0),
        ("mkv", X264, 0),
        ("mp4", (*X264, *FRAGMENTS), 0),
        ("ogv", ("-c:v", "libtheora", "-g", "30", *PIXELS), 4),
    ],
    ids=["TS", "TS of MPEG-2", "TS of HEVC", "PS", "MediaRecorder", "WebM", "Matroska never closed",
         "Matroska", "fragments", "Ogg"],
)  # fmt: skip
def test_recordings_one_after_the_other(
    suffix: str, options: Sequence[str], late: int, reader: Reader, tmp_path: Path
) -> None:
    first = film(tmp_path / f"a.{suffix}", 90, *options)
    second = film(tmp_path / f"b.{suffix}", 60, *options, first=90)
    assert_one_film(reader, joined(tmp_path / f"joined.{suffix}", [first, second]), 150, late)


def test_two_transport_streams_of_five_seconds(reader: Reader, tmp_path: Path) -> None:
    parts = [film(tmp_path / f"{n}.ts", 150, *X264, first=150 * n) for n in range(2)]
    path = joined(tmp_path / "joined.ts", parts)
    assert facts_of(path).duration == 10 * SECOND
    assert [number for _, number in full_decode(path)] == list(range(300))
    clips, counts = read(reader, path, plan_chunks(0, 10 * SECOND, SECOND, 0, None), 30, joined=True)
    assert [number for clip in clips for number in numbers(clip)] == list(range(300))
    assert counts.dense_chunks == 0


def test_a_recording_of_another_size_goes_on_with_the_film(reader: Reader, tmp_path: Path) -> None:
    first = film(tmp_path / "a.ts", 60, *X264)
    second = film(tmp_path / "b.ts", 60, *X264, first=60, size=(256, 192))
    assert_one_film(reader, joined(tmp_path / "joined.ts", [first, second]), 120)


def test_what_a_recording_cannot_decode_by_itself_is_left_out(reader: Reader, tmp_path: Path) -> None:
    """The second part was cut out of the middle of a GOP: 15 frames have nothing to refer to."""
    whole = film(tmp_path / "whole.mkv", 90, *X264[:-2], "-bf", "0", *PIXELS, first=60)
    cut = tmp_path / "cut.ts"
    with av.open(str(whole)) as reading, av.open(str(cut), "w") as writing:
        copied = writing.add_stream_from_template(reading.streams.video[0])
        for packet in [p for p in reading.demux(video=0) if p.size][15:]:
            packet.stream = copied
            writing.mux(packet)
    path = joined(tmp_path / "joined.ts", [film(tmp_path / "a.ts", 60, *X264), cut])
    frames = [*range(60), *range(90, 150)]
    clips, _ = read(reader, path, plan_chunks(0, 4 * SECOND, SECOND, 0, None), 60, joined=True)
    assert sorted({number for clip in clips for number in numbers(clip)}) == frames


def test_a_clock_that_jumps_is_another_recordings(reader: Reader, tmp_path: Path) -> None:
    """Forwards by more than 10 s in a transport stream, as ffmpeg has it; by less, it is a pause."""
    first = film(tmp_path / "a.ts", 60, *X264)
    far = film(tmp_path / "b.ts", 60, *X264, "-output_ts_offset", "60", first=60)
    near = film(tmp_path / "c.ts", 60, *X264, "-output_ts_offset", "6", first=60)
    assert_one_film(reader, joined(tmp_path / "far.ts", [first, far]), 120)
    paused = facts_of(joined(tmp_path / "near.ts", [first, near]))
    assert not paused.joined
    assert abs(paused.duration - 8 * SECOND) < SECOND // 10


def test_films_that_were_not_joined_are_not_taken_for_it(tmp_path: Path) -> None:
    for name, options in {
        "a.ts": X264, "b.ts": (*X264, "-output_ts_offset", "95441"),
        "a.mpg": ("-c:v", "mpeg2video", "-bf", "2"),
        "a.mkv": (*X264, "-x264-params", "open-gop=1"), "a.mp4": (*X264, *FRAGMENTS), "a.webm": VP8,
        "a.ogv": ("-c:v", "libtheora"),
    }.items():  # fmt: skip
        facts = facts_of(film(tmp_path / name, 120, *options))
        assert not facts.joined
        assert abs(facts.duration - 4 * SECOND) < SECOND // 10


def test_only_so_many_bytes_are_searched_for_breaks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parts = [film(tmp_path / f"{n}.ts", 60, *X264, first=60 * n) for n in range(2)]
    path = joined(tmp_path / "joined.ts", parts)
    assert facts_of(path).joined
    monkeypatch.setattr(film_facts, "WHOLE_BYTES", 1000)
    assert not facts_of(path).joined


# Any recordings -------------------------------------------------------------------------------------------

FRAMES = (40, 25, 61)


@pytest.fixture(scope="module")
def recordings(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Parts of one numbered film, by one encoder: Matroska says only once what its packets need."""
    folder, made, first = tmp_path_factory.mktemp("recordings"), [], 0
    for index, (frames, gop) in enumerate(zip(FRAMES, (12, 250, 20), strict=True)):
        options = ("-c:v", "libx264", "-g", str(gop), "-bf", "2", *PIXELS)
        made.append(film(folder / f"{index}.mp4", frames, *options, first=first))
        first += frames
    return made


def moved(source: Path, target: Path, start: int) -> None:
    """The film in another container, its clock beginning at `start` (ms)."""
    live = {"live": "1"} if target.suffix == ".mkv" else {}
    with av.open(str(source)) as reading, av.open(str(target), "w", options=live) as writing:
        copied = writing.add_stream_from_template(reading.streams.video[0])
        for packet in (p for p in reading.demux(video=0) if p.size):
            shift = int(Fraction(start, 1000) / (packet.time_base or 1))
            packet.pts, packet.dts = (packet.pts or 0) + shift, (packet.dts or 0) + shift
            packet.stream = copied
            writing.mux(packet)


@pytest.mark.parametrize("suffix", ["ts", "mkv"])
def test_any_clocks_make_one_film_without_a_gap(
    suffix: str, recordings: list[Path], reader: Reader, tmp_path: Path
) -> None:
    """Whatever the clocks of the parts say: they overlap, run backwards or, in a transport stream, jump."""

    @settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck), database=None)
    @given(st.lists(st.integers(0, 900), min_size=3, max_size=3), st.data())
    def check(starts: list[int], data: st.DataObject) -> None:
        far = data.draw(st.sampled_from([0, 40_000] if suffix == "ts" else [0]))
        parts = []
        for index, (source, start) in enumerate(zip(recordings, starts, strict=True)):
            parts.append(tmp_path / f"{index}.{suffix}")
            moved(source, parts[-1], start + far * (index == 1))
        path = joined(tmp_path / f"joined.{suffix}", parts)
        facts = facts_of(path)
        total = sum(FRAMES)
        assert facts.joined
        assert abs(facts.duration - total * SECOND // RATE) < SECOND // 5
        length = data.draw(st.integers(SECOND // 2, 5 * SECOND))
        chunks = plan_chunks(0, facts.duration, length, 0, None)
        clips, _ = read(reader, path, chunks, 8, joined=True)
        shown = [number for clip in clips for number in numbers(clip)]
        assert shown == sorted(shown)
        times = [when for clip in clips for when, _ in clip]
        assert times == sorted(times)
        for chunk, clip in zip(chunks, clips, strict=True):
            assert abs(numbers(clip)[0] - chunk.start * RATE // SECOND) <= 4
        whole, _ = read(reader, path, [Chunk(0, 0, facts.duration)], total * 2, joined=True)
        assert numbers(list({when: (when, frame) for when, frame in whole[0]}.values())) == list(range(total))

    check()
