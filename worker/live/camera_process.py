"""A camera process: `python -m worker.live.camera_process SOCKET`, started by its worker only.

It plays many cameras on one event loop and decodes nothing. Its parent notices when it makes no progress.
"""

import asyncio
import contextlib
import signal
import socket
import sys
from ctypes import CDLL

import uvloop

from shared.lifecycle.guard import PR_SET_PDEATHSIG
from worker.live.camera_messages import (
    FROM_CAMERAS,
    TO_CAMERAS,
    Close,
    FromCameras,
    Open,
    Pause,
    Pulse,
)
from worker.live.played_camera import BACKLOG, PlayedCamera

PULSE_INTERVAL = 1.0


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
