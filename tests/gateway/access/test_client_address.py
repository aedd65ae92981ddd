"""Whose word about a client's address counts."""

from ipaddress import ip_network

import pytest

from gateway.access.client_address import client_address, is_within

PROXIES = (ip_network("10.0.0.0/8"), ip_network("2001:db8:1::/48"))


def address(connection: str, *forwarded: str) -> str:
    headers = [(b"x-forwarded-for", value.encode("latin-1")) for value in forwarded]
    return client_address({"type": "http", "client": (connection, 4711), "headers": headers}, PROXIES)


@pytest.mark.parametrize(
    ("connection", "forwarded", "client"),
    [
        ("192.0.2.7", [], "192.0.2.7"),
        ("192.0.2.7", ["203.0.113.9"], "192.0.2.7"),
        ("10.1.2.3", [], "10.1.2.3"),
        ("10.1.2.3", ["203.0.113.9"], "203.0.113.9"),
        ("10.1.2.3", ["1.1.1.1, 203.0.113.9"], "203.0.113.9"),
        ("10.1.2.3", ["1.1.1.1", "203.0.113.9, 10.9.9.9"], "203.0.113.9"),
        ("10.1.2.3", ["10.4.4.4, 10.9.9.9"], "10.4.4.4"),
        ("10.1.2.3", ["203.0.113.9:5555"], "203.0.113.9"),
        ("10.1.2.3", ["[2001:db8::5]:5555"], "2001:db8::5"),
        ("2001:db8:1::1", ["2001:db8::5"], "2001:db8::5"),
        ("::ffff:10.1.2.3", ["203.0.113.9"], "203.0.113.9"),
        ("10.1.2.3", ["unknown"], "10.1.2.3"),
        ("10.1.2.3", ["203.0.113.9, _hidden"], "10.1.2.3"),
        ("10.1.2.3", [""], "10.1.2.3"),
        ("10.1.2.3", [",".join(["203.0.113.9"] * 5000)], "203.0.113.9"),
    ],
)
def test_which_address_is_taken(connection: str, forwarded: list[str], client: str) -> None:
    assert address(connection, *forwarded) == client


def test_what_is_no_address_is_within_nothing() -> None:
    assert not is_within("", PROXIES)
    assert not is_within("unix:", PROXIES)


def test_without_proxies_nobody_is_believed() -> None:
    scope = {"type": "http", "client": ("10.1.2.3", 1), "headers": [(b"x-forwarded-for", b"1.1.1.1")]}
    assert client_address(scope, ()) == "10.1.2.3"
    assert client_address({"type": "http", "client": None, "headers": []}, ()) == "unknown"
