"""A watchdog: a small process that starts the real one, and ends it when it hangs.

The real process says again and again how many seconds may pass until it speaks next. When it does not,
whatever holds it up (Python's lock in a library's hands, an endless pattern, SIGSTOP), it is made to show
where it stands, and killed. The watchdog then ends with a status that has its own parent start both again.
Nothing from outside reaches the watchdog, and it loads no library.
"""

import contextlib
import faulthandler
import importlib
import os
import select
import signal
import sys
import time
from collections.abc import Callable
from types import FrameType
from typing import cast

from shared.lifecycle.guard import die_with_parent, hide
from shared.lifecycle.heartbeat import speak_to

STUCK = 5
"""Exit status of a process that was ended because it was stuck, or that ended itself for that reason."""
START_PATIENCE = 300.0
"""Seconds until a process must have spoken for the first time."""
TICK = 0.5
STANDS = "process stands still and is killed, to be started again"
SHOWING = 2.0
"""Seconds for a process that is about to be killed to show where it stands."""
PASSED_ON = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)


def run_watched(name: str, module: str) -> int:
    """Run `main` of a module, imported only then, in a process of its own, and watch that.

    Returns twice: in the watched process with what `main` returns, in this one with the other's exit status.
    Call it before anything is loaded. `name` is for the log.
    """
    hide()
    hearing, speaking = os.pipe()
    parent = os.getpid()
    child = os.fork()
    if child:
        os.close(speaking)
        return Watchdog(name, child, hearing).run()
    os.close(hearing)
    os.setpgid(0, 0)  # a terminal's Ctrl-C comes once, through the watchdog
    die_with_parent(parent)
    faulthandler.enable()
    speak_to(speaking)
    return cast("Callable[[], int]", importlib.import_module(module).main)()


class Watchdog:
    """Watches one child process."""

    def __init__(self, name: str, child: int, hearing: int) -> None:
        self._name = name
        self._child = child
        self._hearing = hearing
        self._allowed = START_PATIENCE
        self._silence = 0.0
        self._rest = b""

    def run(self) -> int:
        """Return the child's exit status, or STUCK. Signals that end or wake a process are passed on."""
        for number in PASSED_ON:
            signal.signal(number, self._pass_on)
        heard = select.poll()
        heard.register(self._hearing, select.POLLIN)
        while (status := self._ended()) is None:
            before = time.monotonic()
            if heard.poll(TICK * 1000) and not self._listen():
                heard.unregister(self._hearing)  # the child is about to end
            else:
                # No more than two ticks at a time: when this process was stopped, so was the child, perhaps.
                self._silence += min(time.monotonic() - before, 2 * TICK)
            if self._silence > self._allowed:
                return self._end()
        return status if status >= 0 else self._end_likewise(-status)

    def _pass_on(self, number: int, _: FrameType | None) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._child, number)

    def _listen(self) -> bool:
        """Read what the child says; return whether it can say more."""
        data = os.read(self._hearing, 1 << 16)
        *said, self._rest = (self._rest + data).split(b"\n")
        if said:
            self._allowed, self._silence = float(said[-1]), 0.0
        return bool(data)

    def _ended(self) -> int | None:
        """Return the child's exit status when it has ended, negative for a signal.

        In a container this process is the first, and inherits what has lost its parent.
        """
        while True:
            try:
                ended, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return STUCK
            if ended == self._child:
                return os.waitstatus_to_exitcode(status)
            if ended == 0:
                return None

    def _end(self) -> int:
        self._report()
        os.kill(self._child, signal.SIGABRT)  # faulthandler shows where every thread stands
        deadline = time.monotonic() + SHOWING
        while self._ended() is None:
            if time.monotonic() > deadline:
                os.kill(self._child, signal.SIGKILL)
            time.sleep(TICK / 10)
        return STUCK

    def _report(self) -> None:
        told = {"pid": self._child, "silent_s": round(self._silence), "allowed_s": round(self._allowed)}
        try:
            import structlog  # noqa: PLC0415 - loaded only for this

            from shared import settings  # noqa: PLC0415 - likewise
            from shared.telemetry import logs  # noqa: PLC0415 - likewise

            logs.configure(settings.load(), process=self._name)
            structlog.get_logger(__name__).critical(STANDS, **told)
        except Exception:  # whatever is wrong with that, the process is to be killed
            print(STANDS, told, file=sys.stderr, flush=True)

    @staticmethod
    def _end_likewise(number: int) -> int:
        """End with the child's exit status or signal, so that the parent sees the same."""
        if number in PASSED_ON:
            signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)
        return 128 + number  # the first process of a container is not ended by that
