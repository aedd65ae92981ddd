"""The rules of every field, as a client meets them: what is accepted, and the message when it is not."""

import json
from typing import Any

import msgspec
import pytest

from gateway.api.embedding_schemas import (
    DATA_HEADER,
    ChunkEmbedding,
    EventChunk,
    OffsetRange,
    TextRequest,
    TimestampRange,
    Usage,
    VideoRequest,
    VideoResponse,
    check_url,
)
from gateway.api.schemas import FilesQuery, HealthQuery, UploadForm
from gateway.api.stream_schemas import (
    AddCamera,
    AddStreams,
    CameraStatusChange,
    Configuration,
    Configured,
    DeleteStreams,
    RemoveCamera,
)
from gateway.api.validation import validate_form, validate_json, validate_query
from shared.errors import InvalidParameters

ID = "123e4567-e89b-12d3-a456-426614174000"
TIME = "2024-06-09T18:32:11.123Z"

FORM = {"purpose": "vision", "media_type": "video", "file": "a.mp4"}
TEXT = {"text_input": "a", "model": "m"}
VIDEO = {"id": ID, "model": "m"}
STREAM = {"liveStreamUrl": "rtsp://host/live", "description": "Front door"}
CAMERA = {"camera_id": "camera-001", "camera_url": "rtsp://host/live", "change": "camera_add"}
VIOS = {"alert_type": "camera_status_change", "created_at": "2026-09-04T10:00:00Z", "source": "vios"}
ROUTING = {"messagingbus": "kafka", "topic-prefix": "mdx-embed"}
CONFIG = {"alert_type": "config", "created_at": "2023-03-10T00:45:16Z", "txn_id": "1", "source": "vios"}


def _read(type_: type[msgspec.Struct], fields: dict[str, Any]) -> Any:
    if type_ is UploadForm:
        return validate_form(fields, UploadForm)
    if type_ in (FilesQuery, HealthQuery):
        return validate_query(fields, type_)
    return validate_json(json.dumps(fields).encode(), type_)


def _video(**more: Any) -> tuple[type[msgspec.Struct], dict[str, Any]]:
    return VideoRequest, {**VIDEO, **more}


def _form(**more: Any) -> tuple[type[msgspec.Struct], dict[str, Any]]:
    return UploadForm, {**FORM, **more}


def _text(**more: Any) -> tuple[type[msgspec.Struct], dict[str, Any]]:
    return TextRequest, {**TEXT, **more}


def _stream(**more: Any) -> tuple[type[msgspec.Struct], dict[str, Any]]:
    return AddStreams, {"streams": [{**STREAM, **more}]}


def _camera(**more: Any) -> tuple[type[msgspec.Struct], dict[str, Any]]:
    return AddCamera, {"key": "sensor", "value": {**CAMERA, **more}}


def _metadata(**more: Any) -> tuple[type[msgspec.Struct], dict[str, Any]]:
    return _camera(metadata=more)


def _headers(**more: Any) -> tuple[type[msgspec.Struct], dict[str, Any]]:
    return AddCamera, {"key": "sensor", "value": CAMERA, "headers": more}


def _gone(**more: Any) -> tuple[type[msgspec.Struct], dict[str, Any]]:
    return RemoveCamera, {"key": "k", "value": {"camera_id": "c", "change": "remove", **more}}


def _event(**more: Any) -> tuple[type[msgspec.Struct], dict[str, Any]]:
    return CameraStatusChange, {**VIOS, "event": {"camera_id": "c", "change": "camera_add", **more}}


def _routing(**more: Any) -> tuple[type[msgspec.Struct], dict[str, Any]]:
    event = {"change": "config", "metadata": {**ROUTING, **more}}
    return Configuration, {**CONFIG, "event": event}


def _without(request: tuple[type[msgspec.Struct], dict[str, Any]], field: str) -> tuple[Any, dict[str, Any]]:
    return request[0], {name: value for name, value in request[1].items() if name != field}


