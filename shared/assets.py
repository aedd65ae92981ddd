"""The record of an asset: a file, an image or a camera, kept in Redis."""

from fractions import Fraction
from typing import Literal

import msgspec

from shared.records import RecordCodec

OBJECT_SCHEME = "s3://"


def is_object(path: str) -> bool:
    """Return whether the path of an asset names an object in a bucket."""
    return path.startswith(OBJECT_SCHEME)


class Asset(msgspec.Struct, frozen=True, kw_only=True):
    """The record of one asset. Times are nanoseconds; `created` is a second of Redis's clock."""

    id: str
    kind: Literal["file", "stream"] = "file"
    media_type: Literal["video", "image"] = "video"
    path: str = ""
    """Where the bytes are: a local file, or s3://bucket/key; the RTSP address for a stream."""
    directory: str = ""
    """The asset's own folder in the store, or what its object's key begins with; empty for a file that we
    do not own."""
    filename: str = ""
    size: int = 0
    """Bytes."""
    created: int = 0
    creation_time: str = ""
    sensor_name: str = ""
    description: str = ""
    camera_id: str = ""
    caller: str = ""
    """Name of the API key with which it was added."""
    url: str = ""
    codec: str = ""
    width: int = 0
    height: int = 0
    duration: int = 0
    frame_rate: str = ""
    """Frames per second as a fraction, `30000/1001`; empty where unknown."""
    last_frames: int = 0
    """How long (ns) the last two frames of a video are shown; 0 where unknown."""
    joined: bool = False
    """Whether the file holds several recordings, each with its own clock, one after the other."""
    probed: bool = False
    """Whether a worker has opened the file."""
    temporary: bool = False
    """Whether the asset belongs to one request and goes when that has ended."""

    @property
    def fps(self) -> Fraction | None:
        return Fraction(self.frame_rate) if self.frame_rate else None


ASSETS: RecordCodec[Asset] = RecordCodec(Asset)
"""Assets as Redis hashes."""
NEW_ASSETS: RecordCodec[Asset] = RecordCodec(Asset, "created")
"""The fields of an asset without `created`, which Redis adds."""
