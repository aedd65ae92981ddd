"""Addresses of cameras: how they are read, where cameras may be, and IPv4 addresses hidden in IPv6 ones."""

import re
from collections.abc import Iterable, Iterator, Sequence
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address, ip_network
from typing import NamedTuple
from urllib.parse import unquote

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
            "64:ff9b:1::/48",  # local NAT64 (RFC 8215), whose prefixes hide any IPv4 address
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

LONGEST_ADDRESS = 2048
RTSP_PORTS = {"rtsp": 554, "rtsps": 322}
_SCHEME = re.compile(r"(rtsps?)://", re.IGNORECASE)
_HOST = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[^\s\[\]/?#@:]+)(?::(\d{0,5}))?(?=[/?#]|\Z)")
_IPV4 = re.compile(r"\d{1,3}(?:\.\d{1,3}){3}", re.ASCII)
_QUERY_FIELD = re.compile(r"[?&][A-Za-z_][\w.-]*=", re.ASCII)
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


class CameraAddress(NamedTuple):
    """An RTSP address, and the credentials that were in it. `url` holds none; `secure` stands for TLS."""

    url: str
    host: str
    port: int
    secure: bool
    username: str
    password: str

    def __repr__(self) -> str:
        return f"CameraAddress({self.url!r})"


def read_camera_address(text: str) -> CameraAddress:
    """Read an rtsp:// or rtsps:// address. Credentials may be percent-encoded or not.

    An unencoded password may hold any of `/ @ : # ? %`, so `admin:p@ss/w0rd@host` can be read in two ways.
    The host is the candidate that looks most like one: an IP address, or a name with a dot and a port; then a
    name with one of them; then any name. Raises ValueError, whose text does not hold the address.
    """
    scheme = _SCHEME.match(text)
    if scheme is None or len(text) > LONGEST_ADDRESS:
        raise ValueError(f"not an rtsp:// or rtsps:// address of at most {LONGEST_ADDRESS} characters")
    if _CONTROL.search(text):
        raise ValueError("an RTSP address cannot hold control characters")
    rest = text[scheme.end() :]
    reading = max(_readings(rest), default=None)
    if reading is None:
        raise ValueError("an RTSP address without a valid host and port")
    kind = scheme[1].lower()
    username, _, password = rest[: max(0, reading.at - 1)].partition(":")
    if _CONTROL.search(unquote(username)):
        raise ValueError("a user name cannot hold control characters")
    return CameraAddress(
        url=scheme[0] + rest[reading.at :],
        host=reading.host.strip("[]"),
        port=reading.port or RTSP_PORTS[kind],
        secure=kind == "rtsps",
        username=unquote(username),
        password=unquote(password),
    )


class _Reading(NamedTuple):
    """A way to read an address; the greatest is the best. `at` is where its host begins."""

    likeness: int
    rank: int
    at: int
    host: str
    port: int


def _readings(rest: str) -> Iterator[_Reading]:
    """Yield each way to read what follows the scheme: without credentials, and with each @ as their end."""
    if plain := _host_at(rest, 0):
        yield plain
    user = re.search(r"[/?#:]", rest)
    end = user.start() if user and user[0] != ":" else len(rest)
    query = _QUERY_FIELD.search(rest)
    at = rest.find("@") + 1
    while 0 < at <= end:
        if found := _host_at(rest, at):
            in_query = query is not None and query.start() < at
            yield found._replace(likeness=found.likeness - 3) if in_query else found
        at = rest.find("@", at) + 1


def _host_at(rest: str, at: int) -> _Reading | None:
    """Return the reading whose host begins at `at`. Of two that look alike the first is taken where they look
    like hosts for sure, and else the last; but one without credentials first of all."""
    found = _HOST.match(rest, at)
    if found is None or int(found[2] or 0) > 65_535:
        return None
    name, port = found[1], int(found[2] or 0)
    kind = 3 if name[0] == "[" or _IPV4.fullmatch(name) else 2 if "." in name or name == "localhost" else 1
    likeness = kind + (port > 0)
    return _Reading(likeness, at if at > 0 and likeness < 3 else LONGEST_ADDRESS - at, at, name, port)


def is_loopback(host: str) -> bool:
    """Return whether what listens at `host` can be reached from this machine only."""
    try:
        return ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


def may_be_camera(address: Address, allowed: Sequence[IPNetwork]) -> bool:
    """Return whether an RTSP camera may be at `address`: in one of the `allowed` networks or, if there are
    none, anywhere but at a link-local or multicast address or a metadata service, which may hide in an IPv6
    one.

    Cameras live in private networks and beside the service, so those are not refused.
    """
    if isinstance(address, IPv6Address) and address.ipv4_mapped:
        return may_be_camera(address.ipv4_mapped, allowed)
    if allowed:
        return any(address in network for network in allowed)
    hidden = embedded(address) if isinstance(address, IPv6Address) else ()
    return not any(each in network for each in (address, *hidden) for network in FORBIDDEN_TO_CAMERAS)


def embedded(address: IPv6Address) -> Iterable[IPv4Address]:
    """Return every IPv4 address that a translator or tunnel would find in it (RFC 4291, 6052, 3056, 4380,
    5214)."""
    if address.ipv4_mapped:
        yield address.ipv4_mapped
    if address.sixtofour:
        yield address.sixtofour
    if address.teredo:
        yield from address.teredo
    if address in NAT64 or address.packed[8:12] in _ISATAP:
        yield IPv4Address(address.packed[12:])
