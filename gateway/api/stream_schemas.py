"""Requests and answers for live streams, cameras and message routing. See `gateway.api.schemas`."""

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from gateway.api.embedding_schemas import UrlHeaders
from gateway.api.schemas import DESCRIPTION, ApiRequest, ApiResponse, ApiType, Second, StreamId, Uuid

RTSP_URL = r"^rtsps?://"
CV_URL = r"^(rtsps?://|file://|https?://)"
VIOS_URL = r"^(rtsps?://|file://|https?://|/|\Z)"
CHANGE = r"^[A-Za-z_]+\Z"

Name = Annotated[str, Meta(max_length=256)]
CameraId = Annotated[
    str,
    Meta(
        max_length=256,
        description="Any text. The asset gets this id if it has the form of one, else a random UUID.",
        examples=["camera-001"],
    ),
]
Coordinate = Annotated[float, Meta(ge=-1e6, le=1e6)]
Change = Annotated[str, Meta(max_length=32, pattern=CHANGE, examples=["camera_add"])]
ChunkDuration = Annotated[int, Meta(ge=0, le=3600, description="Seconds per chunk.")]
ChunkOverlap = Annotated[
    int, Meta(ge=-3600, le=3600, description="Seconds shared by neighbouring chunks; negative for gaps.")
]

# Streams ----------------------------------------------------------------------------------------------


class NewStream(ApiRequest):
    """An RTSP stream to register."""

    live_stream_url: Annotated[
        str, Meta(max_length=256, pattern=RTSP_URL, examples=["rtsp://camera.example.com:554/live"])
    ] = msgspec.field(name="liveStreamUrl")
    description: Annotated[str, Meta(max_length=256, pattern=DESCRIPTION, examples=["Front door"])]
    username: Annotated[str, Meta(max_length=256, pattern=DESCRIPTION)] = ""
    password: Annotated[str, Meta(max_length=256, pattern=DESCRIPTION, extra={"secret": True})] = ""
    place_name: Name | None = ""
    place_type: Name | None = ""
    place_lat: Annotated[float, Meta(ge=-90, le=90)] | None = None
    place_lon: Annotated[float, Meta(ge=-180, le=180)] | None = None
    place_alt: Coordinate | None = None
    place_coordinate_x: Coordinate | None = None
    place_coordinate_y: Coordinate | None = None
    id: Annotated[StreamId | None, Meta(description="Id to use; a random UUID if absent.")] = None
    sensor_name: Name = ""


class AddStreams(ApiRequest):
    """Streams to register, one after another."""

    streams: Annotated[list[NewStream], Meta(min_length=1, max_length=256)]


class AddedStream(ApiResponse):
    """A registered stream."""

    id: StreamId


class RefusedStream(ApiResponse):
    """Why one of the streams was not registered."""

    index: Annotated[int, Meta(ge=0, description="Index of the stream in the request.")]
    url: str
    error: str
    error_code: Annotated[str, Meta(examples=["InvalidFile"])]
    status_code: Annotated[int, Meta(examples=[400])]


class AddedStreams(ApiResponse):
    """The result for each stream. The status is 200 even if none was registered."""

    results: list[AddedStream]
    errors: list[RefusedStream]


class StreamInfo(ApiResponse):
    """A registered stream and how it is embedded."""

    id: StreamId
    live_stream_url: str = msgspec.field(name="liveStreamUrl")
    description: str
    chunk_duration: Annotated[int, Meta(ge=0, description="Of the running job, seconds; 0 when idle.")]
    chunk_overlap_duration: Annotated[int, Meta(description="Of the running job, seconds; 0 when idle.")]
    place_name: str | None = ""
    place_type: str | None = ""
    place_lat: float | None = None
    place_lon: float | None = None
    place_alt: float | None = None
    place_coordinate_x: float | None = None
    place_coordinate_y: float | None = None


class StreamStatus(ApiResponse):
    """What the running job of a stream is doing. An idle stream has `state` idle and no other values."""

    id: StreamId
    state: Annotated[
        Literal["idle", "waiting", "connecting", "running", "reconnecting", "ended"],
        Meta(description="`waiting` for a worker, or what the worker that embeds it is doing."),
    ] = "idle"
    detail: Annotated[str, Meta(description="Why it is in this state, where there is more to say.")] = ""
    request: Annotated[Uuid | None, Meta(description="Id of the request that embeds it.")] = None
    model: str | None = None
    worker: Annotated[str | None, Meta(description="Name of the worker that embeds it.")] = None
    created: Annotated[Second | None, Meta(description="Unix time at which the job was started.")] = None
    chunk_duration: Annotated[int, Meta(ge=0, description="Seconds; 0 when idle.")] = 0
    chunk_overlap_duration: Annotated[int, Meta(description="Seconds; 0 when idle.")] = 0
    chunks: Annotated[int, Meta(ge=0, description="Chunks so far, with those dropped or failed.")] = 0
    chunks_dropped: Annotated[int, Meta(ge=0, description="Chunks that were dropped under overload.")] = 0
    chunks_failed: Annotated[int, Meta(ge=0, description="Chunks that failed.")] = 0
    reconnections: Annotated[int, Meta(ge=0, description="How often the camera was connected to again.")] = 0
    transport: Annotated[str, Meta(description="How the camera's packets arrive.", examples=["tcp"])] = ""
    clock: Annotated[
        str,
        Meta(description="Source of the chunks' times: picture, camera (its sender reports) or arrival."),
    ] = ""


