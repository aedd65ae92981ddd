"""The outside world of the tests: a DNS server, web sites and the wire between them, all on this machine."""

import asyncio
import ssl
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from typing import Any

import dnslib
import dnslib.server
import httpcore

Page = bytes | Callable[[asyncio.StreamWriter], Awaitable[None]]

PUBLIC = ("203.0.113.10", "203.0.113.11", "93.184.216.34", "2606:2800:220:1::1")
"""Addresses that lead to this machine's sites; documentation's and one that is global."""


class Names(dnslib.server.BaseResolver):  # type: ignore[misc]
    """A DNS server: each name has its answers, of which the last one stays."""

    def __init__(self) -> None:
        self._answers: dict[str, list[list[str]]] = {}
        self._lock = threading.Lock()
        self.questions: list[str] = []
        self._server = dnslib.server.DNSServer(self, port=0, address="127.0.0.1")
        self._server.start_thread()
        self._port: int = self._server.server.server_address[1]

    def tell(self, name: str, *answers: list[str]) -> None:
        """Answer `name` with these addresses, one list per time that it is asked."""
        with self._lock:
            self._answers[name] = list(answers)

    def resolve(self, request: dnslib.DNSRecord, handler: Any) -> dnslib.DNSRecord:
        """Called by dnslib for each question."""
        name = str(request.q.qname).rstrip(".")
        with self._lock:
            self.questions.append(name)
            answers = self._answers.get(name, [[]])
            found = answers.pop(0) if len(answers) > 1 else answers[0]
        reply = request.reply()
        for address in found:
            kind, record = ("AAAA", dnslib.AAAA) if ":" in address else ("A", dnslib.A)
            reply.add_answer(dnslib.RR(name, getattr(dnslib.QTYPE, kind), rdata=record(address), ttl=0))
        if not found:
            reply.header.rcode = dnslib.RCODE.NXDOMAIN
        return reply

    async def lookup(self, host: str, port: int) -> list[str]:
        """Ask over UDP, as a resolver would."""
        question = dnslib.DNSRecord.question(host)
        answer = await asyncio.to_thread(question.send, "127.0.0.1", self._port, timeout=5)
        found = [str(record.rdata) for record in dnslib.DNSRecord.parse(answer).rr]
        if not found:
            raise OSError(f"no address for {host}")
        return found

    def close(self) -> None:
        self._server.stop()
        self._server.server.server_close()


class Wire(httpcore.AsyncNetworkBackend):
    """Leads the public addresses to this machine; keeps what was connected to, and refuses anything else."""

    def __init__(self) -> None:
        self.connected: list[str] = []
        self.dead: set[str] = set()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        self.connected.append(host)
        if host in self.dead:
            raise httpcore.ConnectError("unreachable")
        assert host in PUBLIC, f"connected to {host}"
        return await httpcore.AnyIOBackend().connect_tcp("127.0.0.1", port, timeout)


class Site:
    """A web site that answers as it is told and keeps what it was asked."""

    def __init__(self) -> None:
        self.pages: dict[str, Page] = {}
        self.requests: list[tuple[str, dict[str, str]]] = []
        self.bodies: list[bytes] = []
        self.closed = asyncio.Event()
        self.port = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
            path = head[0].split(" ")[1]
            headers = dict(line.split(": ", 1) for line in head[1:] if line)
            self.requests.append((path, headers))
            self.bodies.append(await reader.readexactly(int(headers.get("Content-Length", "0"))))
            page = self.pages[path]
            if callable(page):
                await page(writer)
            else:
                writer.write(page)
                await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()
            self.closed.set()


@asynccontextmanager
async def site(tls: ssl.SSLContext | None = None) -> AsyncIterator[Site]:
    """A site on a free port."""
    running = Site()
    server = await asyncio.start_server(running.serve, "127.0.0.1", 0, ssl=tls)
    running.port = server.sockets[0].getsockname()[1]
    async with server:
        yield running


def page(body: bytes = b"", status: int = 200, **headers: str) -> bytes:
    """An HTTP response."""
    lines = {"Content-Length": str(len(body)), "Connection": "close"}
    lines |= {name.replace("_", "-"): value for name, value in headers.items()}
    head = "".join(f"{name}: {value}\r\n" for name, value in lines.items() if value)
    return f"HTTP/1.1 {status} Reason\r\n{head}\r\n".encode("latin-1") + body


def redirect(location: str, status: int = 302) -> bytes:
    """A response that leads elsewhere."""
    return page(status=status, Location=location)
