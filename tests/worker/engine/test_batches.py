import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.errors import DeviceLost, DeviceMemoryShort, EngineError
from worker.engine.batches import PATIENCE, Batches, graph_shapes, smallest_holding, text_runs
from worker.models.embedding_engine import Vectors


class Device:
    """Has memory for `room` items at a time; gives each item its own number."""

    def __init__(self, room: int) -> None:
        self.room = room
        self.batches: list[int] = []

    def __call__(self, start: int, end: int) -> Vectors:
        if end - start > self.room:
            raise DeviceMemoryShort(f"{end - start} items")
        self.batches.append(end - start)
        return np.arange(start, end, dtype=np.float32)[:, None]


@given(st.integers(1, 64), st.integers(1, 64), st.integers(0, 200))
def test_every_item_is_done_once_and_in_order(most: int, room: int, count: int) -> None:
    device = Device(room)
    done = Batches(most).run(count, device)
    assert [int(x) for part in done for x in part[:, 0]] == list(range(count))
    assert max(device.batches, default=0) <= min(most, room)


def test_batches_shrink_only_when_memory_is_short() -> None:
    batches = Batches(8)
    device = Device(8)
    batches.run(20, device)
    assert device.batches == [8, 8, 4]
    device.room = 3
    device.batches.clear()
    batches.run(9, device)
    assert (device.batches, batches.limit) == ([2, 2, 2, 2, 1], 2)


def test_larger_batches_come_back_when_memory_does() -> None:
    batches = Batches(8)
    device = Device(2)
    batches.run(8, device)
    assert batches.limit == 2
    device.room = 8
    batches.run(2 * PATIENCE, device)
    assert batches.limit == 4
    batches.run(4 * PATIENCE + 4 * PATIENCE, device)
    assert batches.limit == 8


def test_no_memory_for_one_item_is_an_error_that_the_next_call_survives() -> None:
    batches = Batches(4)
    device = Device(0)
    with pytest.raises(DeviceMemoryShort, match="a batch of one fails: 1 items"):
        batches.run(3, device)
    device.room = 4
    assert len(batches.run(3, device)) == 3


def test_a_batch_that_the_engine_fails_at_is_tried_in_halves() -> None:
    def fail(start: int, end: int) -> Vectors:
        if end - start > 2:
            raise EngineError(f"no kernel for {end - start}")
        return np.zeros((end - start, 1), np.float32)

    batches = Batches(8)
    assert [len(part) for part in batches.run(9, fail)] == [2, 2, 2, 2, 1]
    assert batches.limit == 2


def test_an_engine_that_fails_at_one_item_is_no_lack_of_memory() -> None:
    def fail(start: int, end: int) -> Vectors:
        raise EngineError(f"no kernel for {end - start}")

    with pytest.raises(EngineError, match="a batch of one fails: no kernel for 1") as caught:
        Batches(4).run(9, fail)
    assert not isinstance(caught.value, DeviceMemoryShort)


def test_what_is_no_error_of_the_engine_passes() -> None:
    def fail(start: int, end: int) -> Vectors:
        raise DeviceLost("gone")

    batches = Batches(4)
    with pytest.raises(DeviceLost):
        batches.run(9, fail)
    assert batches.limit == 4


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


def test_padding_that_costs_more_than_a_call_is_saved_by_one() -> None:
    lengths = [5, 6, 5, 9, 5, 6]
    assert text_runs(lengths, 32, call_cost=10) == [[0, 2, 4, 1, 5], [3]]  # 3 tokens of padding, then 15
    assert text_runs(lengths, 32, call_cost=2) == [[0, 2, 4], [1, 5], [3]]
    assert text_runs(lengths, 32) == [[0, 2, 4, 1, 5, 3]]


def test_nothing_gives_nothing() -> None:
    assert text_runs([], 32) == []


def test_small_batches_of_texts_get_graphs() -> None:
    shapes = graph_shapes(64, 128)
    assert len(shapes) == 19
    assert shapes[:6] == [(8, 64), (8, 32), (8, 16), (8, 8), (4, 128), (4, 64)]
    assert graph_shapes(6, 12) == [(4, 12), (4, 8), (2, 12), (2, 8), (1, 12), (1, 8)]


@pytest.mark.parametrize(
    ("texts", "tokens", "shape"),
    [(1, 3, (1, 8)), (3, 9, (4, 16)), (5, 64, (8, 64)), (8, 65, None), (9, 3, None), (1, 129, None)],
)
def test_a_batch_is_padded_to_the_smallest_graph(
    texts: int, tokens: int, shape: tuple[int, int] | None
) -> None:
    assert smallest_holding(graph_shapes(64, 128), texts, tokens) == shape
