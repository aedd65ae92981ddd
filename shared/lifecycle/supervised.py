"""Processes that are kept running, and end with the process that started them."""

import asyncio
import os
import time
from collections.abc import Mapping, Sequence
from functools import partial

import structlog

from shared.lifecycle.guard import die_with_parent

log = structlog.get_logger(__name__)

WILL_NOT_START = {2, 4}
"""Exit statuses of a child whose settings or model are wrong: starting it again would not help."""
FIRST_PAUSE = 0.5
LONGEST_PAUSE = 30.0
STEADY = 30.0
"""Seconds after which a child that ends is started again at once, as the first time."""


class SupervisedProcess:
    """A process that is restarted with growing delays when it ends by itself."""

    def __init__(
        self, name: str, command: Sequence[str], environment: Mapping[str, str], patience: float
    ) -> None:
        """`patience`: seconds that it has to end after SIGTERM."""
        self.name = name
        self._command = command
        self._environment = environment
        self._patience = patience
        self._process: asyncio.subprocess.Process | None = None

    async def run(self) -> int:
        """Keep it running. Returns its exit status when it will not start at all."""
        pause = FIRST_PAUSE
        while True:
            started = time.monotonic()
            self._process = await asyncio.create_subprocess_exec(
                *self._command, env=self._environment, stdin=asyncio.subprocess.DEVNULL,
                preexec_fn=partial(_attach, os.getpid()),
            )  # fmt: skip
            status = await self._process.wait()
            if status in WILL_NOT_START:
                return status
            steady = time.monotonic() - started > STEADY
            pause = FIRST_PAUSE if steady else min(pause * 2, LONGEST_PAUSE)
            log.error("process ended, starting it again", child=self.name, status=status, pause_s=pause)
            await asyncio.sleep(pause)

    async def stop(self) -> None:
        """End it by SIGTERM, then by SIGKILL."""
        if self._process is None or self._process.returncode is not None:
            return
        self._process.terminate()
        try:
            await asyncio.wait_for(self._process.wait(), self._patience)
        except TimeoutError:
            log.warning("process does not stop, killing it", child=self.name)
            self._process.kill()
            await self._process.wait()


def _attach(parent: int) -> None:
    """In the child: leave Ctrl-C to the parent, and end with it, even when frozen."""
    os.setpgid(0, 0)
    die_with_parent(parent)
