"""Room for a decoder process: starting it although something ends it meanwhile."""

import asyncio
from collections.abc import AsyncIterator

import psutil
import pytest

from shared.errors import DecodeError
from worker.media.decoder.decoder_messages import DecodeCounts, Setup
from worker.media.decoder.limits import MediaLimits
from worker.media.process_slot import STARTS, Slot


@pytest.fixture
async def slot() -> AsyncIterator[Slot]:
    made = Slot(Setup(limits=MediaLimits(), lanes=1, sparse=True, reuse=True), 0, DecodeCounts())
    yield made
    await made.drop()


async def kill_decoders(slot: Slot, count: int, kill: str = "kill") -> set[int]:
    """End the next decoders that this process starts, each before it is ready; return their ids."""
    this, killed = psutil.Process(), set[int]()
    while len(killed) < count:
        await asyncio.sleep(0.005)
        for child in this.children():
            if child.pid not in killed and any("decoder_process" in word for word in child.cmdline()):
                assert slot.process is None
                getattr(child, kill)()
                killed.add(child.pid)
    return killed


async def test_a_process_that_is_killed_while_it_starts_is_replaced(slot: Slot) -> None:
    starting = asyncio.create_task(slot.ready())
    killed = await kill_decoders(slot, STARTS - 1)
    process = await starting
    assert process.alive
    assert process.pid not in killed
    assert slot.trouble == ""


async def test_one_that_is_killed_each_time_cannot_be_started(slot: Slot) -> None:
    starting = asyncio.create_task(slot.ready())
    await kill_decoders(slot, STARTS)
    with pytest.raises(DecodeError, match=r"no decoder process could be started: .* died \(SIGKILL\)"):
        await starting
    assert "SIGKILL" in slot.trouble


async def test_one_that_ends_by_itself_is_not_started_again(slot: Slot) -> None:
    starting = asyncio.create_task(slot.ready())
    await kill_decoders(slot, 1, "terminate")
    with pytest.raises(DecodeError, match=r"died \(SIGTERM\)"):
        await starting
