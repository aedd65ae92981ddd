"""Streams that break the rules of selection: noticed, and decoded whole."""

import random
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import pytest

from shared.chunks import SECOND, Chunk, plan_chunks
from shared.errors import DecodeError
from tests.worker.media.films import BROKEN, Film, VideoPacket, make, rewritten
from tests.worker.media.reading import decode_everything, end_of, pick, read, same, setup, shown
from worker.media.decoder.container.byte_sources import LOCAL
from worker.media.decoder.decoder_messages import DecodeCounts
from worker.media.decoder.reader import OpenFile, Reader
from worker.media.decoder.selection.bitstream import parameter_sets

FindFilm = Callable[[str], Path]
CHUNKS = plan_chunks(0, 5 * SECOND, SECOND, 0, None)
START_CODE = b"\0\0\0\1"


def check(path: Path, chunks: list[Chunk] = CHUNKS, **limits: Any) -> DecodeCounts:
    """The chunks' frames are those of full decoding; what it took."""
    frames = decode_everything(path)
    reader = Reader(setup(**limits))
    clips, counts = read(reader, path, chunks, 4)
    reader.close()
    assert same(clips, [shown(frames, chunk, 4, end_of(path)) for chunk in chunks])
    return counts


def pps_of(path: Path) -> bytes:
    """The picture parameter set of a film."""
    with av.open(str(path)) as container:
        (pps,) = (
            nal
            for nal in parameter_sets("h264", container.streams.video[0].codec_context.extradata)
            if nal[0] & 31 == 8
        )
    return pps


def test_parameter_sets_that_change_inside_a_gop(film: FindFilm, tmp_path: Path) -> None:
    """Another set of the same number, put right again at once: it could have stayed."""
    other, own = pps_of(film("h264-slices")), pps_of(film("h264-ts"))
    assert other != own

    def change(index: int, packet: VideoPacket) -> bytes:
        sets = START_CODE + other + START_CODE + own if index == 40 else b""
        return sets + bytes(packet)

    counts = check(rewritten(film("h264-ts"), tmp_path / "changing.ts", change))
    assert counts.dense_chunks > 0
    assert counts.frames_decoded > 60


def test_parameter_sets_that_are_not_repeated(film: FindFilm, tmp_path: Path) -> None:
    """The first key frame brings a set that is new, the others none."""
    other, own = pps_of(film("h264-slices")), pps_of(film("h264-gop30"))

    def change(index: int, packet: VideoPacket) -> bytes:
        sets = [other, own] if index == 0 else []
        return b"".join(len(nal).to_bytes(4, "big") + nal for nal in sets) + bytes(packet)

    counts = check(rewritten(film("h264-gop30"), tmp_path / "once.mp4", change))
    assert counts.dense_chunks > 0


@pytest.mark.parametrize("lost", [range(60, 61), range(58, 66), range(97, 140)])
def test_frames_that_do_not_come_out(lost: range, film: FindFilm, tmp_path: Path) -> None:
    """Pictures that no decoder can decode: what came before stands still, as if everything was decoded."""

    def change(index: int, packet: VideoPacket) -> bytes:
        return BROKEN if index in lost and not packet.is_keyframe else bytes(packet)

    path = rewritten(film("h264-no-b"), tmp_path / "broken.mp4", change)
    counts = check(path)
    assert counts.dense_chunks > 0


def test_a_gop_that_is_too_long_to_hold(film: FindFilm) -> None:
    counts = check(film("h264-gop250"), held=50_000)
    assert counts.dense_chunks == len(CHUNKS)


def test_times_that_run_backwards(film: FindFilm, tmp_path: Path) -> None:
    """Two recordings in one file, the second with the times of the first."""
    path = tmp_path / "twice.ts"
    path.write_bytes(film("h264-ts").read_bytes() * 2)
    reader = Reader(setup())
    clips, _ = read(reader, path, CHUNKS[:3], 4)
    whole = Reader(setup(sparse=False))
    expected, _ = read(whole, path, CHUNKS[:3], 4)
    assert same(clips, expected)


def test_frames_that_come_out_in_another_order_than_their_times(film: FindFilm, tmp_path: Path) -> None:
    """Every frame says that it is shown five frames earlier or later than the one before it."""
    path = tmp_path / "shuffled.mp4"
    with av.open(str(film("h264-no-b"))) as reading, av.open(str(path), "w") as writing:
        copied = writing.add_stream_from_template(reading.streams.video[0])
        for index, packet in enumerate(p for p in reading.demux(video=0) if p.size):
            packet.pts = (packet.pts or 0) + 512 * (5 + (5 if index % 2 else -5))
            packet.stream = copied
            writing.mux(packet)
    assert check(path).dense_chunks > 0


def test_a_chunk_beyond_the_end_shows_the_last_frame(film: FindFilm) -> None:
    (last,) = decode_everything(film("h264-gop30"))[-1:]
    clips, _ = read(Reader(setup()), film("h264-gop30"), [Chunk(0, 6 * SECOND, 7 * SECOND)], 4)
    assert same(clips, [[last]])


def test_a_chunk_whose_pictures_are_all_damaged_fails(film: FindFilm, tmp_path: Path) -> None:
    path = rewritten(
        film("h264-gop1"), tmp_path / "hole.mp4", lambda i, p: BROKEN if 60 <= i < 90 else bytes(p)
    )
    reader = Reader(setup())
    with pytest.raises(DecodeError, match=r"decoded 0 frame\(s\), required at least 1: 30 picture\(s\) are"):
        read(reader, path, [CHUNKS[1], CHUNKS[2]], 4)
    check(path, [CHUNKS[1], *CHUNKS[3:]])


