"""The video that a camera offers: its session description (SDP, RFC 8866), read as leniently as cameras
write it."""

import base64
import binascii
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from worker.live.camera_description import CameraError, shown

START_CODE = b"\0\0\0\1"
CODECS = {"H264": "h264", "H265": "hevc", "HEVC": "hevc", "JPEG": "mjpeg", "MP4V-ES": "mpeg4"}
"""Names in a description and FFmpeg's names of what can be played."""
PLAYED = "H.264, H.265, MJPEG or MPEG-4"
STATIC = {
    0: "PCMU", 3: "GSM", 8: "PCMA", 9: "G722", 14: "MPA",
    26: "JPEG", 31: "H261", 32: "MPV", 33: "MP2T", 34: "H263",
}  # fmt: skip
"""Payload types that need no rtpmap (RFC 3551, 6)."""
CLOCK_RATE = 90_000
MOST_LINES, MOST_MEDIA, MOST_FORMATS, MOST_PARAMETER_SETS = 2000, 32, 64, 16
LONGEST_NAME = 32
LONGEST_CONTROL = 2048
_LINE_ENDS = re.compile(r"[\r\n\0]")
_PAYLOAD_TYPE = re.compile(r"[0-9]{1,3}")
_RATE = re.compile(r"[0-9]{1,9}")
_HEX = re.compile(r"[0-9a-f]*")
_START_CODES = re.compile(rb"\x00\x00\x00?\x01")
_DIMENSIONS = re.compile(r"([0-9]{1,5}) ?[,x] ?([0-9]{1,5})")
_FRAME_SIZE = re.compile(r"[0-9]{1,3} ([0-9]{1,5}) ?[-x] ?([0-9]{1,5})")
_PARAMETER_SETS = {"h264": (31, 0, {7, 8, 13}), "hevc": (63, 1, {32, 33, 34})}


class Track(NamedTuple):
    """The video of a description. `codec` is FFmpeg's name; `parameters` is what its decoder must know first,
    parameter sets in Annex B form; `control` and `session` are the control addresses as they stand there.
    `disorder` NAL units may be sent before their turn, -1 where they have no numbers. `size` is the picture's
    in pixels where the description tells."""

    codec: str
    payload_type: int
    clock_rate: int = CLOCK_RATE
    control: str = ""
    session: str = ""
    parameters: bytes = b""
    disorder: int = -1
    size: tuple[int, int] = (0, 0)


@dataclass
class Section:
    """One `m=` line and what follows it; of the session itself before the first."""

    kind: str = ""
    protocol: str = ""
    formats: list[int] = field(default_factory=list)
    attributes: list[tuple[str, str]] = field(default_factory=list)

    def values(self, name: str) -> Iterator[str]:
        """Yield the values of an attribute."""
        return (value for key, value in self.attributes if key == name)

    def value(self, name: str) -> str:
        """Return the first value of an attribute, or nothing."""
        return next(self.values(name), "")

    def numbered(self, name: str) -> dict[int, str]:
        """Return the values of an attribute by the payload type that they begin with, several joined."""
        found: dict[int, str] = {}
        for value in self.values(name):
            number, _, rest = value.replace("\t", " ").partition(" ")
            if _is_payload_type(number):
                found[int(number)] = f"{found[int(number)]};{rest}" if int(number) in found else rest.strip()
        return found


def parse_sdp(text: str) -> Track:
    """Return the first video track that can be played. Raises CameraError naming what there is instead."""
    session, *media = _sections(text)
    found = []
    for section in media:
        names = _names(section)
        for number in section.formats:
            name, rate = names.get(number, (STATIC.get(number, str(number)), CLOCK_RATE))
            encrypted = "SAVP" in section.protocol
            found.append(f"{section.kind} {name[:LONGEST_NAME]}" + (" (encrypted)" if encrypted else ""))
            codec = CODECS.get(name.upper())
            if section.kind == "video" and codec and not encrypted:
                return _track(session, section, number, codec, rate)
    offered = shown(", ".join(dict.fromkeys(found))) or "nothing"
    raise CameraError(f"no {PLAYED} video, only {offered}")


def _sections(text: str) -> list[Section]:
    """Cut a description up. Lines may end in any way, and hold stray spaces."""
    sections = [Section()]
    for line in _LINE_ENDS.split(text)[:MOST_LINES]:
        kind, equals, value = line.strip().partition("=")
        if not equals:
            continue
        if kind.lower() == "m":
            if len(sections) > MOST_MEDIA:
                break
            parts = [*value.lower().split(), "", "", ""]
            section = Section(parts[0], parts[2].upper())
            section.formats = [int(part) for part in parts[3 : 3 + MOST_FORMATS] if _is_payload_type(part)]
            sections.append(section)
        elif kind.lower() == "a":
            name, _, rest = value.partition(":")
            sections[-1].attributes.append((name.strip().lower(), rest.strip()))
    return sections


