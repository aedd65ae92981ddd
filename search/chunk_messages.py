"""What an indexer reads in an `nv.VisionLLM` message: one chunk with its times, vector and picture."""

import base64
import binascii
import math
from posixpath import basename
from urllib.parse import urlsplit

import msgspec
from google.protobuf.message import DecodeError
from google.protobuf.timestamp_pb2 import Timestamp

from shared.chunks import SECOND
from shared.errors import MessageRefused
from shared.messages.nv_pb2 import Sensor, VisionLLM

LONGEST_ID = 256
LONGEST_TEXT = 1024
LARGEST_DIMENSION = 4000
"""pgvector's bound on what an HNSW index of half-precision vectors takes."""
LARGEST_HALF = 65504.0
LARGEST_THUMBNAIL = 256 * 1024
JPEG = b"\xff\xd8\xff"


class IndexedAsset(msgspec.Struct, frozen=True, kw_only=True):
    """A file or stream as the index records it. `base` is the time that offsets into a file count from, in
    nanoseconds since 1970; None where it is unknown, and for a stream. `created` is Redis's second of its
    registration, 0 where that is unknown."""

    id: str
    kind: str
    media_type: str
    name: str
    sensor: str
    description: str = ""
    url: str = ""
    base: int | None = None
    created: int = 0


class IndexedChunk(msgspec.Struct, frozen=True, kw_only=True):
    """One future row. Times are nanoseconds since 1970; `asset` is what the message says of its asset."""

    asset: IndexedAsset
    model: str
    number: int
    start: int
    end: int
    request: str
    vector: list[float]
    thumbnail: bytes | None = None

    @property
    def key(self) -> tuple[str, str, int, int]:
        """The key of a row: messages with the same key are the same chunk."""
        return self.asset.id, self.model, self.start, self.end


def read_chunk(value: bytes) -> IndexedChunk | None:
    """Return the chunk in a message; None if it holds no vector of a file or stream (a text, or a failed
    chunk).

    Raises MessageRefused for what is no such message, or cannot be a row.
    """
    try:
        message = VisionLLM.FromString(value)
    except DecodeError as error:
        raise MessageRefused(f"{len(value)} bytes that are not an nv.VisionLLM message") from error
    stream = _text(message.info.get("streamId", ""), LONGEST_ID)
    if not stream or not message.llm.visionEmbeddings:
        return None
    model = _text(message.llm.info.get("modelId", "") or message.version, LONGEST_ID)
    return IndexedChunk(
        asset=_asset(message.sensor, stream),
        model=model,
        number=_number(message.info.get("chunkIdx", "")),
        start=_nanoseconds(message.timestamp),
        end=_nanoseconds(message.end),
        request=_text(message.info.get("requestId", ""), LONGEST_ID),
        vector=_vector(list(message.llm.visionEmbeddings[0].vector)),
        thumbnail=_thumbnail(message.info.get("thumbnail", "")),
    )


def _asset(sensor: Sensor, stream: str) -> IndexedAsset:
    url = _text(sensor.info.get("url", ""), LONGEST_TEXT)
    path = sensor.info.get("path", "")
    name = sensor.info.get("sensorName", "") or sensor.description
    if sensor.type != "Camera":
        name = basename(urlsplit(url).path) or basename(path) or name
    return IndexedAsset(
        id=stream,
        kind="stream" if sensor.type == "Camera" else "file",
        media_type="video",
        name=_text(name, LONGEST_ID) or stream,
        sensor=_text(sensor.id, LONGEST_ID) or stream,
        description=_text(sensor.description, LONGEST_TEXT),
        url=url,
    )


def _text(text: str, longest: int) -> str:
    """Return the text as PostgreSQL keeps it: without NUL, and not longer than `longest` characters."""
    return text[:longest].replace("\0", "")


def _number(text: str) -> int:
    number = int(text) if text.isascii() and text.isdecimal() and len(text) < 10 else -1
    if number < 0:
        raise MessageRefused(f"chunkIdx {text[:32]!r} is not a chunk number")
    return number


def _nanoseconds(time: Timestamp) -> int:
    ns = time.seconds * SECOND + time.nanos
    if not -(2**63) <= ns < 2**63:
        raise MessageRefused(f"the time {time.seconds} s is out of range")
    return ns


def _vector(vector: list[float]) -> list[float]:
    """Return the vector, which half precision must be able to hold and an angle to compare."""
    if not 0 < len(vector) <= LARGEST_DIMENSION:
        raise MessageRefused(f"a vector of {len(vector)} values; the index takes 1 to {LARGEST_DIMENSION}")
    largest = max(map(abs, vector))
    if not largest <= LARGEST_HALF or any(map(math.isnan, vector)):
        raise MessageRefused("a vector with values that half precision cannot hold")
    if largest < 2**-14:
        raise MessageRefused("a vector of zeros, which has no direction to compare")
    return vector


def _thumbnail(text: str) -> bytes | None:
    if not text or len(text) > LARGEST_THUMBNAIL * 4 // 3:
        return None
    try:
        picture = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return None
    return picture if picture.startswith(JPEG) else None
