"""The camera processes of one worker: which camera is in which, and what becomes of one that hangs."""

import asyncio
import contextlib
import itertools
import os
import signal
import socket
import sys
import time
from collections.abc import Callable

import msgspec
import structlog

from worker.live.camera_messages import (
    Close,
    Ended,
    FromCameras,
    Open,
    Opened,
    Pause,
    Pulse,
    Taken,
    ToCameras,
    from_cameras,
    pack,
)
from worker.live.rtsp.camera_description import CameraError
from worker.media.decoder.decoder_messages import HEADER

log = structlog.get_logger(__name__)

CAMERAS_PER_PROCESS = 32
PULSE_TIMEOUT = 15.0
"""Seconds without a sign of life after which a camera process is replaced."""
# What Python needs of the environment, and no more: no proxy, no credential, no preload.
_ENVIRONMENT = ("PATH", "PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "LD_LIBRARY_PATH", "LANG", "TZ")


class Feed:
    """What comes from one camera. `opened` and `taken` are called as it comes."""

    def __init__(self, opened: Callable[[Opened], None], taken: Callable[[Taken], None]) -> None:
        self.opened = opened
        self.taken = taken
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


class CameraProcess:
    """A running camera process."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.feeds: dict[int, Feed] = {}
        self._process = process
        self._pulse = time.monotonic()
        self._reader: asyncio.StreamReader
        self._writer: asyncio.StreamWriter
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    @classmethod
    async def start(cls) -> "CameraProcess":
        """Start one."""
        ours, theirs = socket.socketpair()
        environment = {name: os.environ[name] for name in _ENVIRONMENT if name in os.environ}
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "worker.live.camera_process", str(theirs.fileno()),
            stdin=asyncio.subprocess.DEVNULL,
            pass_fds=(theirs.fileno(),),
            env={**environment, "MALLOC_ARENA_MAX": "2"},
        )  # fmt: skip
        theirs.close()
        started = cls(process)
        started._reader, started._writer = await asyncio.open_unix_connection(sock=ours)
        started._pulse = time.monotonic() + PULSE_TIMEOUT  # it has yet to load
        started._tasks = [asyncio.create_task(started._listen()), asyncio.create_task(started._guard())]
        return started

    def send(self, message: ToCameras) -> None:
        """Send a message; one that has died will not get it."""
        with contextlib.suppress(OSError):
            self._writer.write(pack(message))

    async def _listen(self) -> None:
        reason = "the camera process died"
        try:
            while True:
                (length,) = HEADER.unpack(await self._reader.readexactly(HEADER.size))
                self._dispatch(from_cameras(await self._reader.readexactly(length)))
        except (asyncio.IncompleteReadError, ConnectionError):
            log.warning(reason, pid=self.pid, cameras=len(self.feeds))
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
                feed.opened(message)
            case Taken():
                feed.taken(message)
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
        return self._process.returncode is None and not self._tasks[0].done()

    def terminate(self) -> None:
        """Kill it without waiting for its end."""
        if self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)

    async def close(self) -> None:
        """End it."""
        self.terminate()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._process.wait()
        self._writer.close()


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
