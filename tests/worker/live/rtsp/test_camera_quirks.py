"""Cameras as they are in the field, each with a habit that has kept some client from playing it. Where FFmpeg
plays the same camera, that is checked, too."""

import asyncio
import re
from collections.abc import Callable
from typing import Any

import av
import pytest

from shared.redis.ending import end
from tests.camera import Answer, Asked, Picture, ScriptedCamera, describe, encode
from tests.support import until
from worker.live.camera_description import (
    CameraError,
    CameraOptions,
    Delivery,
    Habits,
    Redirected,
    TransportRefused,
    address,
)
from worker.live.rtp.access_units import AccessUnit
from worker.live.rtsp.rtsp_client import Player, probe_camera
from worker.live.rtsp.rtsp_connection import Exchange
from worker.live.rtsp.rtsp_conversation import follow, redirection
from worker.live.rtsp.session_keep_alive import SessionKeepAlive

QUICK = CameraOptions(open_timeout=3, udp_timeout=0.5, read_timeout=10, latency=0.2)
Script = Callable[[Asked], Answer | None]


@pytest.fixture(scope="module")
def pictures() -> list[Picture]:
    return encode(seconds=1)


class Played:
    """What playing a camera to its end brought."""

    def __init__(self, url: str, options: CameraOptions = QUICK, habits: Habits | None = None) -> None:
        self.units: list[AccessUnit] = []
        self.said: list[Exchange] = []
        self.habits = habits
        self._url, self._options = url, options

    async def run(self, kind: Delivery = "tcp") -> "Played":
        async def attempt(where: Any) -> None:
            player = Player(where, self._options, kind, self.habits, self.said.append)
            try:
                await player.play(self.units.append, lambda: None)
            finally:
                self.habits = player.habits
                await player.close()

        await follow(address(self._url), attempt)
        return self


async def play(url: str, **options: Any) -> list[AccessUnit]:
    return (await Played(url, **options).run()).units


def ffmpeg_plays(url: str) -> bool:
    """Whether FFmpeg gets pictures from the camera over TCP."""
    try:
        options = {"rtsp_transport": "tcp", "analyzeduration": "200000"}
        with av.open(url, options=options, timeout=3) as container:
            return next(container.decode(video=0), None) is not None
    except av.error.FFmpegError:
        return False


def only(method: str, *answers: Answer | None) -> Script:
    """Answer a method so, each time with the next answer, the last one for ever; None: as usual."""
    left = list(answers)

    def answer(asked: Asked) -> Answer | None:
        if asked.method != method:
            return None
        return left.pop(0) if len(left) > 1 else left[0]

    return answer


# Addresses with a query ------------------------------------------------------------------------------------

QUERY = "/cam/realmonitor?channel=1&subtype=0"


def knows(*tracks: str, base: str = "") -> Script:
    """A camera that knows a track by these addresses only, which begin with the path."""

    def answer(asked: Asked) -> Answer | None:
        path = re.sub(r"^rtsp://[^/]*", "", asked.url)
        if asked.method == "DESCRIBE" and not base:
            return Answer(body=describe("h264"))
        if asked.method == "DESCRIBE":
            return Answer(headers={"Content-Base": base}, body=describe("h264"))
        known = path.replace("audio", "video") in tracks
        return Answer("404 Not Found") if asked.method == "SETUP" and not known else None

    return answer


@pytest.mark.parametrize(
    ("answer", "controls"),
    [
        (knows(f"{QUERY}/video"), True),
        (knows("/cam/realmonitor/video?channel=1&subtype=0"), False),
        (knows(f"{QUERY}/video", base="rtsp://127.0.0.1/cam/realmonitor?channel=1&subtype=0/"), True),
        (knows("/cam/realmonitor/video", base="rtsp://127.0.0.1/cam/realmonitor/"), True),
        (knows(f"{QUERY}/video", base="rtsp://127.0.0.1/other/"), False),
    ],
)
async def test_addresses_with_a_query(pictures: list[Picture], answer: Script, controls: bool) -> None:
    with ScriptedCamera(pictures, path=QUERY, answer=answer, ends=True, speed=4) as camera:
        assert len(await play(camera.url)) == 30
        assert camera.asked("DESCRIBE")[0].endswith(QUERY)
    with ScriptedCamera(pictures, path=QUERY, answer=answer) as camera:
        assert ffmpeg_plays(camera.url) == controls


