"""Jobs from the gateway to the workers: one type per lane, and its form in a stream entry.

A stream entry has plain fields for people (`request`, `kind`, `traceparent`, `x_request_id`) and one JSON
`payload`. Readers ignore fields that they do not know, so old and new replicas can run side by side.
"""

from collections.abc import Mapping
from typing import ClassVar, Literal

import msgspec

from shared.assets import Asset
from shared.chunks import Chunk
from shared.keys import Lane
from shared.records import added_ms

VERSION = 1


class TextJob(msgspec.Struct, frozen=True, kw_only=True, tag="text", tag_field="kind"):
    """Embed texts; text i is chunk i of the request."""

    request: str
    texts: list[str]
    model: str = ""
    query: bool = False
    """Whether no messages are sent, because only the caller wants the vectors."""
    version: int = VERSION

    lane: ClassVar[Lane] = "text"


class ProbeJob(msgspec.Struct, frozen=True, kw_only=True, tag="probe", tag_field="kind"):
    """Open a file and say what it is; chunk 0 of the request."""

    request: str
    asset: Asset
    version: int = VERSION

    lane: ClassVar[Lane] = "probe"
    model: ClassVar[str] = ""
    """A probe may go to any worker."""


class VideoJob(msgspec.Struct, frozen=True, kw_only=True, tag="video", tag_field="kind"):
    """Embed consecutive chunks of one video file, or one clip made of images.

    `on_error`: what a chunk of a video that cannot be decoded does to its request: it fails, or the chunk is
    left out of the answer.
    """

    request: str
    assets: list[Asset]
    chunks: list[Chunk]
    model: str = ""
    query: bool = False
    """As for texts."""
    on_error: Literal["fail", "skip"] = "fail"
    thumbnails: bool = False
    version: int = VERSION

    lane: ClassVar[Lane] = "video"


class LiveJob(msgspec.Struct, frozen=True, kw_only=True, tag="live", tag_field="kind"):
    """Embed a camera, chunk by chunk, until its stream ends or it is stopped: `assets` holds this one stream,
    `chunk_duration` is in seconds."""

    request: str
    assets: list[Asset]
    chunk_duration: int
    model: str = ""
    thumbnails: bool = False
    version: int = VERSION

    lane: ClassVar[Lane] = "live"


class UnreadableJob(msgspec.Struct, frozen=True, kw_only=True):
    """A stream entry that holds no job that this version knows: the request that it names, why it cannot be
    read, and its fields, flat."""

    lane: Lane
    request: str
    reason: str
    fields: list[bytes]

    model: ClassVar[str] = ""


_Known = TextJob | ProbeJob | VideoJob | LiveJob
Job = _Known | UnreadableJob
LONGEST_ID = 64
"""Characters of a request's id that are read."""


class Claim(msgspec.Struct, frozen=True):
    """A job that this worker holds: its stream and entry, its delivery count, its span and its HTTP
    request."""

    lane: Lane
    id: str
    job: Job
    deliveries: int = 1
    traceparent: str = ""
    x_request_id: str = ""

    @property
    def enqueued_ms(self) -> int:
        """Redis's time at which the job was added."""
        return added_ms(self.id)


_encoder = msgspec.json.Encoder()
_decoder: msgspec.json.Decoder[_Known] = msgspec.json.Decoder(_Known)


def to_fields(job: Job, traceparent: str = "", x_request_id: str = "") -> list[bytes | str]:
    """Return field names and values of the job's stream entry, flat."""
    if isinstance(job, UnreadableJob):
        return [*job.fields]
    fields: list[bytes | str] = ["request", job.request, "kind", job.lane, "payload", _encoder.encode(job)]
    if traceparent:
        fields += ["traceparent", traceparent]
    if x_request_id:
        fields += ["x_request_id", x_request_id]
    return fields


def from_fields(fields: Mapping[bytes, bytes]) -> Job:
    """Read a stream entry. Raises msgspec.MsgspecError if the payload is not a job."""
    return _decoder.decode(fields[b"payload"])


def read_job(lane: Lane, fields: Mapping[bytes, bytes]) -> Job:
    """Read an entry of a lane's stream, also one that holds no job."""
    try:
        job = from_fields(fields)
        if job.lane == lane:
            return job
        reason = f"a {job.lane} job in the {lane} lane"
    except KeyError:
        reason = "no payload"
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        reason = str(error)
    request = fields.get(b"request", b"")[:LONGEST_ID].decode(errors="replace")
    flat = [part for pair in fields.items() for part in pair]
    return UnreadableJob(lane=lane, request=request, reason=reason, fields=flat)
