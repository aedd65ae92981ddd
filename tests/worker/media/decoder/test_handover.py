"""Packets that are handed over give, decoded elsewhere, the frames that are decoded here."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shared.chunks import SECOND, Chunk, plan_chunks
from shared.errors import InvalidFile
from tests.worker.media.films import FILMS, Film, copy, make, x264
from tests.worker.media.reading import SIZE, Frames, decode_everything, read, same, setup
from worker.media.decoder.decoder_messages import Choose, Chosen, DecodeCounts, Planned
from worker.media.decoder.handover import Handover
from worker.media.decoder.limits import MediaLimits
from worker.media.decoder.memory import Cancelled, ClipMemory
from worker.media.decoder.reader import Reader
from worker.media.decoder.runs import decode_runs, look_at
from worker.media.decoder.selection.select import Irregular

FindFilm = Callable[[str], Path]
UNSUITED = {
    name for name, film in FILMS.items() if film.codec in ("mpeg2video", "mjpeg", "prores_ks", "wmv2", "flv")
}
UNSUITED |= {"h264-b-avi"}


@pytest.fixture(scope="module")
def reader() -> Iterator[Reader]:
    reader = Reader(setup())
    yield reader
    reader.close()


def no_memory() -> ClipMemory:
    return ClipMemory(lambda _: pytest.fail("nothing is decoded here"), [])


def choose(reader: Reader, path: Path, chunks: list[Chunk], count: int) -> tuple[list[Any], DecodeCounts]:
    """What a decoder process tells about these chunks."""
    messages: list[Any] = []
    counts = DecodeCounts()
    reader.choose(Choose(str(path), chunks, count), no_memory(), messages.append, counts)
    return messages, counts


def decode(messages: list[Chosen | Planned], count: int) -> list[Frames]:
    """The clips that are planned, with frames decoded by FFmpeg from what was handed over alone."""
    clips: list[Frames] = []
    frames: dict[tuple[int, int], np.ndarray] = {}
    for message in messages:
        if isinstance(message, Planned):
            assert message.position == len(clips)
            clips.append([(when, frames[len(clips), i]) for i, when in enumerate(message.times)])
            continue
        run, out = message.run, np.empty((len(message.run.wanted), 3, SIZE, SIZE), np.uint8)
        assert decode_runs(message.look.codec, [run], MediaLimits(), out) == run.wanted
        for places, picture in zip(message.places, out, strict=True):
            assert all(position >= len(clips) and index < count for position, index in places)
            frames.update((place, picture) for place in places)
    return clips


@st.composite
def requests(draw: st.DrawFn) -> tuple[list[Chunk], int]:
    start = draw(st.integers(0, SECOND))
    length = draw(st.integers(SECOND // 2, 2 * SECOND))
    overlap = draw(st.sampled_from([0, 0, length // 2, length * 3 // 4, -length]))
    chunks = [
        chunk
        for chunk in plan_chunks(start, 2 * SECOND, length, overlap, None)
        if chunk.end - chunk.start > SECOND // 4  # what is left at the end may be too short for a frame
    ]
    return chunks[:6], draw(st.sampled_from([1, 3, 8]))


@pytest.mark.parametrize("name", sorted(FILMS.keys() - UNSUITED))
def test_packets_handed_over_give_the_same_frames(name: str, film: FindFilm, reader: Reader) -> None:
    path = film(name)

    @settings(max_examples=4, deadline=None, suppress_health_check=list(HealthCheck), database=None)
    @given(requests())
    def check(request: tuple[list[Chunk], int]) -> None:
        chunks, count = request
        here, counted = read(reader, path, chunks, count)
        messages, counts = choose(reader, path, chunks, count)
        assert same(decode(messages, count), here)
        assert counts == counted
        assert counts.dense_chunks == 0

    check()


@pytest.mark.parametrize("first", [17, 44])
def test_hidden_frames_are_handed_over_only_as_references(
    first: int, film: FindFilm, reader: Reader, tmp_path: Path
) -> None:
    path = copy(film("h264-open"), tmp_path / "cut.mp4", first, avoid_negative_ts="disabled")
    chunks = plan_chunks(0, 2 * SECOND, SECOND, 0, None)
    here, _ = read(reader, path, chunks, 8)
    assert same(decode(choose(reader, path, chunks, 8)[0], 8), here)


def test_a_gop_that_two_clips_need_is_sent_once(film: FindFilm, reader: Reader) -> None:
    messages, _ = choose(reader, film("h264-gop250"), plan_chunks(0, 8 * SECOND, 2 * SECOND, 0, None), 4)
    chosen = [message for message in messages if isinstance(message, Chosen)]
    assert len(chosen) == 1
    assert {position for places in chosen[0].places for position, _ in places} == {0, 1, 2, 3}


def test_clips_are_planned_as_soon_as_their_packets_are_sent(film: FindFilm, reader: Reader) -> None:
    messages, _ = choose(reader, film("h264-gop30"), plan_chunks(0, 4 * SECOND, SECOND, 0, None), 3)
    kinds = [type(message) for message in messages]
    assert kinds.index(Planned) == 1
    assert kinds.count(Planned) == 4


@pytest.mark.parametrize("name", ["h264-gop30", "h264-open-mkv", "hevc-gop30", "h264-ts", "hevc-open-ts"])
def test_packets_are_in_annex_b_and_open_with_parameter_sets(
    name: str, film: FindFilm, reader: Reader
) -> None:
    messages, _ = choose(reader, film(name), [Chunk(0, 0, 2 * SECOND)], 8)
    for message in messages:
        if isinstance(message, Chosen):
            assert message.run.parameters[:3] in (b"\0\0\0", b"\0\0\1")
            assert all(data[:3] in (b"\0\0\0", b"\0\0\1") for _, data in message.run.packets)


@pytest.mark.parametrize(
    ("name", "pixels"),
    [("h264-gop30", "yuv420p"), ("hevc-10-bit", "yuv420p10le"), ("h264-444-10-bit", "yuv444p10le")],
)
def test_what_frames_look_like_is_told(name: str, pixels: str, film: FindFilm, reader: Reader) -> None:
    messages, _ = choose(reader, film(name), [Chunk(0, 0, SECOND)], 2)
    look = next(message.look for message in messages if isinstance(message, Chosen))
    assert (look.pixels, look.width, look.height, look.turn) == (pixels, 128, 96, (1, 0, 0, 1))
    assert not look.full_range
    assert look_at(look.codec, messages[0].run, MediaLimits()) == look


def test_one_key_frame_is_decoded_per_file_to_see_what_it_looks_like(
    film: FindFilm, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[bool] = []
    look = Handover._look

    def noting(handover: Handover, entry: Any, key: Any) -> Any:
        looks.append(key not in handover._file.looks)
        return look(handover, entry, key)

    monkeypatch.setattr(
        Handover,
        "_look",
        noting,
    )
    reader = Reader(setup())
    for _ in range(3):
        choose(reader, film("h264-gop30"), plan_chunks(0, 4 * SECOND, SECOND, 0, None), 8)
    reader.close()
    assert len(looks) > 10
    assert sum(looks) == 1


def test_a_rotated_film_says_so(tmp_path: Path, film: FindFilm, reader: Reader) -> None:
    source = film("h264-gop30")
    path = tmp_path / "turned.mp4"
    with av.open(str(source)) as reading, av.open(str(path), "w") as writing:
        stream = reading.streams.video[0]
        copied = writing.add_stream_from_template(stream)
        for packet in reading.demux(stream):
            if packet.size:
                packet.stream = copied
                writing.mux(packet)
    data = bytearray(path.read_bytes())
    at = data.index(b"tkhd") + 4 + 40  # the matrix, after the fields of version 0
    data[at : at + 36] = b"".join(
        value.to_bytes(4, "big", signed=True) for value in (0, 65536, 0, -65536, 0, 0, 0, 0, 1 << 30)
    )
    path.write_bytes(data)
    messages, _ = choose(reader, path, [Chunk(0, 0, SECOND)], 2)
    assert isinstance(messages[0], Chosen)
    assert messages[0].look.turn == (0, 1, -1, 0)


def test_what_cannot_be_chosen_from_is_said(film: FindFilm, reader: Reader) -> None:
    with pytest.raises(Irregular, match="no frames can be chosen from the packets of this h264 file"):
        choose(reader, film("h264-b-avi"), [Chunk(0, 0, SECOND)], 2)


@pytest.mark.parametrize("name", sorted(UNSUITED - {"h264-b-avi"}))
def test_codecs_that_gpus_do_not_decode_stay_here(name: str, film: FindFilm, reader: Reader) -> None:
    with pytest.raises(Irregular, match="are not handed over"):
        choose(reader, film(name), [Chunk(0, 0, SECOND)], 2)


def test_two_pictures_in_one_packet_are_not_handed_over(
    film: FindFilm, reader: Reader, tmp_path: Path
) -> None:
    """Encoders that pack B-frames put one behind the picture that it needs."""
    path = tmp_path / "packed.mkv"
    with av.open(str(film("mpeg4"))) as reading, av.open(str(path), "w") as writing:
        stream = reading.streams.video[0]
        copied = writing.add_stream_from_template(stream)
        packets = [packet for packet in reading.demux(stream) if packet.size]
        for first, second in zip(packets[::2], packets[1::2], strict=True):
            both = av.Packet(bytes(first) + bytes(second))
            both.pts, both.dts, both.time_base = first.pts, first.dts, first.time_base
            both.is_keyframe, both.stream = first.is_keyframe, copied
            writing.mux(both)
    with pytest.raises(Irregular, match="packed B-frames"):
        choose(reader, path, [Chunk(0, 0, 2 * SECOND)], 4)


def test_a_chunk_beyond_the_end_shows_the_last_frame(film: FindFilm, reader: Reader) -> None:
    messages, _ = choose(reader, film("h264-gop30"), [Chunk(0, 60 * SECOND, 61 * SECOND)], 2)
    last = decode_everything(film("h264-gop30"))[-1][0]
    assert [message.times for message in messages if isinstance(message, Planned)] == [[last]]


def test_a_file_that_is_none_is_refused(reader: Reader, tmp_path: Path) -> None:
    path = tmp_path / "noise.mp4"
    path.write_bytes(bytes(range(256)) * 100)
    with pytest.raises(InvalidFile):
        choose(reader, path, [Chunk(0, 0, SECOND)], 2)


def test_choosing_ends_when_it_is_cancelled(film: FindFilm, reader: Reader) -> None:
    memory = no_memory()
    memory.cancel()
    job = Choose(str(film("h264-gop30")), [Chunk(0, 0, SECOND)], 2)
    with pytest.raises(Cancelled):
        reader.choose(job, memory, lambda _: None, DecodeCounts())


def test_parameter_sets_that_change_are_looked_at_again(tmp_path: Path, reader: Reader) -> None:
    """A transport stream whose picture changes its size half-way."""
    parts = []
    for index, size in enumerate([(128, 96), (160, 128)]):
        film: Film = x264("ts", "keyint=15:min-keyint=15:scenecut=0:bframes=0", frames=45, start=45 * index)
        parts.append(make(tmp_path / f"{index}.ts", film, size).read_bytes())
    path = tmp_path / "both.ts"
    path.write_bytes(b"".join(parts))
    chunks = plan_chunks(0, 3 * SECOND, SECOND, 0, None)
    messages, _ = choose(reader, path, chunks, 4)
    looks = [message.look for message in messages if isinstance(message, Chosen)]
    assert {(look.width, look.height) for look in looks} == {(128, 96), (160, 128)}
    assert same(decode(messages, 4), read(reader, path, chunks, 4)[0])