ACCEPTED = [
    (HealthQuery, {}),
    (HealthQuery, {"detailed": "true"}),
    (FilesQuery, {"purpose": "vision"}),
    (FilesQuery, {"purpose": "a" * 36}),
    (FilesQuery, {"purpose": ""}),
    _form(),
    _form(media_type="image"),
    _form(file="", filename="/data/My files/a-1_2.mp4"),
    _form(creation_time=TIME, id=ID, sensor_name="Ünïcode\n" + "x" * 248),
    _text(),
    _text(text_input=""),
    _text(text_input=[]),
    _text(text_input="x" * 1000),
    _text(text_input=["x" * 1000] * 100),
    _video(),
    _video(id=[]),
    _video(id=[ID] * 50),
    _video(stream=True, stream_options={}),
    _video(stream_options={"include_usage": True}),
    _video(stream_options=None),
    _video(chunk_duration=3600, chunk_overlap_duration=-3600),
    _video(media_info=None),
    _video(media_info={"type": "offset"}),
    _video(media_info={"type": "offset", "end_offset": 4_000_000_000}),
    _video(media_info={"type": "offset", "start_offset": 1, "end_offset": None}),
    _video(id="camera-1"),
    _video(id=["Front.Door_2"]),
    _video(url=None, media_type=None),
    _video(url_headers={"Authorization": "x" * 8192}),
    _video(url_headers=None),
    _video(creation_time=TIME),
    _video(creation_time="2024-02-30T00:00:00.000Z"),
    _video(url="https://host/a.mp4", creation_time=TIME, media_type="image"),
    _stream(),
    (AddStreams, {"streams": [STREAM] * 256}),
    _stream(description='It\'s "x", y.z-1_2', username="user", password="secret", id=ID, sensor_name="é"),
    _stream(id=None, place_name=None, place_type=None, place_lat=-90, place_lon=180, place_alt="1e6"),
    (DeleteStreams, {"stream_ids": [ID.upper()], "blocking": "yes", "drain_timeout_seconds": 3600}),
    _camera(),
    _camera(
        camera_url="file:///a.mp4", camera_type="file", camera_vod_url="", tags="a,b", creation_time="now"
    ),
    _metadata(
        model="m", chunk_duration=10, chunk_overlap_duration=-1, stream=True, mm_processor_kwargs={"a": 1}
    ),
    _headers(source="vst", created_at="2025", url_headers={"Cookie": "a"}),
    _gone(),
    _gone(camera_name="x", camera_url="https://a", metadata={}),
    _event(camera_url=""),
    _event(camera_url="/data/a.mp4", metadata={"anything": [1]}, headers={"more": 1}, more={}),
    (CameraStatusChange, {**VIOS, "more": 1, "event": {"camera_id": "c", "change": "remove"}}),
    _routing(),
    _routing(errorbus="redis", region="r", group="g", **{"create-topic": True, "topic-partition": 100_000}),
    _routing(**{"error-topic-prefix": "e", "topic-partition": None}),
]


@pytest.mark.parametrize(("type_", "fields"), ACCEPTED)
def test_is_accepted(type_: type[msgspec.Struct], fields: dict[str, Any]) -> None:
    assert isinstance(_read(type_, fields), type_)


REQUIRED = "Field required"
UNKNOWN = "No such field"
NUMBER = "Must be a whole number"
UUID = "Must be a UUID"
ASSET = "Must be a UUID or, for a live stream, up to 256 letters, digits and ._-"
DATE_PATTERN = r"Must match ^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]{3})?Z$"
TEXT_PLACE = "text_input.constrained-str"
CHARACTERS = "Must have at most {} characters, not {}".format

