"""Supplemental enhancement information (SEI) that cameras write beside their pictures.

Recovery points, and times as JSON in user data: `timestamp` is the time of day in ns since 1970, `sim_time` a
time in seconds that replaces the picture's own.
"""

from collections.abc import Iterator, Sequence
from typing import Annotated, NamedTuple

import msgspec

from shared.chunks import SECOND
from worker.media.decoder.selection.bits import Bits
from worker.media.decoder.selection.bitstream import sei_number

USER_DATA_UNREGISTERED, RECOVERY_POINT = 5, 6
UUID_BYTES = 16
LARGEST_SEI = 4096
"""Bytes of an SEI NAL unit that are read."""
LATEST = 1 << 62
"""The latest time that is believed, ns since 1970: in 2116."""


class SaidTime(NamedTuple):
    """The time that a picture holds: `wall` in ns since 1970, `time` in ns on the stream's clock."""

    wall: int | None
    time: int | None


class _UserData(msgspec.Struct):
    timestamp: Annotated[int, msgspec.Meta(ge=0, le=LATEST)] | None = None
    sim_time: Annotated[float, msgspec.Meta(ge=-LATEST / SECOND, le=LATEST / SECOND)] | None = None


def sei_nals(nals: Sequence[bytes], codec: str) -> list[bytes]:
    """Return the SEI NAL units of a picture that come before it."""
    if codec == "hevc":
        return [nal for nal in nals if nal[0] >> 1 & 63 == 39]
    return [nal for nal in nals if nal[0] & 31 == 6]


def read_time(nals: Sequence[bytes], codec: str) -> SaidTime | None:
    """Return what SEI NAL units say of the picture's time; None where they hold no such JSON."""
    for kind, payload in _messages(nals, codec):
        at = payload.find(b"{", UUID_BYTES)
        if kind != USER_DATA_UNREGISTERED or at < 0:
            continue
        try:
            data = msgspec.json.decode(payload[at:].rstrip(b"\0\x80 \n"), type=_UserData)
        except (msgspec.MsgspecError, UnicodeDecodeError):
            continue
        if data.timestamp is not None or data.sim_time is not None:
            time = None if data.sim_time is None else round(data.sim_time * SECOND)
            return SaidTime(data.timestamp, time)
    return None


def recovery_count(nals: Sequence[bytes], codec: str) -> int:
    """Return after how many frames everything comes out right when decoding begins at a picture with these
    SEI NAL units (ITU-T H.264, D.2.8; H.265, D.3.8); -1 where they do not say."""
    for kind, payload in _messages(nals, codec):
        if kind == RECOVERY_POINT:
            count = Bits(payload[:8]).exp_golomb()
            if codec == "hevc":  # a signed number, and what lies before the picture does not help
                count = (count + 1) // 2 if count & 1 else 0
            return count
    return -1


def _messages(nals: Sequence[bytes], codec: str) -> Iterator[tuple[int, bytes]]:
    """Yield kind and payload of each message (ITU-T H.264, 7.3.2.3.1)."""
    for nal in nals:
        data = nal[2 if codec == "hevc" else 1 : LARGEST_SEI].replace(b"\0\0\3", b"\0\0")
        at = 0
        while at + 2 < len(data):
            kind, at = sei_number(data, at)
            size, at = sei_number(data, at)
            yield kind, data[at : at + size]
            at += size
