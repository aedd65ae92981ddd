"""Every operation of the API: its types, an example, and the errors it may end with."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec

from gateway import schemas as s
from gateway import stream_schemas as t
from gateway.access import FREE
from shared import errors as e

TAGS = {
    "Health Check": "Whether the service lives and can serve.",
    "Metrics": "What the service measures.",
    "Models": "What the service embeds with.",
    "Metadata": "Which release this is.",
    "NIM Compatible": "The same, as NVIDIA NIM services tell it.",
    "Files": "Videos and images to embed.",
    "Embeddings": "Vectors for video, images and text.",
    "Requests": "Requests that are answered later.",
    "Config": "Changes at run time.",
    "Live Stream": "Cameras by their RTSP address.",
    "Stream": "Cameras, as other services of the same family announce them.",
}
PATH_PARAMETERS = {
    "file_id": "Id of a file, with or without hyphens.",
    "stream_id": "Id of a live stream, with or without hyphens.",
    "request_id": "Id of a request, with or without hyphens.",
}

ID = "123e4567-e89b-12d3-a456-426614174000"
MODEL = "cosmos-embed1-448p"
TIME = "2024-06-09T18:32:11.123Z"
CAMERA = "rtsp://camera.example.com:554/live"


@dataclass(frozen=True, kw_only=True)
class Answer:
    """A response that is no error."""

    status: int = 200
    description: str
    json: Any = None
    """A type that msgspec knows."""
    others: tuple[type[msgspec.Struct], ...] = ()
    """What else the JSON may be."""
    example: Any = None
    texts: Mapping[str, str] = field(default_factory=dict)
    """Media type to example."""
    binaries: tuple[str, ...] = ()
    events: tuple[type[msgspec.Struct], ...] = ()
    """What the events of a text stream hold."""

    def types(self) -> tuple[Any, ...]:
        """The types that the document must describe for this answer."""
        return (*((self.json,) if self.json else ()), *self.others, *self.events)


@dataclass(frozen=True, kw_only=True)
class Operation:
    """One method of one path."""

    method: str
    path: str
    name: str
    tag: str
    summary: str
    description: str = ""
    query: type[msgspec.Struct] | None = None
    form: type[msgspec.Struct] | None = None
    body: Any = None
    body_example: msgspec.Struct | None = None
    answers: tuple[Answer, ...]
    errors: tuple[type[e.RtEmbedError], ...] = ()
    headers: Mapping[str, str] = field(default_factory=dict)
    """Request headers that matter, and what for."""
    misfit: str = "('body', 'model'): Field required"
    """What a request that does not fit is told, for example."""

    def all_errors(self) -> tuple[type[e.RtEmbedError], ...]:
        """Its own errors and those that any operation of its kind may have."""
        takes_something = self.query or self.form or self.body or "{" in self.path
        return (
            *((e.InvalidParameters,) if takes_something else ()),
            *self.errors,
            *(() if self.path in FREE else (e.Unauthorized, e.TooManyRequests)),
            e.RtEmbedError,
        )


HEALTHY = "Service is healthy"
_CHECK = s.HealthCheck(healthy=True, message="running", component="redis", timestamp=1767000000.12)
_HEALTH = s.Health(healthy=True, timestamp=1767000000.12, uptime_seconds=512.8, checks=[_CHECK])
_HEALTH_ANSWERS = (
    Answer(
        description="Healthy. Plain text, or every check with `detailed`.",
        json=s.Health,
        example=_HEALTH,
        texts={"text/plain": HEALTHY},
    ),
    Answer(
        status=503,
        description="Not healthy.",
        json=s.Health,
        example=msgspec.structs.replace(
            _HEALTH,
            healthy=False,
            checks=[msgspec.structs.replace(_CHECK, healthy=False, message="no answer in time")],
        ),
        texts={"text/plain": "Service is not healthy"},
    ),
)
_FILE = s.TypedFile(
    id=ID, bytes=2_000_000, filename="myfile.mp4", creation_time=TIME, sensor_name="", media_type="video"
)
_UNTYPED_FILE = s.File(id=ID, bytes=2_000_000, filename="myfile.mp4", creation_time=TIME)
_PREFER = "`respond-async`: answer at once with 202 and where the answer will be."
_STATUS = s.RequestStatus(
    id=ID,
    kind="video",
    status="running",
    model=MODEL,
    created=1767000000,
    chunks_planned=3,
    chunks_done=1,
)
_ACCEPTED = Answer(
    status=202,
    description="Accepted, for `Prefer: respond-async`; `Location` says where the request can be looked at.",
    json=s.RequestStatus,
    example=_STATUS,
)
_CHUNK = s.ChunkEmbedding(
    start_time="0.0",
    end_time="60.0",
    embeddings=[0.0123, -0.0456],
    decode_latency_ms=41.2,
    inference_latency_ms=12.9,
    chunk_latency_ms=60.4,
    queue_time_s=0.002,
    processing_latency_s=0.06,
    frame_count=8,
)
_RANGE = s.OffsetRange(start_offset=0, end_offset=60)
_VIDEO = s.VideoResponse(
    id=ID,
    created=1767000000,
    model=MODEL,
    media_info=_RANGE,
    usage=s.Usage(query_processing_time=2, total_chunks_processed=1),
    chunk_responses=[_CHUNK],
)
_EVENTS = (
    f'data: {{"id": "{ID}", "model": "{MODEL}", "created": 1767000000, "media_info": {{"type": "offset", '
    '"start_offset": 0, "end_offset": 60}, "chunk_responses": [{"start_time": "0.0", "end_time": "60.0", '
    '"embeddings": [0.0123, -0.0456]}], "usage": null}\r\n\r\ndata: [DONE]\r\n\r\n'
)

OPERATIONS = (
    Operation(
        method="GET",
        path="/v1/ready",
        name="ready",
        tag="Health Check",
        summary="Whether a request sent now would be served",
        query=s.HealthQuery,
        misfit="('query', 'detailed'): Must be true or false",
        answers=_HEALTH_ANSWERS,
    ),
    Operation(
        method="GET",
        path="/v1/live",
        name="live",
        tag="Health Check",
        summary="Whether this process makes progress",
        query=s.HealthQuery,
        misfit="('query', 'detailed'): Must be true or false",
        answers=_HEALTH_ANSWERS,
    ),
    Operation(
        method="GET",
        path="/v1/startup",
        name="startup",
        tag="Health Check",
        summary="What the service is doing until it can serve",
        answers=(
            Answer(
                description="Started; the text says whether it is ready.",
                texts={"text/plain": "Service is ready to serve requests."},
            ),
        ),
    ),
    Operation(
        method="GET",
        path="/v1/metrics",
        name="metrics",
        tag="Metrics",
        summary="Figures of the whole fleet",
        answers=(
            Answer(
                description="Prometheus's text format.",
                texts={"text/plain": "# TYPE active_live_streams gauge\nactive_live_streams 0.0\n"},
            ),
        ),
    ),
    Operation(
        method="GET",
        path="/v1/models",
        name="models",
        tag="Models",
        summary="The loaded model",
        answers=(
            Answer(
                description="A list of one.",
                json=s.ModelList,
                example=s.ModelList(
                    data=[
                        s.ModelDescription(id=MODEL, created=1767000000, owned_by="nvidia", api_type="custom")
                    ]
                ),
            ),
        ),
        errors=(e.Unavailable,),
    ),
    Operation(
        method="GET",
        path="/v1/assets/stats",
        name="assets_stats",
        tag="Metrics",
        summary="What the asset store holds",
        answers=(
            Answer(
                description="Numbers, ages and bounds.",
                json=s.AssetStatistics,
                example=s.AssetStatistics(
                    asset_count=3,
                    asset_count_with_storage=2,
                    aged_out_count=0,
                    oldest_asset_age_hours=1.25,
                    max_storage_usage_gb=8,
                    max_asset_age_hours=None,
                ),
            ),
        ),
        errors=(e.Unavailable,),
    ),
    Operation(
        method="GET",
        path="/v1/metadata",
        name="metadata",
        tag="Metadata",
        summary="The release",
        answers=(
            Answer(
                description="The release.", json=s.ServiceVersion, example=s.ServiceVersion(version="3.2.0")
            ),
        ),
    ),
    Operation(
        method="GET",
        path="/v1/version",
        name="version",
        tag="NIM Compatible",
        summary="The release and the version of this description's format",
        answers=(
            Answer(
                description="The versions.",
                json=s.Version,
                example=s.Version(release="3.2.0", api="3.1.0"),
            ),
        ),
    ),
    Operation(
        method="GET",
        path="/v1/manifest",
        name="manifest",
        tag="NIM Compatible",
        summary="The release and its model",
        answers=(
            Answer(
                description="Release and model.",
                json=s.Manifest,
                example=s.Manifest(version="3.2.0", model=MODEL),
            ),
        ),
        errors=(e.Unavailable,),
    ),
    Operation(
        method="POST",
        path="/v1/files",
        name="upload",
        tag="Files",
        summary="Upload a file, or register one that the server can read",
        description=(
            "A worker opens the file before it is accepted. A registered file stays where it is and is not "
            "deleted with its record. `application/x-www-form-urlencoded` works for `filename`."
        ),
        form=s.UploadForm,
        misfit="('body', 'purpose'): Field required",
        answers=(Answer(description="The file.", json=s.TypedFile, example=_FILE),),
        errors=(
            e.BadParameters,
            e.InvalidReference,
            e.InvalidFile,
            e.DuplicateAssetId,
            e.FileTooLarge,
            e.ServerBusy,
            e.Unavailable,
        ),
    ),
    Operation(
        method="GET",
        path="/v1/files",
        name="files",
        tag="Files",
        summary="List files",
        description="Live streams are not listed.",
        query=s.FilesQuery,
        misfit="('query', 'purpose'): Field required",
        answers=(Answer(description="All files.", json=s.FileList, example=s.FileList(data=[_FILE])),),
        errors=(e.Unavailable,),
    ),
    Operation(
        method="GET",
        path="/v1/files/{file_id}",
        name="file_information",
        tag="Files",
        summary="Describe a file",
        misfit="('path', 'file_id'): Must be a UUID (input: \"x\")",
        answers=(Answer(description="The file.", json=s.File, example=_UNTYPED_FILE),),
        errors=(e.BadParameter, e.Unavailable),
    ),
    Operation(
        method="GET",
        path="/v1/files/{file_id}/content",
        name="file_content",
        tag="Files",
        summary="The bytes of a file",
        description="Takes `Range`. The content type is guessed from the name.",
        misfit="('path', 'file_id'): Must be a UUID (input: \"x\")",
        answers=(
            Answer(description="The whole file.", binaries=("*/*",)),
            Answer(status=206, description="The ranges asked for.", binaries=("*/*",)),
            Answer(status=416, description="No such range.", texts={"text/plain": ""}),
        ),
        errors=(e.BadParameter, e.Unavailable),
    ),
    Operation(
        method="DELETE",
        path="/v1/files/{file_id}",
        name="delete_file",
        tag="Files",
        summary="Delete a file",
        misfit="('path', 'file_id'): Must be a UUID (input: \"x\")",
        answers=(Answer(description="It is gone.", json=s.DeletedFile, example=s.DeletedFile(id=ID)),),
        errors=(e.BadParameter, e.ResourceInUse, e.Unavailable),
    ),
    Operation(
        method="POST",
        path="/v1/generate_text_embeddings",
        name="generate_text_embeddings",
        tag="Embeddings",
        summary="Embed text",
        body=s.TextRequest,
        body_example=s.TextRequest(text_input=["a forklift moving pallets"], model=MODEL),
        headers={"Prefer": _PREFER},
        answers=(
            _ACCEPTED,
            Answer(
                description="One vector per text, in their order.",
                json=s.TextResponse,
                example=s.TextResponse(
                    id=ID,
                    created=1767000000,
                    model=MODEL,
                    data=[
                        s.TextEmbedding(text_input="a forklift moving pallets", embeddings=[0.0123, -0.0456])
                    ],
                ),
            ),
        ),
        errors=(
            e.BadParameters,
            e.FileTooLarge,
            e.TextEmbeddingsError,
            e.NotSupported,
            e.ServerBusy,
            e.Unavailable,
        ),
    ),
    Operation(
        method="POST",
        path="/v1/generate_video_embeddings",
        name="generate_video_embeddings",
        tag="Embeddings",
        summary="Embed a file, images, or what a URL leads to",
        description=(
            "One vector per chunk of video, or one vector for a list of images. With `url` the media is "
            "fetched first, under the one `id` given, and goes when the request has ended. With `stream` "
            "the answer is a stream of server-sent events: one ChunkEvent per finished chunk, in the order "
            "in which they finish; then a UsageEvent if asked for; a FailureEvent if the request failed; and "
            "`[DONE]`. A client that comes back with the same body and the id of the last event it got gets "
            "the events after it. More images than the model takes frames are refused."
        ),
        body=s.VideoRequest,
        body_example=s.VideoRequest(id=ID, model=MODEL, chunk_duration=60),
        headers={"Prefer": _PREFER, "Last-Event-ID": "Id of the event after which a stream goes on."},
        answers=(
            _ACCEPTED,
            Answer(
                description="The vectors, sorted by time; with `stream`, events.",
                json=s.VideoResponse,
                example=_VIDEO,
                texts={"text/event-stream": _EVENTS},
                events=(s.ChunkEvent, s.UsageEvent, s.FailureEvent),
            ),
        ),
        errors=(
            e.RedirectNotAllowed,
            e.BadParameters,
            e.BadParameter,
            e.FailedRequest,
            e.AssetAlreadyExists,
            e.InvalidReference,
            e.MissingFile,
            e.InvalidDataUrl,
            e.Forbidden,
            e.NotFound,
            e.Conflict,
            e.FileTooLarge,
            e.EmbeddingFailed,
            e.DownloadFailed,
            e.ServerBusy,
            e.Unavailable,
            e.DependencyError,
        ),
    ),
    Operation(
        method="DELETE",
        path="/v1/generate_video_embeddings/{stream_id}",
        name="stop_embedding",
        tag="Embeddings",
        summary="Stop embedding a live stream",
        description="The stream stays registered. Also answers 200 when nothing was running.",
        answers=(Answer(description="Nothing is embedded any more."),),
        errors=(e.BadParameter, e.InvalidParameter),
        misfit="('path', 'stream_id'): Must be a UUID",
    ),
    Operation(
        method="POST",
        path="/v1/streams/add",
        name="add_streams",
        tag="Live Stream",
        summary="Register RTSP streams",
        description=(
            "One after another; a worker looks at each camera first. The status is 200 even if every stream "
            "is refused: see `errors`. Embedding starts with a request for video embeddings."
        ),
        body=t.AddStreams,
        body_example=t.AddStreams(streams=[t.NewStream(live_stream_url=CAMERA, description="Front door")]),
        answers=(
            Answer(
                description="What became of each stream.",
                json=t.AddedStreams,
                example=t.AddedStreams(
                    results=[t.AddedStream(id=ID)],
                    errors=[
                        t.RefusedStream(
                            index=1,
                            url=CAMERA,
                            error="Cannot use the stream: no answer within 10 s",
                            error_code="InvalidFile",
                            status_code=400,
                        )
                    ],
                ),
            ),
        ),
        errors=(e.FileTooLarge, e.Unavailable),
        misfit="('body', 'streams'): Field required",
    ),
    Operation(
        method="GET",
        path="/v1/streams/get-stream-info",
        name="get_stream_info",
        tag="Live Stream",
        summary="List live streams",
        answers=(
            Answer(
                description="All live streams.",
                json=list[t.StreamInfo],
                example=[
                    t.StreamInfo(
                        id=ID,
                        live_stream_url=CAMERA,
                        description="Front door",
                        chunk_duration=10,
                        chunk_overlap_duration=0,
                        state="running",
                    )
                ],
            ),
        ),
        errors=(e.Unavailable,),
    ),
    Operation(
        method="DELETE",
        path="/v1/streams/delete/{stream_id}",
        name="delete_stream",
        tag="Live Stream",
        summary="Stop and forget a live stream",
        description="Waits for chunks in flight; chunks that wait are dropped.",
        answers=(Answer(description="The stream is gone."),),
        errors=(e.BadParameter, e.InvalidParameter, e.ResourceInUse, e.Unavailable),
        misfit="('path', 'stream_id'): Must be a UUID",
    ),
    Operation(
        method="DELETE",
        path="/v1/streams/delete-batch",
        name="delete_streams",
        tag="Live Stream",
        summary="Stop and forget many live streams",
        description="In parallel. The status is 200 even if none could be removed: see `errors`.",
        body=t.DeleteStreams,
        body_example=t.DeleteStreams(stream_ids=[ID]),
        answers=(
            Answer(
                description="What became of each stream, in the order of the request.",
                json=t.DeletedStreams,
                example=t.DeletedStreams(
                    deleted=[ID],
                    errors=[
                        t.KeptStream(
                            stream_id=ID,
                            error=f"No such resource {ID}",
                            error_code="BadParameter",
                            status_code=400,
                        )
                    ],
                ),
            ),
        ),
        errors=(e.FileTooLarge, e.Unavailable),
        misfit="('body', 'stream_ids'): Field required",
    ),
    Operation(
        method="POST",
        path="/v1/stream/add",
        name="add_camera",
        tag="Stream",
        summary="Add a camera, and embed it if its metadata names a model",
        description=(
            "In the envelope of the RTVI-CV service, or in that of the VIOS service (`alert_type`, `event`). "
            "The camera need not be reachable yet. A file or an http(s) URL is stored as a file. Also at "
            "/v1/camera/add and, by PUT, /v1/camera/streaming."
        ),
        body=t.AddCamera,
        body_example=t.AddCamera(
            key="sensor",
            value=t.Camera(
                camera_id="camera-001",
                camera_url=CAMERA,
                change="camera_add",
                metadata=t.CameraMetadata(model=MODEL, chunk_duration=10),
            ),
        ),
        answers=(
            Answer(
                description="The camera is registered.",
                json=t.AddedCamera,
                example=t.AddedCamera(
                    camera_id="camera-001", asset_id=ID, status="processing", inference=True
                ),
            ),
        ),
        errors=(
            e.RedirectNotAllowed,
            e.BadRequest,
            e.InvalidReference,
            e.MissingFile,
            e.Forbidden,
            e.DuplicateCameraId,
            e.FileTooLarge,
            e.DownloadFailed,
            e.ServerBusy,
            e.Unavailable,
        ),
        misfit="('body', 'value'): Field required",
    ),
    Operation(
        method="POST",
        path="/v1/stream/remove",
        name="remove_camera",
        tag="Stream",
        summary="Stop and forget a camera",
        description=(
            "In either envelope. An unknown camera is 404 in that of RTVI-CV, and 200 with an empty "
            "`asset_id` in that of VIOS. Also at /v1/camera/remove, by POST and DELETE."
        ),
        body=t.RemoveCamera,
        body_example=t.RemoveCamera(
            key="sensor", value=t.GoneCamera(camera_id="camera-001", change="camera_remove")
        ),
        answers=(
            Answer(
                description="The camera is gone.",
                json=t.RemovedCamera,
                example=t.RemovedCamera(camera_id="camera-001", asset_id=ID),
            ),
        ),
        errors=(e.BadRequest, e.NotFound, e.ResourceInUse, e.FileTooLarge, e.Unavailable),
        misfit="('body', 'value'): Field required",
    ),
    Operation(
        method="GET",
        path="/v1/stream/get-stream-info",
        name="get_camera_info",
        tag="Stream",
        summary="List cameras",
        answers=(
            Answer(
                description="All live streams, however they were added.",
                json=t.CameraList,
                example=t.CameraList(
                    stream_count=1,
                    stream_list=[
                        t.CameraInfo(
                            camera_id="camera-001",
                            camera_name="Front door",
                            camera_url=CAMERA,
                            asset_id=ID,
                            inference_active=True,
                            chunk_duration=10,
                            chunk_overlap_duration=0,
                        )
                    ],
                ),
            ),
        ),
        errors=(e.Unavailable,),
    ),
    Operation(
        method="POST",
        path="/v1/embeddings",
        name="create_embeddings",
        tag="Embeddings",
        summary="Embed texts, pictures and videos, in OpenAI's shape",
        description=(
            "An extension. Texts may have up to 8192 characters; a request may have up to 2048 inputs, 16 of "
            "them media. A video is embedded as one chunk. Media is fetched as for "
            "`/v1/generate_video_embeddings`."
        ),
        body=s.EmbeddingsRequest,
        body_example=s.EmbeddingsRequest(input=["a forklift"], model=MODEL),
        answers=(
            Answer(
                description="One vector per input, in their order.",
                json=s.EmbeddingsResponse,
                example=s.EmbeddingsResponse(
                    data=[s.OneEmbedding(index=0, embedding=[0.0123, -0.0456])],
                    model=MODEL,
                    usage=s.TokenUsage(),
                ),
            ),
        ),
        errors=(
            e.RedirectNotAllowed,
            e.BadParameters,
            e.BadParameter,
            e.FailedRequest,
            e.InvalidReference,
            e.MissingFile,
            e.InvalidDataUrl,
            e.Forbidden,
            e.FileTooLarge,
            e.EmbeddingFailed,
            e.NotSupported,
            e.DownloadFailed,
            e.ServerBusy,
            e.Unavailable,
            e.DependencyError,
        ),
    ),
    Operation(
        method="GET",
        path="/v1/requests/{request_id}",
        name="request_status",
        tag="Requests",
        summary="How far a request is",
        description="An extension. Requests are known until an hour after their end, unless set otherwise.",
        misfit="('path', 'request_id'): Must be a UUID (input: \"x\")",
        answers=(Answer(description="The request.", json=s.RequestStatus, example=_STATUS),),
        errors=(e.NotFound, e.Unavailable),
    ),
    Operation(
        method="GET",
        path="/v1/requests/{request_id}/results",
        name="request_results",
        tag="Requests",
        summary="The answer to a request",
        description=(
            "An extension. What the request would have been answered with at once; if it failed, its error."
        ),
        misfit="('path', 'request_id'): Must be a UUID (input: \"x\")",
        answers=(
            Answer(
                description="The vectors, of video or of texts.",
                json=s.VideoResponse,
                others=(s.TextResponse,),
                example=_VIDEO,
            ),
            Answer(
                status=202,
                description="Not ready; look again after `Retry-After` seconds.",
                json=s.RequestStatus,
                example=_STATUS,
            ),
        ),
        errors=(
            e.NotFound,
            e.BadParameter,
            e.EmbeddingFailed,
            e.TextEmbeddingsError,
            e.NotSupported,
            e.Unavailable,
        ),
    ),
    Operation(
        method="POST",
        path="/v1/config",
        name="configure",
        tag="Config",
        summary="Change where messages and error events go",
        description="At once and for the whole fleet. `topic-prefix` is the whole name of a topic or stream.",
        body=t.Configuration,
        body_example=t.Configuration(
            alert_type="config",
            created_at="2023-03-10T00:45:16Z",
            txn_id="f03ef248-2ec0-4a99-aeb5-938bd075bada",
            source="vios",
            event=t.RoutingEvent(
                change="config",
                metadata=t.Routing(messagingbus="kafka", topic_prefix="mdx-embed", create_topic=True),
            ),
        ),
        misfit="('body', 'alert_type'): Field required",
        answers=(
            Answer(
                description="The routing in force; what does not apply is left out.",
                json=t.Configured,
                example=t.Configured(
                    txn_id="f03ef248-2ec0-4a99-aeb5-938bd075bada",
                    status="updated",
                    messagingbus="kafka",
                    topic="mdx-embed",
                    source="vios",
                    created_at="2023-03-10T00:45:16Z",
                ),
            ),
        ),
        errors=(e.BadRequest, e.FileTooLarge, e.Unavailable),
    ),
)
