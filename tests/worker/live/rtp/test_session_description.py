"""Descriptions as cameras write them."""

import base64
from typing import Any

import pytest

from worker.live.camera_description import CameraError
from worker.live.rtp.session_description import Track, parse_sdp

SPS, PPS = b"\x67\x42\x00\x1e\xab", b"\x68\xce\x38\x80"
SETS = b"\0\0\0\1" + SPS + b"\0\0\0\1" + PPS
VIDEO = "m=video 0 RTP/AVP 96\r\na=rtpmap:96 H264/90000\r\n"


def b64(nal: bytes) -> str:
    return base64.b64encode(nal).decode()


SPROP = f"{b64(SPS)},{b64(PPS)}"


def test_a_whole_description() -> None:
    text = (
        "v=0\r\na=control:rtsp://h/x/\r\nm=video 0 RTP/AVP 98 97\r\na=rtpmap:98 VP8/90000\r\n"
        f"a=rtpmap:97 H264/10000\r\na=fmtp:97 packetization-mode=1;sprop-parameter-sets={SPROP}\r\n"
        "a=control:trackID=1\r\n"
    )
    assert parse_sdp(text) == Track("h264", 97, 10_000, "trackID=1", "rtsp://h/x/", SETS)


@pytest.mark.parametrize(
    "line",
    [
        f"a=fmtp:96 packetization-mode=1; sprop-parameter-sets={SPROP}",
        f"a=fmtp:96 sprop-parameter-sets={SPROP.replace('=', '')}",
        f"a=fmtp:96 sprop-parameter-sets={b64(SPS)}, {b64(PPS)} ;profile-level-id=42001e",
        f"a=fmtp:96 SPROP-Parameter-Sets = {SPROP}",
        f"a=fmtp: 96 sprop-parameter-sets={SPROP}",
        f"a=fmtp:96\tsprop-parameter-sets={SPROP}",
        f"a=fmtp:96 packetization-mode=1\r\na=fmtp:96 sprop-parameter-sets={SPROP}",
        f"a=fmtp:97 sprop-parameter-sets={SPROP}",
        f'a=fmtp:96 sprop-parameter-sets="{SPROP}"',
        f"a=fmtp:96 sprop-parameter-sets={b64(SETS)}",
        f"A=FMTP:96 sprop-parameter-sets={SPROP}",
        f"a=fmtp:96 sprop-parameter-sets={SPROP},",
        f" a=fmtp:96 sprop-parameter-sets={SPROP}  ",
    ],
)
def test_parameter_sets_however_they_are_written(line: str) -> None:
    assert parse_sdp(f"{VIDEO}{line}\r\n").parameters == SETS


def test_parameter_sets_without_padding_in_the_other_alphabet() -> None:
    nal = b"\x67\xfb\xff\xbf\xfe"
    assert "_" in (text := base64.urlsafe_b64encode(nal).decode().rstrip("="))
    assert parse_sdp(f"{VIDEO}a=fmtp:96 sprop-parameter-sets={text}").parameters == b"\0\0\0\1" + nal


@pytest.mark.parametrize("text", ["!!!!", "A", "AAAA", "====", "ä"])
def test_parameter_sets_that_are_none_are_left_out(text: str) -> None:
    line = f"a=fmtp:96 sprop-parameter-sets={text},{b64(PPS)}"
    assert parse_sdp(f"{VIDEO}{line}").parameters == b"\0\0\0\1" + PPS


def test_parameter_sets_of_h265() -> None:
    vps, sps, pps = b"\x40\x01a", b"\x42\x01b", b"\x44\x01c"
    line = f"a=fmtp:96 sprop-pps={b64(pps)};sprop-sps={b64(sps)}; sprop-vps={b64(vps)}"
    track = parse_sdp(f"m=video 0 RTP/AVP 96\na=rtpmap:96 h265/90000\n{line}")
    assert track.codec == "hevc"
    assert track.parameters == b"\0\0\0\1" + vps + b"\0\0\0\1" + sps + b"\0\0\0\1" + pps


@pytest.mark.parametrize("end", ["\r\n", "\n", "\r", "\n\n", " \r\n", "\r\n\0"])
def test_lines_may_end_in_any_way(end: str) -> None:
    text = f"v=0\na=control:*\n{VIDEO}a=control:trackID=1\na=recvonly\n".replace("\r\n", "\n").replace(
        "\n", end
    )
    assert parse_sdp(text) == Track("h264", 96, 90_000, "trackID=1", "*")


