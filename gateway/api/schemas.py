"""Requests and answers: the types that validate them and describe the API.

`Annotated[..., Meta(...)]` holds the rule, its meaning and an example. `gateway.api.validation` enforces the
rules, and `gateway.api.openapi` publishes all three. Patterns end in `\\Z` because Python's `$` would accept
a final newline; the published form ends in `$`.
"""

import re
from collections.abc import Iterator
from typing import Annotated, Any, Literal, dataclass_transform

import msgspec
from msgspec import Meta

from shared.timestamps import parse_timestamp

TIMESTAMP = r"^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]{3})?Z\Z"
PATH = r"^[A-Za-z0-9_.\-/ ]*\Z"
DESCRIPTION = r"""^[A-Za-z0-9_.\-"' ,]*\Z"""
VERSION = r"^[0-9]+\.[0-9]+\.[0-9]+(-[A-Za-z0-9\-\.]+)?(\+[A-Za-z0-9\-\.]+)?\Z"
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

_CANONICAL_UUID = r"^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\Z"
Uuid = Annotated[
    str,
    Meta(
        pattern=_CANONICAL_UUID,
        extra={"form": "uuid"},
        extra_json_schema={"format": "uuid", "minLength": 36, "maxLength": 36},
        examples=["123e4567-e89b-12d3-a456-426614174000"],
    ),
]
StreamId = Annotated[
    str,
    Meta(
        pattern=_CANONICAL_UUID,  # of what needs no conversion; `form` accepts the rest
        extra={"form": "asset"},
        extra_json_schema={"x-pattern": r"^[A-Za-z0-9][A-Za-z0-9._-]{0,255}$", "maxLength": 256},
        examples=["123e4567-e89b-12d3-a456-426614174000", "camera-001"],
    ),
]
Timestamp = Annotated[
    str,
    Meta(min_length=24, max_length=24, pattern=TIMESTAMP, examples=["2024-06-09T18:32:11.123Z"]),
]
MediaType = Literal["video", "image"]
Second = Annotated[int, Meta(ge=0, le=4_000_000_000)]
ModelId = Annotated[
    str, Meta(max_length=256, description="Id of the loaded model, exactly.", examples=["cosmos-embed1-448p"])
]
EncodingFormat = Literal["float", "base64", "int8", "binary"]
Encoding = Annotated[
    EncodingFormat,
    Meta(
        description=(
            "Form of the vectors. `float`: numbers. `base64`: of little-endian float32. `int8`: integers, "
            "the largest magnitude of a vector being 127. `binary`: one bit per number, 1 where it is "
            "positive; eight bits, the first one highest, make an integer, less 128. An extension."
        )
    ),
]
Dimensions = Annotated[
    Annotated[int, Meta(ge=1, le=10_000)] | None,
    Meta(
        description=(
            "Only so many numbers of each vector, its first ones, scaled to unit length: for models that "
            "were trained for that (Matryoshka). At most the model's own dimension, which is the default. An "
            "extension."
        )
    ),
]
Numbers = Annotated[list[float], Meta(max_length=10_000, examples=[[0.0123, -0.0456]])]
Base64 = Annotated[str, Meta(description="Little-endian float32, if `encoding_format` is `base64`.")]
Embedding = Numbers | Base64


class _ModelMeta(msgspec.StructMeta):
    """Makes types keyword-only by default, also subclasses, for which msgspec does not inherit it."""

    def __new__(mcls, name: str, bases: tuple[type, ...], namespace: dict[str, Any], **config: Any) -> Any:
        return super().__new__(mcls, name, bases, namespace, **{"kw_only": True, **config})


@dataclass_transform(frozen_default=True, kw_only_default=True, field_specifiers=(msgspec.field,))
class ApiType(msgspec.Struct, frozen=True, kw_only=True, metaclass=_ModelMeta):
    """The base of all types here."""


class ApiRequest(ApiType, forbid_unknown_fields=True):
    """A JSON body: unknown fields are refused."""


class Parameters(ApiType):
    """A query string or a form: unknown fields are ignored."""


class ApiResponse(ApiType):
    """A JSON answer: every field is present, absent values are null."""


class Error(ApiResponse):
    """Why a request was refused or failed."""

    code: Annotated[str, Meta(max_length=128, pattern=r"^[A-Za-z]*\Z", examples=["InvalidParameters"])]
    message: Annotated[str, Meta(examples=["('body', 'model'): Field required"])]


# Health and description -------------------------------------------------------------------------------


class HealthQuery(Parameters):
    """Options of a health check."""

    detailed: Annotated[bool, Meta(description="Answer with every check, as JSON.")] = False


class HealthCheck(ApiResponse):
    """The check of one component."""

    healthy: bool
    message: Annotated[str, Meta(examples=["alive"])]
    component: Annotated[str, Meta(examples=["redis"])]
    timestamp: Annotated[float, Meta(description="Unix time of the check, seconds.")]


class Health(ApiResponse):
    """The health of the service, with every check."""

    healthy: bool
    timestamp: Annotated[float, Meta(description="Unix time of the answer, seconds.")]
    uptime_seconds: Annotated[float, Meta(ge=0)]
    checks: list[HealthCheck]


