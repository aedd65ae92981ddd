"""What a worker and its camera processes say to each other: length-prefixed MessagePack over a socket."""

import msgspec

from worker.live.chunker import Cut
from worker.live.rtsp.camera_description import CameraOptions
from worker.media.decoder.decoder_messages import HEADER


class Open(msgspec.Struct, tag=True, frozen=True, kw_only=True):
    """Play a camera and cut it into chunks of `duration` ns with up to `frames` frames."""

    camera: int
    url: str
    username: str
    password: str
    options: CameraOptions
    duration: int
    frames: int


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
    """A camera's video has begun to arrive."""

    camera: int
    transport: str
    codec: str


class Taken(msgspec.Struct, tag=True, frozen=True):
    """A chunk of a camera. `skipped` chunks before it were dropped because the worker did not read."""

    camera: int
    cut: Cut
    skipped: int = 0


class Ended(msgspec.Struct, tag=True, frozen=True):
    """A camera's stream has ended: by itself if `error` is empty, else for that reason."""

    camera: int
    error: str = ""


FromCameras = Pulse | Opened | Taken | Ended

_encoder = msgspec.msgpack.Encoder()
_to_cameras: msgspec.msgpack.Decoder[ToCameras] = msgspec.msgpack.Decoder(ToCameras)
_from_cameras: msgspec.msgpack.Decoder[FromCameras] = msgspec.msgpack.Decoder(FromCameras)


def pack(message: ToCameras | FromCameras) -> bytes:
    """One message with its length before it."""
    body = _encoder.encode(message)
    return HEADER.pack(len(body)) + body


def for_cameras(body: bytes) -> ToCameras:
    """The message to a camera process in `body`."""
    return _to_cameras.decode(body)


def from_cameras(body: bytes) -> FromCameras:
    """The message of a camera process in `body`."""
    return _from_cameras.decode(body)
