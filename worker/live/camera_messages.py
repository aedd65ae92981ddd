"""Messages between a worker and its camera processes."""

from typing import Annotated

import msgspec

from worker.framing import Framing
from worker.live.camera_description import CameraOptions, Habits
from worker.live.chunker import Cut
from worker.live.stream_clock import WallSource

OUT_OF_MEMORY = 12
"""Exit status of a camera process whose memory is used up: ENOMEM."""
LONGEST_FROM_CAMERAS = 128 << 20
"""Bytes of one message: a chunk, whose packets the chunker bounds."""


class Open(msgspec.Struct, tag=True, frozen=True, kw_only=True):
    """Play a camera and cut it into chunks of `duration` ns with up to `frames` frames. `habits` is what
    worked before. No chunk begins before `after` (ns since 1970), the end of the last one. With `begin`,
    frames before that time are left out, and Primed says from when on chunks could begin. With `describe`,
    only Described comes."""

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
    describe: bool = False


class Close(msgspec.Struct, tag=True, frozen=True):
    """Stop playing a camera; no message about it follows."""

    camera: int


class Pause(msgspec.Struct, tag=True, frozen=True):
    """Stop or resume reading from a camera."""

    camera: int
    on: bool


class NoSocket(msgspec.Struct, tag=True, frozen=True):
    """The worker opens no socket for a request; `udp`: a request for UDP sockets."""

    number: int
    error: str
    udp: bool = False


ToCameras = Open | Close | Pause | NoSocket


class Pulse(msgspec.Struct, tag=True, frozen=True):
    """The process makes progress. Since the last pulse, `excess` parts of its cameras' streams were beyond
    their bounds."""

    excess: Annotated[int, msgspec.Meta(ge=0)] = 0


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
    """An event about a camera, for people."""

    camera: int
    event: str


class Ended(msgspec.Struct, tag=True, frozen=True):
    """A camera's stream has ended: by itself if `error` is empty, else for that reason."""

    camera: int
    error: str = ""


class Described(msgspec.Struct, tag=True, frozen=True):
    """What a camera's video is."""

    camera: int
    codec: str


class Confined(msgspec.Struct, tag=True, frozen=True):
    """The process can take cameras; `isolation` says what keeps it from anything else."""

    isolation: str


class Connect(msgspec.Struct, tag=True, frozen=True):
    """A request, with a number of its own: connect a camera's socket to a host."""

    camera: int
    number: int
    host: str
    port: int


class Bind(msgspec.Struct, tag=True, frozen=True):
    """A request: open two UDP sockets for a camera."""

    camera: int
    number: int


class Join(msgspec.Struct, tag=True, frozen=True):
    """A request: open two UDP sockets that listen to a multicast group."""

    camera: int
    number: int
    group: str
    ports: tuple[int, int]
    interface: str


class Datagram(msgspec.Struct, tag=True, frozen=True):
    """Send a datagram from a camera's first or second UDP socket."""

    camera: int
    channel: int
    data: bytes
    host: str
    port: int


class Release(msgspec.Struct, tag=True, frozen=True):
    """A camera no longer needs its UDP sockets."""

    camera: int


OfSockets = Connect | Bind | Join | Datagram | Release
OfVideo = Opened | Primed | Taken | Told | Described | Ended
FromCameras = Pulse | Confined | OfVideo | OfSockets

TO_CAMERAS: Framing[ToCameras] = Framing(ToCameras)
FROM_CAMERAS: Framing[FromCameras] = Framing(FromCameras, longest=LONGEST_FROM_CAMERAS)