class DeleteStreams(ApiRequest):
    """Streams to stop and remove, in parallel."""

    stream_ids: Annotated[list[StreamId], Meta(min_length=1, max_length=256)]
    blocking: Annotated[
        bool,
        Meta(description="Wait longer for chunks in flight, unless `drain_timeout_seconds` says how long."),
    ] = False
    drain_timeout_seconds: Annotated[
        Annotated[float, Meta(ge=0, le=3600)] | None,
        Meta(description="How long to wait for each stream's chunks in flight."),
    ] = None


class KeptStream(ApiResponse):
    """Why one of the streams was not removed."""

    stream_id: str
    error: str
    error_code: Annotated[str, Meta(examples=["BadParameter"])]
    status_code: Annotated[int, Meta(examples=[400])]


class DeletedStreams(ApiResponse):
    """The result for each stream, in the order of the request."""

    deleted: list[StreamId]
    errors: list[KeptStream]


# Cameras ----------------------------------------------------------------------------------------------


class CameraMetadata(ApiRequest):
    """How to embed a camera. A `model` starts it. Fields for captions only are accepted and ignored."""

    model: Annotated[Name | None, Meta(description="Its presence starts embedding.")] = None
    chunk_duration: ChunkDuration | None = None
    chunk_overlap_duration: ChunkOverlap | None = None
    resolution: Annotated[str, Meta(max_length=32, pattern=r"^[0-9]+x[0-9]+\Z")] | None = None
    codec: Annotated[str, Meta(max_length=64, pattern=r"^[A-Za-z0-9._\-]+\Z")] | None = None
    framerate: Annotated[float, Meta(ge=0.1, le=240)] | None = None
    prompt: Annotated[str, Meta(max_length=10_240)] | None = None
    system_prompt: Annotated[str, Meta(max_length=10_240)] | None = None
    max_tokens: Annotated[int, Meta(ge=1, le=16_384)] | None = None
    min_tokens: Annotated[int, Meta(ge=1, le=16_384)] | None = None
    temperature: Annotated[float, Meta(ge=0, le=1)] | None = None
    top_p: Annotated[float, Meta(ge=0, le=1)] | None = None
    top_k: Annotated[int, Meta(ge=1, le=1000)] | None = None
    seed: Annotated[int, Meta(ge=1, le=4_294_967_295)] | None = None
    num_frames_per_second_or_fixed_frames_chunk: Annotated[float, Meta(ge=0, le=256)] | None = None
    vlm_input_width: Annotated[int, Meta(ge=0, le=4096)] | None = None
    vlm_input_height: Annotated[int, Meta(ge=0, le=4096)] | None = None
    alert_category: Annotated[str, Meta(max_length=500)] | None = None
    response_format_type: Literal["text", "json_object"] | None = None
    mm_processor_kwargs: dict[str, Any] | None = None
    ignore_eos: bool | None = None
    use_fps_for_chunking: bool | None = None
    enable_reasoning: bool | None = None
    enable_audio: bool | None = None
    stream: bool | None = None


class CameraHeaders(ApiRequest):
    """The origin of an event."""

    source: Name | None = None
    created_at: Annotated[str, Meta(max_length=64)] | None = None
    url_headers: Annotated[
        UrlHeaders | None, Meta(description="Headers for fetching the URL over https.")
    ] = None


class Camera(ApiRequest):
    """A camera to add."""

    camera_id: CameraId
    camera_name: Name | None = None
    camera_url: Annotated[
        str, Meta(max_length=1024, pattern=CV_URL, examples=["rtsp://camera.example.com:554/live"])
    ]
    change: Annotated[Change, Meta(description="`camera_add`, `add` or `camera_streaming`.")]
    creation_time: Annotated[str, Meta(max_length=64)] | None = None
    metadata: CameraMetadata | None = None
    camera_type: Literal["rtsp", "file"] | None = None
    camera_vod_url: Annotated[str, Meta(max_length=1024)] | None = None
    tags: Annotated[str, Meta(max_length=1024)] | None = None


class AddCamera(ApiRequest):
    """A camera to add, in the envelope of the RTVI-CV service."""

    key: Annotated[Name, Meta(examples=["sensor"])]
    value: Camera
    headers: CameraHeaders | None = None


class GoneCamera(ApiRequest):
    """A camera to remove."""

    camera_id: CameraId
    change: Annotated[Change, Meta(description="`camera_remove` or `remove`.", examples=["camera_remove"])]
    camera_name: Name | None = None
    camera_url: Annotated[str, Meta(max_length=1024, pattern=CV_URL)] | None = None
    metadata: CameraMetadata | None = None
    camera_type: Literal["rtsp", "file"] | None = None
    camera_vod_url: Annotated[str, Meta(max_length=1024)] | None = None
    tags: Annotated[str, Meta(max_length=1024)] | None = None