async def test_what_worked_is_asked_first_the_next_time(pictures: list[Picture]) -> None:
    answer = knows("/cam/realmonitor/video?channel=1&subtype=0")
    with ScriptedCamera(pictures, path=QUERY, answer=answer, ends=True, speed=4) as camera:
        first = await Played(camera.url).run()
        assert len(camera.asked("SETUP")) == 2
        assert first.habits == Habits(transport="tcp", control=1)
        await Played(camera.url, habits=first.habits).run()
        assert len(camera.asked("SETUP")) == 3


async def test_a_track_that_nobody_knows_is_named_by_its_likeliest_address(pictures: list[Picture]) -> None:
    with ScriptedCamera(pictures, path=f"{QUERY}&token=abc", answer=knows()) as camera:
        with pytest.raises(CameraError) as refused:
            await play(camera.url)
        shown = camera.url.replace("abc", "***")
        assert str(refused.value) == f"the camera answers SETUP {shown} with 404 Not Found"


async def test_a_camera_that_plays_tracks_only(pictures: list[Picture]) -> None:
    """PLAY of the whole session is refused."""

    def answer(asked: Asked) -> Answer | None:
        if asked.method == "PLAY" and not asked.url.endswith("/video"):
            return Answer("460 Only aggregate operation allowed")
        return None

    with ScriptedCamera(pictures, answer=answer, ends=True, speed=4) as camera:
        assert len(await play(camera.url)) == 30


# Staying alive ---------------------------------------------------------------------------------------------


def short(asked: Asked, public: str) -> Answer | None:
    """A camera whose sessions last a second."""
    if asked.method == "OPTIONS":
        return Answer(headers={"Public": public} if public else {})
    if asked.method == "SETUP":
        transport = "RTP/AVP/TCP;unicast;interleaved=2-3"
        return Answer(headers={"Session": "12;timeout=1", "Transport": transport})
    return None


@pytest.mark.parametrize(
    ("public", "refuses", "expected"),
    [
        ("OPTIONS, DESCRIBE, SETUP, PLAY, GET_PARAMETER", None, ["GET_PARAMETER", "GET_PARAMETER"]),
        ("OPTIONS, DESCRIBE, SETUP, PLAY", None, ["OPTIONS", "OPTIONS"]),
        ("", None, ["GET_PARAMETER", "GET_PARAMETER"]),
        ("", "405 Method Not Allowed", ["GET_PARAMETER", "OPTIONS", "OPTIONS"]),
        ("GET_PARAMETER", "501 Not Implemented", ["GET_PARAMETER", "OPTIONS", "OPTIONS"]),
    ],
)
async def test_a_session_is_renewed_by_what_the_camera_knows(
    pictures: list[Picture],
    monkeypatch: pytest.MonkeyPatch,
    public: str,
    refuses: str | None,
    expected: list[str],
) -> None:
    monkeypatch.setattr("worker.live.rtsp.rtsp_client.SHORTEST_RENEWAL", 0.2)

    def renewals() -> list[Asked]:
        methods = [asked.method for asked in camera.requests]
        after = camera.requests[methods.index("PLAY") + 1 :] if "PLAY" in methods else []
        return [asked for asked in after if asked.method != "TEARDOWN"]

    def answer(asked: Asked) -> Answer | None:
        return Answer(refuses) if refuses and asked.method == "GET_PARAMETER" else short(asked, public)

    with ScriptedCamera(pictures, answer=answer) as camera:
        playing = asyncio.create_task(Played(camera.url).run())
        await until(lambda: len(renewals()) >= len(expected))
        await end([playing])
    # How many there are by then depends on the machine.
    assert [asked.method for asked in renewals()][: len(expected)] == expected
    assert {asked.method for asked in renewals()[len(expected) :]} <= {expected[-1]}
    assert {asked.headers["session"] for asked in renewals()} == {"12"}


async def test_a_session_that_the_camera_has_forgotten_ends(pictures: list[Picture]) -> None:
    def answer(asked: Asked) -> Answer | None:
        gone = Answer("454 Session Not Found")
        return gone if asked.method == "GET_PARAMETER" else short(asked, "GET_PARAMETER")

    with (
        ScriptedCamera(pictures, answer=answer) as camera,
        pytest.raises(CameraError, match=r"the camera has ended the session: .* 454 Session Not Found"),
    ):
        await play(camera.url)


def test_what_is_offered_is_read_leniently() -> None:
    assert SessionKeepAlive("options,Get_Parameter").methods == ["GET_PARAMETER", "OPTIONS"]
    assert SessionKeepAlive(" OPTIONS ").methods == ["OPTIONS"]


