"""A camera process: `python -m worker.live.camera_process SOCKET`, started by its worker only.

It plays many cameras on one event loop and decodes nothing. Its parent notices when it makes no progress.
"""

import asyncio
import contextlib
import signal
import socket
import sys
import time
from ctypes import CDLL
from typing import Literal

import msgspec
import uvloop

from shared.lifecycle.guard import PR_SET_PDEATHSIG
from worker.live.camera_messages import (
    FROM_CAMERAS,
    TO_CAMERAS,
    Close,
    Ended,
    FromCameras,
    Open,
    Opened,
    Pause,
    Pulse,
    Taken,
)
from worker.live.chunker import Chunker, Cut
from worker.live.rtsp.camera_description import CameraError, TransportRefused, address
from worker.live.rtsp.rtp import AccessUnit
from worker.live.rtsp.rtsp_client import Player

PULSE_INTERVAL = 1.0
BACKLOG = 64 << 20
"""Bytes that may wait for a worker that does not read; beyond, chunks are dropped."""


class PlayedCamera:
    """One camera that is being played."""

    def __init__(self, order: Open, send: "Sender") -> None:
        self._order = order
        self._send = send
        self._chunker: Chunker | None = None
        self._player: Player | None = None
        self._early: list[tuple[AccessUnit, int, int]] = []
        self._skipped = 0
        self._paused = False

    async def run(self) -> None:
        """Play until the stream ends, by itself or not, and say so."""
        error = ""
        try:
            await self._play_any()
        except CameraError as problem:
            error = str(problem)
        except Exception as problem:  # whatever one camera provokes, the others go on
            error = f"{type(problem).__name__}: {problem}"
        for cut in self._chunker.finish() if self._chunker else ():
            self._hand_over(msgspec.structs.replace(cut, runs=[], error=error) if error else cut)
        self._send(Ended(self._order.camera, error))

    def pause(self, *, on: bool) -> None:
        """Stop or go on reading."""
        self._paused = on
        if self._player:
            self._player.pause(on=on)

    async def _play_any(self) -> None:
        """UDP first, then TCP, unless one of them is asked for."""
        wanted = self._order.options.transport
        if wanted != "tcp":
            try:
                await self._play("udp")
                return
            except TransportRefused:
                if wanted == "udp":
                    raise
        await self._play("tcp")

    async def _play(self, transport: Literal["udp", "tcp"]) -> None:
        order = self._order
        where = address(order.url, order.username, order.password)
        self._early.clear()
        self._player = player = Player(where, order.options, transport)

        def opened() -> None:
            track = player.track
            self._chunker = Chunker(track.codec, track.parameters, order.duration, order.frames)
            self._send(Opened(order.camera, transport, track.codec))
            player.pause(on=self._paused)
            for unit, arrival, now in self._early:
                self._push(unit, arrival, now)
            self._early.clear()

        try:
            await player.play(self._take, opened)
        finally:
            await player.close()

    def _take(self, unit: AccessUnit) -> None:
        arrival, now = time.monotonic_ns(), time.time_ns()
        if self._chunker is None:
            self._early.append((unit, arrival, now))
        else:
            self._push(unit, arrival, now)

    def _push(self, unit: AccessUnit, arrival: int, now: int) -> None:
        assert self._chunker is not None  # noqa: S101 - for the type checker
        for cut in self._chunker.push(unit, arrival, now):
            self._hand_over(cut)

    def _hand_over(self, cut: Cut) -> None:
        if self._send.backlog > BACKLOG:
            self._skipped += 1
            return
        self._send(Taken(self._order.camera, cut, self._skipped))
        self._skipped = 0


class Sender:
    """Sends messages to the worker."""

    def __init__(self, writer: asyncio.StreamWriter) -> None:
        self._writer = writer

    def __call__(self, message: FromCameras) -> None:
        """Send one."""
        self._writer.write(FROM_CAMERAS.pack(message))

    @property
    def backlog(self) -> int:
        """Bytes that the worker has not read."""
        return self._writer.transport.get_write_buffer_size()


async def serve(connection: socket.socket) -> None:
    """Follow the worker's orders until it goes away."""
    reader, writer = await asyncio.open_unix_connection(sock=connection)
    send = Sender(writer)
    cameras: dict[int, tuple[PlayedCamera, asyncio.Task[None]]] = {}
    async with asyncio.TaskGroup() as group:
        pulse = group.create_task(_pulse(send))
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                match await TO_CAMERAS.read(reader):
                    case Open() as order:
                        camera = PlayedCamera(order, send)
                        cameras[order.camera] = camera, group.create_task(camera.run())
                    case Close(number) if number in cameras:
                        cameras.pop(number)[1].cancel()
                    case Pause(number, on) if number in cameras:
                        cameras[number][0].pause(on=on)
        for _, task in cameras.values():
            task.cancel()
        pulse.cancel()


async def _pulse(send: Sender) -> None:
    while True:
        if send.backlog < BACKLOG:
            send(Pulse())
        await asyncio.sleep(PULSE_INTERVAL)


def main() -> None:
    """Serve the worker at the other end of the socket."""
    CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    uvloop.run(serve(socket.socket(fileno=int(sys.argv[1]))))


if __name__ == "__main__":
    main()
