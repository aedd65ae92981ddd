"""Ending asyncio tasks that talk to Redis."""

import asyncio
from collections.abc import Coroutine, Sequence
from typing import Any

AGAIN = 0.5


async def end(tasks: Sequence[asyncio.Task[Any]]) -> None:
    """Cancel tasks until they have ended. Their exceptions stay in them.

    Cancelling once is not enough: under load a call of redis-py 8.1 was seen to end well although its task
    had been cancelled, so that a loop around it did not end.
    """
    going = set(tasks)
    while going:
        for task in going:
            task.cancel()
        _, going = await asyncio.wait(going, timeout=AGAIN)


def cancelled() -> bool:
    """Return whether the current task is being cancelled, even if that went unnoticed: by a call that ended
    well all the same, or because an error on the way out, of a task group or of a connection, took its
    place."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


async def uninterrupted(work: Coroutine[Any, Any, None]) -> None:
    """Finish a bounded piece of work although the current task is cancelled, even repeatedly.

    Raises CancelledError afterwards if it was.
    """
    task = asyncio.create_task(work)
    interrupted = False
    while not task.done():
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError:
            interrupted = True
    task.result()
    if interrupted:
        raise asyncio.CancelledError
