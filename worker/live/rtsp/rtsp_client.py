"""An RTSP client for live video: RTSP 1.0 (RFC 2326) over TCP, its media over UDP or interleaved.

Made of asyncio alone, so that hundreds of cameras share one thread, every wait has a deadline, and no native
code reads what comes from the network. Audio is not set up.
"""

import asyncio
import contextlib
import re
import secrets
import socket
import time
from collections.abc import Callable
from ipaddress import ip_address, ip_network
from typing import Literal

from shared.addresses import CameraAddress, may_be_camera
from worker.live.rtsp.camera_description import (
    CameraError,
    CameraOptions,
    Track,
    TransportRefused,
    parse_sdp,
)
from worker.live.rtsp.rtp import (
    AccessUnit,
    Assembler,
    Reorder,
    RtpPacket,
    parse_rtcp,
    parse_rtp,
    receiver_report,
)
from worker.live.rtsp.rtsp_connection import Connection, Reply, RtspLogin

RECEIVE_BUFFER = 2 << 20
REPORT_INTERVAL = 5.0
WATCH_INTERVAL = 0.25
GOODBYE_GRACE = 0.1
"""Seconds in which the last packets may arrive after the goodbye, which over UDP goes to another port."""
SESSION_TIMEOUT = 60
LONGEST_SESSION = 256
_TIMEOUT = re.compile(r"timeout=([0-9]{1,6})")
_CHANNELS = re.compile(r"interleaved=([0-9]{1,3})(?:-([0-9]{1,3}))?")
_PORTS = re.compile(r"server_port=([0-9]{1,5})(?:-([0-9]{1,5}))?")


class Datagrams(asyncio.DatagramProtocol):
    """One UDP socket of a session; packets from other hosts than the camera are ignored."""

    def __init__(self, channel: int, on_media: Callable[[int, bytes], None]) -> None:
        self._channel = channel
        self._on_media = on_media
        self.gone = asyncio.Event()
        self.host = ""

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        """A packet."""
        if addr[0] == self.host:
            self._on_media(self._channel, data)

    def connection_lost(self, exc: Exception | None) -> None:
        """The socket is closed."""
        self.gone.set()


