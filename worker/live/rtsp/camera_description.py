"""A camera as a client knows it: where it is, how to talk to it, and the video that it offers (RFC 8866)."""

import base64
import contextlib
import re
from typing import Literal, NamedTuple, TypeAlias
from urllib.parse import urljoin

import msgspec

from shared.addresses import CameraAddress, read_camera_address
from worker.live.rtsp.rtp import START_CODE

Transport: TypeAlias = Literal["auto", "udp", "tcp"]

CODECS = {"H264": "h264", "H265": "hevc", "HEVC": "hevc"}


class CameraError(Exception):
    """The camera cannot be reached, refuses, or has fallen silent. Its text never holds credentials."""


class TransportRefused(CameraError):
    """The camera does not send over this transport; another one may do."""


class CameraOptions(msgspec.Struct, frozen=True, kw_only=True):
    """How to talk to a camera. `open_timeout` seconds to the first packet of video, `udp_timeout` seconds
    without one before TCP is tried, `read_timeout` seconds of silence that end the connection, `latency`
    seconds that a late UDP packet is waited for. `networks` that cameras may be in; none: any but link-local
    ones and the metadata services of clouds."""

    transport: Transport = "auto"
    open_timeout: float = 10.0
    udp_timeout: float = 2.0
    read_timeout: float = 10.0
    latency: float = 2.0
    networks: list[str] = []


def address(url: str, username: str = "", password: str = "") -> CameraAddress:
    """Read an RTSP address. Credentials given apart win over those in the address. Raises CameraError."""
    try:
        found = read_camera_address(url)
    except ValueError as error:
        raise CameraError(f"not a usable RTSP address: {error}") from error
    return found._replace(username=username or found.username, password=password or found.password)


class Track(NamedTuple):
    """The video of a session description. `parameters` are its parameter sets in Annex B form."""

    codec: str
    payload_type: int
    clock_rate: int
    control: str
    parameters: bytes


def parse_sdp(text: str, base: str) -> Track:
    """The first H.264 or H.265 track (RFC 8866). Raises CameraError naming what there is instead."""
    session, *media = re.split(r"(?m)^(?=m=)", text.replace("\r\n", "\n"))
    found = []
    base = _control(session, base, base)
    for section in media:
        kind, _, _, *formats = section.partition("\n")[0][2:].split()
        names = dict(re.findall(r"(?m)^a=rtpmap:(\d+) ([^/\s]+)", section))
        found += [f"{kind} {names.get(number, number)}" for number in formats]
        for number in formats if kind == "video" else ():
            if codec := CODECS.get(names.get(number, "").upper()):
                rate = re.search(rf"(?m)^a=rtpmap:{number} [^/\s]+/(\d+)", section)
                return Track(
                    codec,
                    int(number),
                    int(rate[1]) if rate else 90_000,
                    _control(section, base, base),
                    _parameter_sets(section, number),
                )
    raise CameraError(f"no H.264 or H.265 video, only {', '.join(found) or 'nothing'}")


def _control(section: str, base: str, default: str) -> str:
    """RFC 2326, C.1.1."""
    control = re.search(r"(?m)^a=control:(\S+)", section)
    if not control or control[1] == "*":
        return default
    named = str(control[1])
    if named.lower().startswith("rtsp://"):
        return named
    return urljoin(base if base.endswith("/") else f"{base}/", named)


def _parameter_sets(section: str, number: str) -> bytes:
    line = re.search(rf"(?m)^a=fmtp:{number} (.*)$", section)
    found = b""
    for name in ("sprop-vps", "sprop-sps", "sprop-pps", "sprop-parameter-sets"):
        value = re.search(rf"{name}=([^;\s]+)", line[1]) if line else None
        for part in value[1].split(",") if value else ():
            with contextlib.suppress(ValueError):
                found += START_CODE + base64.b64decode(part)
    return found
