from hypothesis import given
from hypothesis import strategies as st

from worker.engine.text_runs import text_runs

LENGTHS = st.lists(st.integers(1, 128), max_size=200)


@given(LENGTHS, st.integers(1, 64), st.integers(1, 4096))
def test_every_text_is_in_one_run_within_both_bounds(lengths: list[int], texts: int, tokens: int) -> None:
    runs = text_runs(lengths, texts, tokens)
    assert sorted(index for run in runs for index in run) == list(range(len(lengths)))
    for run in runs:
        assert len(run) <= texts
        assert len(run) == 1 or len(run) * max(lengths[index] for index in run) <= tokens


@given(LENGTHS, st.integers(1, 64))
def test_texts_of_like_length_are_together(lengths: list[int], texts: int) -> None:
    order = [lengths[index] for run in text_runs(lengths, texts) for index in run]
    assert order == sorted(order)


def test_one_long_text_does_not_pad_the_short_ones() -> None:
    assert text_runs([5, 128, 6, 5], 32, 128) == [[0, 3, 2], [1]]


def test_nothing_gives_nothing() -> None:
    assert text_runs([], 32) == []
