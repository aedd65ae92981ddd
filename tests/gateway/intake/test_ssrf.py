"""Nothing that a client says makes the service connect where it must not."""

import ipaddress
import socket
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv6Address

import httpcore
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.intake.ssrf import PinnedBackend, is_forbidden, literal, resolve, system_lookup
from shared.errors import InvalidParameters
from tests.gateway.outside import Names, Wire

FORBIDDEN_V4 = [
    "0.0.0.0",
    "0.1.2.3",
    "127.0.0.1",
    "127.255.255.255",
    "169.254.0.1",
    "169.254.169.254",
    "224.0.0.1",
    "239.255.255.255",
    "240.0.0.1",
    "255.255.255.255",
    "100.100.100.200",
    "168.63.129.16",
    "192.0.0.192",
]
ALLOWED_V4 = [
    "8.8.8.8",
    "1.1.1.1",
    "126.255.255.255",
    "128.0.0.1",
    "169.253.255.255",
    "169.255.0.1",
    "223.255.255.255",
]
PRIVATE_V4 = [
    "10.0.0.1",
    "172.16.0.1",
    "172.31.255.255",
    "192.168.1.1",
    "100.64.0.1",
    "198.18.0.1",
    "192.0.2.1",
]
FORBIDDEN_V6 = [
    "::",
    "::1",
    "fe80::1",
    "febf::1",
    "fec0::1",
    "fc00::1",
    "fd00:ec2::254",
    "ff02::1",
    "100::1",
    "4000::1",
    "64:ff9b:1::808:808",
]
ALLOWED_V6 = ["2606:4700:4700::1111", "2a00:1450:4001::1"]


def embeddings(address: str) -> dict[str, str]:
    """The IPv6 addresses in which a tunnel or translator would find `address`."""
    packed = IPv4Address(address).packed
    inverted = bytes(byte ^ 0xFF for byte in packed)
    prefix = bytes.fromhex("2606470047000000")

    def text(raw: bytes) -> str:
        return str(IPv6Address(raw))

    return {
        "mapped": text(bytes(10) + b"\xff\xff" + packed),
        "NAT64": text(bytes.fromhex("0064ff9b") + bytes(8) + packed),
        "6to4": text(b"\x20\x02" + packed + bytes(10)),
        "Teredo server": text(bytes.fromhex("20010000") + packed + bytes(4) + bytes([0xF7] * 4)),
        "Teredo client": text(bytes.fromhex("2001000008080808") + bytes(4) + inverted),
        "ISATAP": text(prefix + bytes.fromhex("00005efe") + packed),
        "ISATAP, global": text(prefix + bytes.fromhex("02005efe") + packed),
        "compatible": text(bytes(12) + packed),
    }


@pytest.mark.parametrize("address", FORBIDDEN_V4 + FORBIDDEN_V6)
@pytest.mark.parametrize("block_private", [False, True])
def test_is_forbidden(address: str, block_private: bool) -> None:
    assert is_forbidden(ipaddress.ip_address(address), block_private=block_private)


@pytest.mark.parametrize("address", ALLOWED_V4 + ALLOWED_V6)
@pytest.mark.parametrize("block_private", [False, True])
def test_is_allowed(address: str, block_private: bool) -> None:
    assert not is_forbidden(ipaddress.ip_address(address), block_private=block_private)


@pytest.mark.parametrize("address", PRIVATE_V4)
def test_private_networks_are_forbidden_on_demand(address: str) -> None:
    assert not is_forbidden(IPv4Address(address), block_private=False)
    assert is_forbidden(IPv4Address(address), block_private=True)


@pytest.mark.parametrize("address", FORBIDDEN_V4)
@pytest.mark.parametrize("way", embeddings("8.8.8.8"))
def test_a_forbidden_address_is_found_inside_ipv6(address: str, way: str) -> None:
    assert is_forbidden(IPv6Address(embeddings(address)[way]), block_private=False)


@pytest.mark.parametrize("way", ["mapped", "NAT64", "6to4", "Teredo server", "Teredo client", "ISATAP"])
def test_a_private_address_is_found_inside_ipv6(way: str) -> None:
    inner = IPv6Address(embeddings("10.0.0.1")[way])
    assert is_forbidden(inner, block_private=True)


@given(st.ip_addresses(v=4))
def test_ipv4_is_judged_as_in_the_standard_library(address: IPv4Address) -> None:
    special = (
        address.is_loopback
        or address.is_link_local
        or address.is_multicast
        or address.is_reserved
        or address in ipaddress.ip_network("0.0.0.0/8")
        or str(address) in FORBIDDEN_V4
    )
    assert is_forbidden(address, block_private=False) == special


@given(st.ip_addresses(v=4))
def test_an_embedded_address_is_judged_as_itself(address: IPv4Address) -> None:
    inside = embeddings(str(address))
    for way in ("mapped", "NAT64"):
        assert is_forbidden(IPv6Address(inside[way]), block_private=False) == is_forbidden(
            address, block_private=False
        )
    assert is_forbidden(IPv6Address(inside["compatible"]), block_private=False)


@given(st.ip_addresses(v=6))
def test_ipv6_is_never_more_than_unicast(address: IPv6Address) -> None:
    if not is_forbidden(address, block_private=False):
        assert not address.is_loopback
        assert not address.is_link_local
        assert not address.is_site_local
        assert not address.is_multicast
        assert not address.is_unspecified


