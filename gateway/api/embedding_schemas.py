"""Requests for vectors of texts, files and URLs, and their answers and events."""

import re
from collections.abc import Iterator
from typing import Annotated, Literal

from msgspec import UNSET, Meta, UnsetType

from gateway.api.schemas import (
    ApiRequest,
    ApiResponse,
    Dimensions,
    Embedding,
    Encoding,
    Error,
    MediaType,
    ModelId,
    Second,
    StreamId,
    Timestamp,
    Uuid,
    is_date,
    is_uuid,
)

CHUNK_TIME = r"^[0-9\.\-TZ:]+\Z"
HTTP_URL = re.compile(r"https?://[A-Za-z0-9_.\-/:%?#&=+~,]+")
S3_URL = re.compile(
    r"s3://(?=[^/]+/)[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?(\.[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)*"
    r"/[A-Za-z0-9_.\-/:%#&=+~,()\[\]@!$'*;]+"
)
FILE_URL = re.compile(r"file://[A-Za-z0-9_.\-/ ]+")
DATA_HEADER = re.compile(
    r"data:(?P<type>[A-Za-z]+/[A-Za-z0-9+.\-]+)(;(?!base64(=|;|\Z))[A-Za-z0-9\-]+(=[A-Za-z0-9\-]+)?)*"
    r"(?P<base64>;base64)?"
)
_DATA_HEADER_LENGTH = 1024
TEXT_PAYLOAD = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789%-._~:/?#[]@!$&'()*+,;="


Text = Annotated[str, Meta(max_length=1000, examples=["a forklift moving pallets"])]


class TextRequest(ApiRequest):
    """Texts to embed."""

    text_input: Annotated[
        Text | Annotated[list[Text], Meta(max_length=100)],
        Meta(description="One text, or up to 100. The answer keeps their order."),
    ]
    model: ModelId
    encoding_format: Encoding = "float"
    dimensions: Dimensions = None


class TextEmbedding(ApiResponse):
    """One text's vector."""

    text_input: Text
    embeddings: Embedding


class TextResponse(ApiResponse):
    """The vectors, in the order of the texts."""

    id: Uuid
    created: Annotated[Second, Meta(description="Unix time at which processing began.")]
    model: ModelId
    data: list[TextEmbedding]


class StreamOptions(ApiRequest):
    """How to stream."""

    include_usage: Annotated[
        bool, Meta(description="Send usage in the events, and once more at the end.")
    ] = False
    include_progress: Annotated[
        bool,
        Meta(
            description="Begin with an event that tells the number of chunks; a live stream has none. "
            "An extension."
        ),
    ] = False


class MediaRange(ApiRequest):
    """Which part of a file to embed, in seconds from its start."""

    type: Literal["offset"]
    start_offset: Annotated[Second, Meta(description="From here; the start if absent.")] = 0
    end_offset: Annotated[Second | None, Meta(description="To here; the end if absent.")] = None


HeaderValue = Annotated[str, Meta(max_length=8192, pattern=r"^[^\r\n]*\Z", extra={"secret": True})]


UrlHeaders = Annotated[dict[str, HeaderValue], Meta(max_length=100)]


def check_url(url: str) -> None:
    """Raise ValueError unless `url` is an http, https, s3, file or data URL of the accepted form."""
    scheme = url[:8].partition(":")[0]
    if scheme == "data":
        _check_data_url(url)
        return
    form = {"http": HTTP_URL, "https": HTTP_URL, "s3": S3_URL, "file": FILE_URL}.get(scheme)
    if form is None:
        raise ValueError("Must be an http, https, s3, file or data URL")
    if not form.fullmatch(url):
        raise ValueError(f"Not a valid {scheme} URL, or one with characters that are not accepted")


def _check_data_url(url: str) -> None:
    comma = url.find(",", 0, _DATA_HEADER_LENGTH)
    if comma < 0:
        raise ValueError("A data URL needs a comma after its header")
    header = DATA_HEADER.fullmatch(url, 0, comma)
    if header is None:
        raise ValueError("A data URL must begin with data:<type>/<subtype>[;name=value...][;base64],")
    if header["base64"]:
        return  # decoding refuses what is not base64
    # In pieces: the payload may be gigabytes, and deleting what is allowed is the fastest check.
    for start in range(comma + 1, len(url), 1 << 20):
        if url[start : start + (1 << 20)].encode("utf-8", "replace").translate(None, TEXT_PAYLOAD):
            raise ValueError("The data URL's payload has characters that are not accepted")


