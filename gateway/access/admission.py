"""Who may use the API and how often: API keys, and a rate limit that holds over all gateways."""

import math

import structlog
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from gateway.access.api_keys import KeyRing, WrongKeys, digest_of, given_key
from gateway.access.client_address import client_address
from gateway.api.caller import caller
from gateway.api.responses import error_response
from gateway.context import Context
from shared import keys
from shared.errors import AdminOnly, RtEmbedError, TooManyRequests, Unauthorized
from shared.redis.connection import RedisError, script
from shared.settings import Settings

log = structlog.get_logger(__name__)

FREE_FOLDERS = ("/docs/", "/console/")
"""What the console and the pages of the API's description load."""


class AccessMiddleware:
    """Admits requests with a valid key, where keys are set, within the rate limit.

    The paths in `free` need no key and are not counted; those in `admin` need an administrator's key.
    """

    def __init__(
        self, app: ASGIApp, settings: Settings, free: frozenset[str], admin: frozenset[str] = frozenset()
    ) -> None:
        self._app = app
        self._free, self._admin = free, admin
        self._keys = KeyRing(settings)
        self._wrong = WrongKeys(settings.wrong_keys_per_minute)
        self._rate = settings.rate_limit
        self._proxies = settings.trusted_proxies

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or refuse it."""
        path = scope.get("path", "")
        if scope["type"] == "http" and path not in self._free and not path.startswith(FREE_FOLDERS):
            try:
                await self._admit(scope)
            except RtEmbedError as error:
                await error_response(error)(scope, receive, send)
                return
        await self._app(scope, receive, send)

    async def _admit(self, scope: Scope) -> None:
        address = client_address(scope, self._proxies)
        structlog.contextvars.bind_contextvars(client=address)
        admin = scope["path"] in self._admin and self._keys.needs_admin
        client = f"address:{address}"
        if self._keys.needs_key or admin:
            client = f"key:{self._identify(scope, address, admin=admin).hex()[:32]}"
        if self._rate:
            await self._count(scope["app"].state.context, client)

    def _identify(self, scope: Scope, address: str, *, admin: bool) -> bytes:
        """Return the digest of the request's key. Raises Unauthorized, AdminOnly, TooManyRequests."""
        given = given_key(Headers(scope=scope))
        digest = digest_of(given)
        self._wrong.check(address, digest)
        known = self._keys.find(digest)
        if known is None:
            if given:
                self._wrong.wrong(address)
                log.warning("wrong API key", client=address)
            raise Unauthorized("This service needs an API key: send Authorization: Bearer <key>")
        self._wrong.right(address, digest)
        caller.set(known.name)
        structlog.contextvars.bind_contextvars(key=known.name)
        if admin and not known.admin:
            raise AdminOnly("This changes the service for everyone, and needs an administrator's key")
        return digest

    async def _count(self, ctx: Context, client: str) -> None:
        try:
            wait = await script(ctx.redis, "rate")(keys=[keys.rate(client)], args=[self._rate])
        except RedisError as error:  # what needs Redis will say so itself
            log.warning("request not counted", error=str(error))
            return
        if wait:
            raise TooManyRequests(f"More than {self._rate:g} requests a minute", math.ceil(wait / 1000))