REFUSED = [
    # GET /v1/files, /v1/ready
    (FilesQuery, {}, "purpose", REQUIRED),
    (FilesQuery, {"purpose": "a" * 37}, "purpose", CHARACTERS(36, 37)),
    (FilesQuery, {"purpose": "vision1"}, "purpose", "Must match ^[a-zA-Z]*$"),
    (HealthQuery, {"detailed": "perhaps"}, "detailed", "Must be true or false"),
    # POST /v1/files
    (*_without(_form(), "purpose"), "purpose", REQUIRED),
    (*_form(purpose="fine-tune"), "purpose", "Must be 'vision'"),
    (*_without(_form(), "media_type"), "media_type", REQUIRED),
    (*_form(media_type="audio"), "media_type", "Must be 'image' or 'video'"),
    (*_form(filename="a" * 257), "filename", CHARACTERS(256, 257)),
    (*_form(filename="a;b"), "filename", "Must match ^[A-Za-z0-9_.\\-/ ]*$ (input: \"a;b\")"),
    (*_form(filename="a\n"), "filename", "Must match ^[A-Za-z0-9_.\\-/ ]*$ (input: \"a\\n\")"),
    (*_form(creation_time=TIME[:-5] + "Z"), "creation_time", "Must have at least 24 characters, not 20"),
    (*_form(creation_time="x" * 24), "creation_time", DATE_PATTERN),
    (*_form(creation_time=TIME.replace("1", "\u0661")), "creation_time", DATE_PATTERN),
    (*_form(creation_time="2024-13-09T18:32:11.123Z"), "creation_time", "2024-13-09T18:32:11.123Z is no"),
    (*_form(id="x"), "id", f"{UUID} (input: \"x\")"),
    (*_form(sensor_name="x" * 257), "sensor_name", CHARACTERS(256, 257)),
    (*_without(_form(), "file"), "file", "Give either a file or a filename"),
    (*_form(filename="a.mp4"), "file", "Give a file or a filename, not both"),
    # POST /v1/generate_text_embeddings
    (*_without(_text(), "text_input"), "text_input", REQUIRED),
    (*_without(_text(), "model"), "model", REQUIRED),
    (*_text(text_input="x" * 1001), TEXT_PLACE, CHARACTERS(1000, 1001)),
    (*_text(text_input=["a"] * 101), TEXT_PLACE, "Must have at most 100 items, not 101"),
    (*_text(text_input=["a", "x" * 1001]), TEXT_PLACE, f"{CHARACTERS(1000, 1001)} (item 1)"),
    (*_text(text_input=5), TEXT_PLACE, "Must be a string (input: 5)"),
    (*_text(text_input=None), TEXT_PLACE, "Must be a string (input: null)"),
    (*_text(text_input=[5]), TEXT_PLACE, "Must be a string (item 0) (input: [5])"),
    (*_text(model="m" * 257), "model", CHARACTERS(256, 257)),
    (*_text(model=5), "model", "Must be a string"),
    (*_text(user="me"), "user", UNKNOWN),
    # POST /v1/generate_video_embeddings
    (*_without(_video(), "id"), "id", REQUIRED),
    (*_without(_video(url="https://host/a.mp4"), "id"), "id", REQUIRED),
    (*_without(_video(), "model"), "model", REQUIRED),
    (*_video(id="-x"), "id.uuid", f"{ASSET} (input: \"-x\")"),
    (*_video(id="a" * 257), "id.uuid", ASSET),
    (*_video(id="a/b"), "id.uuid", ASSET),
    (*_video(id="cam", url="https://e.com/a.mp4"), "id", "Must be a UUID when url is given"),
    (*_video(id=None), "id.uuid", f"{ASSET} (input: null)"),
    (*_video(id=[ID, ".x"]), "id.uuid", f"{ASSET} (item 1)"),
    (*_video(id=[ID] * 51), "id.uuid", "Must have at most 50 items, not 51"),
    (*_video(model="m" * 257), "model", CHARACTERS(256, 257)),
    (*_video(stream="perhaps"), "stream", "Must be true or false"),
    (*_video(stream=None), "stream", "Must be true or false"),
    (*_video(stream_options=[]), "stream_options", "Must be an object"),
    (*_video(stream_options={"usage": True}), "stream_options.usage", UNKNOWN),
    (*_video(chunk_duration=-1), "chunk_duration", "Must be at least 0"),
    (*_video(chunk_duration=3601), "chunk_duration", "Must be at most 3600"),
    (*_video(chunk_duration=10.5), "chunk_duration", NUMBER),
    (*_video(chunk_duration=None), "chunk_duration", NUMBER),
    (*_video(chunk_overlap_duration=-3601), "chunk_overlap_duration", "Must be at least -3600"),
    (*_video(chunk_overlap_duration=3601), "chunk_overlap_duration", "Must be at most 3600"),
    (*_video(media_info={}), "media_info.type", REQUIRED),
    (*_video(media_info={"type": "timestamp"}), "media_info.type", "Must be 'offset'"),
    (*_video(media_info={"type": "offset", "start_offset": None}), "media_info.start_offset", "Must be a"),
    (*_video(media_info={"type": "offset", "start_offset": -1}), "media_info.start_offset", "Must be at"),
    (*_video(media_info={"type": "offset", "end_offset": 4_000_000_001}), "media_info.end_offset", "Must"),
    (*_video(media_info={"type": "offset", "x": 1}), "media_info.x", UNKNOWN),
    (*_video(url=5), "url", "Must be a string"),
    (*_video(url="ftp://host/a"), "url", "Must be an http, https, s3, file or data URL (input: \"ftp://"),
    (*_video(url="ftp://a", media_type="x"), "url", "Must be an http"),
    (*_video(url_headers=[]), "url_headers", "Must be an object"),
    (*_video(url_headers={"A": 5}), "url_headers.A", "Must be a string"),
    (*_video(url_headers={"A": "x" * 8193}), "url_headers.A", CHARACTERS(8192, 8193)),
    (*_video(url_headers={"A": "secret\r\nB: c"}), "url_headers.A", "Must match ^[^\\r\\n]*$"),
    (*_video(url_headers={"A": "secret\n"}), "url_headers.A", "Must match ^[^\\r\\n]*$"),
    (*_video(media_type="audio"), "media_type", "Must be 'image' or 'video'"),
    (*_video(url="http://host/a", media_type=None), "media_type", "Must be 'video' or 'image' when url"),
    (*_video(creation_time="x"), "creation_time", "Must have at least 24 characters, not 1"),
    (*_video(creation_time="x" * 24), "creation_time", DATE_PATTERN),
    (*_video(url="http://host/a", creation_time="2024-02-30T00:00:00.000Z"), "creation_time", "2024-02-30"),
    (*_video(frames=8), "frames", UNKNOWN),
    # POST /v1/streams/add
    (AddStreams, {}, "streams", REQUIRED),
    (AddStreams, {"streams": []}, "streams", "Must have at least 1 items, not 0"),
    (AddStreams, {"streams": [STREAM] * 257}, "streams", "Must have at most 256 items, not 257"),
    (AddStreams, {"streams": [STREAM, {}]}, "streams.1.liveStreamUrl", REQUIRED),
    (AddStreams, {"streams": [{"liveStreamUrl": "rtsp://a"}]}, "streams.0.description", REQUIRED),
    (*_stream(liveStreamUrl="http://a"), "streams.0.liveStreamUrl", "Must match ^rtsps?://"),
    (*_stream(liveStreamUrl="rtsp://" + "a" * 250), "streams.0.liveStreamUrl", CHARACTERS(256, 257)),
    (*_stream(description="a;b"), "streams.0.description", "Must match ^[A-Za-z0-9_.\\-\"' ,]*$"),
    (*_stream(description="a" * 257), "streams.0.description", CHARACTERS(256, 257)),
    (*_stream(username="a:b"), "streams.0.username", "Must match"),
    (*_stream(password="a:b"), "streams.0.password", "Must match ^[A-Za-z0-9_.\\-\"' ,]*$"),
    (*_stream(place_name="a" * 257), "streams.0.place_name", CHARACTERS(256, 257)),
    (*_stream(place_type="a" * 257), "streams.0.place_type", CHARACTERS(256, 257)),
    (*_stream(place_lat=90.1), "streams.0.place_lat", "Must be at most 90"),
    (*_stream(place_lon=-180.1), "streams.0.place_lon", "Must be at least -180"),
    (*_stream(place_alt=1000001), "streams.0.place_alt", "Must be at most 1000000"),
    (*_stream(place_coordinate_x="x"), "streams.0.place_coordinate_x", "Must be a number"),
    (*_stream(place_coordinate_y="nan"), "streams.0.place_coordinate_y", "Must be a number"),
    (*_stream(id="_x"), "streams.0.id", ASSET),
    (*_stream(sensor_name="a" * 257), "streams.0.sensor_name", CHARACTERS(256, 257)),
    (*_stream(live_stream_url="x"), "streams.0.live_stream_url", UNKNOWN),
    # DELETE /v1/streams/delete-batch
    (DeleteStreams, {}, "stream_ids", REQUIRED),
    (DeleteStreams, {"stream_ids": []}, "stream_ids", "Must have at least 1 items, not 0"),
    (DeleteStreams, {"stream_ids": [ID] * 257}, "stream_ids", "Must have at most 256 items, not 257"),
    (DeleteStreams, {"stream_ids": [ID, "x y"]}, "stream_ids.1", f"{ASSET} (input: \"x y\")"),
    (DeleteStreams, {"stream_ids": [ID], "blocking": 2}, "blocking", "Must be true or false"),
    (
        DeleteStreams,
        {"stream_ids": [ID], "drain_timeout_seconds": 3601},
        "drain_timeout_seconds", "Must be at most 3600",
    ),
    # POST /v1/stream/add, RTVI-CV
    (AddCamera, {"value": CAMERA}, "key", REQUIRED),
    (AddCamera, {"key": "k" * 257, "value": CAMERA}, "key", CHARACTERS(256, 257)),
    (AddCamera, {"key": "k"}, "value", REQUIRED),
    (AddCamera, {"key": "k", "value": {}}, "value.camera_id", REQUIRED),
    (AddCamera, {"key": "k", "value": CAMERA, "x": 1}, "x", UNKNOWN),
    (*_camera(camera_id="c" * 257), "value.camera_id", CHARACTERS(256, 257)),
    (*_camera(camera_name="c" * 257), "value.camera_name", CHARACTERS(256, 257)),
    (*_camera(camera_url="/data"), "value.camera_url", "Must match ^(rtsps?://|file://|https?://)"),
    (*_camera(camera_url=""), "value.camera_url", "Must match"),
    (*_camera(camera_url="rtsp://" + "a" * 1018), "value.camera_url", CHARACTERS(1024, 1025)),
    (*_camera(change="add camera"), "value.change", "Must match ^[A-Za-z_]+$"),
    (*_camera(change="a" * 33), "value.change", CHARACTERS(32, 33)),
    (*_camera(creation_time="a" * 65), "value.creation_time", CHARACTERS(64, 65)),
    (*_camera(camera_type="http"), "value.camera_type", "Must be 'file' or 'rtsp'"),
    (*_camera(camera_vod_url="a" * 1025), "value.camera_vod_url", CHARACTERS(1024, 1025)),
    (*_camera(tags="a" * 1025), "value.tags", CHARACTERS(1024, 1025)),
    (*_headers(source="a" * 257), "headers.source", CHARACTERS(256, 257)),
    (*_headers(created_at="a" * 65), "headers.created_at", CHARACTERS(64, 65)),
    (*_headers(url_headers={"a": "b\n"}), "headers.url_headers.a", "Must match"),
    (*_headers(x=1), "headers.x", UNKNOWN),
    (*_metadata(x=1), "value.metadata.x", UNKNOWN),
    (*_metadata(response_format_type="xml"), "value.metadata.response_format_type", "Must be"),
    (*_metadata(mm_processor_kwargs=[]), "value.metadata.mm_processor_kwargs", "Must be an object"),
    (*_metadata(ignore_eos="x"), "value.metadata.ignore_eos", "Must be true or false"),
    # POST /v1/stream/remove, RTVI-CV
    (RemoveCamera, {"key": "k", "value": {"change": "remove"}}, "value.camera_id", REQUIRED),
    (RemoveCamera, {"key": "k", "value": {"camera_id": "c"}}, "value.change", REQUIRED),
    (*_gone(camera_url="x"), "value.camera_url", "Must match"),
    # VIOS
    (CameraStatusChange, {}, "alert_type", REQUIRED),
    (CameraStatusChange, {**VIOS}, "event", REQUIRED),
    (CameraStatusChange, {**VIOS, "source": "a" * 257}, "source", CHARACTERS(256, 257)),
    (CameraStatusChange, {**VIOS, "created_at": "a" * 65}, "created_at", CHARACTERS(64, 65)),
    (CameraStatusChange, {**VIOS, "alert_type": "a" * 129}, "alert_type", CHARACTERS(128, 129)),
    (CameraStatusChange, {**VIOS, "event": {"change": "add"}}, "event.camera_id", REQUIRED),
    (CameraStatusChange, {**VIOS, "event": {"camera_id": "c"}}, "event.change", REQUIRED),
    (*_event(camera_url="x"), "event.camera_url", "Must match ^(rtsps?://|file://|https?://|/|$)"),
    (*_event(metadata=5), "event.metadata", "Must be an object"),
    # POST /v1/config
    (*_routing(messagingbus="nats"), "event.metadata.messagingbus", "Must be 'kafka' or 'redis'"),
    (*_routing(**{"topic-prefix": ""}), "event.metadata.topic-prefix", "Must have at least 1"),
    (*_routing(**{"topic-prefix": "a" * 257}), "event.metadata.topic-prefix", CHARACTERS(256, 257)),
    (*_routing(topic_prefix="a"), "event.metadata.topic_prefix", UNKNOWN),
    (*_routing(**{"topic-partition": 0}), "event.metadata.topic-partition", "Must be at least 1"),
    (*_routing(**{"topic-partition": 100_001}), "event.metadata.topic-partition", "Must be at most"),
    (*_routing(region="a" * 257), "event.metadata.region", CHARACTERS(256, 257)),
    (*_without(_routing(), "txn_id"), "txn_id", REQUIRED),
    (Configuration, {**CONFIG, "event": {"change": "config"}}, "event.metadata", REQUIRED),
    (Configuration, {**_routing()[1], "x": 1}, "x", UNKNOWN),
]  # fmt: skip