@pytest.mark.parametrize(
    ("video", "expected"),
    [
        ("m=video 0 RTP/AVP 96\na=rtpmap:96 h264/90000", ("h264", 96, 90_000)),
        ("m=video 0 RTP/AVP 96\na=rtpmap:96 HEVC/90000", ("hevc", 96, 90_000)),
        ("m=video 0 RTP/AVP 96\na=rtpmap: 96   H264/90000/1", ("h264", 96, 90_000)),
        ("m=video 0 RTP/AVP 96\na=rtpmap:96 H264", ("h264", 96, 90_000)),
        ("m=video 0 RTP/AVP 96\na=rtpmap:96 H264/0", ("h264", 96, 90_000)),
        ("m=video 49170/2 RTP/AVP 96\na=rtpmap:96 H264/90000", ("h264", 96, 90_000)),
        ("m=Video 0 RTP/AVP/TCP 96\na=rtpmap:96 H264/90000", ("h264", 96, 90_000)),
        ("m=video 0 RTP/AVP 26", ("mjpeg", 26, 90_000)),
        ("m=video 0 RTP/AVP 96\na=rtpmap:96 MP4V-ES/90000", ("mpeg4", 96, 90_000)),
        (
            "c=IN IP6 ::1\nm=video 0 RTP/AVP 96\nc=IN IP6 ff02::1\na=rtpmap:96 H264/90000",
            ("h264", 96, 90_000),
        ),
        (f"m=video 0 RTP/AVP 96\na=fmtp:96 sprop-parameter-sets={SPROP}", ("h264", 96, 90_000)),
        ("m=video 0 RTP/AVP 96\na=fmtp:96 packetization-mode=1", ("h264", 96, 90_000)),
        ("m=video 0 RTP/AVP 97\na=fmtp:97 sprop-vps=QAE=", ("hevc", 97, 90_000)),
        (
            "m=application 0 RTP/AVP 107\na=rtpmap:107 vnd.onvif.metadata/90000\n" + VIDEO,
            ("h264", 96, 90_000),
        ),
        ("m=video 0 RTP/AVP 99\na=rtpmap:99 VP9/90000\n" + VIDEO, ("h264", 96, 90_000)),
        ("m=video\n" + VIDEO, ("h264", 96, 90_000)),
    ],
)
def test_formats(video: str, expected: tuple[object, ...]) -> None:
    assert parse_sdp(f"v=0\n{video}\n")[:3] == expected


@pytest.mark.parametrize(
    ("text", "offered"),
    [
        ("", "nothing"),
        (
            "m=audio 0 RTP/AVP 0 8 97\na=rtpmap:97 MPEG4-GENERIC/8000",
            "audio PCMU, audio PCMA, audio MPEG4-GENERIC",
        ),
        ("m=video 0 RTP/AVP 96\na=rtpmap:96 AV1/90000", "video AV1"),
        ("m=video 0 RTP/AVP 33", "video MP2T"),
        ("m=video 0 RTP/SAVP 96\na=rtpmap:96 H264/90000", "video H264 (encrypted)"),
        ("m=video 0 RTP/AVP 96", "video 96"),
        (
            "m=application 0 RTP/AVP 107\na=rtpmap:107 vnd.onvif.metadata/90000",
            "application vnd.onvif.metadata",
        ),
    ],
)
def test_what_is_not_played_is_named(text: str, offered: str) -> None:
    with pytest.raises(CameraError) as refused:
        parse_sdp(text)
    assert str(refused.value) == f"no H.264, H.265, MJPEG or MPEG-4 video, only {offered}"


@pytest.mark.parametrize(
    ("codec", "line", "field", "expected"),
    [
        ("MP4V-ES", "a=fmtp:96 profile-level-id=1;config=000001B0F5", "parameters", b"\0\0\1\xb0\xf5"),
        ("MP4V-ES", "a=fmtp:96 config=000001b0f", "parameters", b"\0\0\1\xb0"),
        ("H264", "a=fmtp:96 packetization-mode=2;sprop-interleaving-depth=5", "disorder", 5),
        ("H264", "a=fmtp:96 packetization-mode=2", "disorder", 0),
        ("H264", "a=fmtp:96 packetization-mode=1", "disorder", -1),
        ("H265", "a=fmtp:96 sprop-max-don-diff=2;sprop-depack-buf-nalus=3", "disorder", 3),
        ("JPEG", "a=x-dimensions: 2560, 1440", "size", (2560, 1440)),
        ("JPEG", "a=framesize:96 2560-1440", "size", (2560, 1440)),
    ],
)
def test_what_a_format_says_of_itself(codec: str, line: str, field: str, expected: Any) -> None:
    track = parse_sdp(f"m=video 0 RTP/AVP 96\na=rtpmap:96 {codec}/90000\n{line}")
    assert getattr(track, field) == expected
