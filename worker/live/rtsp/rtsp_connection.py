"""The control connection to a camera: requests and replies, and interleaved media (RFC 2326)."""

import asyncio
import base64
import re
import time
from collections.abc import Callable
from typing import NamedTuple, cast

from worker.live.camera_description import CameraError, shown

LARGEST_HEAD = 16 << 10
LARGEST_BODY = 128 << 10
LARGEST_BUFFER = LARGEST_HEAD + LARGEST_BODY
MOST_HEADERS = 100
LONGEST_VALUE = 2048
"""Characters of a header's value that are read."""
SLICE = 0.02
"""Seconds of cutting up what has arrived after which other cameras have their turn."""
LARGEST_UNSENT = 64 << 10
"""Bytes that may wait for a camera that does not read what is sent to it."""
_MESSAGE = re.compile(rb"(?:RTSP|HTTP)/\d|[A-Z][A-Z_]{2,30} ")
_STATUS = re.compile(r"(?:RTSP|HTTP)/\d(?:\.\d)? {1,8}(\d{3})(?: (.*))?", re.ASCII)
_RESUMES = re.compile(rb"RTSP/\d|\$")
_NOT_YET_SURE = 32
OPTIONS_OF_OURS = "OPTIONS, ANNOUNCE, REDIRECT, SET_PARAMETER, GET_PARAMETER, TEARDOWN"


class Reply(NamedTuple):
    """An RTSP response. Names of headers are in lower case."""

    status: int
    reason: str
    headers: dict[str, list[str]]
    body: str

    def header(self, name: str) -> str:
        """Return the first value of a header, or nothing."""
        return self.headers.get(name, [""])[0]


class Exchange(NamedTuple):
    """One request and what came back, for people: without credentials. `reply` is None where none came."""

    method: str
    url: str
    headers: dict[str, str]
    reply: Reply | None
    seconds: float


