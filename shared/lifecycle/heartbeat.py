"""The heartbeat of a watched process: how many seconds may pass until the next one."""

import contextlib
import os
from collections.abc import AsyncIterator

INTERVAL = 1.0
_voice: int | None = None
"""The pipe to the watchdog; None in a process that has none."""


def speak_to(descriptor: int) -> None:
    """Connect `speak` to the watchdog at the other end of a pipe."""
    global _voice  # noqa: PLW0603 - a process has one watchdog
    os.set_blocking(descriptor, False)
    _voice = descriptor


def speak(patience: float) -> None:
    """Tell the watchdog, if there is one, that this process is well, and that it may be silent for `patience`
    seconds from now."""
    if _voice is not None:
        with contextlib.suppress(BlockingIOError, BrokenPipeError):  # it is stopped, or has gone
            os.write(_voice, f"{patience:.3f}\n".encode())


@contextlib.asynccontextmanager
async def beating(patience: float) -> AsyncIterator[None]:
    """Speak as long as the event loop runs, which may stand still for `patience` seconds."""
    import asyncio  # noqa: PLC0415 - the watchdog imports this module, and does without

    async def go_on() -> None:
        while True:
            speak(patience + INTERVAL)
            await asyncio.sleep(INTERVAL)

    task = asyncio.create_task(go_on(), name="heartbeat")
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
