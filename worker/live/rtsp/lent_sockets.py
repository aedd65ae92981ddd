"""Sockets that the worker opens for its camera processes, which can open none themselves.

The process asks over its connection to the worker; what was opened comes back over a second one, which
carries descriptors.
"""

import asyncio
import itertools
import socket
import struct
from collections.abc import Callable, Sequence

from worker.live.camera_description import CameraError, TransportRefused
from worker.live.camera_messages import Bind, Connect, Datagram, Join, NoSocket, OfSockets, Release
from worker.live.rtsp.camera_sockets import OwnSockets

MOST_OPENED = 64
"""Requests for sockets of one camera until it is played anew; each redirection takes one or two."""
CONNECT_TIMEOUT = 600.0
"""Seconds after which the worker stops connecting: no camera has longer to open."""
MOST_DESCRIPTORS = 2
_NUMBER = struct.Struct("<I")
_UNTOLD = "the camera process does not take its sockets"


class Lender:
    """Opens sockets for the cameras of one process, in the worker. `handing` leads to the process, as does
    `refuse`."""

    def __init__(self, handing: socket.socket, refuse: Callable[[NoSocket], None]) -> None:
        handing.setblocking(False)
        self._handing = handing
        self._refuse = refuse
        self._cameras: dict[int, _Borrower] = {}

    def add(self, camera: int, networks: Sequence[str]) -> None:
        """Open sockets for a camera from now on, in `networks` only."""
        self._cameras[camera] = _Borrower(OwnSockets(networks))

    async def drop(self, camera: int) -> None:
        """Open no more for a camera."""
        if borrower := self._cameras.pop(camera, None):
            borrower.sockets.close()
            for task in borrower.tasks:
                task.cancel()
            await asyncio.gather(*borrower.tasks, return_exceptions=True)

    def take(self, message: OfSockets) -> None:
        """Do what the process asks."""
        borrower = self._cameras.get(message.camera)
        if borrower is None:
            return
        match message:
            case Datagram(_, channel, data, host, port):
                borrower.sockets.send(channel, data, host, port)
            case Release():
                borrower.sockets.close()
            case _ if borrower.opened >= MOST_OPENED:
                self._refuse(NoSocket(message.number, f"asks for more than {MOST_OPENED} connections"))
            case _:
                borrower.opened += 1
                task = asyncio.create_task(self._open(borrower.sockets, message))
                borrower.tasks.add(task)
                task.add_done_callback(borrower.tasks.discard)

    async def _open(self, sockets: OwnSockets, wanted: Connect | Bind | Join) -> None:
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT):
                match wanted:
                    case Connect():
                        opened = [await sockets.connect(wanted.host, wanted.port)]
                    case Bind():
                        opened = await sockets.bind()
                    case Join():
                        opened = await sockets.join(wanted.group, wanted.ports, wanted.interface)
        except (CameraError, TimeoutError) as error:
            self._refuse(NoSocket(wanted.number, str(error), udp=isinstance(error, TransportRefused)))
            return
        try:
            number = _NUMBER.pack(wanted.number & 0xFFFFFFFF)
            socket.send_fds(self._handing, [number], [one.fileno() for one in opened])
        except OSError:
            self._refuse(NoSocket(wanted.number, _UNTOLD))
        finally:
            for one in opened:
                one.close()

    async def close(self) -> None:
        """Stop for every camera."""
        for camera in list(self._cameras):
            await self.drop(camera)
        self._handing.close()


class _Borrower:
    """A camera for which sockets are opened."""

    def __init__(self, sockets: OwnSockets) -> None:
        self.sockets = sockets
        self.opened = 0
        self.tasks: set[asyncio.Task[None]] = set()


class Loans:
    """What a camera process has asked its worker for. `handed` is where sockets come from."""

    def __init__(self, handed: socket.socket, send: Callable[[OfSockets], None]) -> None:
        handed.setblocking(False)
        self.send = send
        self._handed = handed
        self._numbers = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[list[socket.socket]]] = {}
        asyncio.get_running_loop().add_reader(handed, self._receive)

    async def ask(self, make: Callable[[int], Connect | Bind | Join]) -> list[socket.socket]:
        """Ask for sockets and return them. Raises CameraError, TransportRefused."""
        number = next(self._numbers) & 0xFFFFFFFF
        answer: asyncio.Future[list[socket.socket]] = asyncio.get_running_loop().create_future()
        self._waiting[number] = answer
        try:
            self.send(make(number))
            return await answer
        except asyncio.CancelledError:
            if answer.done() and not answer.cancelled() and not answer.exception():
                for one in answer.result():
                    one.close()
            raise
        finally:
            self._waiting.pop(number, None)

    def refused(self, refused: NoSocket) -> None:
        """The worker opens none."""
        answer = self._waiting.get(refused.number)
        if answer and not answer.done():
            answer.set_exception((TransportRefused if refused.udp else CameraError)(refused.error))

    def _receive(self) -> None:
        try:
            number, descriptors, _, _ = socket.recv_fds(self._handed, _NUMBER.size, MOST_DESCRIPTORS)
        except (BlockingIOError, InterruptedError):
            return
        opened = [socket.socket(fileno=descriptor) for descriptor in descriptors]
        answer = self._waiting.get(_NUMBER.unpack(number)[0]) if len(number) == _NUMBER.size else None
        if answer and not answer.done() and opened:
            answer.set_result(opened)
            return
        if not number:
            asyncio.get_running_loop().remove_reader(self._handed)
        for one in opened:
            one.close()


class LentSockets:
    """The sockets of one camera in a camera process (see CameraSockets)."""

    def __init__(self, camera: int, loans: Loans) -> None:
        self._camera = camera
        self._loans = loans

    async def connect(self, host: str, port: int) -> socket.socket:
        """Return a connection."""
        return (await self._loans.ask(lambda number: Connect(self._camera, number, host, port)))[0]

    async def bind(self) -> list[socket.socket]:
        """Return two UDP sockets."""
        return await self._loans.ask(lambda number: Bind(self._camera, number))

    async def join(self, group: str, ports: tuple[int, int], interface: str) -> list[socket.socket]:
        """Return two UDP sockets of a group."""
        return await self._loans.ask(lambda number: Join(self._camera, number, group, ports, interface))

    def send(self, channel: int, data: bytes, host: str, port: int) -> None:
        """Send a datagram."""
        self._loans.send(Datagram(self._camera, channel, data, host, port))

    def close(self) -> None:
        """Let the worker close what it keeps."""
        self._loans.send(Release(self._camera))
