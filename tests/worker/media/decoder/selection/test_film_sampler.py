"""Choosing the frames of a chunk of a film, against the rule written out target by target."""

from collections.abc import Sequence
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.chunks import SECOND, Chunk
from worker.media.decoder.selection.film_sampler import STILL, FilmSampler
from worker.media.decoder.selection.select import Sampler

MS = SECOND // 1000
TWO = Chunk(0, 0, 2 * SECOND)


def chosen(times: Sequence[int], chunk: Chunk, count: int, end: int) -> list[int]:
    """The chunk's frames of a film whose frames are presented at `times`, the last until `end`."""
    sampler, before = FilmSampler(chunk, count), None
    taken: list[int] = []
    for time in times:
        taken += sampler.take(time, before)
        before = time
    taken += sampler.finish(before, end)
    assert sampler.next_target is None
    return taken


def in_ms(times: Sequence[int], chunk: tuple[int, int], count: int, end: int) -> list[int]:
    span = Chunk(0, chunk[0] * MS, chunk[1] * MS)
    return [time // MS for time in chosen([time * MS for time in times], span, count, end * MS)]


DENSE = [index * 100 for index in range(100)]


def test_of_dense_frames_each_target_gets_the_first_at_or_after_it() -> None:
    assert in_ms(DENSE, (0, 2000), 8, 10_000) == [0, 300, 500, 800, 1000, 1300, 1500, 1800]


def test_dense_frames_serve_several_targets_once() -> None:
    assert in_ms(DENSE, (0, 400), 8, 10_000) == [0, 100, 200, 300, 400]


def test_frames_as_far_apart_as_targets_are_dense() -> None:
    """A camera with a frame every second, in chunks of ten seconds."""
    seconds = [index * 1000 for index in range(30)]
    assert in_ms(seconds, (0, 10_000), 8, 30_000) == [0, 2000, 3000, 4000, 5000, 7000, 8000, 9000]


def test_a_pause_shows_the_frame_before_it() -> None:
    """Frames from 0 to 1 s and from 13 s on."""
    times = [*range(0, 1000, 100), *range(13_000, 14_000, 100)]
    assert in_ms(times, (0, 2000), 8, 14_000) == [0, 300, 500, 800, 900, 900, 900, 900]
    assert in_ms(times, (2000, 4000), 8, 14_000) == [900] * 8
    assert in_ms(times, (12_000, 14_000), 8, 14_000) == [900] * 4 + [13_000, 13_300, 13_500, 13_800]


def test_slides_are_shown_for_as_long_as_they_stand() -> None:
    slides = [0, 3000, 6000, 9000]
    assert in_ms(slides, (0, 12_000), 8, 12_000) == [0, 0, 3000, 3000, 6000, 6000, 9000, 9000]
    assert in_ms(slides, (10_000, 12_000), 4, 12_000) == [9000] * 4


def test_before_the_first_frame_that_one_is_shown() -> None:
    late = [5000 + index * 100 for index in range(50)]
    assert in_ms(late, (0, 8000), 8, 10_000) == [5000] * 5 + [5000, 6000, 7000]
    assert in_ms(late, (4000, 6000), 4, 10_000) == [5000, 5000, 5000, 5500]


def test_a_chunk_before_the_first_frame_has_none() -> None:
    assert in_ms([5000, 5100], (0, 4000), 8, 5200) == []
    assert in_ms([5000, 5100], (0, 5000), 1, 5200) == [5000]


def test_a_chunk_between_two_dense_frames_shows_the_one_before_it() -> None:
    assert in_ms(DENSE, (110, 190), 8, 10_000) == [100]


def test_a_chunk_beyond_the_end_shows_the_last_frame() -> None:
    assert in_ms(DENSE, (12_000, 14_000), 8, 10_000) == [9900]


def test_a_film_without_frames_has_none_to_show() -> None:
    assert in_ms([], (0, 1000), 8, 0) == []


def test_targets_beyond_the_end_of_the_film_get_nothing() -> None:
    assert in_ms([0, 100, 200], (0, 2000), 4, 300) == [0]


@st.composite
def films(draw: st.DrawFn, longest: int) -> list[int]:
    """Frame times (ns) with steps of up to `longest`."""
    steps = draw(st.lists(st.integers(1, longest), min_size=1, max_size=60))
    times = [draw(st.integers(0, longest))]
    for step in steps:
        times.append(times[-1] + step)
    return times


@st.composite
def chunks(draw: st.DrawFn, end: int) -> Chunk:
    start = draw(st.integers(0, max(0, end - 1)))
    return Chunk(0, start, draw(st.integers(start + 1, end)))


@given(films(STILL), st.data(), st.sampled_from([1, 2, 5, 8, 16]))
def test_dense_frames_are_chosen_as_ever(times: list[int], data: st.DataObject, count: int) -> None:
    chunk = data.draw(chunks(times[-1]))
    sampler = Sampler(chunk, count)
    expected = [time for time in times if sampler.take(time)]
    if expected:
        assert chosen(times, chunk, count, times[-1]) == expected


@given(films(20 * SECOND), st.data(), st.sampled_from([1, 2, 5, 8, 16]))
def test_any_film_shows_something_at_any_time(times: list[int], data: st.DataObject, count: int) -> None:
    end = times[-1] + data.draw(st.integers(1, 20 * SECOND))
    chunk = data.draw(chunks(end))
    taken = chosen(times, chunk, count, end)
    assert len(taken) <= count
    assert taken == sorted(taken)
    assert bool(taken) == (chunk.end >= times[0])
    assert all(time <= chunk.end for time in taken)
    # A frame is repeated only while no other is due: the next of the film comes after the step of a target.
    step = (chunk.end - chunk.start) // count
    for first, second in pairwise(taken):
        if first == second:
            following = next((time for time in times if time > first), end)
            earlier = max((time for time in times if time < first), default=0)
            assert max(following - first, first - earlier) > max(STILL, step)


@given(films(20 * SECOND), st.data())
def test_no_frame_that_stands_still_is_lost(times: list[int], data: st.DataObject) -> None:
    """Side by side, chunks show every frame that stands for two of their targets."""
    end = times[-1] + SECOND
    length = data.draw(st.integers(SECOND, 10 * SECOND))
    spans = [Chunk(i, start, min(start + length, end)) for i, start in enumerate(range(0, end, length))]
    seen = {time for chunk in spans for time in chosen(times, chunk, 8, end)}
    for time, following in zip(times, [*times[1:], end], strict=True):
        if following - time > max(2 * length // 8, STILL) + length // 8:
            assert time in seen


@pytest.mark.parametrize("count", [1, 8])
def test_an_empty_chunk_shows_what_is_there_at_its_instant(count: int) -> None:
    assert in_ms([50, 100, 150], (100, 100), count, 200) == [100]
    assert in_ms([50, 100, 150], (120, 120), count, 200) == [100]
