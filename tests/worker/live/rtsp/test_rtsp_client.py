"""The RTSP client against cameras that behave, and cameras that do not."""

import asyncio
import time
from collections.abc import Callable
from itertools import pairwise
from typing import Literal

import msgspec
import pytest

from tests.camera import Picture, ScriptedCamera, encode
from worker.live.camera_description import (
    CameraError,
    CameraOptions,
    TransportRefused,
    address,
)
from worker.live.rtp.access_units import AccessUnit
from worker.live.rtsp.rtsp_client import Player, probe_camera

QUICK = CameraOptions(open_timeout=3, udp_timeout=0.5, read_timeout=10, latency=0.2)


@pytest.fixture(scope="module")
def pictures() -> list[Picture]:
    return encode(seconds=1)


async def play(
    camera: ScriptedCamera,
    kind: Literal["udp", "tcp"] = "tcp",
    options: CameraOptions = QUICK,
    login: tuple[str, str] = ("", ""),
    enough: Callable[[list[AccessUnit]], bool] = lambda units: False,
) -> list[AccessUnit]:
    """What the camera sends until its stream ends, or until it is `enough`."""
    units: list[AccessUnit] = []
    player = Player(address(camera.url, *login), options, kind)
    playing = asyncio.create_task(player.play(units.append, lambda: None))
    try:
        while not playing.done() and not enough(units):
            await asyncio.wait({playing}, timeout=0.01)
        if playing.done():
            await playing
    finally:
        playing.cancel()
        await asyncio.gather(playing, return_exceptions=True)
        await player.close()
    return units


def nals(units: list[AccessUnit]) -> list[list[bytes]]:
    return [list(unit.nals) for unit in units]


