"""Whether this worker makes progress: what it cannot do any more is seen from a thread of its own, a standing
event loop by the watchdog, which is another process.

A worker that is stuck says so in its record and its log, stops claiming, and then ends itself: whoever
started it starts it again, and its jobs go to others.
"""

import asyncio
import os
import threading
import time
from collections.abc import Callable

import structlog

from shared.lifecycle.heartbeat import speak
from shared.lifecycle.watchdog import STUCK

log = structlog.get_logger(__name__)

BEAT = 1.0
LOADING_PATIENCE = 1800.0
"""Seconds that the event loop may stand still while the model is loaded: libraries may keep Python's lock."""
LAST_WORDS = 5.0
"""Seconds for a stuck worker to tell the fleet, beyond those for its jobs."""


class Watch:
    """Looks after what `look_after` and `ask` name, and lets the watchdog look after the event loop.

    `problem` says what is stuck; empty while all is well. `stuck` is called in the event loop when there is a
    problem; the process ends `patience` seconds later.
    """

    def __init__(self, stuck: Callable[[], None], patience: float, stall: float = 30.0) -> None:
        """`stall`: seconds that the event loop may stand still once the model is loaded."""
        self.problem = ""
        self._stuck = stuck
        self._patience = patience + LAST_WORDS
        self._stall = stall
        self._allowed = LOADING_PATIENCE
        self._checks: list[Callable[[], str]] = []
        self._over = threading.Event()

    def loaded(self) -> None:
        """The model is loaded: from now on nothing may hold the event loop up for long.

        The watchdog hears it at once: what it was told last holds, even if this process freezes now.
        """
        self._allowed = self._stall
        speak(self._allowed + BEAT)

    def look_after(self, name: str, since: Callable[[], float | None], limit: float) -> None:
        """What `name` does may take `limit` seconds; `since` says when it began, None while it is idle."""

        def check() -> str:
            began = since()
            late = began is not None and time.monotonic() - began > limit
            return f"{name} works on one batch for more than {limit:g} s" if late else ""

        self.ask(check)

    def ask(self, check: Callable[[], str]) -> None:
        """Have `check` say what is wrong; an empty text if nothing is."""
        self._checks.append(check)

    async def run(self) -> None:
        """Watch, and speak to the watchdog, until cancelled."""
        loop = asyncio.get_running_loop()
        thread = threading.Thread(target=self._watch, args=(loop,), name="watch", daemon=True)
        thread.start()
        try:
            while True:
                speak(self._allowed + BEAT)
                await asyncio.sleep(BEAT)
        finally:
            self._over.set()
            # At once, unless something is stuck: no thread should meet the interpreter's end.
            thread.join(BEAT)

    def _watch(self, loop: asyncio.AbstractEventLoop) -> None:
        while not self._over.wait(BEAT):
            if problem := next(filter(None, (check() for check in self._checks)), ""):
                self.problem = problem
                log.critical("worker is stuck", reason=problem)
                loop.call_soon_threadsafe(self._stuck)
                # Not the event: that is set when the loop ends, which does not free what is stuck.
                time.sleep(self._patience)
                log.critical("worker ends itself to be replaced", reason=problem)
                os._exit(STUCK)
