"""The UDP sockets of a session: media arrives at the first, RTCP at the second."""

import asyncio
import secrets
import socket
import time
from collections.abc import Callable
from ipaddress import ip_address

from worker.live.rtsp.camera_description import TransportRefused

RECEIVE_BUFFER = 2 << 20
LOWEST_PORT, PORTS = 16_384, 16_000
LOWEST_GROUP_PORT = 1024


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
            began = time.thread_time()
            self._on_media(self._channel, data)
            self._on_spent(time.thread_time() - began)

    def connection_lost(self, exc: Exception | None) -> None:
        """The socket is closed."""
        self.gone.set()


class MediaSockets:
    """Two UDP sockets, for media and for RTCP. Media may come from any of the `hosts`, IP addresses.

    `on_media` gets channel and data of each packet, `on_spent` the processor time in seconds that this took.
    """

    def __init__(
        self,
        host: str,
        on_media: Callable[[int, bytes], None],
        on_spent: Callable[[float], None] = lambda seconds: None,
    ) -> None:
        self.hosts = {host}
        self._host = host
        self._on_media = on_media
        self._on_spent = on_spent
        self._sockets: list[tuple[asyncio.DatagramTransport, Datagrams]] = []
        self._ports: tuple[int, int] | None = None

    async def bind(self) -> int:
        """Open two neighbouring ports, the first even (RFC 3550, 11); return that. Raises TransportRefused if
        there are no two."""
        family = socket.AF_INET6 if ":" in self._host else socket.AF_INET
        for _ in range(50):
            first = LOWEST_PORT + 2 * secrets.randbelow(PORTS // 2)
            if pair := _bound(family, (first, first + 1)):
                for channel, one in enumerate(pair):
                    await self._listen(channel, one)
                return first
        raise TransportRefused("no two free UDP ports")

    async def join(self, group: str, ports: tuple[int, int], interface: str) -> None:
        """Listen to a group at the network interface with this address. Raises TransportRefused."""
        try:
            address = ip_address(group)
        except ValueError as error:
            raise TransportRefused("the camera names no multicast group") from error
        if not address.is_multicast or min(ports) < LOWEST_GROUP_PORT:
            raise TransportRefused(
                f"the camera's multicast group is {group}, ports {ports[0]} and {ports[1]}"
            )
        family = socket.AF_INET6 if address.version == 6 else socket.AF_INET
        pair = _bound(family, ports, group)
        if not pair:
            raise TransportRefused(f"the ports {ports[0]} and {ports[1]} of the multicast group are taken")
        for channel, one in enumerate(pair):
            try:
                if family == socket.AF_INET6:
                    one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, address.packed + bytes(4))
                else:
                    member = address.packed + socket.inet_aton(interface)
                    one.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, member)
            except OSError as error:
                for each in pair[channel:]:
                    each.close()
                raise TransportRefused(f"the multicast group {group} cannot be joined: {error}") from error
            await self._listen(channel, one)
        self._host = group
        self._ports = 0, ports[1]

    async def _listen(self, channel: int, one: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        made = await loop.create_datagram_endpoint(
            lambda: Datagrams(channel, self.hosts, self._on_media, self._on_spent), sock=one
        )
        self._sockets.append(made)

    def aim(self, ports: tuple[int, int]) -> None:
        """Take the camera's ports, and open the way through a NAT by sending something to each."""
        self._ports = ports
        self._send(0, b"\x80\x00\x00\x00" + bytes(8))
        self._send(1, b"")

    def report(self, data: bytes) -> None:
        """Send an RTCP packet to the camera."""
        self._send(1, data)

    def _send(self, channel: int, data: bytes) -> None:
        if self._ports and self._ports[channel]:
            self._sockets[channel][0].sendto(data, (self._host, self._ports[channel]))

    async def close(self) -> None:
        """Close the sockets."""
        for transport, protocol in self._sockets:
            transport.abort()
            await protocol.gone.wait()
        self._sockets.clear()


def _bound(family: socket.AddressFamily, ports: tuple[int, int], group: str = "") -> list[socket.socket]:
    """Return two sockets at these ports; none if one of them is taken. Those of a group may be shared."""
    pair: list[socket.socket] = []
    try:
        for port in ports:
            pair.append(socket.socket(family, socket.SOCK_DGRAM))
            if group:
                pair[-1].setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            pair[-1].setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)
            pair[-1].bind((group, port))
    except OSError:
        for one in pair:
            one.close()
        return []
    return pair
