"""Which hosts the service may connect to on a client's behalf.

A host is resolved once, each of its addresses is checked, and the connection is made to those addresses only,
so a name that resolves differently after the check (DNS rebinding) gains nothing. What cannot be parsed is
refused.
"""

import asyncio
import ipaddress
import socket
from collections.abc import Awaitable, Callable, Iterable
from ipaddress import IPv4Address, IPv4Network, IPv6Network
from typing import Any

import httpcore
import structlog

from shared.addresses import NAT64, Address, embedded
from shared.errors import InvalidParameters

log = structlog.get_logger(__name__)

Lookup = Callable[[str, int], Awaitable[list[str]]]
"""Returns the addresses of a host name and port; raises OSError if there are none."""

FORBIDDEN_NAMES = ("localhost", "metadata")
"""A host name that contains one of these is refused."""
FORBIDDEN_NETWORKS = tuple(
    map(
        IPv4Network,
        [
            "0.0.0.0/8",
            "127.0.0.0/8",
            "169.254.0.0/16",
            "224.0.0.0/4",
            "240.0.0.0/4",
            # Metadata services outside the link-local range: Alibaba Cloud, Azure, Oracle Cloud.
            "100.100.100.200/32",
            "168.63.129.16/32",
            "192.0.0.192/32",
        ],
    )
)
_GLOBAL_UNICAST = IPv6Network("2000::/3")


def is_forbidden(address: Address, *, block_private: bool) -> bool:
    """Return whether the service must not connect to the address.

    An IPv6 address is also checked by every IPv4 address that a translator or tunnel would find in it
    (RFC 4291, 6052, 3056, 4380, 5214). Outside the global unicast range, only NAT64 addresses are allowed.
    """
    if isinstance(address, IPv4Address):
        return any(address in net for net in FORBIDDEN_NETWORKS) or (block_private and not address.is_global)
    if any(is_forbidden(inner, block_private=block_private) for inner in embedded(address)):
        return True
    if address.ipv4_mapped or address in NAT64:
        return False
    return address not in _GLOBAL_UNICAST or (block_private and not address.is_global)


def literal(host: str) -> Address | None:
    """Return the address that `host` spells, also in the octal, hexadecimal or integer forms of connect()."""
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        pass
    try:
        return IPv4Address(socket.inet_aton(host))
    except OSError:
        return None


async def resolve(host: str, port: int, *, block_private: bool, lookup: Lookup) -> list[str]:
    """Return all addresses of `host`, each of which may be connected to.

    Raises InvalidParameters if one of them is forbidden, or if there is none. The message does not name the
    addresses, which would let a client map an internal network.
    """
    name = host.lower()
    if not name or not name.isascii() or "%" in name:
        raise InvalidParameters(f"{host[:256]!r} is not a valid host")
    if any(forbidden in name for forbidden in FORBIDDEN_NAMES):
        raise InvalidParameters(f"The host {host[:256]} is not allowed")
    if (spelled := literal(name)) is not None:
        addresses = [spelled]
    else:
        addresses = await _addresses(name, port, lookup)
    bad = [address for address in addresses if is_forbidden(address, block_private=block_private)]
    if bad:
        log.warning("address refused", host=host[:256], addresses=[str(address) for address in bad])
        raise InvalidParameters(f"The host {host[:256]} has an address that is not allowed")
    return [str(address) for address in addresses]


async def _addresses(name: str, port: int, lookup: Lookup) -> list[Address]:
    try:
        found = [ipaddress.ip_address(text) for text in await lookup(name, port)]
    except (OSError, ValueError):
        found = []
    if not found:
        raise InvalidParameters(f"The host {name[:256]} does not resolve")
    return found


async def system_lookup(host: str, port: int) -> list[str]:
    """Return the addresses that the system's resolver finds. Raises OSError."""
    infos = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(info[4][0]) for info in infos))


class PinnedBackend(httpcore.AsyncNetworkBackend):
    """Connects to the given addresses only, whatever the host."""

    def __init__(self, addresses: list[str], network: httpcore.AsyncNetworkBackend) -> None:
        self._addresses = addresses
        self._network = network

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """Connect to the first address that answers."""
        failure: Exception = httpcore.ConnectError(f"{host} has no address")
        for address in self._addresses:
            try:
                return await self._network.connect_tcp(address, port, timeout, local_address, socket_options)
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                failure = error
        raise failure

    async def connect_unix_socket(
        self, path: str, timeout: float | None = None, socket_options: Iterable[Any] | None = None
    ) -> httpcore.AsyncNetworkStream:
        """Refuse: URLs name network hosts."""
        raise httpcore.ConnectError(f"{path} is not a network address")

    async def sleep(self, seconds: float) -> None:
        """Wait between attempts."""
        await asyncio.sleep(seconds)
