"""Who may use the API and how often: API keys, and a rate limit across all gateways."""

import math
from hashlib import sha256
from hmac import compare_digest

import structlog
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from gateway.access.client_address import client_address
from gateway.api.responses import error_response
from gateway.context import Context
from shared import keys
from shared.errors import RtEmbedError, TooManyRequests, Unauthorized
from shared.redis.connection import RedisError, script
from shared.settings import Settings

log = structlog.get_logger(__name__)

FREE_FOLDER = "/docs/"
"""What the pages that show the API description load."""


class AccessMiddleware:
    """Passes on requests that have a valid key, if keys are set, and stay below the rate limit.

    The paths in `free` need no key and are not counted.
    """

    def __init__(self, app: ASGIApp, settings: Settings, free: frozenset[str]) -> None:
        self._app = app
        self._free = free
        self._digests = [sha256(key.encode()).digest() for key in settings.api_keys]
        self._rate = settings.rate_limit
        self._proxies = settings.trusted_proxies

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or refuse it."""
        path = scope.get("path", "")
        if scope["type"] == "http" and path not in self._free and not path.startswith(FREE_FOLDER):
            try:
                await self._admit(scope)
            except RtEmbedError as error:
                await error_response(error)(scope, receive, send)
                return
        await self._app(scope, receive, send)

    async def _admit(self, scope: Scope) -> None:
        client = self._identify(scope)
        if self._rate:
            await self._count(scope["app"].state.context, client)

    def _identify(self, scope: Scope) -> str:
        """Return a name for the client. Raises Unauthorized without a known key, if keys are set."""
        if not self._digests:
            return f"address:{client_address(scope, self._proxies)}"
        given = sha256(_key(Headers(scope=scope)).encode("utf-8", "surrogateescape")).digest()
        # Every key is compared, each in constant time, so that the duration reveals nothing.
        if sum([compare_digest(given, digest) for digest in self._digests]) == 0:
            raise Unauthorized("This service needs an API key: send Authorization: Bearer <key>")
        return f"key:{given.hex()[:32]}"

    async def _count(self, ctx: Context, client: str) -> None:
        try:
            wait = await script(ctx.redis, "rate")(keys=[keys.rate(client)], args=[self._rate])
        except RedisError as error:  # the request fails by itself if it needs Redis
            log.warning("request not counted against the rate limit: redis is away", error=str(error))
            return
        if wait:
            raise TooManyRequests(f"More than {self._rate:g} requests a minute", math.ceil(wait / 1000))


def _key(headers: Headers) -> str:
    """Return the key in a request: a bearer token (RFC 6750), or `X-API-Key`."""
    scheme, _, token = headers.get("authorization", "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else headers.get("x-api-key", "")