@pytest.mark.parametrize(("type_", "fields", "field", "reason"), REFUSED)
def test_is_refused(type_: type[msgspec.Struct], fields: dict[str, Any], field: str, reason: str) -> None:
    with pytest.raises(InvalidParameters) as refused:
        _read(type_, fields)
    source = "query" if type_ in (FilesQuery, HealthQuery) else "body"
    place = (source, *(int(part) if part.isdecimal() else part for part in field.split(".")))
    assert refused.value.message.startswith(f"{place}: {reason}")
    assert (refused.value.status, refused.value.code) == (422, "InvalidParameters")


METADATA_LIMITS = [
    ("model", "m" * 256, "m" * 257),
    ("chunk_duration", 3600, 3601),
    ("chunk_overlap_duration", -3600, -3601),
    ("resolution", "1920x1080", "1920*1080"),
    ("codec", "h.264_high-1", "h 264"),
    ("framerate", 0.1, 0.05),
    ("framerate", 240, 240.5),
    ("prompt", "p" * 10_240, "p" * 10_241),
    ("system_prompt", "p" * 10_240, "p" * 10_241),
    ("max_tokens", 16_384, 16_385),
    ("min_tokens", 1, 0),
    ("temperature", 1, 1.1),
    ("top_p", 0, -0.1),
    ("top_k", 1000, 1001),
    ("seed", 4_294_967_295, 4_294_967_296),
    ("num_frames_per_second_or_fixed_frames_chunk", 256, 257),
    ("vlm_input_width", 4096, 4097),
    ("vlm_input_height", 0, -1),
    ("alert_category", "a" * 500, "a" * 501),
    ("response_format_type", "json_object", "json"),
    ("use_fps_for_chunking", True, "maybe"),
    ("enable_reasoning", False, 2),
    ("enable_audio", "on", []),
]


