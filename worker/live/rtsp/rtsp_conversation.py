"""Requests to a camera over one connection: connecting, logging in, and an error for each refusal."""

import asyncio
import socket
import ssl
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from shared.addresses import CameraAddress
from worker.live.camera_description import (
    CameraError,
    CameraOptions,
    Redirected,
    RequestRefused,
    address,
    shown,
)
from worker.live.rtsp.camera_sockets import CameraSockets
from worker.live.rtsp.control_address import origin
from worker.live.rtsp.rtsp_connection import Connection, Reply
from worker.live.rtsp.rtsp_login import RtspLogin
from worker.live.rtsp.rtsp_tls import tls_context

REDIRECTED = {301, 302, 303, 305, 307, 308}
MOST_REDIRECTIONS = 5
ANOTHER_ADDRESS = {400, 403, 404, 405, 410, 451, 455, 459, 460}
"""Answers after which the next form of a track's address is tried."""

T = TypeVar("T")


async def connect(
    where: CameraAddress, options: CameraOptions, sockets: CameraSockets, make: Callable[[], Connection]
) -> Connection:
    """Connect to a camera. Raises CameraError."""
    tls = tls_context(options, where.host) if where.secure else None
    opened = await sockets.connect(where.host, where.port)
    try:
        return await _converse(opened, tls, where.host, make)
    except ssl.SSLCertVerificationError as error:
        raise CameraError(
            f"its certificate is not trusted: {error.verify_message}; see RTEMBED_RTSP_CA_FILE"
        ) from error
    except (OSError, ValueError) as error:  # ValueError: no name of a host, after all
        reason = getattr(error, "reason", None) or getattr(error, "strerror", None) or error
        raise CameraError(f"cannot connect: {reason}") from error


async def _converse(
    opened: socket.socket, tls: ssl.SSLContext | None, host: str, make: Callable[[], Connection]
) -> Connection:
    """Return the connection over a socket, which is closed if there is none."""
    try:
        _, connection = await asyncio.get_running_loop().create_connection(
            make, sock=opened, ssl=tls, server_hostname=host if tls else None
        )
    except BaseException:
        opened.close()
        raise
    return connection


class Conversation:
    """Sends requests to one camera. `session` is the session's header, once there is one; `asking` is the
    request that waits for an answer."""

    def __init__(self, where: CameraAddress, connection: Connection) -> None:
        self.connection = connection
        self.session: dict[str, str] = {}
        self.asking = ""
        self._login = RtspLogin(where.username, where.password)

    async def ask(self, method: str, url: str, headers: dict[str, str] | None = None) -> Reply:
        """Ask, and log in if need be. Raises Redirected, RequestRefused for what is not a success, and
        CameraError when the connection ends first."""
        self.asking = f"{method} {shown(url)}"
        reply = await self._request(method, url, headers or {})
        for attempt in range(2):
            if reply.status != 401:
                break
            self._login.learn(reply)
            if attempt and not self._login.stale:
                break
            reply = await self._request(method, url, headers or {})
        if reply.status == 401:
            raise CameraError(f"the camera refuses the user name or the password: 401 to {self.asking}")
        if reply.status in REDIRECTED and (location := reply.header("location")):
            raise Redirected(location)
        if not 200 <= reply.status < 300:
            raise RequestRefused(method, url, reply.status, reply.reason)
        self.asking = ""
        return reply

    async def _request(self, method: str, url: str, headers: dict[str, str]) -> Reply:
        login = self._login.headers(method, url)
        try:
            return await self.connection.request(method, url, {**headers, **self.session, **login})
        except CameraError as error:
            raise CameraError(f"no answer to {method} {shown(url)}: {error}") from error

    async def ask_any(
        self, method: str, urls: Sequence[str], headers: dict[str, str], first: int = 0
    ) -> tuple[Reply, int]:
        """Ask under each of the addresses, `first` before the others, until the camera knows one; return its
        number, too. Raises what the likeliest raised if none is, and as `ask` does."""
        numbers = sorted(range(len(urls)), key=lambda number: (number != first, number))
        refusal: RequestRefused | None = None
        for number in numbers:
            try:
                return await self.ask(method, urls[number], headers), number
            except RequestRefused as error:
                if error.status not in ANOTHER_ADDRESS:
                    raise
                refusal = refusal or error
        raise refusal or CameraError(f"{method} has no address")


async def follow(where: CameraAddress, attempt: Callable[[CameraAddress], Awaitable[T]]) -> T:
    """Return what `attempt` returns at `where`, or wherever the camera redirects to. Raises CameraError after
    too many redirections in a row, and what `attempt` raises."""
    left = MOST_REDIRECTIONS
    while True:
        try:
            return await attempt(where)
        except Redirected as redirected:
            left = MOST_REDIRECTIONS if redirected.settled else left
            if not left:
                raise CameraError(f"more than {MOST_REDIRECTIONS} redirections") from redirected
            left -= 1
            where = redirection(where, redirected.location)


def redirection(where: CameraAddress, location: str) -> CameraAddress:
    """Return the address that a camera at `where` redirects to. Credentials go along to the same host only,
    and not from TLS to plain text. Raises CameraError."""
    target = origin(where.url) + location if location.startswith("/") else location
    try:
        found = address(target)
    except CameraError as error:
        raise CameraError(f"the camera redirects to {shown(location)}: {error}") from error
    if found.username or found.password:
        return found
    same = found.host.lower() == where.host.lower() and found.secure >= where.secure
    return found._replace(username=where.username, password=where.password) if same else found