class AssetStatistics(ApiResponse):
    """What the asset store holds."""

    asset_count: Annotated[int, Meta(ge=0, description="Files, registered paths and live streams.")]
    asset_count_with_storage: Annotated[int, Meta(ge=0, description="Assets with files in the asset store.")]
    aged_out_count: Annotated[int, Meta(ge=0)]
    oldest_asset_age_hours: Annotated[float, Meta(ge=0, examples=[1.25])]
    max_storage_usage_gb: Annotated[int | None, Meta(description="Maximum size of the store; null for none.")]
    max_asset_age_hours: Annotated[float | None, Meta(description="Maximum age of an asset; null for none.")]


class ServiceVersion(ApiResponse):
    """The release."""

    version: Annotated[str, Meta(max_length=64, pattern=VERSION, examples=["3.2.0"])]


class Version(ApiResponse):
    """The release, and the version of the API description format."""

    release: Annotated[str, Meta(max_length=64, examples=["3.2.0"])]
    api: Annotated[str, Meta(max_length=64, examples=["3.1.0"])]


class Manifest(ApiResponse):
    """The release and the model it runs."""

    version: Annotated[str, Meta(max_length=64, examples=["3.2.0"])]
    model: Annotated[str, Meta(max_length=256, examples=["cosmos-embed1-448p"])]


class ModelDescription(ApiResponse):
    """A loaded model."""

    id: ModelId
    created: Annotated[Second, Meta(description="Unix time at which a worker loaded it.")]
    object: Literal["model"] = "model"
    owned_by: Annotated[str, Meta(max_length=256, pattern=DESCRIPTION, examples=["nvidia"])]
    api_type: Annotated[str, Meta(max_length=32, pattern=r"^[A-Za-z]*\Z", examples=["custom"])]


class ModelDetails(ModelDescription):
    """The loaded model, with what rt-embed knows of it."""

    aliases: Annotated[list[str], Meta(description="Other names by which requests may name it.")]
    dimension: Annotated[int, Meta(ge=1, description="Numbers in a vector.", examples=[768])]
    frames: Annotated[int, Meta(ge=1, description="Frames that it sees of a chunk.", examples=[8])]
    supports_text: Annotated[bool, Meta(description="Whether it embeds texts.")]
    verified: Annotated[
        bool, Meta(description="Whether its vectors were compared with those of another implementation.")
    ]


MODELS_LISTED = 5


class ModelList(ApiResponse):
    """The loaded models."""

    object: Literal["list"] = "list"
    data: Annotated[list[ModelDescription], Meta(max_length=MODELS_LISTED)]
    audio_support: bool = False


# Files ------------------------------------------------------------------------------------------------


class UploadForm(Parameters):
    """An upload, or the registration of a file that the server can already read."""

    # `file` is the upload's own name once the form was read; its bytes are in the asset store then.

    purpose: Annotated[Literal["vision"], Meta(description="What the file is for.")]
    media_type: Annotated[MediaType, Meta(description="What the file must contain.")]
    file: Annotated[
        str | None,
        Meta(
            description="The file. Give this or `filename`. Any name without `/` and `\\`.",
            extra_json_schema={"format": "binary", "maxLength": 100_000_000_000},
        ),
    ] = None
    filename: Annotated[
        str,
        Meta(
            max_length=256,
            pattern=PATH,
            description="Path of a file on the server, used in place. Give this or `file`.",
            examples=["/data/camera-1.mp4"],
        ),
    ] = ""
    creation_time: Annotated[
        Timestamp | None, Meta(description="When the recording began (UTC). Makes chunk times absolute.")
    ] = None
    id: Annotated[Uuid | None, Meta(description="Id to use; a random one if absent.")] = None
    sensor_name: Annotated[str, Meta(max_length=256, description="Any text; repeated in answers.")] = ""

    def problems(self) -> Iterator[tuple[str, str]]:
        """Yield problems with combinations of fields."""
        if self.creation_time is not None and not is_date(self.creation_time):
            yield "creation_time", f"{self.creation_time} is not a date that exists"
        if self.file is None and not self.filename:
            yield "file", "Give either a file or a filename"
        if self.file is not None and self.filename:
            yield "file", "Give a file or a filename, not both"


class FilesQuery(Parameters):
    """Which files to list."""

    purpose: Annotated[
        str,
        Meta(
            max_length=36,
            pattern=r"^[a-zA-Z]*\Z",
            description="`vision` lists all files; any other purpose has none.",
            examples=["vision"],
        ),
    ]


class File(ApiResponse):
    """A stored or registered file."""

    id: Uuid
    bytes: Annotated[int, Meta(ge=0, le=100_000_000_000, examples=[2_000_000])]
    filename: Annotated[str, Meta(max_length=256, examples=["myfile.mp4"])]
    creation_time: Timestamp | None
    purpose: Literal["vision"] = "vision"
    sensor_name: Annotated[str, Meta(max_length=256)] = ""


class TypedFile(File):
    """A stored or registered file, with its kind."""

    media_type: MediaType


