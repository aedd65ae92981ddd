"""The camera processes of one worker: which camera is in which, and what becomes of one that hangs."""

import asyncio
import contextvars
import itertools
import time
from collections.abc import Callable

import msgspec
import structlog

from worker.children import ChildDied, ChildProcess, Spawned, spawn
from worker.live.camera_messages import (
    FROM_CAMERAS,
    TO_CAMERAS,
    Close,
    Ended,
    FromCameras,
    Open,
    Opened,
    Pause,
    Primed,
    Pulse,
    Taken,
    ToCameras,
    Told,
)
from worker.live.rtsp.camera_description import CameraError

log = structlog.get_logger(__name__)

CAMERAS_PER_PROCESS = 32
PULSE_TIMEOUT = 15.0
"""Seconds without a sign of life after which a camera process is replaced."""


class Feed:
    """What comes from one camera. `opened`, `primed`, `taken` and `told` are called as it comes, in the
    context of the session that made the feed: its request's id is on their log lines."""

    def __init__(
        self,
        opened: Callable[[Opened], None],
        taken: Callable[[Taken], None],
        told: Callable[[Told], None],
        primed: Callable[[Primed], None],
    ) -> None:
        self.opened = opened
        self.taken = taken
        self.told = told
        self.primed = primed
        self.context = contextvars.copy_context()
        self.tell: Callable[[bool], None] | None = None
        self.ended: asyncio.Future[Ended] = asyncio.get_running_loop().create_future()

    def pause(self, *, on: bool) -> None:
        """Stop or go on reading from the camera."""
        if self.tell:
            self.tell(on)

    def end(self, how: Ended) -> None:
        """Nothing more comes."""
        if not self.ended.done():
            self.ended.set_result(how)


class CameraProcess(ChildProcess[ToCameras, FromCameras]):
    """A running camera process."""

    def __init__(self, spawned: Spawned) -> None:
        super().__init__("camera", spawned, TO_CAMERAS, FROM_CAMERAS)
        self.feeds: dict[int, Feed] = {}
        self._pulse = time.monotonic() + PULSE_TIMEOUT  # it has yet to load
        # It serves many sessions: the log lines of its own tasks belong to none.
        self._listening = asyncio.create_task(self._listen(), context=contextvars.Context())
        self._guarding = asyncio.create_task(self._guard(), context=contextvars.Context())

    @classmethod
    async def start(cls) -> "CameraProcess":
        """Start one. Raises OSError."""
        return cls(await spawn("worker.live.camera_process"))

    async def _listen(self) -> None:
        reason = "the camera process died"
        try:
            while True:
                self._dispatch(await self.receive())
        except ChildDied as error:
            reason = str(error)
            log.warning("camera process died", pid=self.pid, cameras=len(self.feeds), reason=reason)
        finally:
            self.terminate()
            for number, feed in self.feeds.items():
                feed.end(Ended(number, reason))

    def _dispatch(self, message: FromCameras) -> None:
        self._pulse = max(self._pulse, time.monotonic())
        if isinstance(message, Pulse) or message.camera not in self.feeds:
            return
        feed = self.feeds[message.camera]
        match message:
            case Opened():
                feed.context.run(feed.opened, message)
            case Primed():
                feed.context.run(feed.primed, message)
            case Taken():
                feed.context.run(feed.taken, message)
            case Told():
                feed.context.run(feed.told, message)
            case Ended():
                feed.end(message)

    async def _guard(self) -> None:
        """End the process when it makes no progress, whatever holds it."""
        while (left := self._pulse + PULSE_TIMEOUT - time.monotonic()) > 0:  # noqa: ASYNC110 - a deadline that moves
            await asyncio.sleep(left)
        log.error("camera process hangs, killing it", pid=self.pid, cameras=len(self.feeds))
        self.terminate()

    @property
    def alive(self) -> bool:
        """Whether it can take cameras."""
        return super().alive and not self._listening.done()

    async def close(self) -> None:
        """End it."""
        tasks = (self._listening, self._guarding)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await super().close()


class Cameras:
    """Plays cameras in as few processes as they fit in, so that demuxing costs the worker's loop nothing."""

    def __init__(self, per_process: int = CAMERAS_PER_PROCESS) -> None:
        self.processes: list[CameraProcess] = []
        self._per_process = per_process
        self._numbers = itertools.count(1)
        self._starting = asyncio.Lock()

    async def play(self, order: Open, feed: Feed) -> None:
        """Play a camera until its stream ends. Raises CameraError when it ends for any other reason."""
        number = next(self._numbers)
        process = await self._place(number, feed)
        feed.tell = lambda on: process.send(Pause(number, on))
        try:
            process.send(msgspec.structs.replace(order, camera=number))
            ended = await feed.ended
        finally:
            feed.tell = None
            process.feeds.pop(number, None)
            process.send(Close(number))
        if ended.error:
            raise CameraError(ended.error)

    async def _place(self, number: int, feed: Feed) -> CameraProcess:
        async with self._starting:
            for gone in [p for p in self.processes if not p.alive]:
                self.processes.remove(gone)
                await gone.close()
            free = [p for p in self.processes if len(p.feeds) < self._per_process]
            if not free:
                try:
                    free = [await CameraProcess.start()]
                except OSError as error:
                    raise CameraError(f"no camera process could be started: {error}") from error
                self.processes += free
            process = min(free, key=lambda p: len(p.feeds))
            process.feeds[number] = feed
            return process

    async def close(self) -> None:
        """End every process."""
        for process in self.processes:
            await process.close()
        self.processes.clear()
