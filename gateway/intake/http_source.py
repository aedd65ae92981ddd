"""Files at http and https URLs, and webhooks, with the rules for redirects, credentials and sizes."""

import asyncio
import re
import ssl
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import cache
from urllib.parse import SplitResult, quote, urljoin, urlsplit

import certifi
import httpcore
import structlog

from gateway.api.validation import problem
from gateway.intake.ssrf import Lookup, PinnedBackend, resolve, system_lookup
from shared.errors import DownloadFailed, FileTooLarge, InvalidParameters, RedirectNotAllowed, WebhookFailed
from shared.settings import Settings

log = structlog.get_logger(__name__)

Write = Callable[[bytes], Awaitable[None]]

USER_AGENT = "NVIDIA-RTVI/1.0"
REDIRECTS = {301, 302, 303, 307, 308}
PASSED_HEADERS = {"authorization", "x-api-key", "x-jfrog-art-api", "cookie", "accept", "accept-language"}
"""Headers of the client that are sent to the host of its URL."""
MOST_NAMES = 8
"""Names of headers that were not sent on, in one log line."""
PIECE = 1 << 20
"""How many bytes are collected before they are written."""
_HEADER_VALUE = re.compile(r"([\x21-\x7e]([\t\x20-\x7e]*[\x21-\x7e])?)?")
_FAILURES = (httpcore.NetworkError, httpcore.TimeoutException, httpcore.ProtocolError, OSError)


def _verified() -> ssl.SSLContext:
    """Return a TLS context that trusts the system's authorities and Mozilla's: containers lack the first."""
    context = ssl.create_default_context()
    context.load_verify_locations(certifi.where())
    return context


@dataclass(frozen=True)
class HttpNetwork:
    """How hosts are reached: name lookup, connections, TLS."""

    lookup: Lookup = system_lookup
    backend: httpcore.AsyncNetworkBackend = field(default_factory=httpcore.AnyIOBackend)
    tls: ssl.SSLContext = field(default_factory=_verified)


class HttpSource:
    """Fetches over http and https, from addresses that were checked before."""

    def __init__(self, settings: Settings, network: HttpNetwork) -> None:
        self._settings = settings
        self._network = network

    async def resolve(self, url: str) -> list[str]:
        """Return the addresses of the URL's host. Raises InvalidParameters if it is not allowed."""
        try:
            parts = urlsplit(url)
            port = parts.port or (443 if parts.scheme == "https" else 80)
        except ValueError as error:
            raise InvalidParameters("The URL has no valid host and port") from error
        if parts.scheme not in ("http", "https"):
            raise InvalidParameters(
                f"The URL leads to {parts.scheme[:32]!r}, which is neither http nor https"
            )
        block = self._settings.block_private_networks
        host = parts.hostname or ""
        try:
            async with asyncio.timeout(self._settings.download_connect_timeout):
                return await resolve(host, port, block_private=block, lookup=self._network.lookup)
        except TimeoutError as error:
            raise InvalidParameters(f"The host {host[:256]} does not resolve in time") from error

    async def copy(
        self, url: str, addresses: list[str], headers: Mapping[str, str], limit: int, write: Write
    ) -> None:
        """Write the body of the answer to a GET of `url`, at most `limit` bytes.

        Raises InvalidParameters for a redirect to a host that is not allowed, RedirectNotAllowed,
        DownloadFailed, FileTooLarge.
        """
        given = passed_headers(headers) if headers else None
        seconds = self._settings.download_timeout
        try:
            async with asyncio.timeout(seconds):
                await self._follow(url, addresses, given, limit, write)
        except TimeoutError as error:
            raise DownloadFailed(f"{shown(url)} was not fetched within {seconds} s") from error
        except _FAILURES as error:
            log.warning("download failed", url=shown(url), error=repr(error))
            raise DownloadFailed(f"{shown(url)} could not be fetched") from error

    async def _follow(
        self, url: str, addresses: list[str], given: dict[str, str] | None, limit: int, write: Write
    ) -> None:
        origin = urlsplit(url).hostname
        hops = self._settings.download_redirects
        while True:
            parts = urlsplit(url)
            headers = self._headers(parts, given if parts.hostname == origin else None)
            location = await self._get(parts, addresses, headers, limit, write)
            if location is None:
                return
            if hops == 0:
                allowed = self._settings.download_redirects
                raise RedirectNotAllowed(f"{shown(url)} redirects; {allowed} redirects are followed")
            hops -= 1
            url = _joined(url, location)
            addresses = await self.resolve(url)

    async def _get(
        self, url: SplitResult, addresses: list[str], headers: dict[str, str], limit: int, write: Write
    ) -> str | None:
        """Write the body of the answer, or return where the answer redirects to."""
        async with self._asked("GET", url, addresses, headers) as response:
            received = {name.lower(): value for name, value in response.headers}
            if response.status in REDIRECTS:
                return _location(received, url)
            _check(response.status, received, url, limit)
            size = 0
            async for piece in _collected(response.aiter_stream()):
                size += len(piece)
                if size > limit:
                    raise too_large(limit)
                await write(piece)
        return None

    @asynccontextmanager
    async def _asked(
        self,
        method: str,
        url: SplitResult,
        addresses: list[str],
        headers: Mapping[str, str],
        content: bytes | None = None,
    ) -> AsyncIterator[httpcore.Response]:
        """Yield the answer to one request over its own connection to one of the addresses."""
        host = url.hostname or ""
        target = httpcore.URL(scheme=url.scheme, host=host, port=url.port, target=_target(url))
        timeout = {"connect": self._settings.download_connect_timeout}
        tls = self._network.tls if self._verifies(host) else _unverified()
        backend = PinnedBackend(addresses, self._network.backend)
        pool = httpcore.AsyncConnectionPool(ssl_context=tls, network_backend=backend)
        sent, limits = [*headers.items()], {"timeout": timeout}
        async with (
            pool,
            pool.stream(method, target, headers=sent, content=content, extensions=limits) as response,
        ):
            yield response

    async def post(self, url: str, body: bytes, headers: Mapping[str, str], seconds: float) -> int:
        """Send `body` to a URL whose host is checked first; return the status of the answer.

        No redirect is followed. Raises InvalidParameters if the host is not allowed, WebhookFailed.
        """
        parts = urlsplit(url)
        sent = {"Host": parts.netloc.rpartition("@")[2], "User-Agent": USER_AGENT, **headers}
        try:
            async with asyncio.timeout(seconds):
                addresses = await self.resolve(url)
                async with self._asked("POST", parts, addresses, sent, body) as response:
                    return response.status
        except TimeoutError as error:
            raise WebhookFailed(f"no answer within {seconds:g} s") from error
        except _FAILURES as error:
            raise WebhookFailed(
                f"it cannot be reached: {str(error)[:200] or type(error).__name__}"
            ) from error

    def _headers(self, url: SplitResult, given: dict[str, str] | None) -> dict[str, str]:
        """Return the headers for this host: credentials only over https, the client's instead of a token."""
        host = url.netloc.rpartition("@")[2]
        headers = {"Host": host, "User-Agent": USER_AGENT, "Accept-Encoding": "identity"}
        if url.scheme != "https":
            return headers
        if given is not None:
            return headers | given
        tokens = (value for host, value in self._settings.download_tokens if host == url.hostname)
        token = next(tokens, None)
        return headers | ({"Authorization": token} if token else {})

    def _verifies(self, host: str) -> bool:
        return host not in map(str.lower, self._settings.download_unverified_hosts)


