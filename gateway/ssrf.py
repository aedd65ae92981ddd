"""Where the service may connect to on a client's behalf.

A host is resolved once, each of its addresses is judged, and the connection is made to those addresses and
no others, so a name that changes its mind between the check and the use (DNS rebinding) gains nothing. What
cannot be understood is refused.
"""

import asyncio
import ipaddress
import socket
from collections.abc import Awaitable, Callable, Iterable, Sequence
from functools import partial
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_network
from typing import Any

import httpcore
import structlog

from shared.errors import InvalidParameters
from shared.settings import IPNetwork

log = structlog.get_logger(__name__)

Address = IPv4Address | IPv6Address
Lookup = Callable[[str, int], Awaitable[list[str]]]
"""From a host name and a port to its addresses; raises OSError when there are none."""

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
FORBIDDEN_TO_CAMERAS: tuple[IPNetwork, ...] = tuple(
    map(
        ip_network,
        [
            "169.254.0.0/16",
            "fe80::/10",
            # Metadata services: Alibaba Cloud, Azure, Oracle Cloud; Amazon's and Google's over IPv6.
            "100.100.100.200/32",
            "168.63.129.16/32",
            "192.0.0.192/32",
            "fd00:ec2::254/128",
            "fd20:ce::254/128",
        ],
    )
)
_GLOBAL_UNICAST = IPv6Network("2000::/3")
_NAT64 = IPv6Network("64:ff9b::/96")
_ISATAP = (b"\0\0\x5e\xfe", b"\2\0\x5e\xfe")


def is_forbidden(address: Address, *, block_private: bool) -> bool:
    """Whether the service must not connect there.

    An IPv6 address is judged by every IPv4 address that a translator or tunnel would find in it
    (RFC 4291, 6052, 3056, 4380, 5214), and outside the global unicast range only those of NAT64 are left.
    """
    if isinstance(address, IPv4Address):
        return any(address in net for net in FORBIDDEN_NETWORKS) or (block_private and not address.is_global)
    if any(is_forbidden(inner, block_private=block_private) for inner in _embedded(address)):
        return True
    if address.ipv4_mapped or address in _NAT64:
        return False
    return address not in _GLOBAL_UNICAST or (block_private and not address.is_global)


def is_forbidden_to_cameras(address: Address, allowed: Sequence[IPNetwork]) -> bool:
    """Whether a camera must not be there. Cameras live in private networks and beside the service, so only
    link-local addresses and metadata services are forbidden, and whatever is not in `allowed`, if that
    names any network. IPv4 addresses inside IPv6 ones count as in `is_forbidden`."""
    if isinstance(address, IPv6Address) and address.ipv4_mapped:
        return is_forbidden_to_cameras(address.ipv4_mapped, allowed)
    inner = _embedded(address) if isinstance(address, IPv6Address) else ()
    if any(is_forbidden_to_cameras(hidden, ()) for hidden in inner):
        return True
    if any(address in network for network in FORBIDDEN_TO_CAMERAS):
        return True
    return bool(allowed) and not any(address in network for network in allowed)


def _embedded(address: IPv6Address) -> Iterable[IPv4Address]:
    if address.ipv4_mapped:
        yield address.ipv4_mapped
    if address.sixtofour:
        yield address.sixtofour
    if address.teredo:
        yield from address.teredo
    if address in _NAT64 or address.packed[8:12] in _ISATAP:
        yield IPv4Address(address.packed[12:])


def literal(host: str) -> Address | None:
    """The address that `host` spells, also in octal, hexadecimal or integer form, as connect() takes it."""
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        pass
    try:
        return IPv4Address(socket.inet_aton(host))
    except OSError:
        return None


async def resolve(host: str, port: int, *, block_private: bool, lookup: Lookup) -> list[str]:
    """All addresses of `host`, each of which may be connected to.

    Raises InvalidParameters when one of them may not, or when there is none. The message does not tell the
    addresses, which would let a client map an inner network.
    """
    return await _judged(
        host, port, FORBIDDEN_NAMES, partial(is_forbidden, block_private=block_private), lookup
    )


async def resolve_camera(
    host: str, port: int, allowed: Sequence[IPNetwork], lookup: "Lookup | None" = None
) -> list[str]:
    """All addresses of an RTSP camera's `host`, each of which may be connected to.

    Raises InvalidParameters when one of them may not (`is_forbidden_to_cameras`), or when there is none.
    """
    forbidden = partial(is_forbidden_to_cameras, allowed=allowed)
    return await _judged(host, port, ("metadata",), forbidden, lookup or system_lookup)


async def _judged(
    host: str, port: int, names: Sequence[str], forbidden: Callable[[Address], bool], lookup: Lookup
) -> list[str]:
    name = host.lower()
    if not name or not name.isascii() or "%" in name:
        raise InvalidParameters(f"{host[:256]!r} is no valid host")
    if any(part in name for part in names):
        raise InvalidParameters(f"The host {host[:256]} is not allowed")
    if (spelled := literal(name)) is not None:
        addresses = [spelled]
    else:
        addresses = await _addresses(name, port, lookup)
    if bad := [address for address in addresses if forbidden(address)]:
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
    """What the system's resolver says. Raises OSError."""
    infos = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(info[4][0]) for info in infos))


class PinnedBackend(httpcore.AsyncNetworkBackend):
    """Connects to the given addresses only, whatever host it is asked for."""

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
        """The first address that answers."""
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
        """Never: a URL leads to a network."""
        raise httpcore.ConnectError(f"{path} is no network address")

    async def sleep(self, seconds: float) -> None:
        """Wait between attempts."""
        await asyncio.sleep(seconds)
