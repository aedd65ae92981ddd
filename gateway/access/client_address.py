"""Who a request comes from: the address of the connection or, behind trusted proxies, what those say."""

from collections.abc import Sequence
from ipaddress import ip_address

from starlette.datastructures import Headers
from starlette.types import Scope

from shared.settings.setting_types import IPNetwork

UNKNOWN = "unknown"
MOST_HOPS = 32
"""Entries of X-Forwarded-For that are looked at, from its end."""


def is_within(address: str, networks: Sequence[IPNetwork]) -> bool:
    """Return whether `address` is an IP address in one of the `networks`."""
    try:
        found = ip_address(address)
    except ValueError:
        return False
    mapped = getattr(found, "ipv4_mapped", None)
    return any((mapped or found) in network for network in networks)


def client_address(scope: Scope, proxies: Sequence[IPNetwork]) -> str:
    """Return the address of the client: the last in X-Forwarded-For that no proxy of ours has.

    Anyone can send that header, so it counts only as far as it comes from `proxies`: each appends the address
    that it was connected from.
    """
    address = str((scope.get("client") or (UNKNOWN,))[0])
    if not proxies or not is_within(address, proxies):
        return address
    given = ",".join(Headers(scope=scope).getlist("x-forwarded-for"))
    for hop in reversed(given.split(",")[-MOST_HOPS:]):
        named = _without_port(hop.strip())
        if not named or not _is_address(named):
            break
        address = named
        if not is_within(named, proxies):
            break
    return address


def _without_port(hop: str) -> str:
    """Some proxies name a port, too: 192.0.2.1:4711 or [2001:db8::1]:4711."""
    if hop.startswith("["):
        return hop[1:].partition("]")[0]
    return hop.partition(":")[0] if hop.count(":") == 1 else hop


def _is_address(text: str) -> bool:
    try:
        ip_address(text)
    except ValueError:
        return False
    return True
