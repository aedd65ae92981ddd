"""The UDP sockets of a session: media arrives at the first, RTCP at the second."""

import asyncio
import socket
import time
from collections.abc import Callable

from worker.live.rtsp.camera_sockets import CameraSockets


class Datagrams(asyncio.DatagramProtocol):
    """One UDP socket; packets from other hosts than those of the camera are ignored."""

    def __init__(
        self,
        channel: int,
        hosts: set[str],
        on_media: Callable[[int, bytes], None],
        on_spent: Callable[[float], None],
    ) -> None:
        self.gone = asyncio.Event()
        self._channel = channel
        self._hosts = hosts
        self._on_media = on_media
        self._on_spent = on_spent

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        """A packet."""
        if addr[0] in self._hosts:
            began = time.monotonic()
            self._on_media(self._channel, data)
            self._on_spent(time.monotonic() - began)

    def connection_lost(self, exc: Exception | None) -> None:
        """The socket is closed."""
        self.gone.set()


class MediaSockets:
    """Two UDP sockets, for media and for RTCP. Media may come from any of the `hosts`, IP addresses.

    `on_media` gets channel and data of each packet, `on_spent` the seconds that this took.
    """

    def __init__(
        self,
        host: str,
        on_media: Callable[[int, bytes], None],
        sockets: CameraSockets,
        on_spent: Callable[[float], None] = lambda seconds: None,
    ) -> None:
        self.hosts = {host}
        self._host = host
        self._on_media = on_media
        self._on_spent = on_spent
        self._sockets = sockets
        self._open: list[tuple[asyncio.DatagramTransport, Datagrams]] = []
        self._ports: tuple[int, int] | None = None

    async def bind(self) -> int:
        """Open two neighbouring ports; return the first. Raises TransportRefused if there are no two."""
        pair = await self._sockets.bind()
        await self._listen(pair)
        return int(pair[0].getsockname()[1])

    async def join(self, group: str, ports: tuple[int, int], interface: str) -> None:
        """Listen to a group at the network interface with this address. Raises TransportRefused."""
        await self._listen(await self._sockets.join(group, ports, interface))
        self._host = group
        self._ports = 0, ports[1]

    async def _listen(self, pair: list[socket.socket]) -> None:
        loop = asyncio.get_running_loop()
        for channel, one in enumerate(pair):
            protocol = Datagrams(channel, self.hosts, self._on_media, self._on_spent)
            transport, _ = await loop.create_datagram_endpoint(lambda made=protocol: made, sock=one)  # type: ignore[misc]
            self._open.append((transport, protocol))

    def aim(self, ports: tuple[int, int]) -> None:
        """Set the camera's ports, and open a NAT by sending a packet to each."""
        self._ports = ports
        self._send(0, b"\x80\x00\x00\x00" + bytes(8))
        self._send(1, b"")

    def report(self, data: bytes) -> None:
        """Send an RTCP packet to the camera."""
        self._send(1, data)

    def _send(self, channel: int, data: bytes) -> None:
        if self._ports and self._ports[channel]:
            self._sockets.send(channel, data, self._host, self._ports[channel])

    async def close(self) -> None:
        """Close the sockets."""
        self._sockets.close()
        for transport, protocol in self._open:
            transport.abort()
            await protocol.gone.wait()
        self._open.clear()