@pytest.mark.parametrize("kind", ["udp", "tcp"])
@pytest.mark.parametrize(("codec", "encoder"), [("h264", "libx264"), ("hevc", "libx265")])
async def test_every_picture_arrives_as_it_was_sent(
    kind: Literal["udp", "tcp"], codec: str, encoder: str
) -> None:
    pictures = encode(encoder, seconds=1, size=256)
    assert max(len(nal) for picture in pictures for nal in picture.nals) > 1200
    with ScriptedCamera(pictures, codec, ends=True, speed=2) as camera:
        units = await play(camera, kind)
    assert nals(units) == [picture.nals for picture in pictures]
    times = [unit.time - units[0].time for unit in units]
    assert times == [(p.pts - pictures[0].pts) * 100_000 // 9 for p in pictures]


async def test_times_of_day_come_from_sender_reports(pictures: list[Picture]) -> None:
    with ScriptedCamera(pictures, ends=True, ahead=3600) as camera:
        began = time.time_ns()
        units = await play(camera)
    walls = [unit.wall for unit in units]
    assert all(wall is not None for wall in walls)
    assert abs((walls[0] or 0) - began - 3600 * 10**9) < 50 * 10**6
    offsets = [(unit.wall or 0) - unit.time for unit in units]
    assert max(offsets) - min(offsets) < 10**6


async def test_without_reports_no_time_of_day(pictures: list[Picture]) -> None:
    with ScriptedCamera(pictures, ends=True, reports=False, speed=4) as camera:
        units = await play(camera)
    assert {unit.wall for unit in units} == {None}


async def test_a_camera_that_does_not_know_the_time_is_not_believed(pictures: list[Picture]) -> None:
    with ScriptedCamera(pictures, ends=True, ahead=-50 * 365 * 86_400, speed=4) as camera:
        units = await play(camera)
    assert {unit.wall for unit in units} == {None}


async def test_timestamps_may_wrap(pictures: list[Picture]) -> None:
    with ScriptedCamera(pictures, ends=True, first=2**32 - 45_000, speed=4) as camera:
        units = await play(camera)
    steps = {b.time - a.time for a, b in pairwise(units)}
    assert max(steps) - min(steps) <= 1
    assert len(units) == 30


async def test_a_camera_that_accepts_and_says_nothing_is_given_up(pictures: list[Picture]) -> None:
    options = CameraOptions(open_timeout=0.3)
    with ScriptedCamera(pictures, deaf=True) as camera:
        with pytest.raises(CameraError, match=r"no answer to OPTIONS rtsp://.* within 0\.3 s"):
            await play(camera, options=options)
        with pytest.raises(CameraError, match=r"no answer to OPTIONS rtsp://.* within 0\.3 s"):
            await probe_camera(address(camera.url), options)


async def test_a_camera_that_plays_nothing_is_given_up(pictures: list[Picture]) -> None:
    with ScriptedCamera(pictures, mute_after=0) as camera:
        with pytest.raises(CameraError, match=r"no video within 0\.3 s"):
            await play(camera, options=CameraOptions(open_timeout=0.3))
        with pytest.raises(TransportRefused, match="no video over UDP"):
            await play(camera, "udp")


@pytest.mark.parametrize("kind", ["udp", "tcp"])
async def test_a_camera_that_falls_silent_is_noticed(
    kind: Literal["udp", "tcp"], pictures: list[Picture]
) -> None:
    with (
        ScriptedCamera(pictures, mute_after=10, speed=4) as camera,
        pytest.raises(CameraError, match=r"no video for 0\.5 s"),
    ):
        await play(camera, kind, options=msgspec.structs.replace(QUICK, read_timeout=0.5))


@pytest.mark.parametrize("kind", ["udp", "tcp"])
async def test_a_camera_that_is_killed_is_no_clean_end(
    kind: Literal["udp", "tcp"], pictures: list[Picture]
) -> None:
    with ScriptedCamera(pictures) as camera:

        def kill(units: list[AccessUnit]) -> bool:
            if len(units) > 5:
                camera.stop()
            return False

        with pytest.raises(CameraError, match=r"connection|no video"):
            await play(camera, kind, enough=kill)


async def test_nobody_there() -> None:
    camera = ScriptedCamera([])
    with pytest.raises(CameraError, match="cannot connect"):
        await play(camera)


@pytest.mark.parametrize("host", ["a" * 70 + ".example", "no-such-host.invalid", "127.0.0.1:1"])
async def test_names_that_lead_nowhere(host: str) -> None:
    with pytest.raises(CameraError, match="cannot connect"):
        await probe_camera(address(f"rtsp://{host}/"), QUICK)


async def test_logging_in(pictures: list[Picture]) -> None:
    with ScriptedCamera(pictures, login=("me", "s3/cr@t"), ends=True, speed=4) as camera:
        assert len(await play(camera, login=("me", "s3/cr@t"))) == 30
        with pytest.raises(CameraError, match="refuses the user name or the password") as wrong:
            await play(camera, login=("me", "wr0ng-one"))
        with pytest.raises(CameraError, match="wants a user name"):
            await play(camera)
    assert "wr0ng-one" not in str(wrong.value)


async def test_a_transport_that_is_refused(pictures: list[Picture]) -> None:
    with (
        ScriptedCamera(pictures, transports=("tcp",)) as camera,
        pytest.raises(TransportRefused, match="461"),
    ):
        await play(camera, "udp")


async def test_other_codecs_are_refused(pictures: list[Picture]) -> None:
    with (
        ScriptedCamera(pictures, "vp8", carry=lambda p: []) as camera,
        pytest.raises(
            CameraError, match=r"no H\.264, H\.265, MJPEG or MPEG-4 video, only audio PCMU, video VP8"
        ),
    ):
        await play(camera)


@pytest.mark.parametrize(
    ("host", "networks", "allowed"),
    [
        ("127.0.0.1", [], True),
        ("127.0.0.1", ["127.0.0.0/8"], True),
        ("127.0.0.1", ["10.0.0.0/8"], False),
        ("169.254.169.254", [], False),
        ("[fe80::1]", [], False),
        ("[fd00:ec2::254]", [], False),
    ],
)
async def test_cameras_are_only_where_they_may_be(host: str, networks: list[str], allowed: bool) -> None:
    with pytest.raises(CameraError) as refused:
        await probe_camera(address(f"rtsp://{host}:9/"), CameraOptions(networks=networks))
    assert ("not in a network" in str(refused.value)) is not allowed


def test_a_login_given_apart_wins() -> None:
    where = address("rtsp://u:p@h/a", "me", "mine")
    assert (where.url, where.username, where.password) == ("rtsp://h/a", "me", "mine")


@pytest.mark.parametrize("url", ["http://h/", "rtsp://", "rtsp://h:port/", "rtsp://h:99999/"])
def test_bad_addresses(url: str) -> None:
    with pytest.raises(CameraError):
        address(url)
