"""Detects a stuck worker: a thread notices stuck engines and decoders, and the watchdog, another process,
notices a stuck event loop.

A stuck worker says so in its record and its log, stops claiming, and then exits: its supervisor or
orchestrator restarts it, and its jobs go to others.
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
"""Seconds that the event loop may stall while the model loads: libraries may hold Python's GIL."""
LAST_WORDS = 5.0
"""Seconds for a stuck worker to inform the fleet, in addition to those for its jobs."""


class Watch:
    """Watches what `look_after` and `ask` register, and lets the watchdog watch the event loop.

    `problem` says what is stuck; empty while all is well. `stuck` is called in the event loop when there is
    a problem; the process exits `patience` seconds later.
    """

    def __init__(self, stuck: Callable[[], None], patience: float, stall: float = 30.0) -> None:
        """`stall`: seconds that the event loop may stall once the model is loaded."""
        self.problem = ""
        self._stuck = stuck
        self._patience = patience + LAST_WORDS
        self._stall = stall
        self._allowed = LOADING_PATIENCE
        self._checks: list[Callable[[], str]] = []
        self._over = threading.Event()

    def loaded(self) -> None:
        """Note that the model is loaded: from now on nothing may block the event loop for long.

        The watchdog is told at once, so that the new limit holds even if this process freezes now.
        """
        self._allowed = self._stall
        speak(self._allowed + BEAT)

    def look_after(self, name: str, since: Callable[[], float | None], limit: float) -> None:
        """Allow one run of `name` `limit` seconds; `since` returns when it began, None while it is idle."""

        def check() -> str:
            began = since()
            late = began is not None and time.monotonic() - began > limit
            return f"{name} works on one batch for more than {limit:g} s" if late else ""

        self.ask(check)

    def ask(self, check: Callable[[], str]) -> None:
        """Add a check that returns what is wrong, or an empty text."""
        self._checks.append(check)

    async def run(self) -> None:
        """Watch, and send heartbeats to the watchdog, until cancelled."""
        loop = asyncio.get_running_loop()
        thread = threading.Thread(target=self._watch, args=(loop,), name="watch", daemon=True)
        thread.start()
        try:
            while True:
                speak(self._allowed + BEAT)
                await asyncio.sleep(BEAT)
        finally:
            self._over.set()
            # Returns at once unless something is stuck: no thread should outlive the interpreter.
            thread.join(BEAT)

    def _watch(self, loop: asyncio.AbstractEventLoop) -> None:
        while not self._over.wait(BEAT):
            if problem := next(filter(None, (check() for check in self._checks)), ""):
                self.problem = problem
                log.critical("worker is stuck", reason=problem)
                loop.call_soon_threadsafe(self._stuck)
                # Not the event: the end of the loop sets it, which does not free what is stuck.
                time.sleep(self._patience)
                log.critical("worker ends itself to be replaced", reason=problem)
                os._exit(STUCK)
