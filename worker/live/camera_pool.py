"""The camera processes of one worker: places cameras in them, and replaces one that hangs."""

import asyncio
import contextvars
import itertools
import signal
import socket
import time
from collections import deque
from collections.abc import Callable

import msgspec
import structlog

from shared.telemetry.instruments import camera_excess
from worker.children import ChildDied, ChildProcess, Spawned, spawn
from worker.isolation.sandbox import SECCOMP
from worker.live.camera_description import CameraError
from worker.live.camera_messages import (
    FROM_CAMERAS,
    OUT_OF_MEMORY,
    TO_CAMERAS,
    Close,
    Confined,
    Described,
    Ended,
    FromCameras,
    OfVideo,
    Open,
    Opened,
    Pause,
    Primed,
    Pulse,
    Taken,
    ToCameras,
    Told,
)
from worker.live.rtsp.lent_sockets import Lender

log = structlog.get_logger(__name__)

ROOM = (32, 4, 1)
"""Cameras per process, by how many processes have died under the camera: the one that ends them is found,
and until then takes few others along."""
MOST_TOLD = 100
"""Events of one camera that are passed on in a minute."""
PULSE_TIMEOUT = 15.0
"""Seconds without a sign of life after which a camera process is replaced."""


class CameraProcessDied(CameraError):
    """The process that played the camera died on its own, perhaps because of what the camera sent."""


