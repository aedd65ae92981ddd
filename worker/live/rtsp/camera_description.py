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


LONGEST_DESCRIPTION = 64 << 10
MOST_MEDIA, MOST_FORMATS, MOST_PARAMETER_SETS = 32, 64, 16
LONGEST_REASON = 500
LONGEST_CONTROL = 2048
DEFAULT_RATE = 90_000
_MEDIA = re.compile(r"^(?=m=)", re.MULTILINE)
_RTPMAP = re.compile(r"^a=rtpmap:([0-9]{1,3}) ([^/\s]{1,64})(?:/([0-9]{1,9}))?", re.MULTILINE)
_CONTROL = re.compile(r"^a=control:(\S+)", re.MULTILINE)
_FORMAT = re.compile(r"^a=fmtp:([0-9]{1,3}) (.*)$", re.MULTILINE)
_PARAMETER_SETS = re.compile(r"\b(sprop-(?:vps|sps|pps|parameter-sets))=([^;\s]+)")


class CameraError(Exception):
    """The camera cannot be reached, refuses, or has fallen silent. Its text never holds credentials; what the
    camera says in it is short and printable."""

    def __init__(self, message: str) -> None:
        shown = message[:LONGEST_REASON]
        super().__init__("".join(letter if letter.isprintable() else "?" for letter in shown))


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
    session, *media = _MEDIA.split(text[:LONGEST_DESCRIPTION].replace("\r\n", "\n"))
    found = []
    base = _control(session, base, base)
    for section in media[:MOST_MEDIA]:
        kind, _, _, *formats = [*section.partition("\n")[0][2:].split(), "", "", ""][: 3 + MOST_FORMATS]
        named = {number: (name, rate) for number, name, rate in _RTPMAP.findall(section)}
        found += [f"{kind} {named.get(number, (number,))[0]}" for number in formats if number]
        for number in formats if kind == "video" else ():
            name, rate = named.get(number, ("", ""))
            if (codec := CODECS.get(name.upper())) and int(number) < 128:
                return Track(
                    codec,
                    int(number),
                    int(rate or 0) or DEFAULT_RATE,
                    _control(section, base, base),
                    _parameter_sets(section, number),
                )
    raise CameraError(f"no H.264 or H.265 video, only {', '.join(found) or 'nothing'}")


def _control(section: str, base: str, default: str) -> str:
    """RFC 2326, C.1.1."""
    control = _CONTROL.search(section)
    if not control or control[1] == "*":
        return default
    named = str(control[1])
    if len(named) > LONGEST_CONTROL:
        raise CameraError(f"its description has an address of {len(named)} characters")
    if named.lower().startswith("rtsp://"):
        return named
    try:
        return urljoin(base if base.endswith("/") else f"{base}/", named)
    except ValueError as error:
        raise CameraError(f"its description has an address that is none: {named}") from error


def _parameter_sets(section: str, number: str) -> bytes:
    line = next((text for format_, text in _FORMAT.findall(section) if format_ == number), "")
    given = dict(_PARAMETER_SETS.findall(line))
    found = b""
    for name in ("sprop-vps", "sprop-sps", "sprop-pps", "sprop-parameter-sets"):
        for part in given.get(name, "").split(",", MOST_PARAMETER_SETS)[:MOST_PARAMETER_SETS]:
            with contextlib.suppress(ValueError):
                found += START_CODE + base64.b64decode(part) if part else b""
    return found
