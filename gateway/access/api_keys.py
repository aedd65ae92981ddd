"""API keys: which are known, what they are called, who may change the service, and who guesses."""

import math
import time
from collections import OrderedDict
from collections.abc import Iterable
from hashlib import sha256
from hmac import compare_digest
from ipaddress import IPv6Address, ip_address, ip_network

import msgspec
from starlette.datastructures import Headers

from shared.errors import TooManyRequests
from shared.settings import Settings
from shared.settings.setting_types import NamedKey

MOST_ADDRESSES = 10_000
"""Addresses whose wrong keys are remembered; the one that has been quiet for longest is forgotten."""
MOST_KNOWN = 16
"""Keys that are remembered to have been right, per address."""


class KnownKey(msgspec.Struct, frozen=True):
    """A key by its SHA-256, so that comparing keys of any length takes the same time."""

    name: str
    digest: bytes
    admin: bool


class KeyRing:
    """The keys of the settings. Administrators' keys open everything that other keys do."""

    def __init__(self, settings: Settings) -> None:
        self._keys = [
            *_known(settings.api_keys, admin=not settings.admin_keys),
            *_known(settings.admin_keys, admin=True),
        ]
        self.needs_key = bool(settings.api_keys)
        """Whether every request needs a key."""
        self.needs_admin = bool(settings.api_keys or settings.admin_keys)
        """Whether requests that change the service need one."""

    def find(self, digest: bytes) -> KnownKey | None:
        """Return the key with this digest. Every key is compared, each in constant time."""
        found = [key for key in self._keys if compare_digest(digest, key.digest)]
        return next((key for key in found if key.admin), found[0] if found else None)


def _known(keys: Iterable[NamedKey], *, admin: bool) -> Iterable[KnownKey]:
    for each in keys:
        digest = digest_of(each.key)
        yield KnownKey(each.name or f"key-{digest.hex()[:8]}", digest, admin)


def digest_of(key: str) -> bytes:
    """Return what stands for a key."""
    return sha256(key.encode("utf-8", "surrogateescape")).digest()


def given_key(headers: Headers) -> str:
    """Return the key that a request carries: a bearer token (RFC 6750), or `X-API-Key`."""
    scheme, _, token = headers.get("authorization", "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else headers.get("x-api-key", "")


class _Guesser(msgspec.Struct):
    """`left` wrong keys may be tried now; `at` is when that was so."""

    left: float
    at: float
    known: list[bytes] = []


class WrongKeys:
    """Slows down attempts to guess keys: after so many wrong ones a minute an address has to wait.

    While it waits a right key does not help either, or waiting would cost a guesser nothing. Keys that this
    address has used before do, so that nobody is locked out by a neighbour behind the same proxy.
    """

    def __init__(self, per_minute: int) -> None:
        self._per_minute = per_minute
        self._guessers: OrderedDict[str, _Guesser] = OrderedDict()

    def check(self, address: str, digest: bytes) -> None:
        """Raise TooManyRequests if this key must not be looked at now."""
        guesser = self._guessers.get(_network(address))
        if guesser is None or not self._per_minute or digest in guesser.known:
            return
        left = self._left(guesser)
        if left < 1:
            wait = math.ceil((1 - left) * 60 / self._per_minute)
            raise TooManyRequests("Too many wrong API keys from this address", wait)

    def right(self, address: str, digest: bytes) -> None:
        """Remember that a key of this address was known."""
        guesser = self._guesser(address)
        if digest not in guesser.known:
            guesser.known = [*guesser.known[-MOST_KNOWN + 1 :], digest]

    def wrong(self, address: str) -> None:
        """Count a wrong key."""
        guesser = self._guesser(address)
        guesser.left, guesser.at = self._left(guesser) - 1, time.monotonic()

    def _left(self, guesser: _Guesser) -> float:
        gained = (time.monotonic() - guesser.at) * self._per_minute / 60
        return min(float(self._per_minute), guesser.left + gained)

    def _guesser(self, address: str) -> _Guesser:
        network = _network(address)
        guesser = self._guessers.setdefault(network, _Guesser(float(self._per_minute), time.monotonic()))
        self._guessers.move_to_end(network)
        if len(self._guessers) > MOST_ADDRESSES:
            self._guessers.popitem(last=False)
        return guesser


def _network(address: str) -> str:
    """A client has all addresses of an IPv6 /64."""
    try:
        found = ip_address(address)
    except ValueError:
        return address
    return str(ip_network((found, 64), strict=False)) if isinstance(found, IPv6Address) else address
