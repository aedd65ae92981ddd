"""The operations of live streams, cameras and message routing."""

from gateway.api import stream_schemas as t
from gateway.api.description import CAMERA, ID, MODEL, Answer, Operation
from shared import errors as e

STREAM_OPERATIONS = (
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
