"""The frames of a chunk are the same, bit for bit, however few packets are decoded for them."""

from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shared.chunks import SECOND, Chunk, plan_chunks
from tests.worker.media.films import FILMS, copy
from tests.worker.media.matrix import WITHOUT_ORDER
from tests.worker.media.reading import Frames, decode_everything, facts_of, pick, read, same, setup
from worker.media.decoder.reader import Reader

FindFilm = Callable[[str], Path]


@pytest.fixture(scope="module")
def sparse() -> Iterator[Reader]:
    reader = Reader(setup())
    yield reader
    reader.close()


@pytest.fixture(scope="module")
def dense() -> Iterator[Reader]:
    reader = Reader(setup(sparse=False))
    yield reader
    reader.close()


@lru_cache(maxsize=2)
def everything(path: Path) -> Frames:
    return decode_everything(path)


def duration(path: Path) -> int:
    return facts_of(path).duration


def assert_same(reader: Reader, path: Path, chunks: list[Chunk], count: int) -> None:
    expected = [pick(everything(path), chunk, count) for chunk in chunks]
    assert all(expected), "a chunk without frames tests nothing"
    clips, _ = read(reader, path, chunks, count)
    assert same(clips, expected)


@st.composite
def requests(draw: st.DrawFn, duration: int) -> tuple[list[Chunk], int]:
    """Chunks as a client may ask for: any range, with gaps, side by side or overlapping, any frames."""
    start = draw(st.integers(0, duration * 9 // 10))
    end = draw(st.integers(start + SECOND // 10, duration + SECOND))
    length = draw(st.integers(SECOND // 4, 3 * SECOND))
    overlap = draw(st.sampled_from([0, 0, length // 2, length * 4 // 5, -length]))
    return plan_chunks(start, end, length, overlap, None)[:12], draw(st.sampled_from([1, 2, 5, 8, 16]))


@pytest.mark.parametrize("name", FILMS)
def test_any_request_gives_the_frames_of_full_decoding(name: str, film: FindFilm, sparse: Reader) -> None:
    path = film(name)

    @settings(max_examples=10, deadline=None, suppress_health_check=list(HealthCheck), database=None)
    @given(requests(duration(path)))
    def check(request: tuple[list[Chunk], int]) -> None:
        chunks, count = request
        expected = [pick(everything(path), chunk, count) for chunk in chunks]
        wanted = [chunk for chunk, frames in zip(chunks, expected, strict=True) if frames]
        if wanted:
            clips, _ = read(sparse, path, wanted, count)
            assert same(clips, [frames for frames in expected if frames])

    check()


@pytest.mark.parametrize("name", FILMS)
def test_without_selection_the_frames_are_the_same(name: str, film: FindFilm, dense: Reader) -> None:
    path = film(name)
    assert_same(dense, path, plan_chunks(0, duration(path), 2 * SECOND, 0, None)[:2], 8)


@pytest.mark.parametrize("name", sorted(FILMS.keys() - WITHOUT_ORDER))
def test_selection_leaves_packets_out(name: str, film: FindFilm, sparse: Reader) -> None:
    path = film(name)
    chunk = Chunk(0, 0, duration(path))
    _, counts = read(sparse, path, [chunk], 2)
    assert counts.dense_chunks == 0
    assert counts.frames_decoded < len(everything(path)) * 3 // 4


@pytest.mark.parametrize("name", sorted(WITHOUT_ORDER))
def test_without_an_order_of_frames_everything_is_decoded(name: str, film: FindFilm, sparse: Reader) -> None:
    path = film(name)
    _, counts = read(sparse, path, [Chunk(0, 0, duration(path))], 2)
    assert counts.dense_chunks == 1


@pytest.mark.parametrize("first", [1, 17, 44, 61])
def test_frames_hidden_by_an_edit_list_are_not_there(
    first: int, film: FindFilm, sparse: Reader, tmp_path: Path
) -> None:
    path = copy(film("h264-open"), tmp_path / "cut.mp4", first, avoid_negative_ts="disabled")
    frames = everything(path)
    assert len(frames) == len(everything(film("h264-open"))) - first
    assert frames[0][0] == 0
    assert_same(sparse, path, plan_chunks(0, duration(path), SECOND, 0, None)[:4], 8)


JUMPING = [
    "h264-gop1", "h264-open", "h264-open-mkv", "h264-open-ts", "h264-fragmented", "h264-fragments-in-gop",
    "h264-late-start", "h264-flv", "hevc-open-ts", "vp9", "mpeg4-avi", "mpeg2-ps", "wmv2",
]  # fmt: skip


@pytest.mark.parametrize("name", JUMPING)
def test_jumping_over_every_gap_changes_nothing(
    name: str, film: FindFilm, sparse: Reader, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.media.decoder.units.SKIP_BYTES", 0)
    monkeypatch.setattr("worker.media.decoder.container.demux.SEARCH_BYTES", 0)
    path = film(name)
    for count in (1, 2, 3, 5):
        assert_same(sparse, path, [Chunk(0, SECOND // 3, duration(path) * 3 // 4)], count)


@pytest.mark.parametrize("name", ["h264-gop1", "hevc-open", "mpeg4-avi"])
def test_a_gap_is_not_read(
    name: str, film: FindFilm, sparse: Reader, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = film(name)
    chunks = [Chunk(0, 0, 4 * SECOND)]
    _, read_through = read(sparse, path, chunks, 2)
    monkeypatch.setattr("worker.media.decoder.units.SKIP_BYTES", 0)
    _, jumped = read(sparse, path, chunks, 2)
    assert jumped.packets < read_through.packets * 4 // 5


@pytest.mark.parametrize("lanes", [1, 2, 4])
@pytest.mark.parametrize("long_unit", [2, 1000])
def test_threads_change_nothing(
    lanes: int, long_unit: int, film: FindFilm, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.media.decoder.reader.LONG_UNIT", long_unit)
    reader = Reader(setup(lanes=lanes))
    assert_same(reader, film("h264-open"), plan_chunks(0, 5 * SECOND, SECOND // 2, 0, None), 8)
    reader.close()