class FileList(ApiResponse):
    """All files."""

    data: Annotated[list[TypedFile], Meta(max_length=1_000_000)]
    object: Literal["list"] = "list"


class FileMedia(ApiResponse):
    """What a worker has found in a file."""

    id: Uuid
    media_type: MediaType
    codec: Annotated[str, Meta(description="FFmpeg's name of the codec or kind of image.", examples=["h264"])]
    width: Annotated[int, Meta(ge=0, description="Pixels.", examples=[1920])]
    height: Annotated[int, Meta(ge=0, description="Pixels.", examples=[1080])]
    duration: Annotated[
        float | None, Meta(description="Seconds up to the end of the last frame; null for an image.")
    ] = None
    frame_rate: Annotated[
        float | None, Meta(description="Frames per second on average; null where it is unknown.")
    ] = None
    joined: Annotated[
        bool, Meta(description="The file holds several recordings, which are laid end to end.")
    ] = False


class DeletedFile(ApiResponse):
    """A deleted file."""

    id: Uuid
    object: Literal["file"] = "file"
    deleted: bool = True


# Embeddings -------------------------------------------------------------------------------------------

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
        if self.url is not None and not all(map(_is_uuid, self.ids)):
            yield "id", "Must be a UUID when url is given"
        if self.url is not None and self.media_type is None:
            yield "media_type", "Must be 'video' or 'image' when url is given"
        if self.url is not None and self.creation_time is not None and not is_date(self.creation_time):
            yield "creation_time", f"{self.creation_time} is not a date that exists"


def _is_uuid(text: str) -> bool:
    return re.fullmatch(_CANONICAL_UUID, text) is not None


def is_date(text: str) -> bool:
    """Return whether the text, of the form of a timestamp, names a date that exists."""
    try:
        parse_timestamp(text)
    except ValueError:
        return False
    return True


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
    """How many chunks a request has, and how many of them the client has got already."""

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


# As in OpenAI's API ------------------------------------------------------------------------------------

INPUTS = 2048
MEDIA_INPUTS = 16
LONGEST_TEXT = 8192


CLIP_BEGINNINGS = ("data:video_frames/jpg;base64,{", "data:video_frames/jpeg;base64,{")
CLIP_FRAMES = 64
MEDIA_BEGINNINGS = ("data:image/", "data:video/", "data:video_frames/")


def _check_input(given: str | list[str]) -> None:
    inputs = [given] if isinstance(given, str) else given
    if sum(map(is_media, inputs)) > MEDIA_INPUTS:
        raise ValueError(f"Must have at most {MEDIA_INPUTS} pictures and videos")
    for item in inputs:
        if not item:
            raise ValueError("Must not be empty")
        if frames := frames_in(item):
            if len(frames) > CLIP_FRAMES:
                raise ValueError(f"A clip must have at most {CLIP_FRAMES} frames")
        elif is_media(item):
            check_url(item)
        elif len(item) > LONGEST_TEXT:
            raise ValueError(f"A text must have at most {LONGEST_TEXT} characters")


def is_media(item: str) -> bool:
    """Return whether an input is an image or a video, by its `data:` or http address, not a text."""
    return item.startswith(MEDIA_BEGINNINGS) or HTTP_URL.fullmatch(item) is not None


def frames_in(item: str) -> list[str]:
    """Return the frames, base64 of JPEG files, of a clip as a Cosmos-Embed1 NIM takes it, else nothing."""
    begins = next((begin for begin in CLIP_BEGINNINGS if item.startswith(begin)), None)
    if begins is None:
        return []
    if not item.endswith("}"):
        raise ValueError("A clip must be data:video_frames/jpg;base64,{frame,frame,...}")
    return item[len(begins) : -1].split(",")


class EmbeddingsRequest(ApiType):
    """Texts, images and videos to embed, as in OpenAI's API. Unknown fields are ignored."""

    input: Annotated[
        str | Annotated[list[str], Meta(min_length=1, max_length=INPUTS)],
        Meta(
            extra={"check": _check_input},
            description=(
                "One or many inputs. Media at an http(s) URL, or in a `data:` URL of an image or video, "
                "is embedded, a video as one chunk; so is a clip of frames, "
                "`data:video_frames/jpg;base64,{frame,frame,...}`, each the base64 of a JPEG file; any other "
                "input is a text."
            ),
            examples=[["a forklift", "https://example.com/warehouse.mp4"]],
        ),
    ]
    model: ModelId
    encoding_format: Encoding = "float"
    dimensions: Dimensions = None
    user: str | None = None


class OneEmbedding(ApiResponse):
    """One input's vector."""

    object: Literal["embedding"] = "embedding"
    index: Annotated[int, Meta(ge=0, description="The input's place in the request.")]
    embedding: Embedding


class TokenUsage(ApiResponse):
    """Always 0: tokens are not counted."""

    prompt_tokens: int = 0
    total_tokens: int = 0


class EmbeddingsResponse(ApiResponse):
    """The vectors, in the order of the inputs."""

    object: Literal["list"] = "list"
    data: list[OneEmbedding]
    model: ModelId
    usage: TokenUsage
