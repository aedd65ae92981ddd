"""Regions for clips: who gets one, who waits, who is turned away."""

import threading
from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from worker.media.decoder.memory import Cancelled, ClipMemory, ClipPlaces, Interrupted
from worker.media.decoder_client import REGION_ALIGNMENT, SharedMemory

Region = NDArray[np.uint8]


def region(offset: int) -> Region:
    """A region that knows where it lies."""
    return np.full(1, offset, np.uint8)


class Taker(threading.Thread):
    """Takes the region of one clip and tells what came of it."""

    def __init__(self, memory: ClipMemory, position: int) -> None:
        super().__init__(daemon=True)
        self.memory = memory
        self.position = position
        self.result: int | Exception | None = None
        self.start()

    def run(self) -> None:
        try:
            self.result = int(self.memory.region(self.position)[0])
        except (Cancelled, Interrupted) as error:
            self.result = error

    def outcome(self) -> int | Exception | None:
        """What came of it; None while it waits."""
        self.join(0.2)
        return self.result


def test_clips_take_regions_in_order() -> None:
    memory = ClipMemory(region, [10, 20])
    third = Taker(memory, 2)
    assert Taker(memory, 1).outcome() == 20
    assert Taker(memory, 0).outcome() == 10
    assert third.outcome() is None


def test_a_clip_keeps_its_region() -> None:
    memory = ClipMemory(region, [10, 20])
    assert memory.region(0) is memory.region(0)


def test_a_clip_waits_for_a_region_to_be_granted() -> None:
    memory = ClipMemory(region, [10])
    memory.take(0)
    waiting = Taker(memory, 1)
    assert waiting.outcome() is None
    memory.grant(10, region)
    assert waiting.outcome() == 10


def test_a_finished_clip_tells_where_it_lies() -> None:
    memory = ClipMemory(region, [10, 20])
    memory.take(0)
    assert memory.finish(0) == 10


def test_a_clip_that_is_left_out_takes_no_region() -> None:
    memory = ClipMemory(region, [10, 20])
    third = Taker(memory, 2)
    assert third.outcome() is None
    memory.leave_out(0)
    assert third.outcome() == 10
    memory.leave_out(3)
    fifth = Taker(memory, 4)
    assert fifth.outcome() is None
    memory.leave_out(1)
    assert fifth.outcome() == 20


def test_who_waits_is_cancelled() -> None:
    memory = ClipMemory(region, [])
    waiting = Taker(memory, 0)
    memory.cancel()
    assert isinstance(waiting.outcome(), Cancelled)
    with pytest.raises(Cancelled):
        memory.check()


def test_an_interruption_ends() -> None:
    memory = ClipMemory(region, [10])
    waiting = Taker(memory, 1)
    memory.interrupt(on=True)
    assert isinstance(waiting.outcome(), Interrupted)
    memory.interrupt(on=False)
    memory.check()
    assert Taker(memory, 0).outcome() == 10


def test_cancelling_outlasts_an_interruption() -> None:
    memory = ClipMemory(region, [10])
    memory.interrupt(on=True)
    memory.cancel()
    memory.interrupt(on=False)
    with pytest.raises(Cancelled):
        memory.take(0)


def test_a_clip_does_not_wait_for_ever_for_the_ones_before_it() -> None:
    places = ClipPlaces([10], patience=0.05)
    with pytest.raises(TimeoutError, match="clip 2 comes before clip 0"):
        places.take(2)


def test_places_that_are_not_used_are_returned_at_the_end() -> None:
    places = ClipPlaces([10, 20, 30])
    assert [places.take(0), places.take(1), places.finish(0)] == [10, 20, 10]
    assert sorted(places.end()) == [20, 30]
    assert not places.add(10)


# The worker's side ----------------------------------------------------------------------------------------


@pytest.fixture
def shared() -> SharedMemory:
    return SharedMemory()


def test_regions_do_not_overlap(shared: SharedMemory) -> None:
    sizes = [100, 5000, 4096, 1]
    offsets = [shared.take(size) for size in sizes]
    pages = [set(range(offset, offset + size)) for offset, size in zip(offsets, sizes, strict=True)]
    assert sum(map(len, pages)) == len(set.union(*pages))
    assert all(offset % REGION_ALIGNMENT == 0 for offset in offsets)
    shared.close()


def test_free_regions_are_used_again(shared: SharedMemory) -> None:
    first, second, third = (shared.take(REGION_ALIGNMENT) for _ in range(3))
    shared.give_back(second)
    assert shared.take(2 * REGION_ALIGNMENT) > third
    assert shared.take(REGION_ALIGNMENT) == second
    shared.give_back(first)
    assert shared.take(10) == first
    shared.close()


def test_arrays_outlive_the_memory(shared: SharedMemory) -> None:
    array = shared.array(shared.take(12), (3, 4))
    array[...] = 7
    shared.close()
    assert array.sum() == 84


def test_arrays_stay_where_they_are_when_the_memory_grows(shared: SharedMemory) -> None:
    offset = shared.take(10)
    before = shared.array(offset, (10,))
    shared.take(10 * REGION_ALIGNMENT)
    before[...] = 5
    assert shared.array(offset, (10,)).sum() == 50
    shared.close()


def test_a_new_process_sees_what_was_written(shared: SharedMemory, region_of: Callable[..., Region]) -> None:
    offset = shared.take(8)
    shared.array(offset, (8,))[...] = range(8)
    assert list(region_of(shared.fd, shared.size, offset)) == list(range(8))
    shared.close()


@pytest.fixture
def region_of() -> Callable[..., Region]:
    """How a decoder process looks at the memory."""
    from worker.media.decoder.memory import Arena

    return lambda fd, size, offset: Arena(fd).region(size, offset, (8,))
