"""Times that a camera writes into its pictures: JSON in SEI user data.

`timestamp` is the time of day in ns since 1970, `sim_time` a time in seconds that replaces the picture's own.
"""

from collections.abc import Sequence
from typing import NamedTuple

import msgspec

from shared.chunks import SECOND
from worker.media.decoder.selection.bitstream import sei_number

USER_DATA_UNREGISTERED = 5
UUID_BYTES = 16


class Said(NamedTuple):
    """What a picture says: `wall` in ns since 1970, `time` in ns on the stream's clock."""

    wall: int | None
    time: int | None


class _UserData(msgspec.Struct):
    timestamp: int | None = None
    sim_time: float | None = None


def read_sei(nals: Sequence[bytes], codec: str) -> Said | None:
    """What the SEI NAL units of a picture say of its time; None where they hold no such JSON."""
    for nal in nals:
        for payload in _user_data(nal[2 if codec == "hevc" else 1 :].replace(b"\0\0\3", b"\0\0")):
            at = payload.find(b"{")
            try:
                data = (
                    msgspec.json.decode(payload[at:].rstrip(b"\0\x80 \n"), type=_UserData)
                    if at >= 0
                    else None
                )
            except msgspec.MsgspecError:
                continue
            if data is not None and (data.timestamp is not None or data.sim_time is not None):
                time = None if data.sim_time is None else round(data.sim_time * SECOND)
                return Said(data.timestamp, time)
    return None


def _user_data(data: bytes) -> list[bytes]:
    """The unregistered user data of an SEI NAL unit, without its UUID (ITU-T H.264, 7.3.2.3.1 and D.1.7)."""
    found, at = [], 0
    while at + 2 < len(data):
        kind, at = sei_number(data, at)
        size, at = sei_number(data, at)
        if kind == USER_DATA_UNREGISTERED:
            found.append(data[at + UUID_BYTES : at + size])
        at += size
    return found
