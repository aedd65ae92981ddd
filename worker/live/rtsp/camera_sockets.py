"""Opening the sockets to a camera: its host's name is resolved, checked and connected to in one place."""

import asyncio
import os
import secrets
import socket
from collections.abc import Sequence
from ipaddress import ip_address, ip_network
from typing import Protocol

from shared.addresses import may_be_camera
from worker.live.camera_description import CameraError, TransportRefused

MOST_ADDRESSES_TRIED = 4
"""Addresses of one host that are tried before it counts as out of reach."""
RECEIVE_BUFFER = 2 << 20
LOWEST_PORT, PORTS = 16_384, 16_000
LOWEST_GROUP_PORT = 1024
PORTS_END = 1 << 16


class CameraSockets(Protocol):
    """Opens the sockets to one camera. What it returns belongs to the caller, who closes it; it does not
    block. Datagrams are sent through this, from the UDP sockets that were opened last."""

    async def connect(self, host: str, port: int) -> socket.socket:
        """Return a TCP connection to the first address of `host` that answers and that cameras may have.
        Raises CameraError."""

    async def bind(self) -> list[socket.socket]:
        """Return two UDP sockets at neighbouring ports, the first even, for media and RTCP (RFC 3550, 11).
        Raises TransportRefused if there are no two."""

    async def join(self, group: str, ports: tuple[int, int], interface: str) -> list[socket.socket]:
        """Return two UDP sockets that listen to a multicast group at the network interface with this address.
        Raises TransportRefused."""

    def send(self, channel: int, data: bytes, host: str, port: int) -> None:
        """Send a datagram from the first or second UDP socket to a host that this is connected to, or to the
        group. Like any datagram, it may be lost."""

    def close(self) -> None:
        """Close what `send` uses."""


class OwnSockets:
    """Opens sockets in this process. `networks` are those that cameras may be in; none: see may_be_camera."""

    def __init__(self, networks: Sequence[str]) -> None:
        self._networks = [ip_network(network) for network in networks]
        self._peers: list[str] = []
        self._pair: list[socket.socket] = []

    async def connect(self, host: str, port: int) -> socket.socket:
        """Return a connection (see CameraSockets)."""
        loop = asyncio.get_running_loop()
        if not 0 < port < PORTS_END:
            raise CameraError(f"cannot connect: {port} is not a port")
        try:
            found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
            names = [name for *_, name in found if may_be_camera(ip_address(name[0]), self._networks)]
            if not names:
                raise CameraError("its address is not in a network that cameras may be in")
            for name in (tried := names[:MOST_ADDRESSES_TRIED]):
                try:
                    return await self._connect(name)
                except OSError:
                    if name == tried[-1]:
                        raise
        except (OSError, ValueError) as error:  # ValueError: no name of a host, after all
            raise CameraError(f"cannot connect: {getattr(error, 'strerror', None) or error}") from error
        raise CameraError("cannot connect")

    async def _connect(self, name: Sequence[object]) -> socket.socket:
        host = str(name[0])
        made = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
        try:
            made.setblocking(False)
            await asyncio.get_running_loop().sock_connect(made, name)  # type: ignore[arg-type]
        except BaseException as error:
            made.close()
            if isinstance(error, OSError) and error.errno:
                raise OSError(error.errno, os.strerror(error.errno)) from error
            raise
        self._peers = [host, *self._peers][:MOST_ADDRESSES_TRIED]
        return made

    async def bind(self) -> list[socket.socket]:
        """Return two sockets (see CameraSockets)."""
        family = socket.AF_INET6 if self._peers and ":" in self._peers[0] else socket.AF_INET
        for _ in range(50):
            first = LOWEST_PORT + 2 * secrets.randbelow(PORTS // 2)
            if pair := _bound(family, (first, first + 1)):
                return self._keep(pair)
        raise TransportRefused("no two free UDP ports")

    async def join(self, group: str, ports: tuple[int, int], interface: str) -> list[socket.socket]:
        """Return two sockets (see CameraSockets)."""
        try:
            address = ip_address(group)
        except ValueError as error:
            raise TransportRefused("the camera names no multicast group") from error
        if not address.is_multicast or min(ports) < LOWEST_GROUP_PORT or max(ports) >= PORTS_END:
            raise TransportRefused(
                f"the camera's multicast group is {group}, ports {ports[0]} and {ports[1]}"
            )
        family = socket.AF_INET6 if address.version == 6 else socket.AF_INET
        pair = _bound(family, ports, group)
        if not pair:
            raise TransportRefused(f"the ports {ports[0]} and {ports[1]} of the multicast group are taken")
        try:
            for one in pair:
                if family == socket.AF_INET6:
                    one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, address.packed + bytes(4))
                else:
                    member = address.packed + socket.inet_aton(interface)
                    one.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, member)
        except (OSError, ValueError) as error:
            for one in pair:
                one.close()
            raise TransportRefused(f"the multicast group {group} cannot be joined: {error}") from error
        self._peers = [group, *self._peers][:MOST_ADDRESSES_TRIED]
        return self._keep(pair)

    def send(self, channel: int, data: bytes, host: str, port: int) -> None:
        """Send a datagram (see CameraSockets)."""
        if host in self._peers and len(self._pair) > channel >= 0 and 0 < port < PORTS_END:
            try:
                self._pair[channel].sendto(data, (host, port))
            except OSError:  # a datagram that is lost on its way here is lost like any other
                return

    def _keep(self, pair: list[socket.socket]) -> list[socket.socket]:
        """Keep these open for `send`, whatever becomes of those of the caller."""
        self.close()
        self._pair = [one.dup() for one in pair]
        return pair

    def close(self) -> None:
        """Close what `send` uses."""
        for one in self._pair:
            one.close()
        self._pair = []


def _bound(family: socket.AddressFamily, ports: tuple[int, int], group: str = "") -> list[socket.socket]:
    """Return two sockets at these ports; none if one of them is taken. Those of a group may be shared."""
    pair: list[socket.socket] = []
    try:
        for port in ports:
            pair.append(socket.socket(family, socket.SOCK_DGRAM))
            pair[-1].setblocking(False)
            if group:
                pair[-1].setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            pair[-1].setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)
            pair[-1].bind((group, port))
    except OSError:
        for one in pair:
            one.close()
        return []
    return pair
