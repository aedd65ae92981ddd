"""How addresses of cameras are read; cameras may be nearly everywhere, but are no metadata service."""

from ipaddress import ip_address
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.addresses import LONGEST_ADDRESS, may_be_camera, read_camera_address
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
     "64:ff9b:1::a9fe:a9fe", "64:ff9b:1:a9fe:fe:a900::", "64:ff9b:1::a00:7",
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


@pytest.mark.parametrize(
    ("text", "url", "username", "password"),
    [
        ("rtsp://h:1/a", "rtsp://h:1/a", "", ""),
        ("rtsp://u@h/a", "rtsp://h/a", "u", ""),
        ("rtsp://:p@h", "rtsp://h", "", "p"),
        ("rtsp://@h/", "rtsp://h/", "", ""),
        ("rtsp://u:p:q@h/a", "rtsp://h/a", "u", "p:q"),
        ("rtsp://u%3A:%2Fp@h/a", "rtsp://h/a", "u:", "/p"),
        ("rtsp://admin:p@ss/w0rd@host", "rtsp://host", "admin", "p@ss/w0rd"),
        ("rtsp://user:pa/ss@cam/live", "rtsp://cam/live", "user", "pa/ss"),
        ("rtsp://user:50%off@h/", "rtsp://h/", "user", "50%off"),
        ("rtsp://u:p#@h/a?b=c", "rtsp://h/a?b=c", "u", "p#"),
        ("rtsp://me@example.com:p@cam.local/", "rtsp://cam.local/", "me@example.com", "p"),
        ("rtsp://admin:12/34@192.168.1.3/x", "rtsp://192.168.1.3/x", "admin", "12/34"),
        ("rtsp://u:a@b.c/d@cam.local:554/x", "rtsp://cam.local:554/x", "u", "a@b.c/d"),
        ("rtsp://u:a#b?c/d@e:f%g@[::1]:1/x?y=0&z=1", "rtsp://[::1]:1/x?y=0&z=1", "u", "a#b?c/d@e:f%g"),
        ("rtsp://cam:554/room@2", "rtsp://cam:554/room@2", "", ""),
        ("rtsp://cam/room@2", "rtsp://cam/room@2", "", ""),
        ("rtsp://cam.local/a?user=b:c@d.example", "rtsp://cam.local/a?user=b:c@d.example", "", ""),
        ("rtsp://u:p@cam/live?mail=a@b.example", "rtsp://cam/live?mail=a@b.example", "u", "p"),
        ("rtsp://u:p@10.0.0.5/cam@10.0.0.7/1", "rtsp://10.0.0.5/cam@10.0.0.7/1", "u", "p"),
        ("rtsp://cam.local:554/room@10.0.0.2", "rtsp://cam.local:554/room@10.0.0.2", "", ""),
    ],
)
def test_credentials_are_taken_out_of_an_address(text: str, url: str, username: str, password: str) -> None:
    found = read_camera_address(text)
    assert (found.url, found.username, found.password) == (url, username, password)
    assert repr(found) == f"CameraAddress('{url}')"


@given(password=st.text(st.characters(codec="utf-8", exclude_categories=["Cc"]), min_size=1, max_size=40))
def test_any_password_may_be_encoded(password: str) -> None:
    found = read_camera_address(f"rtsp://me:{quote(password, safe='')}@cam.example:8554/live?channel=1")
    assert found.url == "rtsp://cam.example:8554/live?channel=1"
    assert found.password == password


@given(
    password=st.text("aB3@/:#%", min_size=1, max_size=40).filter(
        lambda text: "%3" not in text and "%a" not in text and "%B" not in text
    )
)
def test_a_password_need_not_be_encoded(password: str) -> None:
    found = read_camera_address(f"rtsp://me:{password}@192.0.2.7:554/live?channel=1&subtype=0")
    assert (found.url, found.password) == ("rtsp://192.0.2.7:554/live?channel=1&subtype=0", password)


@pytest.mark.parametrize(
    ("text", "host", "port", "secure"),
    [
        ("rtsp://h/", "h", 554, False),
        ("rtsp://h:/", "h", 554, False),
        ("RTSPS://h", "h", 322, True),
        ("rtsps://u:p@[fd00::7]:8322/x", "fd00::7", 8322, True),
    ],
)
def test_host_and_port(text: str, host: str, port: int, secure: bool) -> None:
    found = read_camera_address(text)
    assert (found.host, found.port, found.secure) == (host, port, secure)


@pytest.mark.parametrize(
    "text",
    ["", "http://h/", "rtsp://", "rtsp:///x", "rtsp://h:port/", "rtsp://h:99999/", "rtsp://u:secret@/x",
     "rtsp://h/\r\nX: y", "rtsp://h/\0", "rtsp://u%0d%0a:secret@h/", "rtsp://[::1/", "rtsp://a b/",
     "rtsp://h/" + "x" * LONGEST_ADDRESS],
)  # fmt: skip
def test_what_is_no_address_of_a_camera(text: str) -> None:
    with pytest.raises(ValueError, match=r"RTSP|rtsp|user name") as refused:
        read_camera_address(text)
    assert "secret" not in str(refused.value)