class RemoveCamera(ApiRequest):
    """A camera to remove, in the envelope of the RTVI-CV service."""

    key: Annotated[Name, Meta(examples=["sensor"])]
    value: GoneCamera
    headers: CameraHeaders | None = None


class EventHeaders(ApiType):
    """Headers of an event; unknown fields are ignored."""

    url_headers: UrlHeaders | None = None


class CameraEvent(ApiType):
    """A camera whose status changed."""

    camera_id: CameraId
    change: Annotated[Change, Meta(examples=["camera_streaming"])]
    camera_name: Name | None = None
    camera_type: Literal["rtsp", "file"] | None = None
    camera_url: Annotated[
        Annotated[str, Meta(max_length=1024, pattern=VIOS_URL)] | None,
        Meta(description="Required to add a camera; an empty one registers the name only."),
    ] = None
    camera_vod_url: Annotated[str, Meta(max_length=1024)] | None = None
    tags: Annotated[str, Meta(max_length=1024)] | None = None
    metadata: Annotated[
        dict[str, Any] | None, Meta(description="Any object; what CameraMetadata names is used.")
    ] = None
    headers: EventHeaders | None = None


class CameraStatusChange(ApiType):
    """A camera to add or remove, in the envelope of the VIOS service; other fields are ignored."""

    alert_type: Annotated[str, Meta(max_length=128, examples=["camera_status_change"])]
    created_at: Annotated[str, Meta(max_length=64, examples=["2026-09-04T10:00:00Z"])]
    source: Annotated[str, Meta(max_length=256, examples=["vios"])]
    event: CameraEvent


class AddedCamera(ApiResponse):
    """A registered camera."""

    camera_id: CameraId
    asset_id: str
    status: Annotated[Literal["processing", "added"], Meta(description="`processing` once it is embedded.")]
    inference: bool


class RemovedCamera(ApiResponse):
    """A removed camera."""

    camera_id: CameraId
    asset_id: str
    status: Literal["removed"] = "removed"


class CameraInfo(ApiResponse):
    """A live stream, as the RTVI-CV service describes it."""

    camera_id: CameraId
    camera_name: str | None
    camera_url: str
    asset_id: str
    source_id: int | None = None
    sensor_id: str | None = None
    inference_active: bool
    chunk_duration: int
    chunk_overlap_duration: int


class CameraList(ApiResponse):
    """All live streams, however they were added."""

    status: Literal["ok"] = "ok"
    stream_count: Annotated[int, Meta(ge=0)]
    stream_list: list[CameraInfo]


# Message routing --------------------------------------------------------------------------------------

Bus = Literal["kafka", "redis"]
Topic = Annotated[str, Meta(min_length=1, max_length=256, examples=["mdx-embed"])]


class Routing(ApiRequest):
    """Where messages are sent from now on."""

    messagingbus: Bus
    topic_prefix: Annotated[Topic, Meta(description="The full name of the topic or stream.")] = msgspec.field(
        name="topic-prefix"
    )
    errorbus: Bus | None = None
    error_topic_prefix: Topic | None = msgspec.field(name="error-topic-prefix", default=None)
    region: Name | None = None
    group: Name | None = None
    create_topic: Annotated[bool, Meta(description="Create the Kafka topic if it is missing.")] = (
        msgspec.field(name="create-topic", default=False)
    )
    topic_partition: Annotated[int, Meta(ge=1, le=100_000)] | None = msgspec.field(
        name="topic-partition", default=None
    )


class RoutingEvent(ApiRequest):
    """A change of routing."""

    camera_id: Name = ""
    name: Name | None = None
    camera_url: Annotated[str, Meta(max_length=1024)] = ""
    change: Annotated[Change, Meta(description="`config`.", examples=["config"])]
    metadata: Routing
    headers: CameraHeaders | None = None


class Configuration(ApiRequest):
    """A change of routing, in the envelope of the VIOS service."""

    alert_type: Annotated[str, Meta(max_length=128, examples=["config"])]
    created_at: Annotated[str, Meta(max_length=64, examples=["2023-03-10T00:45:16Z"])]
    txn_id: Annotated[str, Meta(max_length=64, examples=["f03ef248-2ec0-4a99-aeb5-938bd075bada"])]
    source: Annotated[str, Meta(max_length=256, examples=["vios"])]
    event: RoutingEvent


class Configured(ApiResponse, omit_defaults=True):
    """The routing in force; fields that do not apply are left out."""

    txn_id: str
    status: Literal["updated"]
    messagingbus: Bus
    topic: str
    source: str
    created_at: str
    errorbus: Bus | None = None
    error_topic: str | None = None
    warnings: Annotated[list[Annotated[str, Meta(max_length=2048)]], Meta(max_length=16)] | None = None