@pytest.mark.parametrize(
    ("host", "address"),
    [
        ("127.0.0.1", "127.0.0.1"),
        ("127.1", "127.0.0.1"),
        ("0177.0.0.1", "127.0.0.1"),
        ("0x7f.0.0.1", "127.0.0.1"),
        ("0x7f000001", "127.0.0.1"),
        ("0x7F.1", "127.0.0.1"),
        ("2130706433", "127.0.0.1"),
        ("017700000001", "127.0.0.1"),
        ("0", "0.0.0.0"),
        ("2852039166", "169.254.169.254"),
        ("0251.0376.0251.0376", "169.254.169.254"),
        ("::ffff:7f00:1", "::ffff:127.0.0.1"),
        ("8.8.8.8", "8.8.8.8"),
    ],
)
def test_a_number_is_the_address_that_connect_takes_it_for(host: str, address: str) -> None:
    assert literal(host) == ipaddress.ip_address(address)


@pytest.mark.parametrize(
    "host", ["example.com", "", "1.2.3.4.5", "256.1.1.1", "0x", "127.0.0.1.", "0x7f000001g"]
)
def test_a_name_is_no_number(host: str) -> None:
    assert literal(host) is None


# Names ------------------------------------------------------------------------------------------------

NAMES = [
    "",
    "localhost",
    "LocalHost",
    "localhost.",
    "a.localhost",
    "localhost.example.com",
    "metadata",
    "metadata.google.internal",
    "METADATA.google.internal",
    "my-metadata.example.com",
    "%6c%6fcalhost",
    "127.0.0.1%00",
    "127\u3002" + "0\u3002" + "0\u3002" + "1",
    "\u2460\u2461\u2466.0.0.1",
    "loc\u0430lhost",
]
NUMBERS = [
    "127.0.0.1", "127.1", "0177.0.0.1", "0x7f.1", "2130706433", "017700000001", "0", "0.0.0.0",
    "169.254.169.254", "2852039166", "0xA9FEA9FE", "::1", "::ffff:127.0.0.1", "::ffff:a9fe:a9fe",
    "64:ff9b::7f00:1", "2002:7f00:1::", "fe80::1", "fe80::1%eth0", "fd00:ec2::254", "::",
]  # fmt: skip


@pytest.fixture(scope="module")
def names() -> Iterator[Names]:
    server = Names()
    yield server
    server.close()


@pytest.mark.parametrize("host", NAMES + NUMBERS)
async def test_a_host_is_refused_without_being_looked_up(names: Names, host: str) -> None:
    names.questions.clear()
    with pytest.raises(InvalidParameters):
        await resolve(host, 80, block_private=False, lookup=names.lookup)
    assert not names.questions


@pytest.mark.parametrize("address", FORBIDDEN_V4 + FORBIDDEN_V6 + list(embeddings("127.0.0.1").values()))
async def test_a_name_with_a_forbidden_address_is_refused(names: Names, address: str) -> None:
    for answer in ([address], ["8.8.8.8", address], [address, "2606:4700::1"]):
        names.tell("evil.example", answer)
        with pytest.raises(InvalidParameters, match="has an address that is not allowed") as refused:
            await resolve("evil.example", 80, block_private=False, lookup=names.lookup)
        assert address not in refused.value.message


async def test_a_name_without_address_is_refused(names: Names) -> None:
    with pytest.raises(InvalidParameters, match=r"missing\.example does not resolve"):
        await resolve("missing.example", 80, block_private=False, lookup=names.lookup)


async def test_a_name_is_resolved_to_all_its_addresses(names: Names) -> None:
    names.tell("good.example", ["8.8.8.8", "2606:4700::1"])
    found = await resolve("Good.Example", 80, block_private=True, lookup=names.lookup)
    assert found == ["8.8.8.8", "2606:4700::1"]


async def test_private_networks_are_for_names_too(names: Names) -> None:
    names.tell("nas.example", ["192.168.1.5"])
    assert await resolve("nas.example", 80, block_private=False, lookup=names.lookup) == ["192.168.1.5"]
    with pytest.raises(InvalidParameters):
        await resolve("nas.example", 80, block_private=True, lookup=names.lookup)


async def test_the_systems_resolver() -> None:
    assert set(await system_lookup("localhost", 80)) <= {"127.0.0.1", "::1"}
    with pytest.raises(socket.gaierror):
        await system_lookup("name.invalid", 80)


# Connections ------------------------------------------------------------------------------------------


async def test_a_connection_goes_to_the_first_address_that_answers() -> None:
    wire = Wire()
    wire.dead = {"203.0.113.10", "203.0.113.11"}
    backend = PinnedBackend(["203.0.113.10", "203.0.113.11"], wire)
    with pytest.raises(httpcore.ConnectError):
        await backend.connect_tcp("any.example", 80)
    assert wire.connected == ["203.0.113.10", "203.0.113.11"]


async def test_a_connection_is_never_to_a_socket_file() -> None:
    with pytest.raises(httpcore.ConnectError):
        await PinnedBackend(["203.0.113.10"], Wire()).connect_unix_socket("/run/docker.sock")
