"""A place for one decoder process."""

import signal
from collections.abc import Callable

import structlog

from shared.errors import DecodeError
from worker.children import ChildDied
from worker.media.decoder.decoder_messages import DecodeCounts, Setup
from worker.media.decoder_client import DecoderProcess
from worker.media.fetching import Fetching

log = structlog.get_logger(__name__)

STARTS = 3
"""How many processes are started for one that is needed, if each is killed before it is ready."""


class Slot:
    """A place for one decoder process, which is started on demand."""

    def __init__(
        self,
        setup: Setup,
        niceness: int,
        counts: DecodeCounts,
        fetching: Callable[[], Fetching] | None = None,
    ) -> None:
        self.path = ""
        self.process: DecoderProcess | None = None
        self.trouble = ""
        """Why the last process could not be started; empty if it could."""
        self._setup = setup
        self._niceness = niceness
        self._counts = counts
        self._fetching = fetching
        self._started = False

    async def ready(self) -> DecoderProcess:
        """Return the running process. Raises DecodeError if none can be started."""
        if self.process is not None and self.process.alive:
            return self.process
        await self.drop()
        if self._started:
            self._counts.restarts += 1
        try:
            self.process = await self._start()
        except (OSError, TimeoutError, ChildDied) as error:
            self.trouble = f"no decoder process could be started: {error}"
            raise DecodeError(self.trouble) from error
        self.trouble = ""
        self._started = True
        return self.process

    async def _start(self) -> DecoderProcess:
        """Start a process, and another one if it was killed from outside: that is not its fault."""
        left = STARTS
        while True:
            left -= 1
            try:
                fetching = self._fetching() if self._fetching else None
                return await DecoderProcess.start(self._setup, self._niceness, fetching)
            except ChildDied as error:
                if error.signal != signal.SIGKILL or not left:
                    raise
                log.warning("decoder killed while it started: starting another")

    async def drop(self) -> None:
        """End the process."""
        process, self.process = self.process, None
        if process is not None:
            await process.close()
