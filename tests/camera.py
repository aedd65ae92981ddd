"""An RTSP camera that does what a test wants: over UDP or TCP, with a login, silent, broken off."""

import asyncio
import base64
import hashlib
import re
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable, Mapping
from fractions import Fraction
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import av
import numpy as np
from av.video.frame import PictureType

from tests.support import free_port

NTP_EPOCH = 2_208_988_800
CLOCK_RATE = 90_000
LARGEST_PAYLOAD = 1200


class Picture(NamedTuple):
    """One coded picture: presentation time in ticks of 90 kHz, and its NAL units."""

    pts: int
    nals: list[bytes]


def encode(
    codec: str = "libx264",
    *,
    seconds: float = 4,
    gop: int = 30,
    rate: int = 30,
    size: int = 96,
    intra: int = 0,
    params: str = "",
    **options: str,
) -> list[Picture]:
    """Moving noise, in decoding order; of codecs without NAL units each picture is one. Every `intra`-th
    picture is asked for as an intra picture; `params` are x264's or x265's own."""
    context: Any = av.CodecContext.create(codec, "w")
    context.width, context.height = size, size
    context.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
    context.time_base, context.framerate = Fraction(1, rate), Fraction(rate)
    context.gop_size = gop
    extra = {"x265-params": f"log-level=none:keyint={gop}:min-keyint={gop}"} if codec == "libx265" else {}
    of_x26x = {"preset": "ultrafast", "crf": "30"} if codec.startswith("libx26") else {}
    own = {f"{codec.removeprefix('lib')}-params": params} if params else {}
    context.options = {**of_x26x, **extra, **own, **options}
    noise = np.random.default_rng(3).integers(0, 255, (size, size, 3), dtype=np.uint8)
    packets = []
    for index in range(round(seconds * rate)):
        picture = np.full((size, size, 3), index * 7 % 256, np.uint8)
        picture[: size // 2] = np.roll(noise, index, axis=0)[: size // 2]
        frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
        frame.pts = index
        if intra and index % intra == 0:
            frame.pict_type = PictureType.I
        packets += context.encode(frame)
    packets += context.encode(None)
    whole = not codec.startswith("libx26")
    return [Picture(p.pts * CLOCK_RATE // rate, [bytes(p)] if whole else split(bytes(p))) for p in packets]


def film_pictures(path: Path) -> list[Picture]:
    """The pictures of an H.264 file."""
    found = []
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        assert stream.time_base is not None
        convert = av.BitStreamFilterContext("h264_mp4toannexb", stream)
        for packet in container.demux(stream):
            found += [
                Picture(int((made.pts or 0) * stream.time_base * CLOCK_RATE), split(bytes(made)))
                for made in convert.filter(packet if packet.size else None)
            ]
    return found


def split(data: bytes) -> list[bytes]:
    """The NAL units of Annex B data."""
    return [nal for nal in re.split(rb"\x00\x00\x00?\x01", data) if nal]


def packetize(nal: bytes, codec: str) -> list[bytes]:
    """RTP payloads of one NAL unit: itself, or fragments (RFC 6184, 5.8; RFC 7798, 4.4.3; RFC 6416, 5)."""
    if codec == "mpeg4":
        return [nal[at : at + LARGEST_PAYLOAD] for at in range(0, len(nal), LARGEST_PAYLOAD)]
    if len(nal) <= LARGEST_PAYLOAD:
        return [nal]
    head = 1 if codec == "h264" else 2
    pieces = [nal[i : i + LARGEST_PAYLOAD] for i in range(head, len(nal), LARGEST_PAYLOAD)]
    made = []
    for index, piece in enumerate(pieces):
        marks = (0x80 if index == 0 else 0) | (0x40 if index == len(pieces) - 1 else 0)
        if codec == "h264":
            made.append(bytes([nal[0] & 0xE0 | 28, marks | nal[0] & 31]) + piece)
        else:
            made.append(bytes([nal[0] & 0x81 | 49 << 1, nal[1], marks | nal[0] >> 1 & 63]) + piece)
    return made


class Asked(NamedTuple):
    """A request as it came; names of headers are in lower case."""

    method: str
    url: str
    headers: dict[str, str]


class Answer(NamedTuple):
    """What a camera says instead of what it would."""

    status: str = "200 OK"
    headers: Mapping[str, str] = MappingProxyType({})
    body: str = ""


NAMES = {"h264": "H264", "hevc": "H265", "mjpeg": "JPEG", "mpeg4": "MP4V-ES", "vp8": "VP8"}


class ScriptedCamera:
    """Listens on a port of its own, on a thread of its own, until `stop`.

    `login` is a user name and a password, asked for by digest. A `deaf` camera accepts and never answers;
    `mute_after` pictures it sends nothing more; `ends` says goodbye after the last picture, else it begins
    anew. `reports` sends a sender report every `report_every` pictures, `ahead` seconds ahead of the true
    time, which may depend on the picture's number; no report where that is None. `first` is the RTP timestamp
    of the first picture; `jumps` adds ticks from a picture on. Every `lossy`-th packet is left out.

    `answer` may answer any request instead; `requests` are those that came. `sdp` is the description, `carry`
    makes the payloads of a picture, `disturb` gets the RTP packets of one and returns those to send now,
    `interrupts` are bytes that go out on the control connection before a picture. `tls` makes it rtsps://.
    """

    def __init__(
        self,
        pictures: list[Picture],
        codec: str = "h264",
        *,
        transports: tuple[str, ...] = ("udp", "tcp", "multicast"),
        login: tuple[str, str] | None = None,
        deaf: bool = False,
        mute_after: int | None = None,
        ends: bool = False,
        reports: bool = True,
        report_every: int = 30,
        ahead: float | Callable[[int], float | None] = 0,
        first: int = 1000,
        jumps: dict[int, int] | None = None,
        speed: float = 1.0,
        lossy: int = 0,
        path: str = "/live",
        answer: Callable[[Asked], Answer | None] = lambda asked: None,
        sdp: str = "",
        carry: Callable[[Picture], list[bytes]] | None = None,
        disturb: Callable[[list[bytes]], list[bytes]] = lambda packets: packets,
        interrupts: dict[int, bytes] | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.pictures, self.codec = pictures, codec
        self.transports, self.login = transports, login
        self.deaf, self.mute_after, self.ends = deaf, mute_after, ends
        self.reports, self.report_every = reports, report_every
        self.ahead = ahead if callable(ahead) else lambda number: ahead
        self.first, self.jumps, self.speed, self.lossy = first, jumps or {}, speed, lossy
        self.answer, self.disturb, self.interrupts, self.tls = answer, disturb, interrupts or {}, tls
        self.carry = carry or (lambda p: [part for nal in p.nals for part in packetize(nal, codec)])
        self.group = "239.255.42.1"
        self.port = free_port()
        self.url = f"rtsp{'s' if tls else ''}://127.0.0.1:{self.port}{path}"
        self.sdp = sdp or describe(codec)
        self.plays: list[str] = []
        self.requests: list[Asked] = []
        self.tunnels: dict[str, _Session] = {}
        self._loop: asyncio.AbstractEventLoop
        self._thread: threading.Thread | None = None

    def asked(self, method: str) -> list[str]:
        """The addresses for which `method` was asked."""
        return [asked.url for asked in self.requests if asked.method == method]

    def __enter__(self) -> "ScriptedCamera":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Listen."""
        self._loop = asyncio.new_event_loop()
        listening = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(listening,), daemon=True)
        self._thread.start()
        assert listening.wait(10)

    def stop(self) -> None:
        """End at once, as a process that is killed does: no goodbye."""
        if self._thread:
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(10)
            self._thread = None

    def _run(self, listening: threading.Event) -> None:
        asyncio.set_event_loop(self._loop)
        server = self._loop.run_until_complete(
            asyncio.start_server(self._serve, "127.0.0.1", self.port, ssl=self.tls)
        )
        listening.set()
        self._loop.run_forever()
        server.close()
        for task in asyncio.all_tasks(self._loop):
            task.cancel()
        self._loop.run_until_complete(asyncio.sleep(0.05))
        self._loop.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        session = _Session(self, writer)
        try:
            while True:
                first = await reader.readexactly(1)
                if first == b"$":
                    _, length = struct.unpack(">BH", await reader.readexactly(3))
                    await reader.readexactly(length)
                    continue
                head = (first + await reader.readuntil(b"\r\n\r\n")).decode()
                if " HTTP/" in head:
                    await self._tunnel(head, reader, session)
                elif not self.deaf and not head.startswith("RTSP/"):
                    await session.answer(head)
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass
        finally:
            await session.close()

    async def _tunnel(self, head: str, reader: asyncio.StreamReader, session: "_Session") -> None:
        """RTSP within HTTP: the GET's session answers what comes with the POST."""
        method, url, _ = head.split(" ", 2)
        asked = Asked(method, url, _fields(head))
        self.requests.append(asked)
        cookie = asked.headers["x-sessioncookie"]
        if own := self.answer(asked):
            session.say(f"HTTP/1.0 {own.status}", own.headers)
        elif method == "GET":
            self.tunnels[cookie] = session
            session.say("HTTP/1.0 200 OK", {"Content-Type": "application/x-rtsp-tunnelled"})
        elif method == "POST":
            text = decoded = b""
            while data := await reader.read(1000):
                text += data
                whole = len(text) // 4 * 4
                groups = (text[at : at + 4] for at in range(0, whole, 4))  # each message ends with padding
                decoded, text = decoded + b"".join(map(base64.b64decode, groups)), text[whole:]
                decoded = await self._answer_all(decoded, self.tunnels[cookie])

    async def _answer_all(self, data: bytes, session: "_Session") -> bytes:
        """Answer the requests in `data`; what is left of it."""
        while len(data) > 4:
            if data[:1] == b"$":
                size = 4 + int.from_bytes(data[2:4], "big")
                if len(data) < size:
                    break
                data = data[size:]
                continue
            head, mark, rest = data.partition(b"\r\n\r\n")
            if not mark:
                break
            await session.answer(head.decode())
            data = rest
        return data


def _fields(head: str) -> dict[str, str]:
    fields = [line.partition(":") for line in head.split("\r\n")[1:] if line]
    return {name.strip().lower(): value.strip() for name, _, value in fields}


def describe(codec: str, *lines: str) -> str:
    """The description of a camera with audio and one video track; `lines` are added to the latter."""
    text = (
        "v=0\r\no=- 1 1 IN IP4 127.0.0.1\r\ns=camera\r\nt=0 0\r\na=control:*\r\n"
        "m=audio 0 RTP/AVP 0\r\na=control:audio\r\n"
        f"m=video 0 RTP/AVP 96\r\na=rtpmap:96 {NAMES[codec]}/90000\r\na=control:video\r\n"
    )
    return text + "".join(f"{line}\r\n" for line in lines)


class _Session:
    def __init__(self, camera: ScriptedCamera, writer: asyncio.StreamWriter) -> None:
        self._camera, self._writer = camera, writer
        self._playing: asyncio.Task[None] | None = None
        self._udp: Any = None
        self._target = ("127.0.0.1", 0)
        self._sequence = 65_500

    async def answer(self, head: str) -> None:
        method, url, _ = head.split(" ", 2)
        asked = Asked(method, url, _fields(head))
        self._camera.requests.append(asked)
        status, headers, body = "200 OK", {"CSeq": asked.headers.get("cseq", "0")}, ""
        if own := self._camera.answer(asked):
            status, body = own.status, own.body
            headers |= own.headers
        elif self._camera.login and not self._may(method, head):
            status = "401 Unauthorized"
            headers["WWW-Authenticate"] = 'Digest realm="tests", nonce="abc", qop="auth"'
        elif method == "OPTIONS":
            headers["Public"] = "OPTIONS, DESCRIBE, SETUP, PLAY, TEARDOWN, GET_PARAMETER"
        elif method == "DESCRIBE":
            body = self._camera.sdp
            headers |= {"Content-Base": f"{url}/", "Content-Type": "application/sdp"}
        elif method == "SETUP":
            status = await self._setup(head, headers)
        elif method == "PLAY":
            headers["Session"] = "7"
            self._playing = asyncio.create_task(self._play())
        headers["Content-Length"] = str(len(body.encode()))
        self.say(f"RTSP/1.0 {status}", headers, body)

    def say(self, first: str, headers: Mapping[str, str], body: str = "") -> None:
        """Send a message."""
        lines = [first, *(f"{name}: {value}" for name, value in headers.items())]
        self._writer.write(("\r\n".join(lines) + "\r\n\r\n" + body).encode())

    def _may(self, method: str, head: str) -> bool:
        fields = dict(re.findall(r'(\w+)="?([^",\s]+)', head.partition("Authorization: Digest ")[2]))
        if not fields or self._camera.login is None:
            return False

        def h(text: str) -> str:
            return hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()

        user, password = self._camera.login
        secret, action = h(f"{user}:tests:{password}"), h(f"{method}:{fields['uri']}")
        wanted = h(f"{secret}:abc:{fields['nc']}:{fields['cnonce']}:auth:{action}")
        return (fields["username"], fields["response"]) == (user, wanted)

    async def _setup(self, head: str, headers: dict[str, str]) -> str:
        ports = re.search(r"client_port=(\d+)", head)
        kind = "multicast" if ";multicast" in head else "udp" if ports else "tcp"
        if kind not in self._camera.transports:
            return "461 Unsupported Transport"
        self._camera.plays.append(kind)
        headers["Session"] = "7;timeout=60"
        if kind == "multicast":
            return await self._open_group(headers)
        if not ports:
            channels = "4-5" if "/audio" in head.split(" ")[1] else "2-3"
            headers["Transport"] = f"RTP/AVP/TCP;unicast;interleaved={channels}"
            return "200 OK"
        self._target = ("127.0.0.1", int(ports[1]))
        loop = asyncio.get_running_loop()
        self._udp, _ = await loop.create_datagram_endpoint(
            asyncio.DatagramProtocol, local_addr=("127.0.0.1", 0)
        )
        port = self._udp.get_extra_info("sockname")[1]
        headers["Transport"] = (
            f"RTP/AVP;unicast;client_port={ports[1]}-{int(ports[1]) + 1};server_port={port}-{port}"
        )
        return "200 OK"

    async def _open_group(self, headers: dict[str, str]) -> str:
        """Send to a group of the loopback interface."""
        sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sender.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton("127.0.0.1"))
        sender.bind(("127.0.0.1", 0))
        self._udp, _ = await asyncio.get_running_loop().create_datagram_endpoint(
            asyncio.DatagramProtocol, sock=sender
        )
        port = free_port()
        self._target = (self._camera.group, port)
        headers["Transport"] = (
            f"RTP/AVP;multicast;destination={self._camera.group};port={port}-{port + 1};ttl=1"
        )
        return "200 OK"

    async def _play(self) -> None:
        camera = self._camera
        pictures = camera.pictures
        interval = pictures[1].pts - pictures[0].pts if len(pictures) > 1 else CLOCK_RATE
        length = max(p.pts for p in pictures) + abs(interval)
        began, sent, shift = time.time(), 0, 0
        while True:
            for index, picture in enumerate(pictures):
                if camera.mute_after is not None and sent >= camera.mute_after:
                    return
                shift += camera.jumps.get(sent, 0)
                ticks = picture.pts + sent // len(pictures) * length
                due = (
                    began
                    + (index + sent // len(pictures) * len(pictures))
                    / len(pictures)
                    * (length / CLOCK_RATE)
                    / camera.speed
                )
                await asyncio.sleep(max(0, due - time.time()))
                timestamp = (camera.first + ticks + shift) & 0xFFFFFFFF
                ahead = camera.ahead(sent)
                if camera.reports and sent % camera.report_every == 0 and ahead is not None:
                    self._report(began + ticks / CLOCK_RATE / camera.speed + ahead, timestamp)
                self._writer.write(camera.interrupts.get(sent, b""))
                self._send(picture, timestamp)
                sent += 1
                await self._writer.drain()
            if camera.ends:
                self._out(1, struct.pack(">BBHI", 0x81, 203, 1, 0x1234))
                return

    def _report(self, wall: float, timestamp: int) -> None:
        ntp = int((wall + NTP_EPOCH) * (1 << 32)) & (1 << 64) - 1
        self._out(1, struct.pack(">BBHIQIII", 0x80, 200, 6, 0x1234, ntp, timestamp, 0, 0))

    def _send(self, picture: Picture, timestamp: int) -> None:
        payloads = self._camera.carry(picture)
        packets = []
        for number, payload in enumerate(payloads):
            marker = 0x80 if number == len(payloads) - 1 else 0
            self._sequence = (self._sequence + 1) & 0xFFFF
            if self._camera.lossy and self._sequence % self._camera.lossy == 0:
                continue
            head = struct.pack(">BBHII", 0x80, marker | 96, self._sequence, timestamp, 0x1234)
            packets.append(head + payload)
        for packet in self._camera.disturb(packets):
            self._out(0, packet)

    def _out(self, channel: int, data: bytes) -> None:
        if self._udp:
            self._udp.sendto(data, (self._target[0], self._target[1] + channel))
        else:
            self._writer.write(b"$" + bytes([2 + channel]) + struct.pack(">H", len(data)) + data)

    async def close(self) -> None:
        if self._playing:
            self._playing.cancel()
        if self._udp:
            self._udp.close()
        self._writer.transport.abort()
