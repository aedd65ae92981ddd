"""What the service's answers become: frozen records; vectors are NumPy arrays where NumPy is installed."""

import base64
import functools
import sys
from array import array
from collections.abc import Sequence
from datetime import datetime
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Vector = NDArray[np.float32]
else:
    Vector = Any
"""A vector of float32: a NumPy array, or an `array.array("f")` where NumPy is not installed."""


class VideoChunk(msgspec.Struct, frozen=True, kw_only=True):
    """One chunk of video and its vector.

    `start_time` and `end_time` are as the service gives them: seconds from the start of the film, or UTC
    timestamps where its time of day is known. `start` and `end` are the same as numbers. `vector` is empty if
    a chunk of a live stream failed. `thumbnail` is a JPEG, if it was asked for.
    """

    asset_id: str
    request_id: str
    start_time: str
    end_time: str
    vector: Vector
    frame_count: int | None = None
    decode_latency_ms: float | None = None
    inference_latency_ms: float | None = None
    chunk_latency_ms: float | None = None
    queue_time_s: float | None = None
    processing_latency_s: float | None = None
    thumbnail: bytes | None = None

    @property
    def start(self) -> float:
        """Seconds from the start of the film, or since 1970 for a timestamp."""
        return seconds_of(self.start_time)

    @property
    def end(self) -> float:
        """Seconds from the start of the film, or since 1970 for a timestamp."""
        return seconds_of(self.end_time)


class EmbeddedImage(msgspec.Struct, frozen=True, kw_only=True):
    """A picture's vector and its thumbnail, a JPEG; None from a service that makes none."""

    vector: Vector
    thumbnail: bytes | None = None


class Bookmark(msgspec.Struct, frozen=True):
    """How far the events of a request were read; another process may go on from there."""

    asset_id: str
    event_id: str


class StoredFile(msgspec.Struct, frozen=True):
    """A file that the service keeps."""

    id: str
    filename: str
    bytes: int
    media_type: str = ""
    creation_time: str | None = None
    sensor_name: str = ""


class StoredMedia(msgspec.Struct, frozen=True):
    """What is in a file: a video or an image. `duration` in seconds, None for an image; `frame_rate` is None
    where it is unknown; a `joined` file holds several recordings, laid end to end."""

    id: str
    media_type: str
    codec: str
    width: int
    height: int
    duration: float | None = None
    frame_rate: float | None = None
    joined: bool = False


class CameraStream(msgspec.Struct, frozen=True, rename={"url": "liveStreamUrl"}):
    """A registered live stream. Durations are those of its running embedding, 0 when there is none."""

    id: str
    url: str
    description: str = ""
    chunk_duration: int = 0
    chunk_overlap_duration: int = 0


class ModelEntry(msgspec.Struct, frozen=True):
    """A model that the service has loaded."""

    id: str
    owned_by: str = ""
    created: int = 0


class RequestState(msgspec.Struct, frozen=True):
    """How far a request is: `status` is running, done, failed or cancelled."""

    id: str
    kind: str
    status: str
    chunks_planned: int = 0
    chunks_done: int = 0
    error: "RequestProblem | None" = None


class RequestProblem(msgspec.Struct, frozen=True):
    """Why a request failed."""

    code: str
    message: str


class SearchHit(msgspec.Struct, frozen=True):
    """A chunk that a search found; `score` is the cosine of its vector and the query's.

    `start` and `end` are seconds from the start of a file, None for a stream; `start_time` and `end_time` are
    UTC, None for a file without a creation time. `thumbnail` is a JPEG in base64.
    """

    asset: str
    score: float
    start: float | None = None
    end: float | None = None
    start_time: str | None = None
    end_time: str | None = None
    name: str = ""
    kind: str = ""
    media_type: str = ""
    request: str = ""
    camera: str = ""
    chunk: int | None = None
    chunks: list[int] = []
    thumbnail: str | None = None


class MatchedChunk(SearchHit, frozen=True):
    """A chunk that matched a trigger, at `matched_at` (UTC). `id` ascends for each trigger."""

    id: str = ""
    trigger: str = ""
    trigger_name: str = ""
    matched_at: str = ""


class WebhookDelivery(msgspec.Struct, frozen=True):
    """Where the matches of a trigger are sent: how many are `waiting` and `given_up`, and why the last
    attempt failed, if it did."""

    host: str
    signed: bool = False
    waiting: int = 0
    given_up: int = 0
    error: str = ""


class SavedTrigger(msgspec.Struct, frozen=True):
    """A question that each new chunk is compared with: `question` is text, image, vector or like. `cooldown`
    is in seconds, `created` in seconds since 1970."""

    id: str
    name: str
    threshold: float
    question: str = ""
    text: str | None = None
    model: str = ""
    cameras: list[str] | None = None
    files: bool = False
    cooldown: float = 60.0
    created: int = 0
    matches: int = 0
    last_match: str | None = None
    webhook: WebhookDelivery | None = None


def to_vector(embeddings: str | Sequence[float]) -> Vector:
    """Return a vector from base64 of little-endian float32, or from numbers."""
    if not isinstance(embeddings, str):
        values = array("f", embeddings)
    else:
        values = array("f", base64.b64decode(embeddings))
        if sys.byteorder == "big":
            values.byteswap()
    if numpy := _numpy():
        made: Vector = numpy.frombuffer(values, dtype=numpy.float32)
        return made
    return values  # type: ignore[return-value] # what there is without NumPy


@functools.cache
def _numpy() -> Any:
    if find_spec("numpy") is None:
        return None
    import numpy as np  # noqa: PLC0415 - an application may do without

    return np


def seconds_of(time: str) -> float:
    """Return a time of the service as seconds: from the start of a film, or since 1970."""
    return float(time) if "T" not in time else datetime.fromisoformat(time).timestamp()
