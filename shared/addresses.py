"""Where cameras may be, and the IPv4 addresses that hide in IPv6 ones."""

from collections.abc import Iterable, Sequence
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_network

from shared.settings.setting_types import IPNetwork

Address = IPv4Address | IPv6Address

FORBIDDEN_TO_CAMERAS: tuple[IPNetwork, ...] = tuple(
    map(
        ip_network,
        [
            "0.0.0.0/8",
            "169.254.0.0/16",
            "224.0.0.0/4",
            "::/128",
            "fe80::/10",
            "ff00::/8",
            # Metadata services: Alibaba Cloud, Azure, Oracle Cloud; Amazon's and Google's over IPv6.
            "100.100.100.200/32",
            "168.63.129.16/32",
            "192.0.0.192/32",
            "fd00:ec2::254/128",
            "fd20:ce::254/128",
        ],
    )
)
NAT64 = IPv6Network("64:ff9b::/96")
_ISATAP = (b"\0\0\x5e\xfe", b"\2\0\x5e\xfe")


def may_be_camera(address: Address, allowed: Sequence[IPNetwork]) -> bool:
    """Whether an RTSP camera may be at `address`: in one of the `allowed` networks or, if there are none,
    anywhere but at a link-local or multicast address or a metadata service, which may hide in an IPv6 one.

    Cameras live in private networks and beside the service, so those are not refused.
    """
    if isinstance(address, IPv6Address) and address.ipv4_mapped:
        return may_be_camera(address.ipv4_mapped, allowed)
    if allowed:
        return any(address in network for network in allowed)
    hidden = embedded(address) if isinstance(address, IPv6Address) else ()
    return not any(each in network for each in (address, *hidden) for network in FORBIDDEN_TO_CAMERAS)


def embedded(address: IPv6Address) -> Iterable[IPv4Address]:
    """Every IPv4 address that a translator or tunnel would find in it (RFC 4291, 6052, 3056, 4380, 5214)."""
    if address.ipv4_mapped:
        yield address.ipv4_mapped
    if address.sixtofour:
        yield address.sixtofour
    if address.teredo:
        yield from address.teredo
    if address in NAT64 or address.packed[8:12] in _ISATAP:
        yield IPv4Address(address.packed[12:])
