"""Replies of cameras that mean harm, or are broken: each ends in a CameraError, soon, and nothing grows."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.live.camera_description import CameraError, CameraOptions, address
from worker.live.rtp.session_description import parse_sdp
from worker.live.rtsp.control_address import base_address, control_addresses
from worker.live.rtsp.rtsp_client import probe_camera
from worker.live.rtsp.rtsp_connection import Connection, Reply
from worker.live.rtsp.rtsp_login import RtspLogin

QUICK = CameraOptions(open_timeout=3, networks=["127.0.0.0/8"])


@asynccontextmanager
async def camera(reply: bytes) -> AsyncIterator[str]:
    """The address of a camera that gives one reply to DESCRIBE, and then goes."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"OPTIONS ")
        writer.write(b"RTSP/1.0 200 OK\r\nCSeq: 1\r\n\r\n")
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"DESCRIBE ")
        writer.write(reply)
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield f"rtsp://user:pass@127.0.0.1:{server.sockets[0].getsockname()[1]}/live"


def described(sdp: bytes, more: bytes = b"") -> bytes:
    return b"RTSP/1.0 200 OK\r\nCSeq: 2\r\n%sContent-Length: %d\r\n\r\n%s" % (more, len(sdp), sdp)


@pytest.mark.parametrize(
    "reply",
    [
        b"RTSP/1.0 404 " + b"a." * 60_000 + b"\r\nCSeq: 2\r\n\r\n",
        b"RTSP/1.0 404 " + b"a." * 600_000 + b"\r\nCSeq: 2\r\n\r\n",
        b"RTSP/1.0 404 \x1b[2J\x07gone\r\nCSeq: 2\r\n\r\n",
        b"RTSP/1.0 401 No\r\nCSeq: 2\r\nWWW-Authenticate: Digest " + b"a" * 100_000 + b"\r\n\r\n",
        b"RTSP/1.0 200 OK\r\nCSeq: 2\r\nContent-Length: " + b"9" * 5000 + b"\r\n\r\n",
        b"RTSP/1.0 200 OK\r\nCSeq: 2\r\nContent-Length: \xc2\xb2\r\n\r\n",
        b"RTSP/1.0 200 OK\r\nCSeq: " + b"1" * 5000 + b"\r\n\r\n",
        b"RTSP/1.0 \xb2\xb3\xb9 OK\r\nCSeq: 2\r\n\r\n",
        described(b"m=video"),
        described(b"m="),
        described(b"m=video 0 RTP/AVP " + b"9" * 5000 + b"\na=rtpmap:" + b"9" * 5000 + b" H264/90000"),
        described(b"m=video 0 RTP/AVP 999\na=rtpmap:999 H264/90000"),
        described(b"m=video 0 RTP/AVP 96\na=rtpmap:96 H264/90000\na=control:" + b"x" * 60_000),
        described(b"m=audio 0 RTP/AVP" + b" 0" * 40_000),
        described(b"m=audio 0 RTP/AVP 0\n" * 6_000),
    ],
)
async def test_a_reply_that_cannot_be_used_is_a_short_and_printable_error(reply: bytes) -> None:
    began = time.process_time()
    async with camera(reply) as url:
        with pytest.raises(CameraError) as refused:
            await probe_camera(address(url), QUICK)
    assert len(str(refused.value)) <= 500
    assert str(refused.value).isprintable()
    assert time.process_time() - began < 1.5  # the worst of these once took minutes


def test_a_clock_that_does_not_tick_is_taken_to_be_the_usual_one() -> None:
    track = parse_sdp("m=video 0 RTP/AVP 96\na=rtpmap:96 H264/0")
    assert track.clock_rate == 90_000


def test_only_so_many_parameter_sets_are_read() -> None:
    sets = ",".join(["Z0Kq"] * 10_000)
    text = f"m=video 0 RTP/AVP 96\na=rtpmap:96 H264/90000\na=fmtp:96 sprop-parameter-sets={sets}"
    assert len(parse_sdp(text).parameters) == 16 * 7


@given(st.text(st.sampled_from("m=videoaudio 0123456789RTP/AVH264:\r\n\0[]-;,*"), max_size=300))
def test_any_description_is_a_track_or_an_error(text: str) -> None:
    for begin in ("", "m=video 0 RTP/AVP 96\na=rtpmap:96 H264/90000\na="):
        try:
            track = parse_sdp(begin + text)
        except CameraError:
            continue
        assert 0 <= track.payload_type < 128
        assert track.clock_rate > 0


@given(st.binary(max_size=400), st.integers(1, 50))
async def test_any_bytes_are_survived(data: bytes, size: int) -> None:
    connection = Connection(lambda channel, packet: None, lambda method, headers: None)
    for start in range(0, len(data), size):
        connection.data_received(data[start : start + size])
    connection.data_received(b"RTSP/1.0 200 OK\r\nCSeq: 0\r\n\r\n")


@given(st.text(st.sampled_from('Digestbac =",\r\t\\realmnoncqopMD5-SHA256algorithm'), max_size=300))
def test_any_challenge_is_answered_or_refused(text: str) -> None:
    login = RtspLogin("user", "pass")
    try:
        login.learn(Reply(401, "", {"www-authenticate": [f"Digest {text}"]}, ""))
    except CameraError:
        return
    assert login.headers("DESCRIBE", "rtsp://h/")["Authorization"].startswith("Digest ")


@given(st.text(max_size=60), st.text(st.sampled_from("rtsp:/[]?#@x1&="), max_size=60))
def test_any_control_address_is_asked_for(control: str, base: str) -> None:
    for text in (base, f"rtsp://{base}", f"/{base}"):
        found = control_addresses(base_address("rtsp://h/live?a=b", text), "rtsp://h/live?a=b", control)
        assert 1 <= len(found) <= 8