def _is_payload_type(text: str) -> bool:
    return _PAYLOAD_TYPE.fullmatch(text) is not None and int(text) < 128


def _names(section: Section) -> dict[int, tuple[str, int]]:
    """Return name and clock rate of each format, guessed from its parameters where no rtpmap tells."""
    names: dict[int, tuple[str, int]] = {}
    for number, value in section.numbered("rtpmap").items():
        name, _, rest = value.partition("/")
        rate = _RATE.match(rest.strip())
        names[number] = name.strip(), (int(rate[0]) if rate else 0) or CLOCK_RATE
    for number in section.formats:
        if number not in names and number not in STATIC and section.kind == "video":
            given = parameters_of(section, number)
            if "sprop-vps" in given or "sprop-sps" in given:
                names[number] = "H265", CLOCK_RATE
            elif {"sprop-parameter-sets", "packetization-mode"} & given.keys():
                names[number] = "H264", CLOCK_RATE
    return names


def parameters_of(section: Section, number: int) -> dict[str, str]:
    """Return the format parameters of a payload type, names in lower case, white space removed."""
    lines = section.numbered("fmtp")
    text = lines.get(number, "")
    if not text and len(section.formats) == 1 and len(lines) == 1:
        (text,) = lines.values()  # another number than the only format's
    found: dict[str, str] = {}
    for part in text.split(";"):
        name, _, value = part.partition("=")
        found.setdefault(name.strip().lower(), "".join(value.split()).strip('"'))
    return found


def _track(session: Section, section: Section, number: int, codec: str, rate: int) -> Track:
    given = parameters_of(section, number)
    control = section.value("control")
    if len(control) > LONGEST_CONTROL:
        raise CameraError(f"its description has an address of {len(control)} characters")
    return Track(
        codec,
        number,
        rate,
        control,
        session.value("control"),
        _configuration(codec, given),
        _disorder(codec, given),
        _size(section),
    )


def _configuration(codec: str, given: dict[str, str]) -> bytes:
    """Return what the decoder must know: RFC 6184, 8.1; RFC 7798, 7.1; RFC 6416, 7.1."""
    if codec == "mpeg4":
        digits = _HEX.match(given.get("config", "").lower())
        return bytes.fromhex(digits[0][: len(digits[0]) & ~1]) if digits else b""
    found = b""
    for name in ("sprop-vps", "sprop-sps", "sprop-pps", "sprop-parameter-sets"):
        for part in given.get(name, "").split(",", MOST_PARAMETER_SETS)[:MOST_PARAMETER_SETS]:
            found += b"".join(START_CODE + nal for nal in _parameter_sets(codec, _decode(part)))
    return found


def _decode(text: str) -> bytes:
    """Decode Base64 with or without padding, in either alphabet; invalid text gives nothing."""
    plain = text.rstrip("=").replace("-", "+").replace("_", "/")
    try:
        return base64.b64decode(plain[: len(plain) - (len(plain) % 4 == 1)] + "==")
    except (binascii.Error, ValueError):
        return b""


def _parameter_sets(codec: str, data: bytes) -> Iterable[bytes]:
    """Yield the parameter sets in what should be one, without the start codes that some cameras put there."""
    mask, shift, kinds = _PARAMETER_SETS.get(codec, (0, 0, set()))
    for nal in _START_CODES.split(data):
        if nal and nal[0] >> shift & mask in kinds:
            yield nal


def _disorder(codec: str, given: dict[str, str]) -> int:
    """Return how many NAL units come before their turn, -1 where they have no decoding order numbers
    (RFC 6184, 8.1; RFC 7798, 7.1)."""

    def number(name: str) -> int:
        value = given.get(name, "")
        return min(int(value), 32_767) if value.isascii() and value.isdigit() and len(value) < 9 else 0

    if codec == "h264" and number("packetization-mode") == 2:
        return number("sprop-interleaving-depth")
    if codec == "hevc" and number("sprop-max-don-diff"):
        return number("sprop-depack-buf-nalus")
    return -1


def _size(section: Section) -> tuple[int, int]:
    """Return the picture's size, which MJPEG beyond 2040 pixels has nowhere else."""
    size = _DIMENSIONS.match(section.value("x-dimensions"))
    size = size or _FRAME_SIZE.match(section.value("framesize"))
    return (int(size[1]), int(size[2])) if size else (0, 0)
