"""HTTP connections with bounds: on what a head may hold, on how long anything may take, and on their number.

uvicorn and httptools take headers of any length and wait without limit. Here the head of a request is
limited in bytes, headers and seconds, a body has a least rate, and a client that stops reading or has
vanished is given up.
"""

import asyncio
import socket
import uuid
from collections import Counter
from collections.abc import Callable
from typing import Any, ClassVar

import msgspec
import structlog
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from gateway.access.client_address import is_within
from gateway.access.joined_writes import JoinedWrites
from gateway.api.schemas import Error
from shared.settings import Settings
from shared.settings.setting_types import IPNetwork
from shared.telemetry.instruments import http_requests

log = structlog.get_logger(__name__)

LONGEST_REQUEST_LINE = 8 << 10
MOST_HEADERS = 100
MOST_PIPELINED = 16
"""Requests of one connection that wait for the one before them."""
LINGERING_SECONDS, LINGERING_BYTES = 1.0, 1 << 20
"""For how long, and how much, is still read from a client that was refused."""
STALLED_SECONDS = 120.0
"""How long a client may leave an answer unread."""
KEEPALIVE = {"TCP_KEEPIDLE": 30, "TCP_KEEPINTVL": 10, "TCP_KEEPCNT": 3}
"""A client whose machine has vanished is noticed after a minute."""
REASONS = {
    400: ("BadRequest", "This is no HTTP request"),
    408: ("RequestTimeout", "The request did not arrive in time"),
    414: ("UriTooLong", f"The request line may have at most {LONGEST_REQUEST_LINE} bytes"),
    429: ("TooManyRequests", "Too many connections from this address, or too many requests on this one"),
    431: ("RequestHeadersTooLarge", "The request has too many or too large headers"),
}


class _RefusedError(Exception):
    """Ends the parser's work on a request that goes beyond a limit."""


class ConnectionLimits(msgspec.Struct, frozen=True):
    """What one connection may cost. Times are seconds, rates bytes per second; 0 is no limit."""

    header_bytes: int
    header_seconds: float
    body_rate: int
    per_address: int
    proxies: tuple[IPNetwork, ...] = ()
    """Whose connections are not counted: they bring the requests of many clients."""


