"""Whether this worker makes progress, judged from a thread of its own, which a stuck event loop cannot stop.

A worker that is stuck says so in its record and its log, stops claiming, and then ends itself: whoever
started it starts it again, and its jobs go to others.
"""

import asyncio
import os
import threading
import time
from collections.abc import Callable

import structlog

log = structlog.get_logger(__name__)

HUNG = 5
"""Exit status of a worker that ended itself."""
BEAT = 1.0
LOOP_TIMEOUT = 30.0
LAST_WORDS = 5.0
"""Seconds for a stuck worker to tell the fleet, beyond those for its jobs."""


class Watch:
    """Looks after the event loop, and after what `look_after` and `ask` name.

    `problem` says what is stuck; empty while all is well. `stuck` is called in the event loop when there is a
    problem; the process ends `patience` seconds later, at once if it is the loop itself.
    """

    def __init__(
        self, stuck: Callable[[], None], patience: float, loop_timeout: float = LOOP_TIMEOUT
    ) -> None:
        self.problem = ""
        self._stuck = stuck
        self._patience = patience + LAST_WORDS
        self._loop_timeout = loop_timeout
        self._beaten = time.monotonic()
        self._checks: list[Callable[[], str]] = []
        self._over = threading.Event()

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
        """Watch until cancelled."""
        loop = asyncio.get_running_loop()
        self._beaten = time.monotonic()
        thread = threading.Thread(target=self._watch, args=(loop,), name="watch", daemon=True)
        thread.start()
        try:
            while True:
                self._beaten = time.monotonic()
                await asyncio.sleep(BEAT)
        finally:
            self._over.set()
            # At once, unless something is stuck: no thread should meet the interpreter's end.
            thread.join(BEAT)

    def _watch(self, loop: asyncio.AbstractEventLoop) -> None:
        while not self._over.wait(BEAT):
            if problem := self._loop_problem():
                self._end(problem)
            elif problem := next(filter(None, (check() for check in self._checks)), ""):
                self.problem = problem
                log.critical("worker is stuck", reason=problem)
                loop.call_soon_threadsafe(self._stuck)
                # Not the event: that is set when the loop ends, which does not free what is stuck.
                time.sleep(self._patience)
                self._end(problem)

    def _loop_problem(self) -> str:
        silence = time.monotonic() - self._beaten
        return f"the event loop stands still for {silence:.0f} s" if silence > self._loop_timeout else ""

    def _end(self, problem: str) -> None:
        self.problem = problem
        log.critical("worker ends itself to be replaced", reason=problem)
        os._exit(HUNG)
