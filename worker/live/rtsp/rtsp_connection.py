"""The control connection to a camera: requests and replies, interleaved media, logins (RFC 2326)."""

import asyncio
import base64
import hashlib
import re
import secrets
from collections.abc import Callable
from typing import NamedTuple, cast

from worker.live.rtsp.camera_description import CameraError

LARGEST_MESSAGE = 128 << 10
"""Bytes of a reply, and of what waits for the rest of one; an interleaved packet has half of it at most."""
MOST_CHALLENGES, LONGEST_CHALLENGE = 8, 4096
_STATUS_LINE = re.compile(r"RTSP/[0-9]\.[0-9] ([0-9]{3}) ?(.*)")
_NUMBER = re.compile(r"[0-9]{1,9}")
_FIELD = re.compile(r'\b(\w{1,64})=(?:"([^"]*)"|([^\s,]+))')
_SEPARATOR = re.compile(r"[\s,]+")


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
        self._wanted = 0
        """How long the buffer is when the message at its beginning is whole, as far as that is known."""
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
        if len(buffer) < self._wanted:
            return
        at, end = 0, len(buffer)
        self._wanted = 0
        while end - at >= 4:
            if buffer[at] == 0x24:
                stop = at + 4 + (buffer[at + 2] << 8 | buffer[at + 3])
                if stop > end:
                    break
                self._on_media(buffer[at + 1], bytes(buffer[at + 4 : stop]))
            else:
                stop = self._message(at)
                if stop > end:
                    self._wanted = min(stop - at, LARGEST_MESSAGE)
                    break
            at = stop
        del buffer[:at]
        if len(buffer) > LARGEST_MESSAGE:
            self.close("sends something that is not RTSP")

    def _message(self, at: int) -> int:
        """Take the message at `at`; where it ends, or will end as far as that is known yet."""
        head_end = self._buffer.find(b"\r\n\r\n", at)
        if head_end < 0:
            return len(self._buffer) + 1
        first, *lines = self._buffer[at:head_end].decode("utf-8", "replace").strip().split("\r\n")
        headers: dict[str, list[str]] = {}
        for line in lines:
            name, _, value = line.partition(":")
            headers.setdefault(name.strip().lower(), []).append(value.strip())
        stop = head_end + 4 + _whole(headers.get("content-length", ["0"])[0])
        if stop > len(self._buffer):
            return stop
        body = self._buffer[head_end + 4 : stop].decode("utf-8", "replace")
        sequence = _whole(headers.get("cseq", ["0"])[0])
        if match := _STATUS_LINE.match(first):
            reply = self._replies.pop(sequence, None)
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


def _whole(text: str) -> int:
    return int(text) if _NUMBER.fullmatch(text) else 0


class RtspLogin:
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
            for text in challenges[:MOST_CHALLENGES]:
                if text[:16].lower().startswith(scheme):
                    fields = _FIELD.findall(text[:LONGEST_CHALLENGE])
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
        if "auth" in _SEPARATOR.split(given.get("qop", "")):
            fields["response"] = h(f"{secret}:{nonce}:{count}:{ours}:auth:{action}")
            fields["cnonce"] = ours
            plain = f", qop=auth, nc={count}"
        else:
            fields["response"] = h(f"{secret}:{nonce}:{action}")
        fields |= {name: given[name] for name in ("opaque",) if name in given}
        if "algorithm" in given:
            plain += f", algorithm={given['algorithm']}"
        return "Digest " + ", ".join(f'{name}="{value}"' for name, value in fields.items()) + plain