# Redirections ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", ["301 Moved Permanently", "302 Moved", "305 Use Proxy"])
@pytest.mark.parametrize("method", ["OPTIONS", "DESCRIBE", "SETUP", "PLAY"])
async def test_redirections_are_followed(pictures: list[Picture], status: str, method: str) -> None:
    with ScriptedCamera(pictures, path="/there", ends=True, speed=4) as there:
        answer = only(method, Answer(status, {"Location": there.url}))
        with ScriptedCamera(pictures, answer=answer) as camera:
            assert len(await play(camera.url)) == 30
        assert there.asked("DESCRIBE") == [there.url]


async def test_a_camera_that_sends_us_elsewhere_while_it_plays(pictures: list[Picture]) -> None:
    with ScriptedCamera(pictures, path="/there", ends=True, speed=4) as there:
        redirect = f"REDIRECT * RTSP/1.0\r\nCSeq: 9\r\nLocation: {there.url}\r\n\r\n".encode()
        with ScriptedCamera(pictures, interrupts={10: redirect}) as camera:
            assert len(await play(camera.url)) in (
                40,
                41,
            )  # of the first 10, and 1 that came with the request


async def test_no_more_than_five_redirections(pictures: list[Picture]) -> None:
    with ScriptedCamera(pictures) as camera:
        camera.answer = only("DESCRIBE", Answer("302 Moved", {"Location": camera.url}))
        with pytest.raises(CameraError, match="more than 5 redirections"):
            await probe_camera(address(camera.url), QUICK)
        assert len(camera.asked("DESCRIBE")) == 6


async def test_a_redirection_to_where_no_camera_may_be(pictures: list[Picture]) -> None:
    answer = only("DESCRIBE", Answer("302 Moved", {"Location": "rtsp://169.254.169.254/latest"}))
    with (
        ScriptedCamera(pictures, answer=answer) as camera,
        pytest.raises(CameraError, match="not in a network that cameras may be in"),
    ):
        await play(camera.url)


@pytest.mark.parametrize(
    ("location", "expected"),
    [
        ("rtsp://cam:8554/b", ("rtsp://cam:8554/b", "me", "secret")),
        ("rtsp://CAM/b", ("rtsp://CAM/b", "me", "secret")),
        ("/b?c=d", ("rtsp://cam/b?c=d", "me", "secret")),
        ("rtsps://cam/b", ("rtsps://cam/b", "me", "secret")),
        ("rtsp://other/b", ("rtsp://other/b", "", "")),
        ("rtsp://you:own@other/b", ("rtsp://other/b", "you", "own")),
    ],
)
def test_credentials_go_to_the_same_host_only(location: str, expected: tuple[str, str, str]) -> None:
    found = redirection(address("rtsp://me:secret@cam/a"), location)
    assert (found.url, found.username, found.password) == expected


def test_credentials_do_not_go_from_tls_to_plain_text() -> None:
    assert redirection(address("rtsps://me:secret@cam/a"), "rtsp://cam/a").password == ""


@pytest.mark.parametrize("location", ["http://cam/", "cam", "rtsp://", "rtsp://h/\x00"])
def test_a_redirection_to_nowhere(location: str) -> None:
    with pytest.raises(CameraError, match="the camera redirects to"):
        redirection(address("rtsp://me:secret@cam/a"), location)


# Refusals --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "status"),
    [("DESCRIBE", "404 Not Found"), ("SETUP", "500 Internal Error"), ("PLAY", "503 Service Unavailable")],
)
async def test_a_refusal_names_method_address_and_status(
    pictures: list[Picture], method: str, status: str
) -> None:
    with ScriptedCamera(pictures, answer=only(method, Answer(status))) as camera:
        with pytest.raises(CameraError) as refused:
            await play(camera.url.replace("//", "//me:s3cret@") + "?password=s3cret")
        text = str(refused.value)
    assert text.startswith(f"the camera answers {method} rtsp://127.0.0.1:")
    assert text.endswith(f" with {status}")
    assert "s3cret" not in text


@pytest.mark.parametrize("status", ["404 Not Found", "501 Not Implemented"])
async def test_a_camera_that_knows_no_options(pictures: list[Picture], status: str) -> None:
    with ScriptedCamera(pictures, answer=only("OPTIONS", Answer(status)), ends=True, speed=4) as camera:
        assert len(await play(camera.url)) == 30


