"""An RTSP client for live video: RTSP 1.0 (RFC 2326) over TCP, its media over UDP or interleaved.

Made of asyncio alone, so that hundreds of cameras share one thread, every wait has a deadline, and no native
code reads what comes from the network. Audio is not set up.
"""

import asyncio
import base64
import contextlib
import hashlib
import re
import secrets
import socket
import time
from collections.abc import Callable
from ipaddress import ip_address, ip_network
from typing import Literal, NamedTuple, TypeAlias, cast
from urllib.parse import SplitResult, unquote, urljoin, urlsplit

import msgspec

from shared.addresses import may_be_camera
from worker.media.rtp import (
    START_CODE,
    AccessUnit,
    Assembler,
    Reorder,
    RtpPacket,
    parse_rtcp,
    parse_rtp,
    receiver_report,
)

Transport: TypeAlias = Literal["auto", "udp", "tcp"]

DEFAULT_PORT = 554
LARGEST_MESSAGE = 256 << 10
RECEIVE_BUFFER = 2 << 20
REPORT_INTERVAL = 5.0
WATCH_INTERVAL = 0.25
GOODBYE_GRACE = 0.1
"""Seconds in which the last packets may arrive after the goodbye, which over UDP goes to another port."""
SESSION_TIMEOUT = 60
CODECS = {"H264": "h264", "H265": "hevc", "HEVC": "hevc"}


class CameraError(Exception):
    """The camera cannot be reached, refuses, or has fallen silent. Its text never holds credentials."""


class TransportRefused(CameraError):
    """The camera does not send over this transport; another one may do."""


class CameraOptions(msgspec.Struct, frozen=True, kw_only=True):
    """How to talk to a camera. `open_timeout` seconds to the first packet of video, `udp_timeout` seconds
    without one before TCP is tried, `read_timeout` seconds of silence that end the connection, `latency`
    seconds that a late UDP packet is waited for. `networks` that cameras may be in; none: any but link-local
    ones and the metadata services of clouds."""

    transport: Transport = "auto"
    open_timeout: float = 10.0
    udp_timeout: float = 2.0
    read_timeout: float = 10.0
    latency: float = 2.0
    networks: list[str] = []


class Address(NamedTuple):
    """Where a camera is, and how to log in. `url` holds no credentials."""

    url: str
    host: str
    port: int
    username: str
    password: str


def address(url: str, username: str = "", password: str = "") -> Address:
    """Read an rtsp:// URL. Credentials given apart win over those in the URL. Raises CameraError."""
    try:
        parts: SplitResult = urlsplit(url)
        port = parts.port or DEFAULT_PORT
    except ValueError as error:
        raise CameraError("not a usable RTSP address") from error
    if parts.scheme != "rtsp" or not parts.hostname:
        raise CameraError("not a usable RTSP address")
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    plain = parts._replace(netloc=f"{host}:{port}" if parts.port else host, fragment="").geturl()
    return Address(
        plain,
        parts.hostname,
        port,
        username or unquote(parts.username or ""),
        password or unquote(parts.password or ""),
    )


class Track(NamedTuple):
    """The video of a session description. `parameters` are its parameter sets in Annex B form."""

    codec: str
    payload_type: int
    clock_rate: int
    control: str
    parameters: bytes


def parse_sdp(text: str, base: str) -> Track:
    """The first H.264 or H.265 track (RFC 8866). Raises CameraError naming what there is instead."""
    session, *media = re.split(r"(?m)^(?=m=)", text.replace("\r\n", "\n"))
    found = []
    base = _control(session, base, base)
    for section in media:
        kind, _, _, *formats = section.partition("\n")[0][2:].split()
        names = dict(re.findall(r"(?m)^a=rtpmap:(\d+) ([^/\s]+)", section))
        found += [f"{kind} {names.get(number, number)}" for number in formats]
        for number in formats if kind == "video" else ():
            if codec := CODECS.get(names.get(number, "").upper()):
                rate = re.search(rf"(?m)^a=rtpmap:{number} [^/\s]+/(\d+)", section)
                return Track(
                    codec,
                    int(number),
                    int(rate[1]) if rate else 90_000,
                    _control(section, base, base),
                    _parameter_sets(section, number),
                )
    raise CameraError(f"no H.264 or H.265 video, only {', '.join(found) or 'nothing'}")


def _control(section: str, base: str, default: str) -> str:
    """RFC 2326, C.1.1."""
    control = re.search(r"(?m)^a=control:(\S+)", section)
    if not control or control[1] == "*":
        return default
    named = str(control[1])
    if named.lower().startswith("rtsp://"):
        return named
    return urljoin(base if base.endswith("/") else f"{base}/", named)


