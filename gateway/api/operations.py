"""Every operation of the API: its types, an example, and the errors it may end with."""

import msgspec

from gateway.api import schemas as s
from gateway.api.description import ID, MODEL, TIME, Answer, Operation
from gateway.api.stream_operations import STREAM_OPERATIONS
from shared import errors as e

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
                        s.ModelDescription(
                            id=MODEL,
                            created=1767000000,
                            owned_by="nvidia",
                            api_type="custom",
                            verified=True,
                        )
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
    *STREAM_OPERATIONS,
)