@pytest.mark.parametrize("sparse", [True, False])
@pytest.mark.parametrize("name", ["h264-gop30", "h264-no-b", "h264-slices"])
def test_damage_costs_no_more_frames_on_several_threads(
    name: str, sparse: bool, film: FindFilm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """FFmpeg's threads finish frames at the moment in which another packet fails."""
    rng = random.Random(3)

    def damage(index: int, packet: VideoPacket) -> bytes:
        data = bytearray(packet)
        if index in (17, 18, 40, 61):
            data[4:] = rng.randbytes(len(data) - 4)
        return bytes(data)

    monkeypatch.setattr("worker.media.decoder.reader.LONG_UNIT", 2)
    path = rewritten(film(name), tmp_path / "damaged.mp4", damage)
    frames, chunks = decode_everything(path), plan_chunks(0, 3 * SECOND, SECOND // 2, 0, None)
    clips, counts = read(Reader(setup(sparse=sparse, lanes=4)), path, chunks, 8)
    assert counts.decode_errors
    assert same(clips, [shown(frames, chunk, 8, end_of(path)) for chunk in chunks])


def test_a_film_without_any_frame_fails(film: FindFilm, tmp_path: Path) -> None:
    path = rewritten(film("h264-gop1"), tmp_path / "broken.mp4", lambda _, __: BROKEN)
    with pytest.raises(DecodeError, match="no frame of the video can be decoded"):
        read(Reader(setup()), path, CHUNKS, 4)


def test_frames_that_change_their_size(tmp_path: Path) -> None:
    """Two films of different sizes after each other: each is scaled by itself."""
    described = Film("mpeg2video", "ts", frames=60, gop=15, b_frames=2)
    small, large = (make(tmp_path / f"{size[0]}.ts", described, size) for size in ((128, 96), (192, 144)))
    path = tmp_path / "both.ts"
    with av.open(str(path), "w") as writing:
        copied, shift = None, 0
        for source in (small, large):
            with av.open(str(source)) as reading:
                copied = copied or writing.add_stream_from_template(reading.streams.video[0])
                for packet in reading.demux(video=0):
                    if packet.size:
                        packet.pts, packet.dts = (packet.pts or 0) + shift, (packet.dts or 0) + shift
                        packet.stream = copied
                        writing.mux(packet)
            shift = int(2 / Fraction(1, 90_000))
    check(path, plan_chunks(0, 4 * SECOND, SECOND, 0, None))


# What is kept open ----------------------------------------------------------------------------------------


def opened(reader: Reader) -> OpenFile | None:
    return reader._file


def test_a_file_stays_open_for_the_next_job(film: FindFilm) -> None:
    reader = Reader(setup())
    read(reader, film("h264-gop30"), CHUNKS[:1], 4)
    first = opened(reader)
    read(reader, film("h264-gop30"), CHUNKS[1:], 4)
    assert opened(reader) is first is not None
    read(reader, film("h264-open"), CHUNKS[:1], 4)
    assert opened(reader) is not first
    reader.close()
    assert opened(reader) is None


def test_a_file_that_was_replaced_is_opened_again(film: FindFilm, tmp_path: Path) -> None:
    path = tmp_path / "film.mp4"
    reader = Reader(setup())
    for name in ("h264-gop30", "h264-open"):
        path.unlink(missing_ok=True)
        path.write_bytes(film(name).read_bytes())
        clips, _ = read(reader, path, CHUNKS[:2], 4)
        frames = decode_everything(path)
        assert same(clips, [pick(frames, chunk, 4) for chunk in CHUNKS[:2]])


def test_a_file_that_failed_is_closed(film: FindFilm, tmp_path: Path) -> None:
    reader = Reader(setup())
    broken = rewritten(film("h264-gop1"), tmp_path / "broken.mp4", lambda _, __: BROKEN)
    with pytest.raises(DecodeError):
        read(reader, broken, CHUNKS, 4)
    assert opened(reader) is None


def test_large_pictures_are_decoded_on_fewer_threads(film: FindFilm) -> None:
    each = 128 * 96 * 3 * 20
    lanes = {
        memory: OpenFile(str(film("h264-gop30")), 64, setup(lanes=4, memory=memory), LOCAL).most_lanes
        for memory in (1 << 30, 6 * each, each)
    }
    assert list(lanes.values()) == [4, 3, 1]


def threads_per_unit(film: Path, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """On how many threads each unit of the film is decoded where two pay, ascending."""
    given: list[int] = []
    lane = OpenFile.lane
    monkeypatch.setattr("worker.media.decoder.reader.LONG_UNIT", 2)

    def noting(file: OpenFile, threads: int) -> Any:
        given.append(threads)
        return lane(file, threads)

    monkeypatch.setattr(OpenFile, "lane", noting)
    read(Reader(setup(lanes=2)), film, CHUNKS, 4)
    return sorted(given)


def test_only_the_last_units_are_decoded_on_several_threads(
    film: FindFilm, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = threads_per_unit(film("h264-gop30"), monkeypatch)
    assert given == [1] * (len(given) - 2) + [2, 2]
    assert len(given) > 2


def test_large_units_do_not_wait_for_as_many_as_there_are_lanes(
    film: FindFilm, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.media.decoder.reader.HELD_BACK", 0)
    given = threads_per_unit(film("h264-gop30"), monkeypatch)
    assert given == [1] * (len(given) - 1) + [2]
