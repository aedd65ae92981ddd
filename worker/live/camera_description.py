"""What the RTSP client knows of a camera: its address, options, what worked before, and errors."""

from typing import Literal, TypeAlias
from urllib.parse import quote

import msgspec

from shared.addresses import CameraAddress, read_camera_address
from shared.telemetry.redaction import redact

Delivery: TypeAlias = Literal["udp", "tcp", "multicast", "http"]
"""How media comes: over UDP, to us or to a group; over the RTSP connection; over that within HTTP."""
Transport: TypeAlias = Literal["auto", "udp", "tcp", "multicast", "http"]

LONGEST_REASON = 500
LONGEST_SHOWN = 200
"""Characters of a text of the camera's that an error repeats."""

_SENT_AS_IT_IS = "!$%&'()*+,/:;=?@[]|"


class CameraError(Exception):
    """The camera cannot be reached, refuses, or has fallen silent. Its text never holds credentials; what the
    camera says in it is short and printable."""

    def __init__(self, message: str) -> None:
        super().__init__(_printable(message[:LONGEST_REASON]))


class TransportRefused(CameraError):
    """The camera does not send over this transport; another may work."""


class RequestRefused(CameraError):
    """The camera answers a request with an error."""

    def __init__(self, method: str, url: str, status: int, reason: str) -> None:
        super().__init__(f"the camera answers {method} {shown(url)} with {status} {reason}".rstrip())
        self.status = status


class Redirected(CameraError):
    """The camera's video is at another address; `settled`: it has played here for a while."""

    def __init__(self, location: str, *, settled: bool = False) -> None:
        super().__init__(f"the camera redirects to {shown(location)}")
        self.location = location
        self.settled = settled


class CameraOptions(msgspec.Struct, frozen=True, kw_only=True):
    """How to talk to a camera. `open_timeout` seconds to the first packet of video, `udp_timeout` seconds
    without one before TCP is tried, `read_timeout` seconds of silence that end the connection, `latency`
    seconds that a late UDP packet is waited for. `networks` that cameras may be in; none: any but link-local
    ones and the metadata services of clouds. `authorities` (PEM) that certificates are verified by; none: the
    public ones. `unverified_hosts`: hosts whose certificate is not verified, in lower case. A camera's clock
    that differs by more than `clock_tolerance` seconds from ours is not believed."""

    transport: Transport = "auto"
    open_timeout: float = 10.0
    udp_timeout: float = 2.0
    read_timeout: float = 10.0
    latency: float = 2.0
    networks: list[str] = []
    authorities: str = ""
    unverified_hosts: list[str] = []
    clock_tolerance: float = 86_400.0


class Habits(msgspec.Struct, frozen=True, kw_only=True):
    """What worked with a camera, to be tried first when it is played again: the transport, and which of the
    forms of a track's address."""

    transport: Transport = "auto"
    control: int = 0


def address(url: str, username: str = "", password: str = "") -> CameraAddress:
    """Read an RTSP address, as it is sent to a camera: without a fragment, in ASCII. Credentials given apart
    win over those in the address. Raises CameraError."""
    try:
        found = read_camera_address(url)
    except ValueError as error:
        raise CameraError(f"not a usable RTSP address: {error}") from error
    url = quote(found.url.partition("#")[0], safe=_SENT_AS_IT_IS)
    return found._replace(url=url, username=username or found.username, password=password or found.password)


def shown(text: str) -> str:
    """Return a text of the camera's, or an address, as people may read it: short, and without credentials."""
    return redact(_printable(text[: 2 * LONGEST_SHOWN]))[:LONGEST_SHOWN]


def _printable(text: str) -> str:
    return "".join(letter if letter.isprintable() else "?" for letter in text)