class Feed:
    """Takes the messages of one camera. `opened`, `primed`, `taken` and `told` are called as it comes, in the
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
        self._events = deque[float](maxlen=MOST_TOLD)
        self.codec = ""
        self.ended: asyncio.Future[Ended | CameraError] = asyncio.get_running_loop().create_future()

    def pause(self, *, on: bool) -> None:
        """Stop or resume reading from the camera."""
        if self.tell:
            self.tell(on)

    def may_tell(self, now: float) -> bool:
        """Return whether an event at `now` (s) is one of those that are passed on."""
        if len(self._events) == MOST_TOLD and now - self._events[0] < 60:
            return False
        self._events.append(now)
        return True

    def end(self, how: Ended | CameraError) -> None:
        """No more messages come."""
        if not self.ended.done():
            self.ended.set_result(how)


class CameraProcess(ChildProcess[ToCameras, FromCameras]):
    """A running camera process with room for `room` cameras and `memory` bytes of address space."""

    def __init__(self, spawned: Spawned, handing: socket.socket, room: int, memory: int) -> None:
        super().__init__("camera", spawned, TO_CAMERAS, FROM_CAMERAS)
        self.feeds: dict[int, Feed] = {}
        self.room = room
        self._memory = memory
        self._hung = False
        self._lender = Lender(handing, self.send)
        self._pulse = time.monotonic() + PULSE_TIMEOUT  # it has yet to load
        # It serves many sessions: the log lines of its own tasks belong to none.
        self._listening = asyncio.create_task(self._listen(), context=contextvars.Context())
        self._guarding = asyncio.create_task(self._guard(), context=contextvars.Context())

    @classmethod
    async def start(cls, room: int, memory: int) -> "CameraProcess":
        """Start one. Raises OSError."""
        handing, handed = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with handed:
            number = handed.fileno()
            try:
                spawned = await spawn("worker.live.camera_process", (number, memory), (number,))
            except BaseException:
                handing.close()
                raise
        return cls(spawned, handing, room, memory)

    def play(self, number: int, order: Open, feed: Feed) -> None:
        """Play a camera under a number."""
        self._lender.add(number, order.options.networks)
        feed.tell = lambda on: self.send(Pause(number, on))
        self.send(msgspec.structs.replace(order, camera=number))

    async def leave(self, number: int) -> None:
        """Stop playing a camera."""
        self.feeds.pop(number).tell = None
        self.send(Close(number))
        await self._lender.drop(number)

    async def _listen(self) -> None:
        end = CameraError("the camera process was ended")
        try:
            while True:
                self._dispatch(await self.receive())
        except ChildDied as error:
            end = self._what_ended(error)
            log.error("camera process died", pid=self.pid, cameras=len(self.feeds), reason=str(end))
        finally:
            self.terminate()
            for feed in self.feeds.values():
                feed.end(end)

    def _what_ended(self, error: ChildDied) -> CameraError:
        """Say why the process died. That another program has killed it says nothing about its cameras."""
        if self._hung:
            return CameraProcessDied(f"the camera process made no progress for {PULSE_TIMEOUT:g} s")
        if error.status == OUT_OF_MEMORY:
            megabytes = self._memory >> 20
            return CameraProcessDied(
                f"the camera process used up its {megabytes} MiB of memory (RTEMBED_CAMERA_MEMORY_MB)"
            )
        return (CameraError if error.signal == signal.SIGKILL else CameraProcessDied)(str(error))

    def _dispatch(self, message: FromCameras) -> None:
        self._pulse = max(self._pulse, time.monotonic())
        match message:
            case Confined(isolation):
                self._note_isolation(isolation)
            case Pulse(excess):
                camera_excess.add(excess)
            case Opened() | Primed() | Taken() | Told() | Described() | Ended():
                if feed := self.feeds.get(message.camera):
                    self._hand_on(feed, message)
            case _:
                self._lender.take(message)

    def _hand_on(self, feed: Feed, message: OfVideo) -> None:
        match message:
            case Opened():
                feed.context.run(feed.opened, message)
            case Primed():
                feed.context.run(feed.primed, message)
            case Taken():
                feed.context.run(feed.taken, message)
            case Told() if feed.may_tell(time.monotonic()):
                feed.context.run(feed.told, message)
            case Described():
                feed.codec = message.codec
            case Ended():
                feed.end(message)

    def _note_isolation(self, isolation: str) -> None:
        log.info("camera process started", pid=self.pid, isolation=isolation)
        if SECCOMP not in isolation:
            log.warning(
                "cameras are played without a seccomp filter: one that takes its process over can do "
                "what this user can; run the worker where seccomp is allowed",
                isolation=isolation,
            )

    async def _guard(self) -> None:
        """End the process when it makes no progress, for whatever reason."""
        while (left := self._pulse + PULSE_TIMEOUT - time.monotonic()) > 0:  # noqa: ASYNC110 - a deadline that moves
            await asyncio.sleep(left)
        log.error("camera process hangs, killing it", pid=self.pid, cameras=len(self.feeds))
        self._hung = True
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
        await self._lender.close()
        await super().close()


class Cameras:
    """Plays cameras in as few processes as they fit in, so that demuxing costs the worker's loop nothing.
    Each process has `memory` bytes of address space."""

    def __init__(self, memory: int = 2 << 30) -> None:
        self.processes: list[CameraProcess] = []
        self._memory = memory
        self._numbers = itertools.count(1)
        self._starting = asyncio.Lock()

    async def play(self, order: Open, feed: Feed, deaths: int = 0) -> None:
        """Play a camera until its stream ends. Raises CameraError when it ends for any other reason:
        CameraProcessDied with its process. `deaths` processes have died under it so far."""
        number = next(self._numbers)
        process = await self._place(number, feed, ROOM[min(deaths, len(ROOM) - 1)])
        try:
            process.play(number, order, feed)
            ended = await feed.ended
        finally:
            await process.leave(number)
        if isinstance(ended, CameraError):
            raise ended
        if ended.error:
            raise CameraError(ended.error)

    async def describe(self, order: Open) -> str:
        """Return the codec of a camera's video. Raises CameraError."""
        feed = Feed(_ignore, _ignore, _ignore, _ignore)
        await self.play(msgspec.structs.replace(order, describe=True), feed)
        return feed.codec

    async def _place(self, number: int, feed: Feed, room: int) -> CameraProcess:
        async with self._starting:
            for gone in [p for p in self.processes if not (p.alive and (p.feeds or p.room == ROOM[0]))]:
                self.processes.remove(gone)
                await gone.close()
            free = [p for p in self.processes if p.room == room and len(p.feeds) < room]
            if not free:
                try:
                    free = [await CameraProcess.start(room, self._memory)]
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


def _ignore(message: object) -> None:
    """Ignore the message."""
