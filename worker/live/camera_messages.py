"""What a worker and its camera processes say to each other."""

import msgspec

from worker.framing import Framing
from worker.live.chunker import Cut
from worker.live.rtsp.camera_description import CameraOptions, Habits
from worker.live.stream_clock import WallSource


class Open(msgspec.Struct, tag=True, frozen=True, kw_only=True):
    """Play a camera and cut it into chunks of `duration` ns with up to `frames` frames. `habits` is what
    worked before. No chunk begins before `after` (ns since 1970), the end of the last one. With `begin`,
    frames before that time are left out, and Primed says from when on chunks could begin."""

    camera: int
    url: str
    username: str
    password: str
    options: CameraOptions
    duration: int
    frames: int
    habits: Habits = Habits()
    after: int = 0
    begin: int = 0


class Close(msgspec.Struct, tag=True, frozen=True):
    """Stop playing a camera; nothing is said of it any more."""

    camera: int


class Pause(msgspec.Struct, tag=True, frozen=True):
    """Stop or go on reading from a camera."""

    camera: int
    on: bool


ToCameras = Open | Close | Pause


class Pulse(msgspec.Struct, tag=True, frozen=True):
    """The process makes progress."""


class Opened(msgspec.Struct, tag=True, frozen=True):
    """A camera's video has begun to arrive. `habits` is what works with it."""

    camera: int
    codec: str
    habits: Habits


class Primed(msgspec.Struct, tag=True, frozen=True):
    """There is a key frame, so that chunks of a camera can begin; `source` tells the time of day so far."""

    camera: int
    source: WallSource


class Taken(msgspec.Struct, tag=True, frozen=True):
    """A chunk of a camera. `skipped` chunks before it were dropped because the worker did not read."""

    camera: int
    cut: Cut
    skipped: int = 0


class Told(msgspec.Struct, tag=True, frozen=True):
    """Something that people should know of a camera."""

    camera: int
    event: str


class Ended(msgspec.Struct, tag=True, frozen=True):
    """A camera's stream has ended: by itself if `error` is empty, else for that reason."""

    camera: int
    error: str = ""


FromCameras = Pulse | Opened | Primed | Taken | Told | Ended

TO_CAMERAS: Framing[ToCameras] = Framing(ToCameras)
FROM_CAMERAS: Framing[FromCameras] = Framing(FromCameras)