async def test_a_camera_that_breaks_off_names_what_was_asked(pictures: list[Picture]) -> None:
    def answer(asked: Asked) -> Answer | None:
        if asked.method == "SETUP":
            raise ConnectionError
        return None

    with (
        ScriptedCamera(pictures, answer=answer) as camera,
        pytest.raises(CameraError, match=r"no answer to SETUP rtsp://\S+: the camera closed the connection"),
    ):
        await play(camera.url)


async def test_a_range_that_is_refused_is_left_out(pictures: list[Picture]) -> None:
    def answer(asked: Asked) -> Answer | None:
        refused = asked.method == "PLAY" and "range" in asked.headers
        return Answer("457 Invalid Range") if refused else None

    with ScriptedCamera(pictures, answer=answer, ends=True, speed=4) as camera:
        assert len(await play(camera.url)) == 30


@pytest.mark.parametrize("method", ["SETUP", "PLAY"])
async def test_a_transport_that_is_refused_late(pictures: list[Picture], method: str) -> None:
    answer = only(method, Answer("461 Unsupported Transport"))
    with ScriptedCamera(pictures, answer=answer) as camera, pytest.raises(TransportRefused, match="461"):
        await Played(camera.url).run("udp")


async def test_a_camera_that_answers_udp_with_tcp(pictures: list[Picture]) -> None:
    answer = only("SETUP", Answer(headers={"Transport": "RTP/AVP/TCP;interleaved=0-1", "Session": "1"}))
    with ScriptedCamera(pictures, answer=answer) as camera, pytest.raises(TransportRefused, match="with TCP"):
        await Played(camera.url).run("udp")


# Other ways ------------------------------------------------------------------------------------------------


async def test_rtsp_through_http(pictures: list[Picture]) -> None:
    with ScriptedCamera(pictures, login=("me", "s3cret"), ends=True, speed=4) as camera:
        played = await Played(camera.url.replace("//", "//me:s3cret@") + "?a=b").run("http")
        assert len(played.units) == 30
        assert [asked.method for asked in camera.requests[:3]] == ["GET", "POST", "OPTIONS"]
        get, post = camera.requests[:2]
    assert get.url == post.url == "/live?a=b"
    assert get.headers["x-sessioncookie"] == post.headers["x-sessioncookie"]


async def test_a_tunnel_that_wants_a_login(pictures: list[Picture]) -> None:
    def answer(asked: Asked) -> Answer | None:
        if asked.method not in ("GET", "POST") or "authorization" in asked.headers:
            return None
        return Answer("401 Unauthorized", {"WWW-Authenticate": 'Basic realm="x"'})

    with ScriptedCamera(pictures, answer=answer, ends=True, speed=4) as camera:
        played = await Played(camera.url.replace("//", "//me:s3cret@")).run("http")
        assert len(played.units) == 30
        token = next(asked for asked in camera.requests if asked.method == "POST").headers["authorization"]
        assert token == "Basic bWU6czNjcmV0"
        with pytest.raises(CameraError, match="wants a user name"):
            await Played(camera.url).run("http")


async def test_a_camera_without_a_tunnel(pictures: list[Picture]) -> None:
    with (
        ScriptedCamera(pictures, answer=only("GET", Answer("404 Not Found"))) as camera,
        pytest.raises(CameraError, match="the camera answers HTTP GET /live with 404 Not Found"),
    ):
        await Played(camera.url).run("http")


async def test_a_tunnel_that_breaks_ends_the_connection(pictures: list[Picture]) -> None:
    with ScriptedCamera(pictures) as camera:

        async def stop() -> None:
            await asyncio.sleep(0.3)
            camera.stop()

        stopping = asyncio.create_task(stop())
        with pytest.raises(CameraError, match=r"connection|no video"):
            await Played(camera.url).run("http")
        await stopping


async def test_multicast(pictures: list[Picture]) -> None:
    with ScriptedCamera(pictures, ends=True, speed=2) as camera:
        played = await Played(camera.url).run("multicast")
    assert [list(unit.nals) for unit in played.units] == [picture.nals for picture in pictures]
    assert played.units[0].wall