def passed_headers(headers: Mapping[str, str]) -> dict[str, str]:
    """Return the headers of the client that may be sent. Raises InvalidParameters for an invalid value."""
    passed = {
        name.lower(): value.strip() for name, value in headers.items() if name.lower() in PASSED_HEADERS
    }
    if dropped := sorted({name.lower()[:64] for name in headers} - PASSED_HEADERS):
        log.warning("url headers dropped", names=dropped[:MOST_NAMES], number=len(dropped))
    for name, value in passed.items():
        if not _HEADER_VALUE.fullmatch(value):
            raise problem(("body", "url_headers", name), "Must be printable ASCII characters")
    return passed


def shown(url: str) -> str:
    """Return a URL for messages and logs: without its query, which may hold a token."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.hostname}{parts.path}"[:256]


def too_large(limit: int) -> FileTooLarge:
    """Return the error for a file of more than `limit` bytes."""
    return FileTooLarge(f"The file is larger than {limit} bytes")


def _target(url: SplitResult) -> str:
    query = f"?{url.query}" if url.query else ""
    return quote(f"{url.path or '/'}{query}", safe="/%:=&?~+!$,;'@()*[]|")


def _joined(url: str, location: str) -> str:
    try:
        return urljoin(url, location)
    except ValueError as error:
        raise InvalidParameters("The URL redirects to something that is not a URL") from error


def _check(status: int, headers: Mapping[bytes, bytes], url: SplitResult, limit: int) -> None:
    if status != 200:
        raise DownloadFailed(f"{shown(url.geturl())} answered with status {status}")
    if headers.get(b"content-encoding", b"identity").lower() != b"identity":
        raise DownloadFailed(f"{shown(url.geturl())} answered in an encoding that was not requested")
    length = headers.get(b"content-length", b"0")
    if length.isdigit() and (len(length) > 18 or int(length) > limit):
        raise too_large(limit)


def _location(headers: Mapping[bytes, bytes], url: SplitResult) -> str:
    location = headers.get(b"location", b"").decode("utf-8", "replace").strip()
    if not location:
        raise DownloadFailed(f"{shown(url.geturl())} redirects without a Location")
    return location


async def _collected(stream: AsyncIterable[bytes]) -> AsyncIterator[bytes]:
    piece = bytearray()
    async for data in stream:
        piece += data
        if len(piece) >= PIECE:
            yield bytes(piece)
            piece.clear()
    yield bytes(piece)


@cache
def _unverified() -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context