@pytest.mark.parametrize(("key", "good", "bad"), METADATA_LIMITS)
def test_camera_metadata_keeps_its_limits(key: str, good: Any, bad: Any) -> None:
    _read(*_metadata(**{key: good}))
    with pytest.raises(InvalidParameters, match=rf"^\('body', 'value', 'metadata', '{key}'\): "):
        _read(*_metadata(**{key: bad}))


def test_defaults() -> None:
    video = _read(*_video())
    assert video == VideoRequest(
        id=ID,
        model="m",
        stream=False,
        stream_options=None,
        chunk_duration=0,
        chunk_overlap_duration=0,
        media_info=None,
        url=None,
        url_headers=None,
        media_type="video",
        creation_time=None,
    )
    form = _read(*_form())
    assert (form.filename, form.creation_time, form.id, form.sensor_name) == ("", None, None, "")
    assert _read(HealthQuery, {}).detailed is False
    stream = _read(*_stream()).streams[0]
    assert (stream.username, stream.password, stream.place_name, stream.sensor_name) == ("", "", "", "")


# URLs -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "url",
    [
        "http://host/a.mp4",
        "https://user-1.host:8443/a/b_c-d.mp4?x=1&y=~2#z,+%20",
        "s3://bucket/key",
        "s3://my-bucket.eu.example/deep/key(1)[2]@!$'*;,.mp4",
        "s3://" + "a" * 63 + "/k",
        "file:///data/My films/a_b-1.mp4",
        "data:video/mp4;base64,AAAA",
        "data:video/mp4;base64,AA==",
        "data:video/mp4;base64,",
        "data:image/svg+xml;charset=utf-8;base64,AA",
        "data:image/x.y-z+w;name;a=b,plain%20text~!$&'()*+,;=:@/?#[]",
        "data:text/plain,",
    ],
)
def test_url_is_accepted(url: str) -> None:
    check_url(url)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "host/a.mp4",
        "ftp://host/a",
        "rtsp://host/a",
        "HTTP://host/a",
        "http://",
        "http:/host",
        "http://host/a b",
        "http://host/a\n",
        "http://user@host/a",
        "http://host/[a]",
        "http://host/a!b",
        "http://host/a$b",
        "http://host/a;b",
        "http://[::1]/a",
        "http://h\u00f6st/a",
        "s3://bucket",
        "s3://bucket/",
        "s3://Bucket/key",
        "s3://-bucket/key",
        "s3://bucket-/key",
        "s3://a..b/key",
        "s3://" + "a" * 64 + "/k",
        "s3://bucket/a?b",
        "s3://bucket/a b",
        "file://",
        "file:///a%20b",
        "file:///a\n",
        "data:video/mp4;base64",
        "data:,text",
        "data:video,AA",
        "data:video/mp4;base64;x=y,AA",
        "data:video/mp4;base64=1,AA",
        "data:vid3o/mp4;base64,AA",
        "data:video/mp4;ba se64,AA",
        "data:text/plain,a b",
        "data:text/plain,a\u00e9",
        'data:text/plain,a"b',
        "data:video/mp4;" + "x" * 2000 + ";base64,AA",
    ],
)
def test_url_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match=r"URL"):
        check_url(url)


