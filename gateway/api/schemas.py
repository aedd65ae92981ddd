"""Requests and answers: the types that validate them and describe the API.

`Annotated[..., Meta(...)]` holds the rule, its meaning and an example. `gateway.api.validation` enforces the
rules, and `gateway.api.openapi` publishes all three. Patterns end in `\\Z` because Python's `$` would accept
a final newline; the published form ends in `$`.
"""

import re
from collections.abc import Iterator
from typing import Annotated, Any, Literal, dataclass_transform

import msgspec
from msgspec import UNSET, Meta, UnsetType

from shared.timestamps import parse_timestamp

MOST_FILES = 10_000
"""Files in a page of their list."""
TIMESTAMP = r"^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]{3})?Z\Z"
PATH = r"^[A-Za-z0-9_.\-/ ]*\Z"
DESCRIPTION = r"""^[A-Za-z0-9_.\-"' ,]*\Z"""
VERSION = r"^[0-9]+\.[0-9]+\.[0-9]+(-[A-Za-z0-9\-\.]+)?(\+[A-Za-z0-9\-\.]+)?\Z"
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

    def __new__(
        mcls: type[Any], name: str, bases: tuple[type, ...], namespace: dict[str, Any], **config: Any
    ) -> Any:
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


def is_uuid(text: str) -> bool:
    """Return whether the text is a UUID in its usual form."""
    return re.fullmatch(_CANONICAL_UUID, text) is not None


def is_date(text: str) -> bool:
    """Return whether the text, of the form of a timestamp, names a date that exists."""
    try:
        parse_timestamp(text)
    except ValueError:
        return False
    return True


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
    verification: Annotated[
        Literal["", "here", "digest"],
        Meta(
            description=(
                "How a converted checkpoint was verified: `here`, by a comparison on the machine that "
                "converted it, or by `digest`: its code is the same as that of one that was."
            )
        ),
    ] = ""


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
    limit: Annotated[
        Annotated[int, Meta(ge=1, le=MOST_FILES)] | None,
        Meta(description="At most so many; all if absent.", examples=[100]),
    ] = None
    after: Annotated[
        Uuid | None,
        Meta(description="Only those that were added after this file: the last `id` of the page before."),
    ] = None


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
    """Files, oldest first."""

    data: Annotated[list[TypedFile], Meta(max_length=1_000_000)]
    object: Literal["list"] = "list"
    has_more: (
        Annotated[bool, Meta(description="Whether files follow these; only if `limit` was set.")] | UnsetType
    ) = UNSET


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