class Connection(asyncio.Protocol):
    """The TCP connection to a camera.

    `on_media` gets channel and data of each interleaved packet (RFC 2326, 10.12), `on_request` what the
    camera asks of its own accord: method and headers. `log`, where there is one, gets every exchange;
    `on_spent` the seconds that handling what arrived took.
    """

    def __init__(
        self,
        on_media: Callable[[int, bytes], None],
        on_request: Callable[[str, dict[str, list[str]]], None],
        log: Callable[[Exchange], None] | None = None,
        on_spent: Callable[[float], None] = lambda seconds: None,
    ) -> None:
        self.closed: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.gone = asyncio.Event()
        self._on_media = on_media
        self._on_request = on_request
        self._log = log
        self._on_spent = on_spent
        self._held = self._behind = False
        """Whether reading is to stop; whether there is more in the buffer than others could wait for."""
        self._transport: asyncio.Transport | None = None
        self._buffer = bytearray()
        self._wanted = 0
        """How long the buffer is when the message at its beginning is whole, as far as that is known."""
        self._junk = 0
        self._replies: dict[int, asyncio.Future[Reply]] = {}
        self._sequence = 0
        self._through: Connection | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The connection is open."""
        self._transport = cast("asyncio.Transport", transport)

    @property
    def peer(self) -> str:
        """The camera's IP address."""
        name = self._transport.get_extra_info("peername") if self._transport else None
        return str(name[0]) if name else ""

    @property
    def local(self) -> str:
        """Our IP address on the way to the camera."""
        name = self._transport.get_extra_info("sockname") if self._transport else None
        return str(name[0]) if name else ""

    # Receiving ----------------------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        """Take what arrived."""
        self._buffer += data
        if len(self._buffer) >= self._wanted and not self._held and not self._behind:
            self._cut()

    def _cut(self) -> None:
        """Cut what has arrived into packets and messages: as much as others can wait for, then the rest."""
        began = time.monotonic()
        self._behind = self._cut_until(began + SLICE)
        self._on_spent(time.monotonic() - began)
        if self._behind:
            asyncio.get_running_loop().call_soon(self._go_on)
        elif len(self._buffer) > LARGEST_BUFFER or self._junk > LARGEST_BUFFER:
            self.close("sends something that is not RTSP")
        self._read_or_not()

    def _go_on(self) -> None:
        if self._behind and not self._held:
            self._cut()

    def _cut_until(self, deadline: float) -> bool:
        """Return whether more is left than the beginning of a packet or message."""
        buffer, at, late = self._buffer, 0, False
        self._wanted = 0
        while len(buffer) - at >= 4 and not late:
            if buffer[at] == 0x24:
                stop = at + 4 + (buffer[at + 2] << 8 | buffer[at + 3])
                if stop > len(buffer):
                    break
                self._on_media(buffer[at + 1], bytes(buffer[at + 4 : stop]))
            else:
                stop = self._message(at)
                if stop > len(buffer) or stop < 0:
                    self._wanted = min(stop - at, LARGEST_BUFFER)
                    break
            at = stop
            late = time.monotonic() > deadline
        del buffer[:at]
        return late and len(buffer) > 0

    def _message(self, at: int) -> int:
        """Take the message at `at`, or skip what is not a message; return where to continue. That is
        beyond the buffer while the message is incomplete, and -1 while even its length is unknown."""
        if not _MESSAGE.match(self._buffer, at):
            return self._skip(at)
        head, body_at = self._head(at)
        if body_at < 0:
            if len(self._buffer) - at > LARGEST_HEAD:
                self.close(f"sends a message whose head is longer than {LARGEST_HEAD} bytes")
            return -1
        first, *lines = head
        headers: dict[str, list[str]] = {}
        for line in lines[:MOST_HEADERS]:
            name, _, value = line.partition(":")
            headers.setdefault(name.strip().lower(), []).append(value.strip()[:LONGEST_VALUE])
        length = headers.get("content-length", ["0"])[0]
        is_http = first.startswith("HTTP")  # the length of a tunnel has no meaning
        size = int(length) if not is_http and length.isascii() and length.isdigit() and len(length) < 9 else 0
        if size > LARGEST_BODY:
            self.close(f"sends a message of {size} bytes, more than the {LARGEST_BODY} that are read")
        stop = body_at + size
        if stop > len(self._buffer):
            return stop
        body = self._buffer[body_at:stop].decode("utf-8", "replace")
        self._junk = 0
        if status := _STATUS.match(first):
            reason = shown(status[2] or "")
            self._take_reply(Reply(int(status[1]), reason, headers, body))
        else:
            self._take_request(first.partition(" ")[0], headers)
        return stop

    def _head(self, at: int) -> tuple[list[str], int]:
        """Return the lines of the message at `at`, and where its body begins: -1 while that is not there."""
        ends = [
            (self._buffer.find(mark, at, at + LARGEST_HEAD), len(mark)) for mark in (b"\r\n\r\n", b"\n\n")
        ]
        end, width = min(((end, width) for end, width in ends if end >= 0), default=(-1, 0))
        if end < 0:
            return [], -1
        return self._buffer[at:end].decode("utf-8", "replace").splitlines(), end + width

    def _skip(self, at: int) -> int:
        """Go on at the next packet or message: some cameras send stray bytes between them."""
        if len(self._buffer) - at < _NOT_YET_SURE and not self._buffer[at : at + 1].isspace():
            return -1
        resumes = _RESUMES.search(self._buffer, at + 1)
        stop = resumes.start() if resumes else len(self._buffer)
        self._junk += stop - at
        return stop

    def _take_reply(self, reply: Reply) -> None:
        """Hand a reply to its request: to the last one if the camera does not repeat the number."""
        given = reply.header("cseq")
        number = int(given) if given.isascii() and given.isdigit() and len(given) < 10 else 0
        if number not in self._replies and len(self._replies) == 1:
            (waiting,) = self._replies
            number = waiting if number == 0 or number > self._sequence else number
        waiter = self._replies.pop(number, None)
        if waiter is not None and not waiter.done():
            waiter.set_result(reply)

    def _take_request(self, method: str, headers: dict[str, list[str]]) -> None:
        """Answer what the camera asks of its own accord."""
        known = method in OPTIONS_OF_OURS.split(", ")
        lines = [f"RTSP/1.0 {'200 OK' if known else '501 Not Implemented'}"]
        given = {name: headers.get(name.lower(), [""])[0][:64] for name in ("CSeq", "Session")}
        lines += [f"{name}: {value}" for name, value in given.items() if value]
        if method == "OPTIONS":
            lines.append(f"Public: {OPTIONS_OF_OURS}")
        self.write("\r\n".join([*lines, "", ""]).encode())
        self._on_request(method, headers)

    # The end ------------------------------------------------------------------------------------------

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection has ended."""
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
        self._buffer.clear()
        if self._through:
            self._through.close(reason)
        if self._transport:
            self._transport.abort()

    # Sending ------------------------------------------------------------------------------------------

    def pause(self, *, on: bool) -> None:
        """Stop or resume reading; what the camera sends waits in the kernel, then at the camera."""
        self._held = on
        if self._buffer and not on:
            self._behind = True
            asyncio.get_running_loop().call_soon(self._go_on)
        self._read_or_not()

    def _read_or_not(self) -> None:
        if self._transport and not self._transport.is_closing():
            wanted = not (self._held or self._behind)
            if wanted and not self._transport.is_reading():
                self._transport.resume_reading()
            elif not wanted and self._transport.is_reading():
                self._transport.pause_reading()

    def write(self, data: bytes) -> None:
        """Send bytes; the connection to a camera that does not read them is closed."""
        if self._through:
            self._through.write(base64.b64encode(data))
        elif self._transport and not self._transport.is_closing():
            if self._transport.get_write_buffer_size() > LARGEST_UNSENT:
                self.close("does not read what is sent to it")
            else:
                self._transport.write(data)

    def send_media(self, channel: int, data: bytes) -> None:
        """Send an interleaved packet."""
        self.write(b"$" + bytes([channel]) + len(data).to_bytes(2, "big") + data)

    def _expect(self) -> asyncio.Future[Reply]:
        """Return what the reply to the next request will be put into."""
        if self.closed.done():
            raise CameraError(self.closed.result())
        self._sequence += 1
        waiter: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        self._replies[self._sequence] = waiter
        return waiter

    async def request(self, method: str, url: str, headers: dict[str, str]) -> Reply:
        """Ask, and wait for the reply. Raises CameraError when the connection ends first."""
        waiter = self._expect()
        number, began = self._sequence, time.monotonic()
        lines = [f"{method} {url} RTSP/1.0", f"CSeq: {number}", "User-Agent: rt-embed"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        self.write("\r\n".join([*lines, "", ""]).encode())
        reply = None
        try:
            reply = await waiter
        finally:
            self._replies.pop(number, None)
            if self._log:
                told = {name: value if name != "Authorization" else "***" for name, value in headers.items()}
                self._log(Exchange(method, shown(url), told, reply, time.monotonic() - began))
        return reply

    # Through HTTP -------------------------------------------------------------------------------------

    def send_http(self, method: str, path: str, headers: dict[str, str]) -> None:
        """Send the head of an HTTP request."""
        lines = [f"{method} {path} HTTP/1.0", "User-Agent: rt-embed"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        self.write("\r\n".join([*lines, "", ""]).encode())

    async def request_http(self, method: str, path: str, headers: dict[str, str]) -> Reply:
        """Ask by HTTP, and wait for the head of the reply. Raises CameraError if the connection ends."""
        waiter = self._expect()
        self.send_http(method, path, headers)
        try:
            return await waiter
        finally:
            self._replies.pop(self._sequence, None)

    def send_through(self, other: "Connection") -> None:
        """Send over another connection from now on, in Base64. When that ends, so does this."""
        self._through = other
        other.closed.add_done_callback(lambda reason: self.close(reason.result()))