def test_a_bad_character_far_into_a_data_url_is_found() -> None:
    payload = "A" * (3 << 20)
    check_url(f"data:video/mp4,{payload}")
    for bad in (f"<{payload}", f"{payload}<", f"{payload[: 1 << 20]}<{payload[1 << 20 :]}"):
        with pytest.raises(ValueError, match="payload"):
            check_url(f"data:video/mp4,{bad}")


def test_what_is_not_base64_is_left_to_the_decoder() -> None:
    check_url("data:video/mp4;base64,@@@")


@pytest.mark.parametrize("depth", [10, 1000])
def test_the_data_header_is_read_in_linear_time(depth: int) -> None:
    """Nested repetition must not backtrack: this ends at once or never."""
    assert DATA_HEADER.fullmatch("data:a/b" + ";a" * depth + "!") is None


# Answers ----------------------------------------------------------------------------------------------

CHUNK: dict[str, Any] = {"start_time": "0.0", "end_time": "60.0", "embeddings": [0.5]}


def test_an_answer_has_every_field_and_an_event_only_what_is_known() -> None:
    answer = json.loads(msgspec.json.encode(ChunkEmbedding(**CHUNK, decode_latency_ms=1.5)))
    event = json.loads(msgspec.json.encode(EventChunk(**CHUNK, decode_latency_ms=1.5)))
    unknown = dict.fromkeys(
        ["inference_latency_ms", "chunk_latency_ms", "queue_time_s", "processing_latency_s", "frame_count"]
    )
    assert answer == {**CHUNK, "decode_latency_ms": 1.5, **unknown}
    assert event == {**CHUNK, "decode_latency_ms": 1.5}