class BoundedHttpProtocol(HttpToolsProtocol):
    """An HTTP connection that is closed once it goes beyond its `limits`."""

    limits: ClassVar[ConnectionLimits]
    open: ClassVar[Counter[str]]
    """Connections by address."""
    told: ClassVar[float] = 0.0
    """When, on the loop's clock, the last closed connection was logged."""

    # Coming and going -----------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """The connection is open; wait for its first request."""
        joined: Any = JoinedWrites(transport, self.loop)
        super().connection_made(joined)
        self._refusal = 0
        self._refused = False
        self._barren = 0
        """Bytes since the parser last made something of what came."""
        self._head_bytes = 0
        self._body_bytes = 0
        self._in_body = False
        self._watch: asyncio.TimerHandle | None = None
        self._stalled: asyncio.TimerHandle | None = None
        self._address = self.client[0] if self.client else ""
        self._counted = bool(self.limits.per_address and self._address) and not is_within(
            self._address, self.limits.proxies
        )
        _keep_alive(transport)
        if self._counted:
            self.open[self._address] += 1
            if self.open[self._address] > self.limits.per_address:
                self._refuse(429)
                return
        self._expect_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection has ended."""
        for timer in (self._watch, self._stalled):
            if timer:
                timer.cancel()
        if self._counted:
            self.open[self._address] -= 1
            if not self.open[self._address]:
                del self.open[self._address]
        super().connection_lost(exc)

    # Reading --------------------------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        """Parse what came, as long as the limits are kept."""
        if self._refused:
            self._barren += len(data)
            if self._barren > LINGERING_BYTES:
                self.transport.close()
            return
        if not self._in_body and self._watch is None:
            self._expect_head()
        self._barren += len(data)
        super().data_received(data)
        if self._barren > self.limits.header_bytes:
            self._refuse(431)

    def send_400_response(self, msg: str) -> None:
        """Answer a request that cannot be parsed or was given up."""
        self._refuse(self._refusal or 400)

    def on_message_begin(self) -> None:
        """A request begins."""
        super().on_message_begin()
        self._head_bytes = 0
        self._barren = self._barren or 1  # 0 if it came together with the end of the request before
        self._expect_head()

    def on_url(self, url: bytes) -> None:
        """A piece of the request's target."""
        super().on_url(url)
        if len(self.url) > LONGEST_REQUEST_LINE:
            self._give_up(414)

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header, or a trailer."""
        super().on_header(name, value)
        self._head_bytes += len(name) + len(value)
        if self._head_bytes > self.limits.header_bytes or len(self.headers) > MOST_HEADERS:
            self._give_up(431)

    def on_headers_complete(self) -> None:
        """The head is complete; wait for the body."""
        if len(self.pipeline) >= MOST_PIPELINED:
            self._give_up(429)
        self._barren = 0
        self._in_body = True
        self._expect_body()
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """A piece of the body."""
        self._barren = 0
        self._body_bytes += len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        """The request is whole."""
        self._barren = 0
        self._in_body = False
        self._rest()
        super().on_message_complete()
        if self.cycle.response_complete and self.timeout_keep_alive_task is None:
            self._expect_head()

    def _give_up(self, status: int) -> None:
        self._refusal = status
        raise _RefusedError(status)

    # Waiting --------------------------------------------------------------------------------------------

    def _expect_head(self) -> None:
        self._set_watch(self._head_is_late)

    def _head_is_late(self) -> None:
        self._watch = None
        if self.cycle and not self.cycle.response_complete:
            self._expect_head()  # what comes after a request that is being answered may take as long as that
        else:
            self._refuse(408)

    def _expect_body(self) -> None:
        self._body_bytes = 0
        self._set_watch(self._look_at_body)

    def _look_at_body(self) -> None:
        """Give up on a body that comes too slowly, unless the service itself has stopped reading."""
        self._watch = None
        unasked = self.flow.read_paused or self.cycle.waiting_for_100_continue
        if self.cycle.response_complete:
            self.transport.close()
        elif unasked or self._body_bytes >= self.limits.body_rate * self.limits.header_seconds:
            self._expect_body()
        else:
            self._refuse(408)

    def on_response_complete(self) -> None:
        """An answer is on its way; the rest of a body that it did not wait for may come for a while."""
        super().on_response_complete()
        if self._in_body and not self.transport.is_closing():
            self._unset_keepalive_if_required()
            self._expect_body()

    def _set_watch(self, call: Callable[[], None]) -> None:
        self._rest()
        self._watch = self.loop.call_later(self.limits.header_seconds, call)

    def _rest(self) -> None:
        if self._watch:
            self._watch.cancel()
            self._watch = None

    # Writing --------------------------------------------------------------------------------------------

    def pause_writing(self) -> None:
        """The client does not read."""
        super().pause_writing()
        self._stalled = self._stalled or self.loop.call_later(STALLED_SECONDS, self._is_stalled)

    def resume_writing(self) -> None:
        """The client reads again."""
        super().resume_writing()
        if self._stalled:
            self._stalled.cancel()
            self._stalled = None

    def _is_stalled(self) -> None:
        self._tell("the client does not read its answer", 0)
        self.transport.abort()

    def _refuse(self, status: int) -> None:
        """Close the connection, after an answer with `status` if no other answer is under way."""
        if self._refused or self.transport.is_closing():
            return
        self._refused = True
        code, message = REASONS[status]
        self._tell(message, status)
        self._rest()
        answering = self.cycle is not None and not self.cycle.response_complete
        begun = answering and (self.pipeline or self.cycle.response_started or not self._in_body)
        if not begun and (answering or self._barren or status == 429):
            body = msgspec.json.encode(Error(code=code, message=message))
            head = (
                f"content-type: application/json\r\ncontent-length: {len(body)}\r\n"
                f"x-request-id: {uuid.uuid4()}\r\nconnection: close\r\n\r\n"
            )
            self.transport.write(STATUS_LINE[status] + head.encode() + body)
            self._linger()
        else:
            self.transport.close()

    def _linger(self) -> None:
        """Read on for a moment before closing: a connection with bytes unread is reset when it is closed, and
        the client would never see the answer."""
        self._barren = 0
        self._watch = self.loop.call_later(LINGERING_SECONDS, self.transport.close)
        if self.cycle and not self.cycle.response_complete:
            self.cycle.disconnected = True
            self.cycle.message_event.set()

    def _tell(self, reason: str, status: int) -> None:
        """Count a connection that is closed, and log one of them per second at most."""
        http_requests.add(1, {"route": "none", "method": "none", "status": str(status)})
        now = self.loop.time()
        if now - self.told >= 1:
            type(self).told = now
            log.warning("connection closed", client=self._address, reason=reason, status=status)


def _keep_alive(transport: asyncio.Transport) -> None:
    """Let the system find out whether the client's machine is still there."""
    found = transport.get_extra_info("socket")
    if found is None or found.family not in (socket.AF_INET, socket.AF_INET6):
        return
    found.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in KEEPALIVE.items():
        if option := getattr(socket, name, None):
            found.setsockopt(socket.IPPROTO_TCP, option, value)


def bounded(settings: Settings) -> type[BoundedHttpProtocol]:
    """Return the protocol with the limits of the settings."""
    limits = ConnectionLimits(
        header_bytes=settings.header_limit_bytes,
        header_seconds=settings.header_timeout,
        body_rate=settings.least_body_rate,
        per_address=settings.connections_per_address,
        proxies=settings.trusted_proxies,
    )

    class LimitedHttpProtocol(BoundedHttpProtocol):
        pass

    LimitedHttpProtocol.limits, LimitedHttpProtocol.open = limits, Counter()
    return LimitedHttpProtocol