class Player:
    """Plays one camera over one transport, UDP or TCP.

    `play` hands every access unit to `take`; `track` is known once it calls `opened`.
    """

    def __init__(
        self, where: CameraAddress, options: CameraOptions, transport: Literal["udp", "tcp"]
    ) -> None:
        self.track: Track
        self.packets = 0
        self._where = where
        self._options = options
        self._kind = transport
        self._login = RtspLogin(where.username, where.password)
        self._connection: Connection
        self._assembler: Assembler | None = None
        self._reorder: Reorder | None = None
        self._sockets: list[tuple[asyncio.DatagramTransport, Datagrams]] = []
        self._channels = (0, 1)
        self._server_ports: tuple[int, int] | None = None
        self._session: dict[str, str] = {}
        self._interval = SESSION_TIMEOUT / 2
        self._source = 0
        self._highest = 0
        self._heard = time.monotonic()
        self._paused = False
        self._goodbye = False
        self._ended = asyncio.Event()

    async def describe(self) -> Track:
        """Connect and ask what there is. Raises CameraError."""
        try:
            async with asyncio.timeout(self._options.open_timeout):
                return await self._describe()
        except TimeoutError as error:
            raise CameraError(f"no answer within {self._options.open_timeout:g} s") from error

    async def play(self, take: Callable[[AccessUnit], None], opened: Callable[[], None]) -> None:
        """Play until the camera says that the stream has ended. Raises CameraError for any other end."""
        started = time.monotonic()
        track = await self.describe()
        self._assembler = Assembler(track.codec, track.clock_rate, take)
        self._reorder = Reorder(self._assembler.push, self._options.latency if self._kind == "udp" else 0)
        try:
            async with asyncio.timeout(max(0.1, self._options.open_timeout - (time.monotonic() - started))):
                await self._setup()
                await self._ask("PLAY", self._base, {"Range": "npt=0.000-"})
                self._punch()
                await self._first_packet()
        except TimeoutError as error:
            raise CameraError(f"no video within {self._options.open_timeout:g} s") from error
        opened()
        await self._watch()
        self._reorder.flush()
        self._assembler.flush()

    async def close(self) -> None:
        """Say goodbye and end everything."""
        if hasattr(self, "_connection"):
            if self._session and not self._connection.closed.done():
                with contextlib.suppress(CameraError, TimeoutError):
                    async with asyncio.timeout(0.5):
                        await self._ask("TEARDOWN", self._base)
            self._connection.close()
            await self._connection.gone.wait()
        for transport, protocol in self._sockets:
            transport.abort()
            await protocol.gone.wait()

    def pause(self, *, on: bool) -> None:
        """Stop or go on reading from the camera."""
        self._paused = on
        if hasattr(self, "_connection"):
            self._connection.pause(on=on)

    # Asking -------------------------------------------------------------------------------------------

    async def _describe(self) -> Track:
        where = self._where
        loop = asyncio.get_running_loop()
        try:
            found = await loop.getaddrinfo(where.host, where.port, type=socket.SOCK_STREAM)
            host = next((name[0] for *_, name in found if self._may_be_at(str(name[0]))), None)
            if host is None:
                raise CameraError("its address is in no network that cameras may be in")
            _, self._connection = await loop.create_connection(
                lambda: Connection(self._media), str(host), where.port
            )
        except (OSError, ValueError) as error:  # ValueError: no name of a host, after all
            raise CameraError(f"cannot connect: {getattr(error, 'strerror', None) or error}") from error
        reply = await self._ask("DESCRIBE", where.url, {"Accept": "application/sdp"})
        self._base = reply.header("content-base") or reply.header("content-location") or where.url
        self.track = parse_sdp(reply.body, self._base)
        return self.track

    def _may_be_at(self, host: str) -> bool:
        return may_be_camera(ip_address(host), [ip_network(network) for network in self._options.networks])

    async def _ask(self, method: str, url: str, headers: dict[str, str] | None = None) -> Reply:
        """Ask, log in if need be. Raises CameraError for what is not a success."""
        reply = await self._request(method, url, headers or {})
        if reply.status == 401:
            self._login.learn(reply)
            reply = await self._request(method, url, headers or {})
        if reply.status == 401:
            raise CameraError("the camera refuses the user name or the password (401)")
        if not 200 <= reply.status < 300:
            kind = TransportRefused if method == "SETUP" and self._kind == "udp" else CameraError
            raise kind(f"the camera answers {method} with {reply.status} {reply.reason}")
        return reply

    async def _request(self, method: str, url: str, headers: dict[str, str]) -> Reply:
        login = self._login.headers(method, url)
        return await self._connection.request(method, url, {**headers, **self._session, **login})

    async def _setup(self) -> None:
        if self._kind == "tcp":
            wanted = "RTP/AVP/TCP;unicast;interleaved=0-1"
        else:
            port = await self._bind()
            wanted = f"RTP/AVP;unicast;client_port={port}-{port + 1}"
        reply = await self._ask("SETUP", self.track.control, {"Transport": wanted})
        name, _, parameters = reply.header("session").partition(";")
        if name:
            self._session = {"Session": name[:LONGEST_SESSION]}
        if timeout := _TIMEOUT.search(parameters):
            self._interval = max(1.0, int(timeout[1]) / 2)
        answer = reply.header("transport")
        self._channels = _pair(_CHANNELS.search(answer), 0xFF) or self._channels
        self._server_ports = _pair(_PORTS.search(answer), 0xFFFF) or self._server_ports

    async def _bind(self) -> int:
        """Two UDP sockets with neighbouring ports, the first even (RFC 3550, 11)."""
        loop = asyncio.get_running_loop()
        peer = self._connection.peer
        family = socket.AF_INET6 if ":" in peer else socket.AF_INET
        for _ in range(50):
            pair: list[socket.socket] = []
            try:
                first = 2 * (16_384 + secrets.randbelow(16_000))
                for port in (first, first + 1):
                    pair.append(socket.socket(family, socket.SOCK_DGRAM))
                    pair[-1].setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)
                    pair[-1].bind(("", port))
            except OSError:
                for one in pair:
                    one.close()
                continue
            for channel, one in enumerate(pair):
                made = await loop.create_datagram_endpoint(
                    lambda channel=channel: Datagrams(channel, self._media),  # type: ignore[misc]
                    sock=one,
                )
                made[1].host = peer
                self._sockets.append(made)
            return first
        raise TransportRefused("no two free UDP ports")

    def _punch(self) -> None:
        """Open the way through a NAT by sending something first."""
        if self._server_ports:
            for (transport, protocol), port in zip(self._sockets, self._server_ports, strict=True):
                transport.sendto(
                    b"\x80\x00\x00\x00" if port == self._server_ports[0] else b"", (protocol.host, port)
                )

    async def _first_packet(self) -> None:
        """Wait for the first packet of video, over UDP not for long."""
        deadline = time.monotonic() + self._options.udp_timeout
        while not self.packets and not self._ended.is_set():
            if self._connection.closed.done():
                raise CameraError(self._connection.closed.result())
            if self._kind == "udp" and time.monotonic() > deadline:
                raise TransportRefused(f"no video over UDP within {self._options.udp_timeout:g} s")
            await asyncio.sleep(0.02)

    # Listening ----------------------------------------------------------------------------------------

    async def _watch(self) -> None:
        """Wait for the end; stay alive for the camera meanwhile."""
        next_report = time.monotonic()
        next_sign = next_report + self._interval
        signing: asyncio.Task[Reply] | None = None
        try:
            while not self._ended.is_set():
                now = time.monotonic()
                if self._connection.closed.done():
                    if self._goodbye:
                        return
                    raise CameraError(self._connection.closed.result())
                if self._paused:
                    self._heard = now
                if now - self._heard > self._options.read_timeout:
                    raise CameraError(f"no video for {self._options.read_timeout:g} s")
                if now >= next_report:
                    next_report = now + REPORT_INTERVAL
                    self._report()
                if now >= next_sign and (signing is None or signing.done()):
                    if signing is not None:
                        signing.exception()
                    next_sign = now + self._interval
                    signing = asyncio.create_task(self._ask("GET_PARAMETER", self._base))
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(WATCH_INTERVAL):
                        await self._ended.wait()
        finally:
            if signing is not None:
                signing.cancel()
                await asyncio.gather(signing, return_exceptions=True)

    def _report(self) -> None:
        report = receiver_report(0x72746D62, self._source, self._highest)
        if self._kind == "tcp":
            self._connection.send_media(self._channels[1], report)
        elif self._server_ports:
            transport, protocol = self._sockets[1]
            transport.sendto(report, (protocol.host, self._server_ports[1]))

    def _media(self, channel: int, data: bytes) -> None:
        """A media packet, from wherever."""
        if self._assembler is None or self._reorder is None:
            return
        if channel == self._channels[0]:
            packet = parse_rtp(data, self.track.payload_type)
            if packet is not None:
                self._take(packet, self._reorder)
        elif channel == self._channels[1]:
            told = parse_rtcp(data)
            if told.report and told.report[0] == (self._source or told.report[0]):
                self._assembler.clock.report(*told.report[1:])
            if told.bye and (not self.packets or self._source in told.bye):
                self._goodbye = True
                asyncio.get_running_loop().call_later(GOODBYE_GRACE, self._ended.set)

    def _take(self, packet: RtpPacket, reorder: Reorder) -> None:
        self.packets += 1
        self._heard = time.monotonic()
        self._source, self._highest = packet.source, packet.sequence
        reorder.push(packet, self._heard)


def _pair(match: re.Match[str] | None, most: int) -> tuple[int, int] | None:
    """Two numbers of a transport header, the second perhaps unsaid; None if one is above `most`."""
    if match is None:
        return None
    first = int(match[1])
    second = int(match[2] or first + 1)
    return (first, second) if max(first, second) <= most else None


async def probe_camera(where: CameraAddress, options: CameraOptions) -> Track:
    """The camera's video track. Raises CameraError if it cannot be reached or has none."""
    player = Player(where, options, "tcp")
    try:
        return await player.describe()
    finally:
        await player.close()