@pytest.mark.parametrize(
    ("media_range", "expected"),
    [
        (
            OffsetRange(start_offset=0, end_offset=130),
            {"type": "offset", "start_offset": 0, "end_offset": 130},
        ),
        (
            TimestampRange(start_timestamp=TIME, end_timestamp=TIME),
            {"type": "timestamp", "start_timestamp": TIME, "end_timestamp": TIME},
        ),
    ],
)
def test_a_range_names_its_form(media_range: OffsetRange | TimestampRange, expected: dict[str, Any]) -> None:
    usage = Usage(query_processing_time=2, total_chunks_processed=0)
    response = VideoResponse(
        id=ID, created=1, model="m", media_info=media_range, usage=usage, chunk_responses=[]
    )
    answer = json.loads(msgspec.json.encode(response))
    assert answer["media_info"] == expected
    assert answer["usage"] == {
        "query_processing_time": 2,
        "total_chunks_processed": 0,
        "prompt_tokens": None,
        "completion_tokens": None,
        "total_tokens": None,
    }


def test_configured_leaves_out_what_does_not_apply() -> None:
    configured = Configured(
        txn_id="1", status="updated", messagingbus="kafka", topic="t", source="s", created_at="c"
    )
    assert set(json.loads(msgspec.json.encode(configured))) == {
        "txn_id",
        "status",
        "messagingbus",
        "topic",
        "source",
        "created_at",
    }
