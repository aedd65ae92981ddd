"""Ending tasks."""

import asyncio
from contextlib import suppress

from shared.redis.ending import cancelled, end, uninterrupted


async def test_a_task_that_swallows_a_cancellation_is_cancelled_again() -> None:
    swallowed = 0

    async def stubborn() -> None:
        nonlocal swallowed
        while swallowed < 2:
            with suppress(asyncio.CancelledError):
                await asyncio.sleep(60)
            swallowed += 1
        await asyncio.sleep(60)

    tasks = [asyncio.create_task(stubborn()), asyncio.create_task(asyncio.sleep(60))]
    await asyncio.sleep(0)
    await end(tasks)
    assert swallowed == 2
    assert all(task.cancelled() for task in tasks)


async def test_tasks_that_have_ended_or_fail_are_no_trouble() -> None:
    async def fail() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            raise OSError("gone")

    done, failing = asyncio.create_task(asyncio.sleep(0)), asyncio.create_task(fail())
    await done
    await end([done, failing])
    assert isinstance(failing.exception(), OSError)
    await end([])


async def test_a_cancellation_that_an_error_hides_is_still_known() -> None:
    seen: list[bool] = []

    async def loop() -> None:
        seen.append(cancelled())
        with suppress(asyncio.CancelledError):
            await asyncio.sleep(60)
        seen.append(cancelled())

    task = asyncio.create_task(loop())
    await asyncio.sleep(0)
    task.cancel()
    await task
    assert seen == [False, True]


async def test_work_that_must_not_be_interrupted_is_done_before_the_task_ends() -> None:
    done: list[str] = []

    async def work() -> None:
        await asyncio.sleep(0.1)
        done.append("work")

    async def owner() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            await uninterrupted(work())

    task = asyncio.create_task(owner())
    await asyncio.sleep(0)
    for _ in range(3):
        task.cancel()
        await asyncio.sleep(0.01)
    assert not task.done()
    await asyncio.wait([task])
    assert task.cancelled()
    assert done == ["work"]


async def test_what_the_work_raises_is_raised() -> None:
    async def work() -> None:
        raise OSError("gone")

    with suppress(OSError):
        await uninterrupted(work())
        raise AssertionError("nothing was raised")
