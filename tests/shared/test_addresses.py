"""Cameras may be nearly everywhere, but are no metadata service."""

from ipaddress import ip_address

import pytest

from shared.addresses import may_be_camera
from shared.settings import load


def allowed(host: str, networks: str = "") -> bool:
    settings = load({"RTEMBED_RTSP_ALLOWED_NETWORKS": networks})
    return may_be_camera(ip_address(host), settings.rtsp_networks)


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1", "::1", "192.168.1.20", "10.1.2.3", "172.16.0.1", "fd12::5", "93.184.216.34", "100.64.0.1",
     "2606:2800:220:1::1", "::ffff:10.0.0.7", "64:ff9b::a00:7"],
)  # fmt: skip
def test_cameras_live_in_private_networks_and_beside_the_service(host: str) -> None:
    assert allowed(host)


@pytest.mark.parametrize(
    "host",
    ["169.254.169.254", "169.254.1.1", "fe80::1", "::ffff:169.254.169.254", "64:ff9b::a9fe:a9fe",
     "2002:a9fe:a9fe::1", "100.100.100.200", "168.63.129.16", "fd00:ec2::254", "224.0.0.1", "ff02::1",
     "0.0.0.0", "::"],
)  # fmt: skip
def test_link_local_multicast_and_metadata_addresses_are_refused(host: str) -> None:
    assert not allowed(host)


def test_an_operator_may_narrow_where_cameras_are() -> None:
    networks = "10.0.0.0/24, fd12::/16"
    assert all(allowed(host, networks) for host in ("10.0.0.7", "::ffff:10.0.0.9", "fd12::5"))
    assert not any(
        allowed(host, networks)
        for host in ("127.0.0.1", "10.0.1.1", "fd13::5", "93.184.216.34", "169.254.0.1")
    )
