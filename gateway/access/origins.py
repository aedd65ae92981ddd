"""Which web pages may use the API, and under which host names the service answers.

A page of another site may send requests with whatever access the browser's machine has. Browsers name that
site in `Origin`, so foreign ones are refused. A name that an attacker points at this machine (DNS rebinding)
would make their page one of ours, so the names can be listed.
"""

from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from gateway.access.client_address import is_within
from gateway.api.responses import error_response
from shared.errors import ForeignHost, ForeignOrigin, RtEmbedError
from shared.settings import Settings

ANY = "*"
PORTS = {"http": "80", "https": "443"}


class OriginMiddleware:
    """Refuses requests from foreign pages, and requests for host names that are not ours.

    The paths in `free` may be requested under any name: health checks and Prometheus know only addresses.
    """

    def __init__(self, app: ASGIApp, settings: Settings, free: frozenset[str]) -> None:
        self._app = app
        self._free = free
        self._hosts = [host.lower() for host in settings.allowed_hosts]
        self._origins = frozenset(settings.cors_origins)
        self._proxies = settings.trusted_proxies

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or refuse it."""
        if scope["type"] == "http":
            try:
                self._check(scope, Headers(scope=scope))
            except RtEmbedError as error:
                await error_response(error)(scope, receive, send)
                return
        await self._app(scope, receive, send)

    def _check(self, scope: Scope, headers: Headers) -> None:
        host = self._host(scope, headers)
        if self._hosts and scope["path"] not in self._free and not self._is_ours(_name(host)):
            raise ForeignHost(f"This service does not answer as {host[:256]!r}: see RTEMBED_ALLOWED_HOSTS")
        origin = headers.get("origin", "").lower()
        if origin and not self._is_allowed(origin, host):
            raise ForeignOrigin(
                f"Pages of {origin[:256]!r} may not use this service: see RTEMBED_CORS_ORIGINS"
            )

    def _host(self, scope: Scope, headers: Headers) -> str:
        """Return the host that the client asked for, as a trusted proxy says if there is one."""
        forwarded = headers.get("x-forwarded-host", "")
        if forwarded and is_within(str((scope.get("client") or ("",))[0]), self._proxies):
            return forwarded.rpartition(",")[2].strip().lower()
        return headers.get("host", "").lower()

    def _is_ours(self, name: str) -> bool:
        return any(
            allowed in (name, ANY) or (allowed.startswith("*.") and name.endswith(allowed[1:]))
            for allowed in self._hosts
        )

    def _is_allowed(self, origin: str, host: str) -> bool:
        if ANY in self._origins or origin in self._origins:
            return True
        scheme, _, place = origin.partition("://")
        default = f":{PORTS[scheme]}" if scheme in PORTS else ":"  # which is often left out
        return bool(place) and host.removesuffix(default) == place.removesuffix(default)


def _name(host: str) -> str:
    """Return the host without its port."""
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""
