"""Values of the examples in the OpenAPI document that several endpoints share."""

from gateway.api.embedding_schemas import ChunkEmbedding, OffsetRange, RequestStatus, Usage, VideoResponse
from gateway.api.endpoint import Answer
from gateway.api.schemas import File, FileMedia, TypedFile

ID = "123e4567-e89b-12d3-a456-426614174000"
MODEL = "cosmos-embed1-448p"
TIME = "2024-06-09T18:32:11.123Z"
PICTURE = (
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAgAAAAICAIAAABLbSncAAAAa0lEQVR42g3JQQEAMAgDMcQgBjP1cBYw"
    "UzE1w5ZvqoouplCxhYsUV1Q13UyjZhs3aa5/DD3MoGEHDxlufogWIyRWWEScfiy9zKJlFy9Zbn+YNmNk1tjEnH+EDhMUNjgkXH4cfcyh"
    "Yw8fOe54G4BfkSabVjIAAAAASUVORK5CYII="
)
"""Of 8 x 8 pixels: an example that can be sent as it is."""
CAMERA = "rtsp://camera.example.com:554/live"

FILE = TypedFile(
    id=ID, bytes=2_000_000, filename="myfile.mp4", creation_time=TIME, sensor_name="", media_type="video"
)
MEDIA = FileMedia(
    id=ID, media_type="video", codec="h264", width=1920, height=1080, duration=61.5, frame_rate=30.0
)
UNTYPED_FILE = File(id=ID, bytes=2_000_000, filename="myfile.mp4", creation_time=TIME)

PREFER = "`respond-async`: answer at once with 202 and where the answer will be."
REQUEST_STATUS = RequestStatus(
    id=ID,
    kind="video",
    status="running",
    model=MODEL,
    created=1767000000,
    chunks_planned=3,
    chunks_done=1,
)
ACCEPTED = Answer(
    status=202,
    description="Accepted, for `Prefer: respond-async`; `Location` says where the request can be looked at.",
    json=RequestStatus,
    example=REQUEST_STATUS,
)
VIDEO_RESPONSE = VideoResponse(
    id=ID,
    created=1767000000,
    model=MODEL,
    media_info=OffsetRange(start_offset=0, end_offset=60),
    usage=Usage(query_processing_time=2, total_chunks_processed=1),
    chunk_responses=[
        ChunkEmbedding(
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
    ],
)
VIDEO_EVENTS = (
    f'data: {{"id": "{ID}", "model": "{MODEL}", "created": 1767000000, "media_info": {{"type": "offset", '
    '"start_offset": 0, "end_offset": 60}, "chunk_responses": [{"start_time": "0.0", "end_time": "60.0", '
    '"embeddings": [0.0123, -0.0456]}], "usage": null}\r\n\r\ndata: [DONE]\r\n\r\n'
)
