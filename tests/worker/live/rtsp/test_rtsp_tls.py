"""rtsps://: certificates that are verified, and hosts whose are not."""

import ssl
from typing import Any

import pytest
import trustme

from tests.camera import Picture, ScriptedCamera, encode
from worker.live.camera_description import CameraError, CameraOptions, address
from worker.live.rtsp.rtsp_client import Player, probe_camera

QUICK = CameraOptions(open_timeout=3)


@pytest.fixture(scope="module")
def pictures() -> list[Picture]:
    return encode(seconds=1)


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


def server(authority: trustme.CA, name: str = "127.0.0.1") -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(name).configure_cert(context)
    return context


def pem(authority: trustme.CA) -> str:
    return authority.cert_pem.bytes().decode()


async def test_a_camera_plays_over_tls(pictures: list[Picture], authority: trustme.CA) -> None:
    units: list[Any] = []
    with ScriptedCamera(pictures, tls=server(authority), ends=True, speed=4) as camera:
        assert camera.url.startswith("rtsps://")
        player = Player(address(camera.url), CameraOptions(authorities=pem(authority)), "tcp")
        await player.play(units.append, lambda: None)
        await player.close()
    assert len(units) == 30


async def test_an_unknown_authority_is_not_trusted(pictures: list[Picture], authority: trustme.CA) -> None:
    with ScriptedCamera(pictures, tls=server(authority)) as camera:
        for options in (QUICK, CameraOptions(authorities=pem(trustme.CA()))):
            with pytest.raises(CameraError, match=r"its certificate is not trusted: .*RTEMBED_RTSP_CA_FILE"):
                await probe_camera(address(camera.url), options)


async def test_a_certificate_must_name_the_host(pictures: list[Picture], authority: trustme.CA) -> None:
    with (
        ScriptedCamera(pictures, tls=server(authority, "other.example")) as camera,
        pytest.raises(CameraError, match="its certificate is not trusted: IP address mismatch"),
    ):
        await probe_camera(address(camera.url), CameraOptions(authorities=pem(authority)))


async def test_verification_may_be_off_for_a_host(pictures: list[Picture], authority: trustme.CA) -> None:
    with ScriptedCamera(pictures, tls=server(authority, "other.example")) as camera:
        track = await probe_camera(address(camera.url), CameraOptions(unverified_hosts=["127.0.0.1"]))
        assert track.codec == "h264"
        with pytest.raises(CameraError, match="not trusted"):
            await probe_camera(address(camera.url), CameraOptions(unverified_hosts=["other.example"]))


async def test_tls_to_a_camera_without(pictures: list[Picture]) -> None:
    with ScriptedCamera(pictures) as camera, pytest.raises(CameraError, match="cannot connect within 1 s"):
        await probe_camera(address(camera.url.replace("rtsp:", "rtsps:")), CameraOptions(open_timeout=1))


async def test_authorities_that_are_none(pictures: list[Picture], authority: trustme.CA) -> None:
    with (
        ScriptedCamera(pictures, tls=server(authority)) as camera,
        pytest.raises(CameraError, match="RTEMBED_RTSP_CA_FILE cannot be used"),
    ):
        await probe_camera(address(camera.url), CameraOptions(authorities="rubbish"))
