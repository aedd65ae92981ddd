"""Ending asyncio tasks that talk to Redis."""

import asyncio
from collections.abc import Sequence
from typing import Any

AGAIN = 0.5


async def end(tasks: Sequence[asyncio.Task[Any]]) -> None:
    """Cancel tasks until they have ended. What they raised is left in them.

    Once is not enough: under load a call of redis-py 8.1 was seen to end well although its task had been
    cancelled, so that a loop around it went on for ever.
    """
    going = set(tasks)
    while going:
        for task in going:
            task.cancel()
        _, going = await asyncio.wait(going, timeout=AGAIN)
