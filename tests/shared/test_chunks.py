from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.chunks import MAX_CHUNKS, SECOND, Chunk, frame_targets, job_runs, plan_chunks
from shared.errors import BadParameter

FPS = Fraction(30)


def span(start: float, end: float) -> tuple[int, int]:
    return round(start * SECOND), round(end * SECOND)


def plan(start: float, end: float, duration: float, overlap: float, **more: Any) -> list[Chunk]:
    """As plan_chunks, in seconds."""
    duration_ns, overlap_ns = span(duration, overlap)
    return plan_chunks(*span(start, end), duration_ns, overlap_ns, **more)


@pytest.mark.parametrize(
    ("start", "end", "duration", "overlap", "expected"),
    [
        (0, 25, 10, 0, [(0, 10), (10, 20), (20, 25)]),
        (0, 25, 10, 5, [(0, 10), (5, 15), (10, 20), (15, 25)]),
        (0, 20.03, 10, 0, [(0, 10), (10, 20)]),
        (0, 20.1, 10, 0, [(0, 10), (10, 20), (20, 20.1)]),
        (0, 25, 0, 0, [(0, 25)]),
        (0, 25, 0, 5, [(0, 25)]),
        (0, 0.02, 10, 0, [(0, 0.02)]),
        (0, 12.02, 10, 8, [(0, 10), (2, 12), (4, 12.02)]),
        (5, 27, 10, 0, [(5, 15), (15, 25), (25, 27)]),
        (0, 30, 5, -5, [(0, 5), (10, 15), (20, 25)]),
        (30, 30, 10, 0, []),
        (31, 30, 0, 0, []),
    ],
)
def test_examples(
    start: float, end: float, duration: float, overlap: float, expected: list[tuple[float, float]]
) -> None:
    planned = plan(start, end, duration, overlap, fps=FPS)
    assert planned == [Chunk(i, *span(*times)) for i, times in enumerate(expected)]


def test_without_a_frame_rate_no_tail_is_dropped() -> None:
    assert len(plan(0, 20.001, 10, 0, fps=None)) == 3


def test_a_tail_of_exactly_two_frames_is_kept() -> None:
    two_frames = 2 * SECOND // 25
    fps = Fraction(25)
    assert len(plan_chunks(0, 10 * SECOND + two_frames, 10 * SECOND, 0, fps)) == 2
    assert len(plan_chunks(0, 10 * SECOND + two_frames - 1, 10 * SECOND, 0, fps)) == 1


def test_a_tail_is_measured_by_the_frames_that_are_really_at_the_end() -> None:
    """A slide show whose last slides, or last second, are shorter than its average."""
    slow = Fraction(1, 4)
    assert len(plan(0, 16, 10, 0, fps=slow)) == 1
    assert len(plan(0, 16, 10, 0, fps=slow, last_frames=8 * SECOND)) == 2
    assert len(plan(0, 10.5, 10, 0, fps=slow, last_frames=SECOND // 12)) == 2
    assert len(plan(0, 10.05, 10, 0, fps=slow, last_frames=SECOND // 12)) == 1


@given(st.integers(1, 400_000), st.integers(1, 30))
def test_a_whole_second_of_a_film_is_never_dropped(milliseconds: int, duration: int) -> None:
    end = milliseconds * SECOND // 1000
    chunks = plan_chunks(0, end, duration * SECOND, 0, Fraction(1, 10), last_frames=20 * SECOND)
    assert end - chunks[-1].end < SECOND


@given(st.fractions(2, 240), st.integers(1, 10**7), st.integers(1, 20), st.integers(-1, 1))
def test_at_an_even_rate_the_last_frames_change_nothing(
    fps: Fraction, milliseconds: int, duration: int, rounding: int
) -> None:
    end, two = milliseconds * SECOND // 1000, int(2 * SECOND / fps) + rounding * SECOND // 1000
    arguments = (0, end, max(duration * SECOND, end // 100), 0, fps)
    assert plan_chunks(*arguments, last_frames=max(1, two)) == plan_chunks(*arguments)


@pytest.mark.parametrize("overlap", [10, 11])
def test_an_overlap_as_long_as_the_chunk_is_refused(overlap: int) -> None:
    with pytest.raises(BadParameter, match="chunk_overlap_duration must be less"):
        plan(0, 25, 10, overlap, fps=FPS)


def test_too_many_chunks_are_refused() -> None:
    assert len(plan(0, MAX_CHUNKS, 1, 0, fps=FPS)) == MAX_CHUNKS
    with pytest.raises(BadParameter, match="more than 10000"):
        plan(0, MAX_CHUNKS + 1, 1, 0, fps=FPS)


@given(
    start=st.integers(0, 100 * SECOND),
    length=st.integers(1, 1000 * SECOND),
    duration=st.integers(1, 60),
    overlap=st.integers(-60, 59),
    fps=st.none() | st.fractions(Fraction(1, 10), 240),
)
def test_chunks_cover_the_span_in_equal_steps(
    start: int, length: int, duration: int, overlap: int, fps: Fraction | None
) -> None:
    overlap = min(overlap, duration - 1)
    end = start + length
    chunks = plan_chunks(start, end, duration * SECOND, overlap * SECOND, fps)
    step = (duration - overlap) * SECOND
    assert [c.index for c in chunks] == list(range(len(chunks)))
    assert [c.start for c in chunks] == [start + i * step for i in range(len(chunks))]
    assert all(c.end == min(c.start + duration * SECOND, end) for c in chunks)
    assert all(c.end < end for c in chunks[:-1])
    last = chunks[-1]
    if last.end < end and last.start + step < end:
        assert fps is not None
        assert (end - last.start - step) * fps < 2 * SECOND


@given(st.integers(0, 10**15), st.integers(0, 10**13), st.integers(1, 64))
def test_targets_are_left_edges(start: int, length: int, count: int) -> None:
    targets = frame_targets(start, start + length, count)
    assert targets[0] == start
    assert len(targets) == count
    assert targets == sorted(targets)
    assert all(abs((t - start) * count - i * length) < count for i, t in enumerate(targets))


@given(st.integers(0, 400))
def test_runs_keep_every_chunk_in_order(count: int) -> None:
    chunks = [Chunk(i, i, i + 1) for i in range(count)]
    runs = job_runs(chunks)
    assert [c for run in runs for c in run] == chunks
    assert all(1 <= len(run) <= 16 for run in runs)


def test_a_long_file_makes_enough_jobs_for_many_workers() -> None:
    assert len(job_runs([Chunk(i, i, i + 1) for i in range(40)])) == 14
