"""A camera from its connection to its chunks: what is handed over, whatever the camera does."""

import asyncio
from itertools import pairwise
from typing import Any

import msgspec
import pytest

from shared.chunks import SECOND
from tests.camera import Answer, Asked, Picture, ScriptedCamera, encode
from tests.support import until
from worker.live.camera_description import CameraOptions, Habits
from worker.live.camera_messages import Ended, FromCameras, Open, Opened, Taken, Told
from worker.live.chunker import Cut
from worker.live.played_camera import BACKLOG, PlayedCamera
from worker.live.rtsp.camera_sockets import OwnSockets

OPTIONS = CameraOptions(open_timeout=3, udp_timeout=0.4, read_timeout=10, latency=0.2)
HOUR = 90_000 * 3600


class Collected:
    """The messages of one camera."""

    def __init__(self) -> None:
        self.all: list[FromCameras] = []
        self.backlog = 0

    def __call__(self, message: FromCameras) -> None:
        self.all.append(message)

    def of(self, kind: Any) -> list[Any]:
        return [message for message in self.all if isinstance(message, kind)]

    @property
    def cuts(self) -> list[Cut]:
        return [taken.cut for taken in self.of(Taken)]

    @property
    def error(self) -> str:
        (ended,) = self.of(Ended)
        return str(ended.error)


async def play(
    url: str, *, options: CameraOptions = OPTIONS, seconds: float = 1.0, limit: float = 20, **order: Any
) -> Collected:
    """Play until the camera's stream ends."""
    collected = Collected()
    wanted = Open(
        camera=1, url=url, username="", password="", options=options,
        duration=round(seconds * SECOND), frames=8, **order,
    )  # fmt: skip
    async with asyncio.timeout(limit):
        await PlayedCamera(wanted, collected, OwnSockets([])).run()
    return collected


@pytest.fixture(scope="module")
def pictures() -> list[Picture]:
    return encode(seconds=4)


@pytest.fixture(scope="module")
def short(pictures: list[Picture]) -> list[Picture]:
    return pictures[:60]


def assert_ordered(cuts: list[Cut], seconds: float = 1) -> None:
    """Chunks of the planned length one after the other, on the stream's clock and on the wall."""
    assert [cut.start - cuts[0].start for cut in cuts] == [
        round(index * seconds * SECOND) for index in range(len(cuts))
    ]
    for before, after in pairwise(cuts):
        assert after.wall_start >= before.wall_end
    assert all(cut.wall_end - cut.wall_start == cut.end - cut.start for cut in cuts)


# Transports ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("transports", "wanted", "used"),
    [(("udp", "tcp"), "auto", "udp"), (("tcp",), "auto", "tcp"), (("udp", "tcp"), "tcp", "tcp")],
)
async def test_udp_first_then_tcp(
    pictures: list[Picture], transports: tuple[str, ...], wanted: Any, used: str
) -> None:
    options = CameraOptions(transport=wanted, latency=0.2)
    with ScriptedCamera(pictures, transports=transports, ends=True, speed=4) as camera:
        collected = await play(camera.url, options=options)
    (opened,) = collected.of(Opened)
    assert (opened.codec, opened.habits.transport) == ("h264", used)
    assert len(collected.cuts) == 4


async def test_a_camera_that_sends_nothing_over_udp_is_asked_for_tcp(pictures: list[Picture]) -> None:
    """A firewall drops every packet."""
    with ScriptedCamera(pictures, ends=True, speed=4) as camera:
        camera.disturb = lambda packets: packets if camera.plays[-1] == "tcp" else []
        camera.reports = False
        collected = await play(camera.url)
        assert camera.plays == ["udp", "tcp"]
        assert len(collected.cuts) == 4
        again = await play(camera.url, habits=collected.of(Opened)[0].habits)
        assert camera.plays == ["udp", "tcp", "tcp"], "what has failed once is not tried again"
    assert len(again.cuts) == 4


async def test_a_camera_that_refuses_udp_although_only_udp_is_wanted(pictures: list[Picture]) -> None:
    with ScriptedCamera(pictures, transports=("tcp",)) as camera:
        collected = await play(camera.url, options=CameraOptions(transport="udp"))
    assert collected.error.endswith("with 461 Unsupported Transport")