class VideoRequest(ApiRequest):
    """Video, images or a live stream to embed."""

    id: Annotated[
        StreamId | Annotated[list[StreamId], Meta(max_length=50)],
        Meta(description="A file, a live stream, or up to 50 images. With `url`, the id of the new asset."),
    ]
    model: ModelId
    stream: Annotated[bool, Meta(description="Answer with server-sent events.")] = False
    stream_options: StreamOptions | None = None
    chunk_duration: Annotated[
        int, Meta(ge=0, le=3600, description="Seconds per chunk; 0 makes the whole file one chunk.")
    ] = 0
    chunk_overlap_duration: Annotated[
        int, Meta(ge=-3600, le=3600, description="Seconds shared by neighbouring chunks; negative for gaps.")
    ] = 0
    media_info: Annotated[MediaRange | None, Meta(description="Part of the file; ignored for live.")] = None
    url: Annotated[
        Annotated[str, Meta(max_length=4 * 1024**3)] | None,
        Meta(
            extra={"check": check_url},
            description="Media to fetch first: http, https, s3, file or data URL.",
            examples=["https://example.com/warehouse.mp4"],
        ),
    ] = None
    url_headers: Annotated[
        UrlHeaders | None,
        Meta(description="Headers for fetching `url` over https.", examples=[{"Authorization": "Bearer x"}]),
    ] = None
    media_type: Annotated[MediaType | None, Meta(description="What is at `url`.")] = "video"
    creation_time: Annotated[
        Timestamp | None, Meta(description="When the recording behind `url` began (UTC).")
    ] = None
    on_error: Annotated[
        Literal["fail", "skip"],
        Meta(
            description="Whether a chunk of a video that cannot be decoded fails the request, or is left "
            "out of the answer and reported on the error bus."
        ),
    ] = "fail"
    thumbnails: Annotated[
        bool,
        Meta(
            description="Give each chunk's answer and message a small JPEG of the frame in its middle, too. "
            "A live stream that is being embedded stays as it was started. An extension."
        ),
    ] = False
    encoding_format: Encoding = "float"
    dimensions: Dimensions = None

    @property
    def ids(self) -> list[str]:
        """The ids in `id`, however many."""
        return [self.id] if isinstance(self.id, str) else self.id

    @property
    def event_options(self) -> StreamOptions:
        """What events hold, `stream_options` or the defaults."""
        return self.stream_options or StreamOptions()

    def problems(self) -> Iterator[tuple[str, str]]:
        """Yield problems with combinations of fields."""
        if self.url is not None and not all(map(is_uuid, self.ids)):
            yield "id", "Must be a UUID when url is given"
        if self.url is not None and self.media_type is None:
            yield "media_type", "Must be 'video' or 'image' when url is given"
        if self.url is not None and self.creation_time is not None and not is_date(self.creation_time):
            yield "creation_time", f"{self.creation_time} is not a date that exists"


class OffsetRange(ApiResponse, tag_field="type", tag="offset"):
    """Seconds from the start of the file."""

    start_offset: Annotated[int, Meta(examples=[0])]
    end_offset: Annotated[int, Meta(examples=[130])]


class TimestampRange(ApiResponse, tag_field="type", tag="timestamp"):
    """Absolute times."""

    start_timestamp: Timestamp
    end_timestamp: Timestamp


class Usage(ApiResponse):
    """What a request has taken."""

    query_processing_time: Annotated[int, Meta(ge=0, description="Seconds.", examples=[2])]
    total_chunks_processed: Annotated[int, Meta(ge=0, examples=[3])]
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    total_tokens: int | None = None


Latency = Annotated[float, Meta(ge=0, examples=[41.2])]
ChunkTime = Annotated[str, Meta(max_length=50, pattern=CHUNK_TIME, examples=["60.0"])]


class ChunkEmbedding(ApiResponse):
    """One chunk's vector. Times are seconds from the start, or absolute where the beginning is known."""

    start_time: ChunkTime
    end_time: ChunkTime
    embeddings: Embedding
    decode_latency_ms: Latency | None = None
    inference_latency_ms: Latency | None = None
    chunk_latency_ms: Annotated[Latency | None, Meta(description="Decoding began to vector ready.")] = None
    queue_time_s: Annotated[Latency | None, Meta(description="Accepted to decoding began.")] = None
    processing_latency_s: Annotated[Latency | None, Meta(description="Decoding began to vector ready.")] = (
        None
    )
    frame_count: Annotated[
        Annotated[int, Meta(ge=0, le=2_147_483_647)] | None, Meta(description="Frames sampled.")
    ] = None
    thumbnail: (
        Annotated[str, Meta(description="A JPEG, base64; only if `thumbnails` was set.")] | UnsetType
    ) = UNSET


class VideoResponse(ApiResponse):
    """The vectors, sorted by time."""

    id: Uuid
    created: Annotated[Second, Meta(description="Unix time at which the request was accepted.")]
    model: ModelId
    media_info: OffsetRange | TimestampRange
    usage: Usage | None
    chunk_responses: Annotated[list[ChunkEmbedding], Meta(max_length=10_000)]


class EventChunk(ChunkEmbedding, omit_defaults=True):
    """A chunk in an event; fields that were not measured are left out."""


class ChunkEvent(ApiResponse):
    """A finished chunk."""

    id: Uuid
    model: ModelId
    created: Second
    media_info: OffsetRange | TimestampRange
    chunk_responses: Annotated[list[EventChunk], Meta(min_length=1, max_length=1)]
    usage: Usage | None


class ChunkProgress(ApiResponse):
    """How many chunks a request has, and how many of them the client has received."""

    chunks_planned: Annotated[int, Meta(ge=0, examples=[3])]
    chunks_done: Annotated[int, Meta(ge=0, examples=[0])]


class ProgressEvent(ApiResponse):
    """The first event, if `include_progress` was set."""

    id: Uuid
    model: ModelId
    created: Second
    progress: ChunkProgress


class UsageEvent(ApiResponse):
    """The last event but `[DONE]`, when usage was asked for."""

    id: Uuid
    model: ModelId
    created: Second
    media_info: None = None
    usage: Usage


class FailureEvent(ApiResponse):
    """The request failed; no more chunks follow."""

    id: Uuid
    model: ModelId
    created: Second
    usage: None = None


# Requests that are answered later ---------------------------------------------------------------------


class RequestStatus(ApiResponse):
    """The state of a request that was accepted."""

    id: Uuid
    object: Literal["request"] = "request"
    kind: Annotated[Literal["text", "video", "live"], Meta(description="What it embeds.")]
    status: Literal["running", "done", "failed", "cancelled"]
    model: ModelId
    created: Annotated[Second, Meta(description="Unix time at which the request was accepted.")]
    finished: Annotated[Second | None, Meta(description="Unix time at which it ended.")] = None
    chunks_planned: Annotated[int, Meta(ge=0, examples=[3])]
    chunks_done: Annotated[int, Meta(ge=0, examples=[1])]
    error: Error | None = None