def _parameter_sets(section: str, number: str) -> bytes:
    line = re.search(rf"(?m)^a=fmtp:{number} (.*)$", section)
    found = b""
    for name in ("sprop-vps", "sprop-sps", "sprop-pps", "sprop-parameter-sets"):
        value = re.search(rf"{name}=([^;\s]+)", line[1]) if line else None
        for part in value[1].split(",") if value else ():
            with contextlib.suppress(ValueError):
                found += START_CODE + base64.b64decode(part)
    return found


class Reply(NamedTuple):
    """An RTSP response. Names of headers are in lower case."""

    status: int
    reason: str
    headers: dict[str, list[str]]
    body: str

    def header(self, name: str) -> str:
        """The first value of a header, or nothing."""
        return self.headers.get(name, [""])[0]


class Connection(asyncio.Protocol):
    """The TCP connection to a camera: requests and replies, and interleaved media (RFC 2326, 10.12)."""

    def __init__(self, on_media: Callable[[int, bytes], None]) -> None:
        self.closed: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.gone = asyncio.Event()
        self._on_media = on_media
        self._transport: asyncio.Transport | None = None
        self._buffer = bytearray()
        self._replies: dict[int, asyncio.Future[Reply]] = {}
        self._sequence = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The connection stands."""
        self._transport = cast("asyncio.Transport", transport)

    @property
    def peer(self) -> str:
        """The camera's IP address."""
        name = self._transport.get_extra_info("peername") if self._transport else None
        return str(name[0]) if name else ""

    def data_received(self, data: bytes) -> None:
        """Cut what arrived into media packets and messages."""
        buffer = self._buffer
        buffer += data
        at, end = 0, len(buffer)
        while end - at >= 4:
            if buffer[at] == 0x24:
                stop = at + 4 + (buffer[at + 2] << 8 | buffer[at + 3])
                if stop > end:
                    break
                self._on_media(buffer[at + 1], bytes(buffer[at + 4 : stop]))
            else:
                stop = self._message(at)
                if stop < 0:
                    break
            at = stop
        del buffer[:at]
        if len(buffer) > LARGEST_MESSAGE:
            self.close("sends something that is not RTSP")

    def _message(self, at: int) -> int:
        """Take the message at `at`; where it ends, or -1 while it is not whole."""
        head_end = self._buffer.find(b"\r\n\r\n", at)
        if head_end < 0:
            return -1
        first, *lines = self._buffer[at:head_end].decode("utf-8", "replace").strip().split("\r\n")
        headers: dict[str, list[str]] = {}
        for line in lines:
            name, _, value = line.partition(":")
            headers.setdefault(name.strip().lower(), []).append(value.strip())
        length = headers.get("content-length", ["0"])[0]
        stop = head_end + 4 + (int(length) if length.isdigit() else 0)
        if stop > len(self._buffer):
            return -1
        body = self._buffer[head_end + 4 : stop].decode("utf-8", "replace")
        sequence = headers.get("cseq", ["0"])[0]
        if match := re.match(r"RTSP/\d\.\d (\d{3}) ?(.*)", first):
            reply = self._replies.pop(int(sequence) if sequence.isdigit() else 0, None)
            if reply is not None and not reply.done():
                reply.set_result(Reply(int(match[1]), match[2], headers, body))
        elif " RTSP/" in first:  # the camera asks something of us
            self._write(f"RTSP/1.0 200 OK\r\nCSeq: {sequence}\r\n\r\n".encode())
        return stop

    def connection_lost(self, exc: Exception | None) -> None:
        """The camera, or the way to it, has gone."""
        self._lost(f"the connection broke: {exc}" if exc else "the camera closed the connection")
        self.gone.set()

    def _lost(self, reason: str) -> None:
        if not self.closed.done():
            self.closed.set_result(reason)
        for reply in self._replies.values():
            if not reply.done():
                reply.set_exception(CameraError(reason))

    def close(self, reason: str = "closed") -> None:
        """End the connection."""
        self._lost(reason)
        if self._transport:
            self._transport.abort()

    def pause(self, *, on: bool) -> None:
        """Stop or go on reading; what the camera sends waits in the kernel, then at the camera."""
        if self._transport and not self._transport.is_closing():
            if on and self._transport.is_reading():
                self._transport.pause_reading()
            elif not on:
                self._transport.resume_reading()

    def _write(self, data: bytes) -> None:
        if self._transport and not self._transport.is_closing():
            self._transport.write(data)

    def send_media(self, channel: int, data: bytes) -> None:
        """Send an interleaved packet."""
        self._write(b"$" + bytes([channel]) + len(data).to_bytes(2, "big") + data)

    async def request(self, method: str, url: str, headers: dict[str, str]) -> Reply:
        """Ask, and wait for the reply. Raises CameraError when the connection ends first."""
        if self.closed.done():
            raise CameraError(self.closed.result())
        self._sequence += 1
        reply: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        self._replies[self._sequence] = reply
        lines = [f"{method} {url} RTSP/1.0", f"CSeq: {self._sequence}", "User-Agent: rt-embed"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        self._write("\r\n".join([*lines, "", ""]).encode())
        return await reply


class Login:
    """Answers a camera's challenge: digest (RFC 7616, 2617), else basic (RFC 7617)."""

    def __init__(self, username: str, password: str) -> None:
        self._username = username
        self._password = password
        self._challenge: dict[str, str] = {}
        self._scheme = ""
        self._count = 0

    def learn(self, reply: Reply) -> None:
        """Take the challenge of a 401. Raises CameraError where there is nothing to answer with."""
        challenges = reply.headers.get("www-authenticate", [])
        if not self._username:
            raise CameraError("the camera wants a user name and a password (401)")
        for scheme in ("digest", "basic"):
            for text in challenges:
                if text.lower().startswith(scheme):
                    fields = re.findall(r'(\w+)=(?:"([^"]*)"|([^\s,]+))', text)
                    self._challenge = {name.lower(): quoted or plain for name, quoted, plain in fields}
                    if scheme == "digest" and self._hash is None:
                        continue
                    self._scheme = scheme
                    return
        raise CameraError("the camera wants an unknown kind of login (401)")

    @property
    def _hash(self) -> str | None:
        """The digest's hash function."""
        name = self._challenge.get("algorithm", "MD5").upper().removesuffix("-SESS")
        return {"MD5": "md5", "SHA-256": "sha256"}.get(name)

    def headers(self, method: str, url: str) -> dict[str, str]:
        """The header that logs a request in; none before the camera has asked for it."""
        if self._scheme == "basic":
            token = base64.b64encode(f"{self._username}:{self._password}".encode()).decode()
            return {"Authorization": f"Basic {token}"}
        return {"Authorization": self._digest(method, url)} if self._scheme else {}

    def _digest(self, method: str, url: str) -> str:
        def h(text: str) -> str:
            return hashlib.new(self._hash or "md5", text.encode(), usedforsecurity=False).hexdigest()

        given = self._challenge
        realm, nonce = given.get("realm", ""), given.get("nonce", "")
        secret, action = h(f"{self._username}:{realm}:{self._password}"), h(f"{method}:{url}")
        self._count += 1
        count, ours = f"{self._count:08x}", secrets.token_hex(8)
        if given.get("algorithm", "").upper().endswith("-SESS"):
            secret = h(f"{secret}:{nonce}:{ours}")
        fields = {"username": self._username, "realm": realm, "nonce": nonce, "uri": url}
        plain = ""
        if "auth" in re.split(r"[\s,]+", given.get("qop", "")):
            fields["response"] = h(f"{secret}:{nonce}:{count}:{ours}:auth:{action}")
            fields["cnonce"] = ours
            plain = f", qop=auth, nc={count}"
        else:
            fields["response"] = h(f"{secret}:{nonce}:{action}")
        fields |= {name: given[name] for name in ("opaque",) if name in given}
        if "algorithm" in given:
            plain += f", algorithm={given['algorithm']}"
        return "Digest " + ", ".join(f'{name}="{value}"' for name, value in fields.items()) + plain


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

    def __init__(self, where: Address, options: CameraOptions, transport: Literal["udp", "tcp"]) -> None:
        self.track: Track
        self.packets = 0
        self._where = where
        self._options = options
        self._kind = transport
        self._login = Login(where.username, where.password)
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
            self._session = {"Session": name}
        if timeout := re.search(r"timeout=(\d+)", parameters):
            self._interval = max(1.0, int(timeout[1]) / 2)
        answer = reply.header("transport")
        if channels := re.search(r"interleaved=(\d+)(?:-(\d+))?", answer):
            self._channels = int(channels[1]), int(channels[2] or int(channels[1]) + 1)
        if ports := re.search(r"server_port=(\d+)(?:-(\d+))?", answer):
            self._server_ports = int(ports[1]), int(ports[2] or int(ports[1]) + 1)

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


async def probe_camera(where: Address, options: CameraOptions) -> Track:
    """The camera's video track. Raises CameraError if it cannot be reached or has none."""
    player = Player(where, options, "tcp")
    try:
        return await player.describe()
    finally:
        await player.close()