async def test_a_camera_that_sends_us_elsewhere_while_it_plays(pictures: list[Picture]) -> None:
    """The chunk under way is handed over; the next begins at the other address."""
    with ScriptedCamera(pictures, ends=True, speed=4) as there:
        redirect = f"REDIRECT * RTSP/1.0\r\nCSeq: 9\r\nLocation: {there.url}\r\n\r\n".encode()
        with ScriptedCamera(pictures, interrupts={50: redirect}, speed=2) as camera:
            collected = await play(camera.url, options=CameraOptions(transport="tcp"))
    assert collected.error == ""
    assert [cut.start // SECOND for cut in collected.cuts] == [0, 1, 0, 1, 2, 3]
    assert len(collected.of(Opened)) == 2


@pytest.mark.parametrize("transport", ["udp", "tcp"])
async def test_mpeg4_plays(transport: Any) -> None:
    film = encode("mpeg4", seconds=2)
    with ScriptedCamera(film, "mpeg4", ends=True, speed=4) as camera:
        collected = await play(camera.url, options=CameraOptions(transport=transport, latency=0.2))
    assert [cut.codec for cut in collected.cuts] == ["mpeg4", "mpeg4"]
    sent = {picture.nals[0] for picture in film}
    assert {data for cut in collected.cuts for run in cut.runs for _, data in run.packets} <= sent


async def test_habits_name_the_form_of_the_track_address(pictures: list[Picture]) -> None:
    def answer(asked: Asked) -> Answer | None:
        unknown = asked.method == "SETUP" and not asked.url.endswith("/live/video?a=b")
        return Answer("404 Not Found") if unknown else None

    options = CameraOptions(transport="tcp")
    with ScriptedCamera(pictures, path="/live?a=b", answer=answer, ends=True, speed=4) as camera:
        collected = await play(camera.url, options=options)
        (opened,) = collected.of(Opened)
        assert opened.habits == Habits(transport="tcp", control=1)


# Times -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("jump", [HOUR, -HOUR, 2**32 - 90_000, 2**31])
async def test_timestamps_that_jump_leave_the_chunks_alone(short: list[Picture], jump: int) -> None:
    with ScriptedCamera(short, jumps={25: jump}, ends=True) as camera:
        collected = await play(camera.url, options=CameraOptions(transport="tcp"), seconds=0.5)
    assert len(collected.cuts) == 4
    assert_ordered(collected.cuts, 0.5)


@pytest.mark.parametrize(
    ("name", "ahead", "clocks"),
    [
        ("right", lambda number: 0, {"camera"}),
        ("never", lambda number: None, {"arrival"}),
        ("late", lambda number: 0.5 if number >= 30 else None, {"arrival", "camera"}),
        ("wrong by years", lambda number: -9 * 365 * 86_400, {"arrival"}),
        ("of no era", lambda number: 2**32 - 2_208_988_800 - 1_700_000_000, {"arrival"}),
        ("jumps ahead", lambda number: 0 if number < 20 else 3600, {"camera"}),
        ("jumps back", lambda number: 0 if number < 20 else -3600, {"camera"}),
        ("to and fro", lambda number: number % 20 * 120, {"camera"}),
    ],
)
async def test_reports_whatever_they_say(
    short: list[Picture], name: str, ahead: Any, clocks: set[str]
) -> None:
    del name
    with ScriptedCamera(short, ahead=ahead, report_every=10, ends=True) as camera:
        collected = await play(camera.url, options=CameraOptions(transport="tcp"), seconds=0.25)
    assert 7 <= len(collected.cuts) <= 8
    assert_ordered(collected.cuts, 0.25)
    assert {cut.clock for cut in collected.cuts} == clocks


async def test_no_chunk_begins_before_the_last_one_of_the_connection_before(pictures: list[Picture]) -> None:
    with ScriptedCamera(pictures, ends=True, speed=4) as camera:
        first = await play(camera.url)
        later = first.cuts[-1].wall_end + 3600 * SECOND
        again = await play(camera.url, after=later)
    assert again.cuts[0].wall_start == later
    assert_ordered(again.cuts)


# What people are told ---------------------------------------------------------------------------------------


async def test_a_stream_joined_without_a_key_frame_is_told_of(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worker.live.entries.INTRA_PATIENCE", SECOND // 2)
    params = "open-gop=1:bframes=2:b-adapt=0:scenecut=0:keyint=30"
    made = encode(seconds=3, preset="medium", params=params)
    plain = [Picture(p.pts, [nal for nal in p.nals if nal[0] & 31 != 6]) for p in made]
    sets = [nal for nal in plain[0].nals if nal[0] & 31 in (7, 8)]
    joined = [Picture(plain[7].pts, [*sets, *plain[7].nals]), *plain[8:]]
    with ScriptedCamera(joined, ends=True) as camera:
        collected = await play(camera.url)
    events = [told.event for told in collected.of(Told)]
    assert "joined without a key frame: the first pictures may be damaged" in events
    assert collected.cuts


async def test_an_error_cuts_the_chunk_off(pictures: list[Picture]) -> None:
    options = msgspec.structs.replace(OPTIONS, read_timeout=0.7)
    with ScriptedCamera(pictures, mute_after=45, speed=2) as camera:
        collected = await play(camera.url, options=options)
    assert collected.error == "no video for 0.7 s"
    assert [cut.error for cut in collected.cuts] == ["", "no video for 0.7 s"]
    assert collected.cuts[1].runs == []


async def test_chunks_are_skipped_while_the_worker_does_not_read(pictures: list[Picture]) -> None:
    collected = Collected()
    collected.backlog = BACKLOG + 1
    order = Open(
        camera=1, url="", username="", password="", options=OPTIONS, duration=SECOND, frames=8,
    )  # fmt: skip
    with ScriptedCamera(pictures, ends=True, speed=2) as camera:
        played = PlayedCamera(msgspec.structs.replace(order, url=camera.url), collected, OwnSockets([]))
        playing = asyncio.create_task(played.run())
        await until(lambda: played._skipped)
        collected.backlog = 0
        await playing
    assert sum(taken.skipped for taken in collected.of(Taken)) + len(collected.cuts) == 4
    assert collected.of(Taken)[0].skipped >= 1
