"""A camera process: `python -m worker.live.camera_process SOCKET SOCKETS MEMORY`, started by its worker only.

It plays many cameras on one event loop and decodes nothing. It is isolated before it meets the first: it can
open nothing, and gets the sockets to cameras from its worker, over SOCKETS. Its parent notices when it makes
no progress.
"""

import asyncio
import contextlib
import hashlib
import os
import resource
import socket
import sys
from typing import Any

import uvloop

from worker.isolation.allowed_calls import camera_calls
from worker.isolation.sandbox import enter
from worker.isolation.seccomp import CannotFilter, leave_out
from worker.live.camera_description import CameraOptions
from worker.live.camera_messages import (
    FROM_CAMERAS,
    OUT_OF_MEMORY,
    TO_CAMERAS,
    Close,
    Confined,
    FromCameras,
    NoSocket,
    Open,
    Pause,
    Pulse,
)
from worker.live.played_camera import BACKLOG, PlayedCamera
from worker.live.rtp.excess import Excess
from worker.live.rtsp.lent_sockets import LentSockets, Loans
from worker.live.rtsp.rtsp_tls import tls_context

PULSE_INTERVAL = 1.0
OPEN_FILES = 512
"""Sockets of the cameras of one process, up to four each, and what the process itself has open."""


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


async def serve(connection: socket.socket, handed: socket.socket, memory: int) -> None:
    """Give up all but `memory` bytes and what the loop has opened, and follow the worker's orders until it
    goes away."""
    limits = {resource.RLIMIT_AS: memory, resource.RLIMIT_NOFILE: OPEN_FILES}
    isolation = enter("rt-embed-camera", camera_calls(), limits)
    asyncio.get_running_loop().set_exception_handler(_end_without_memory)
    reader, writer = await asyncio.open_unix_connection(sock=connection)
    send = Sender(writer)
    loans = Loans(handed, send)
    cameras: dict[int, tuple[PlayedCamera, asyncio.Task[None]]] = {}
    send(Confined(isolation))
    async with asyncio.TaskGroup() as group:
        pulse = group.create_task(_pulse(send))
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                match await TO_CAMERAS.read(reader):
                    case Open() as order:
                        camera = PlayedCamera(order, send, LentSockets(order.camera, loans))
                        cameras[order.camera] = camera, group.create_task(_play(camera))
                    case Close(number) if number in cameras:
                        cameras.pop(number)[1].cancel()
                    case Pause(number, on) if number in cameras:
                        cameras[number][0].pause(on=on)
                    case NoSocket() as refused:
                        loans.refused(refused)
        for _, task in cameras.values():
            task.cancel()
        pulse.cancel()


async def _play(camera: PlayedCamera) -> None:
    try:
        await camera.run()
    except MemoryError:
        os._exit(OUT_OF_MEMORY)


async def _pulse(send: Sender) -> None:
    reported = Excess.total
    while True:
        if send.backlog < BACKLOG:
            send(Pulse(Excess.total - reported))
            reported = Excess.total
        await asyncio.sleep(PULSE_INTERVAL)


def _end_without_memory(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """End the process when a callback finds no memory: what it was about to keep is lost."""
    if isinstance(context.get("exception"), MemoryError):
        os._exit(OUT_OF_MEMORY)
    loop.default_exception_handler(context)


def _prepare() -> None:
    """Read from the disk what cannot be read later: authorities, codecs, algorithms. Let the event loop find
    no io_uring, by which it would make calls that no filter sees, and which it could not do without later."""
    with contextlib.suppress(CannotFilter):
        leave_out("io_uring_setup")
    tls_context(CameraOptions(), "")
    "camera.example".encode("idna")
    for algorithm in ("md5", "sha256"):
        hashlib.new(algorithm, usedforsecurity=False)


def main() -> None:
    """Serve the worker at the other end of the socket."""
    connection, handed, memory = map(int, sys.argv[1:])
    _prepare()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        try:
            runner.run(serve(socket.socket(fileno=connection), socket.socket(fileno=handed), memory))
        except MemoryError:
            os._exit(OUT_OF_MEMORY)


if __name__ == "__main__":
    main()
