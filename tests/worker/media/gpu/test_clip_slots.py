"""Clips in slots of one buffer: batches without copies where that is possible, and who has which slot."""

import asyncio
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from shared.chunks import Chunk
from tests.worker.media.kernel import HostSlots, HostSurface, Kernel
from worker.job_tasks import stack_clips
from worker.media.clip_source import Clip
from worker.media.decoder.pictures.orientation import Turn
from worker.media.decoder.runs import FrameLook
from worker.media.gpu.clip_slots import DeviceClip, Stock

FRAMES, SIZE = 4, 2
LOOK = FrameLook("h264", "yuv420p", 4, 2, 1, True, Turn(1, 0, 0, 1))
CHUNK = Chunk(0, 0, 10)


def grey(level: int) -> HostSurface:
    half = np.full((1, 2), 128, np.uint8)
    return HostSurface("NV12", [np.full((2, 4), level, np.uint8), half, half])


def clip_in(slots: HostSlots, slot: int, count: int = FRAMES) -> DeviceClip:
    """A clip whose frames are grey, each of another level."""
    for index in range(count):
        slots.draw(grey(10 * slot + index), LOOK, slot, index)
    return DeviceClip(CHUNK, slots, slot, list(range(count)), 0.0, release=lambda _: None)


def host_clip(level: int, count: int = 1) -> Clip:
    frames = np.full((count, 3, SIZE, SIZE), level, np.uint8)
    return Clip(CHUNK, frames, [0] * count, 0.0, 0.0)


def padded(clips: Sequence[Clip]) -> NDArray[np.uint8]:
    """What a batch must hold: the last frame is repeated."""
    return np.stack([clip.frames[[min(i, len(clip.frames) - 1) for i in range(FRAMES)]] for clip in clips])


def test_full_clips_side_by_side_are_passed_on_without_a_copy(kernel: Kernel) -> None:
    slots = HostSlots(kernel, 8, FRAMES, SIZE)
    clips = [clip_in(slots, slot) for slot in (3, 4, 5)]
    batch = stack_clips(clips, FRAMES)
    assert np.shares_memory(batch, slots.array)
    assert np.array_equal(batch, padded(clips))
    assert not slots.copied


@pytest.mark.parametrize(
    ("chosen", "counts"), [((3, 5), (4, 4)), ((4, 3), (4, 4)), ((3, 4), (4, 3)), ((0,), (1,))]
)
def test_others_are_gathered_and_padded(
    chosen: tuple[int, ...], counts: tuple[int, ...], kernel: Kernel
) -> None:
    slots = HostSlots(kernel, 8, FRAMES, SIZE)
    clips = [clip_in(slots, slot, count) for slot, count in zip(chosen, counts, strict=True)]
    batch = stack_clips(clips, FRAMES)
    assert not np.shares_memory(batch, slots.array)
    assert np.array_equal(batch, padded(clips))


@given(st.lists(st.tuples(st.booleans(), st.integers(1, FRAMES)), min_size=1, max_size=8))
def test_clips_of_images_and_of_the_cpu_go_into_the_same_batch(kinds: list[tuple[bool, int]]) -> None:
    slots = HostSlots(None, 8, FRAMES, SIZE)  # type: ignore[arg-type] # nothing is drawn
    slots.array[:] = np.random.default_rng(1).integers(0, 256, slots.array.shape)
    slots._drawn = {slot: slot for slot in range(8)}
    clips: list[Clip] = [
        DeviceClip(CHUNK, slots, slot, [0] * count, 0.0, release=lambda _: None)
        if on_gpu
        else host_clip(100 + slot, count)
        for slot, (on_gpu, count) in enumerate(kinds)
    ]
    assert np.array_equal(stack_clips(clips, FRAMES), padded(clips))


def test_a_model_with_other_frames_gets_a_copy(kernel: Kernel) -> None:
    slots = HostSlots(kernel, 2, FRAMES, SIZE)
    batch = stack_clips([clip_in(slots, 0)], FRAMES + 2)
    assert batch.shape == (1, FRAMES + 2, 3, SIZE, SIZE)
    assert np.array_equal(batch[0, FRAMES:], np.broadcast_to(slots.array[0, -1], (2, 3, SIZE, SIZE)))


def test_who_reads_or_draws_waits_for_what_was_drawn_before(kernel: Kernel) -> None:
    """By the last event of each slot, which itself waited for the one before."""
    slots = HostSlots(kernel, 4, FRAMES, SIZE)
    clips = [clip_in(slots, slot, 2) for slot in (0, 2)]
    assert (slots.events, slots.waited) == (4, [1, 3])
    stack_clips(clips, FRAMES)
    assert slots.waited == [1, 3, 2, 4]
    slots.draw(grey(1), LOOK, 2, 0)
    assert slots.waited[-1] == 4


def test_a_clip_is_released_once(kernel: Kernel) -> None:
    slots = HostSlots(kernel, 2, FRAMES, SIZE)
    released: list[int] = []
    slots.draw(grey(5), LOOK, 1, 0)
    clip = DeviceClip(CHUNK, slots, 1, [0], 0.0, release=released.append)
    clip.release()
    clip.release()
    assert released == [1]


# The stock ------------------------------------------------------------------------------------------------


async def test_the_first_free_slots_are_taken() -> None:
    stock = Stock(6)
    assert await stock.take(3) == [0, 1, 2]
    assert await stock.take(2) == [3, 4]
    for slot in (4, 1):
        stock.give_back(slot)
    await asyncio.sleep(0)
    assert await stock.take(3) == [1, 4, 5]
    assert stock.free == 0


async def test_who_waits_longest_is_served_first() -> None:
    """Someone who wants many is not passed over for ever by those who want one."""
    stock = Stock(4)
    taken = await stock.take(3)
    many, one = asyncio.create_task(stock.take(3)), asyncio.create_task(stock.take(1))
    await asyncio.sleep(0)
    assert not many.done()
    assert not one.done()
    await asyncio.to_thread(stock.give_back, taken[0])
    await asyncio.to_thread(stock.give_back, taken[1])
    assert await many == [0, 1, 3]
    assert not one.done()
    stock.give_back(taken[2])
    assert await one == [2]


async def test_whoever_goes_away_while_waiting_takes_nothing() -> None:
    stock = Stock(2)
    taken = await stock.take(2)
    waiting, next_one = asyncio.create_task(stock.take(2)), asyncio.create_task(stock.take(1))
    await asyncio.sleep(0)
    waiting.cancel()
    stock.give_back(taken[0])
    assert await next_one == [0]
    with pytest.raises(asyncio.CancelledError):
        await waiting
    late = asyncio.create_task(stock.take(1))
    await asyncio.sleep(0)
    stock._put(taken[1])
    late.cancel()  # it has been served, but has not seen it yet
    with pytest.raises(asyncio.CancelledError):
        await late
    assert stock.free == 1