@pytest.mark.parametrize(
    ("transport", "reason"),
    [
        ("RTP/AVP;multicast;destination=127.0.0.1;port=5000-5001", "multicast group is 127.0.0.1"),
        ("RTP/AVP;multicast;destination=239.1.1.1;port=80-81", "ports 80 and 81"),
        ("RTP/AVP;multicast;port=5000-5001", "names no multicast group"),
        ("RTP/AVP;unicast;client_port=5000-5001", "names no multicast group"),
    ],
)
async def test_multicast_that_cannot_be(pictures: list[Picture], transport: str, reason: str) -> None:
    answer = only("SETUP", Answer(headers={"Transport": transport, "Session": "1"}))
    with ScriptedCamera(pictures, answer=answer) as camera, pytest.raises(TransportRefused, match=reason):
        await Played(camera.url).run("multicast")


# On the wire -----------------------------------------------------------------------------------------------


async def test_stray_bytes_between_packets(pictures: list[Picture]) -> None:
    stray = {5: b"\r\n", 9: bytes(50), 12: b"junk without end", 20: b"\x00" * 3000}
    with ScriptedCamera(pictures, interrupts=stray, ends=True, speed=4) as camera:
        assert len(await play(camera.url)) == 30


async def test_a_camera_that_asks_something_of_us_is_answered(pictures: list[Picture]) -> None:
    asks = {
        5: b"GET_PARAMETER rtsp://x RTSP/1.0\r\nCSeq: 3\r\nSession: 7\r\n\r\n",
        9: b"ANNOUNCE rtsp://x RTSP/1.0\r\nCSeq: 4\r\nContent-Length: 4\r\n\r\nv=0\n",
        12: b"RECORD rtsp://x RTSP/1.0\r\nCSeq: 5\r\n\r\n",
    }
    with ScriptedCamera(pictures, interrupts=asks, ends=True, speed=4) as camera:
        assert len(await play(camera.url)) == 30


async def test_a_camera_that_ends_the_session(pictures: list[Picture]) -> None:
    ends = {10: b"TEARDOWN rtsp://x RTSP/1.0\r\nCSeq: 3\r\n\r\n"}
    with (
        ScriptedCamera(pictures, interrupts=ends) as camera,
        pytest.raises(CameraError, match="the camera ends the session"),
    ):
        await play(camera.url)


async def test_replies_without_a_number(pictures: list[Picture]) -> None:
    with ScriptedCamera(pictures, ends=True, speed=4) as camera:
        camera.answer = lambda asked: Answer(headers={"CSeq": ""}) if asked.method == "OPTIONS" else None
        assert len(await play(camera.url)) == 30


async def test_media_on_another_channel_than_was_agreed(pictures: list[Picture]) -> None:
    transport = "RTP/AVP/TCP;unicast;interleaved=0-1"  # and sends on 2 and 3
    answer = only("SETUP", Answer(headers={"Session": "7", "Transport": transport}))
    with ScriptedCamera(pictures, answer=answer, ends=True, speed=4) as camera:
        units = await play(camera.url)
    assert len(units) == 30
    assert units[0].wall


async def test_another_payload_type_than_was_announced(pictures: list[Picture]) -> None:
    sdp = describe("h264").replace("96", "97")
    with (
        ScriptedCamera(pictures, sdp=sdp) as camera,
        pytest.raises(CameraError, match=r"no video within 0\.5 s: packets of payload type 96 came, 97 was"),
    ):
        await play(camera.url, options=CameraOptions(open_timeout=0.5))


async def test_the_conversation_holds_no_credentials(pictures: list[Picture]) -> None:
    with ScriptedCamera(pictures, login=("me", "s3cret"), ends=True, speed=4) as camera:
        played = await Played(camera.url.replace("//", "//me:s3cret@")).run()
    methods = [exchange.method for exchange in played.said]
    assert methods == ["OPTIONS", "OPTIONS", "DESCRIBE", "SETUP", "PLAY", "TEARDOWN"]
    assert [exchange.reply.status if exchange.reply else 0 for exchange in played.said][:2] == [401, 200]
    assert played.said[1].headers["Authorization"] == "***"
    assert "s3cret" not in str(played.said)


async def test_a_redirection_is_an_error_for_whoever_does_not_follow(pictures: list[Picture]) -> None:
    answer = only("DESCRIBE", Answer("302 Moved", {"Location": "rtsp://me:s3cret@other/live"}))
    with ScriptedCamera(pictures, answer=answer) as camera:
        player = Player(address(camera.url), QUICK, "tcp")
        with pytest.raises(Redirected) as redirected:
            await player.describe()
        await player.close()
    assert str(redirected.value) == "the camera redirects to rtsp://other/live"
