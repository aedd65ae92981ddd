"""The facts that a probe finds about a media file."""

from fractions import Fraction
from typing import Literal

import msgspec

MediaKind = Literal["video", "image"]


class MediaFacts(msgspec.Struct, frozen=True):
    """What a probe finds. `duration` in ns (0 for an image); `frame_rate` None where it is unknown;
    `last_frames`: how long (ns) the last two frames of a video are shown, 0 where it is unknown; `joined`:
    whether the file holds several recordings, each with its own clock."""

    kind: MediaKind
    codec: str
    width: int
    height: int
    duration: int = 0
    frame_rate: Fraction | None = None
    last_frames: int = 0
    joined: bool = False
