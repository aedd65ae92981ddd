"""The contract of the API, row by row: what is asked, and the status, code and message that answer it.

In paths and bodies FILM, IMAGE, PICTURE, CAMERA, GONE and UNKNOWN stand for ids: of a video, two images, a
live stream, an asset that has aged out, and nothing.
"""

import json
import uuid
from pathlib import Path
from typing import Any

import pytest
from redis import Redis

from shared import keys
from tests.e2e.conftest import Stack
from tests.e2e.media import picture
from tests.support import RedisServer

CAMERA = "00000000-0000-4000-8000-0000000ca3e2"
UNKNOWN = "00000000-0000-4000-8000-000000000000"
GONE = "00000000-0000-4000-8000-00000000dead"
VIDEO, TEXT, FILES = "generate_video_embeddings", "generate_text_embeddings", "files"
TIME = "2024-06-09T18:32:11.123Z"
LONG = "x" * 300

STORES = ["folder", "bucket"]

Row = tuple[str, str, Any, int, str, str]
"""Method, path below /v1, body, status, code, part of the message."""


@pytest.fixture(scope="module")
def world(
    shared_stack: Stack, valkey: RedisServer, film: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, str]:
    """The ids that the rows name."""
    folder = tmp_path_factory.mktemp("world")
    camera = {
        "key": "sensor",
        "value": {"camera_id": CAMERA, "camera_url": "rtsp://127.0.0.1:9/x", "change": "camera_add"},
    }
    added = shared_stack.client.post("/stream/add", json=camera)
    assert added.status_code == 200, added.text
    with Redis(port=valkey.port, db=1) as redis:
        redis.zadd(keys.AGED_OUT_ASSETS, {GONE: 1})
    return {
        "FILM": shared_stack.upload(film),
        "IMAGE": shared_stack.upload(picture(folder, (9, 9, 9)), "image"),
        "PICTURE": shared_stack.upload(picture(folder, (8, 8, 8)), "image"),
        "CAMERA": added.json()["asset_id"],
        "UNKNOWN": UNKNOWN,
        "GONE": GONE,
    }


def filled(template: Any, world: dict[str, str]) -> Any:
    text = json.dumps(template)
    for name, identity in world.items():
        text = text.replace(name, identity)
    return json.loads(text)


def answer_of(stack: Stack, method: str, path: str, body: Any) -> Any:
    if path == FILES and method == "POST":
        form = {"purpose": "vision", "media_type": "video", **body}
        # httpx sends multipart/form-data only with a part that is a file or named as one.
        parts = {name: (None, value) for name, value in form.items() if value is not None}
        return stack.client.post("/files", files=parts)
    if path == VIDEO and method == "POST":
        body = {"id": "FILM", "model": "null", **body}
    if path == TEXT:
        body = {"text_input": "a", "model": "null", **body}
    return stack.client.request(method, f"/{path}", json=None if body is None else body)


def check(stack: Stack, world: dict[str, str], row: Row) -> None:
    method, path, body, status, code, message = row
    template = body if path == FILES and method == "POST" else {"id": "FILM", **(body or {})}
    sent = filled(template if path == VIDEO and method == "POST" else body, world)
    answer = answer_of(stack, method, filled(path, world), sent)
    assert answer.status_code == status, answer.text
    if status >= 400:
        assert set(answer.json()) == {"code", "message"}
        assert answer.json()["code"] == code
        assert message in answer.json()["message"]


def ids(row: Row) -> str:
    method, path, body, *_ = row
    return f"{method} {path} {json.dumps(body)[:70]}"


FILE_ROWS: list[Row] = [
    ("POST", FILES, {"purpose": None}, 422, "InvalidParameters", "('body', 'purpose'): Field required"),
    ("POST", FILES, {"purpose": "fine-tune"}, 422, "InvalidParameters", "('body', 'purpose')"),
    ("POST", FILES, {"media_type": None}, 422, "InvalidParameters", "('body', 'media_type'): Field required"),
    ("POST", FILES, {"media_type": "audio"}, 422, "InvalidParameters", "('body', 'media_type')"),
    ("POST", FILES, {}, 422, "InvalidParameters", "('body', 'file')"),
    ("POST", FILES, {"file": "a text"}, 422, "InvalidParameters", "('body', 'file')"),
    ("POST", FILES, {"filename": ""}, 422, "InvalidParameters", "('body', 'file')"),
    ("POST", FILES, {"filename": "x" * 257}, 422, "InvalidParameters", "('body', 'filename')"),
    ("POST", FILES, {"filename": "/tmp/a;b"}, 422, "InvalidParameters", "('body', 'filename')"),
    ("POST", FILES, {"filename": "/nowhere/a.mp4"}, 400, "InvalidParameters", "not an existing"),
    ("POST", FILES, {"filename": "/tmp"}, 400, "InvalidParameters", "not an existing"),
    ("POST", FILES, {"filename": "/a", "id": "x"}, 422, "InvalidParameters", "('body', 'id')"),
    ("POST", FILES, {"filename": "/a", "sensor_name": "x" * 257}, 422, "InvalidParameters", "sensor_name"),
    ("POST", FILES, {"filename": "/a", "creation_time": "2024-06-09"}, 422, "InvalidParameters", "creation"),
    (
        "POST", FILES, {"filename": "/a", "creation_time": "2024-06-09T18:32:11Z"},
        422, "InvalidParameters", "creation_time",
    ),
    (
        "POST", FILES, {"filename": "/a", "creation_time": "2024-02-31T18:32:11.123Z"},
        422, "InvalidParameters", "creation_time",
    ),
    ("GET", "files", None, 422, "InvalidParameters", "('query', 'purpose'): Field required"),
    ("GET", "files?purpose=vi-sion", None, 422, "InvalidParameters", "('query', 'purpose')"),
    ("GET", f"files?purpose={'x' * 37}", None, 422, "InvalidParameters", "('query', 'purpose')"),
    ("GET", "files?purpose=anything", None, 200, "", ""),
    ("GET", "files?purpose=vision", None, 200, "", ""),
    *(
        (method, path, None, status, code, message)
        for method, suffix in (("GET", ""), ("GET", "/content"), ("DELETE", ""))
        for path, status, code, message in (
            (f"files/x{suffix}", 422, "InvalidParameters", "('path', 'file_id')"),
            (f"files/{UNKNOWN[:-1]}{suffix}", 422, "InvalidParameters", "(input: "),
            (f"files/UNKNOWN{suffix}", 400, "BadParameter", "No such resource"),
            (f"files/GONE{suffix}", 400, "BadParameter", "aged out"),
            (f"files/CAMERA{suffix}", 400, "BadParameter", "live stream"),
        )
    ),
    ("GET", "files/FILM", None, 200, "", ""),
    ("GET", "files/FILM/content", None, 200, "", ""),
]  # fmt: skip

TEXT_ROWS: list[Row] = [
    ("POST", TEXT, {"text_input": None}, 422, "InvalidParameters", "('body', 'text_input'"),
    ("POST", TEXT, {"text_input": 7}, 422, "InvalidParameters", "('body', 'text_input'"),
    ("POST", TEXT, {"text_input": ["a", 7]}, 422, "InvalidParameters", "('body', 'text_input'"),
    ("POST", TEXT, {"text_input": "x" * 1001}, 422, "InvalidParameters", "1000"),
    ("POST", TEXT, {"text_input": ["x" * 1001]}, 422, "InvalidParameters", "1000"),
    ("POST", TEXT, {"text_input": ["x"] * 101}, 422, "InvalidParameters", "100"),
    ("POST", TEXT, {"text_input": ""}, 400, "BadParameters", "empty"),
    ("POST", TEXT, {"text_input": []}, 400, "BadParameters", "empty"),
    ("POST", TEXT, {"model": 7}, 422, "InvalidParameters", "('body', 'model')"),
    ("POST", TEXT, {"model": "x" * 257}, 422, "InvalidParameters", "('body', 'model')"),
    ("POST", TEXT, {"model": "NULL"}, 400, "BadParameters", "No such model"),
    ("POST", TEXT, {"stream": True}, 422, "InvalidParameters", "('body', 'stream')"),
    ("POST", TEXT, {"encoding_format": "int4"}, 422, "InvalidParameters", "encoding_format"),
    ("POST", TEXT, {"text_input": "fail"}, 500, "TextEmbeddingsError", ""),
    ("POST", TEXT, {"text_input": ["", "x" * 1000]}, 200, "", ""),
]

VIDEO_ROWS: list[Row] = [
    ("POST", VIDEO, {"id": "-x"}, 422, "InvalidParameters", "('body', 'id', 'uuid')"),
    ("POST", VIDEO, {"id": None}, 422, "InvalidParameters", "('body', 'id'"),
    ("POST", VIDEO, {"id": ["FILM", "/x"]}, 422, "InvalidParameters", "('body', 'id'"),
    ("POST", VIDEO, {"id": ["IMAGE"] * 51}, 422, "InvalidParameters", "50"),
    ("POST", VIDEO, {"id": []}, 422, "InvalidParameters", "('body', 'id')"),
    ("POST", VIDEO, {"model": "x" * 257}, 422, "InvalidParameters", "('body', 'model')"),
    ("POST", VIDEO, {"chunk_duration": -1}, 422, "InvalidParameters", "('body', 'chunk_duration')"),
    ("POST", VIDEO, {"chunk_duration": 3601}, 422, "InvalidParameters", "('body', 'chunk_duration')"),
    ("POST", VIDEO, {"chunk_duration": 10.5}, 422, "InvalidParameters", "('body', 'chunk_duration')"),
    ("POST", VIDEO, {"chunk_overlap_duration": -3601}, 422, "InvalidParameters", "chunk_overlap_duration"),
    ("POST", VIDEO, {"chunk_overlap_duration": 3601}, 422, "InvalidParameters", "chunk_overlap_duration"),
    ("POST", VIDEO, {"media_info": {}}, 422, "InvalidParameters", "('body', 'media_info', 'type')"),
    ("POST", VIDEO, {"media_info": {"type": "timestamp"}}, 422, "InvalidParameters", "'media_info', 'type'"),
    (
        "POST", VIDEO, {"media_info": {"type": "offset", "start_offset": -1}},
        422, "InvalidParameters", "start_offset",
    ),
    (
        "POST", VIDEO, {"media_info": {"type": "offset", "end_offset": 4_000_000_001}},
        422, "InvalidParameters", "end_offset",
    ),
    ("POST", VIDEO, {"media_info": {"type": "offset", "x": 1}}, 422, "InvalidParameters", "'x'"),
    ("POST", VIDEO, {"stream": "perhaps"}, 422, "InvalidParameters", "('body', 'stream')"),
    ("POST", VIDEO, {"stream_options": {"x": 1}}, 422, "InvalidParameters", "'stream_options', 'x'"),
    ("POST", VIDEO, {"frames": 8}, 422, "InvalidParameters", "('body', 'frames')"),
    ("POST", VIDEO, {"url": "ftp://a/b"}, 422, "InvalidParameters", "('body', 'url')"),
    ("POST", VIDEO, {"url": "rtsp://a/b"}, 422, "InvalidParameters", "('body', 'url')"),
    ("POST", VIDEO, {"url": "http://a/b c"}, 422, "InvalidParameters", "('body', 'url')"),
    ("POST", VIDEO, {"url": "http://a/b[1]"}, 422, "InvalidParameters", "('body', 'url')"),
    ("POST", VIDEO, {"url": "s3://Bucket/key"}, 422, "InvalidParameters", "('body', 'url')"),
    ("POST", VIDEO, {"url": "s3://bucket"}, 422, "InvalidParameters", "('body', 'url')"),
    ("POST", VIDEO, {"url": "file:///a%20b"}, 422, "InvalidParameters", "('body', 'url')"),
    ("POST", VIDEO, {"url": "data:video/mp4;base64"}, 422, "InvalidParameters", "('body', 'url')"),
    ("POST", VIDEO, {"url": "data:video;base64,AAAA"}, 422, "InvalidParameters", "('body', 'url')"),
    ("POST", VIDEO, {"url": "data:video/mp4,A A"}, 422, "InvalidParameters", "('body', 'url')"),
    ("POST", VIDEO, {"url": "http://localhost/a.mp4"}, 422, "InvalidParameters", "not allowed"),
    ("POST", VIDEO, {"url": "http://my-metadata.example/a.mp4"}, 422, "InvalidParameters", "not allowed"),
    ("POST", VIDEO, {"url": "http://0x7f000001/a.mp4"}, 422, "InvalidParameters", "not allowed"),
    ("POST", VIDEO, {"url": "https://169.254.169.254/a"}, 422, "InvalidParameters", "not allowed"),
    ("POST", VIDEO, {"url": "http://no-such-host.invalid/a"}, 422, "InvalidParameters", "resolve"),
    ("POST", VIDEO, {"url": "data:,", "media_type": None}, 422, "InvalidParameters", "('body', "),
    ("POST", VIDEO, {"url_headers": {"A": "x" * 8193}}, 422, "InvalidParameters", "url_headers"),
    ("POST", VIDEO, {"url_headers": {"A": "x\r\ny"}}, 422, "InvalidParameters", "url_headers"),
    ("POST", VIDEO, {"media_type": "audio"}, 422, "InvalidParameters", "('body', 'media_type')"),
    ("POST", VIDEO, {"creation_time": "2024-06-09"}, 422, "InvalidParameters", "('body', 'creation_time')"),
    ("POST", VIDEO, {"encoding_format": "hex"}, 422, "InvalidParameters", "encoding_format"),
    ("POST", VIDEO, {"url": "data:a/b,", "id": ["FILM", "IMAGE"]}, 400, "BadParameters", "one id"),
    ("POST", VIDEO, {"url": "data:a/b,", "id": []}, 400, "BadParameters", "one id"),
    ("POST", VIDEO, {"url": "data:a/b,", "id": "FILM"}, 400, "AssetAlreadyExists", "in use"),
    ("POST", VIDEO, {"url": "data:a/b;base64,A", "id": "UNKNOWN"}, 400, "InvalidDataUrl", "decoded"),
    ("POST", VIDEO, {"url": "data:a/b,x", "id": "UNKNOWN"}, 400, "FailedRequest", "cannot be opened"),
    ("POST", VIDEO, {"url": "file:///etc/hosts", "id": "UNKNOWN"}, 403, "Forbidden", "not in a folder"),
    ("POST", VIDEO, {"url": "s3://bucket/key", "id": "UNKNOWN"}, 400, "InvalidParameters", "s3://"),
    ("POST", VIDEO, {"id": ["IMAGE", "UNKNOWN"]}, 400, "BadParameter", "No such resource"),
    ("POST", VIDEO, {"id": ["IMAGE", "GONE"]}, 400, "BadParameter", "aged out"),
    ("POST", VIDEO, {"id": ["IMAGE", "FILM"]}, 400, "BadParameters", "not an image"),
    ("POST", VIDEO, {"id": ["IMAGE", "CAMERA"]}, 400, "BadParameters", "not an image"),
    ("POST", VIDEO, {"id": ["IMAGE"] * 9}, 400, "BadParameters", "at most 8"),
    ("POST", VIDEO, {"id": "UNKNOWN"}, 400, "BadParameter", "No such resource"),
    ("POST", VIDEO, {"id": "GONE"}, 400, "BadParameter", "aged out"),
    ("POST", VIDEO, {"id": "UNKNOWN", "model": "other"}, 400, "BadParameter", "No such resource"),
    ("POST", VIDEO, {"model": "other"}, 400, "BadParameters", "No such model"),
    ("POST", VIDEO, {"id": "CAMERA"}, 400, "BadParameters", "stream"),
    ("POST", VIDEO, {"id": "CAMERA", "model": "other"}, 400, "BadParameters", "No such model"),
    ("POST", VIDEO, {"id": "CAMERA", "stream": True}, 400, "BadParameter", "chunk_duration"),
    (
        "POST", VIDEO, {"chunk_duration": 5, "chunk_overlap_duration": 5},
        400, "BadParameter", "chunk_overlap_duration",
    ),
    (
        "POST", VIDEO, {"id": "IMAGE", "chunk_duration": 5, "chunk_overlap_duration": 6},
        400, "BadParameter", "chunk_overlap_duration",
    ),
    ("POST", VIDEO, {"chunk_duration": 5, "chunk_overlap_duration": -5}, 200, "", ""),
    ("POST", VIDEO, {"chunk_overlap_duration": 5}, 200, "", ""),
    ("POST", VIDEO, {"chunk_duration": "10", "stream": "off"}, 200, "", ""),
    ("POST", VIDEO, {"chunk_duration": 10.0, "url_headers": {"A": "b"}}, 200, "", ""),
    ("POST", VIDEO, {"id": ["IMAGE", "PICTURE"]}, 200, "", ""),
    ("POST", VIDEO, {"id": "IMAGE", "stream_options": {"include_usage": True}}, 200, "", ""),
]  # fmt: skip

LIVE_ROWS: list[Row] = [
    ("POST", "streams/add", {"streams": []}, 422, "InvalidParameters", "('body', 'streams')"),
    ("POST", "streams/add", {"streams": [{"description": "a"}]}, 422, "InvalidParameters", "liveStreamUrl"),
    (
        "POST", "streams/add", {"streams": [{"liveStreamUrl": "http://a", "description": "a"}]},
        422, "InvalidParameters", "liveStreamUrl",
    ),
    (
        "POST", "streams/add", {"streams": [{"liveStreamUrl": "rtsp://a", "description": "a;b"}]},
        422, "InvalidParameters", "description",
    ),
    (
        "POST", "streams/add",
        {"streams": [{"liveStreamUrl": "rtsp://a", "description": "a", "place_lat": 91}]},
        422, "InvalidParameters", "place_lat",
    ),
    ("GET", "streams/get-stream-info", None, 200, "", ""),
    ("GET", "stream/get-stream-info", None, 200, "", ""),
    ("DELETE", "streams/delete/UNKNOWN", None, 400, "BadParameter", "No such"),
    ("DELETE", "streams/delete/GONE", None, 400, "BadParameter", ""),
    ("DELETE", "streams/delete/FILM", None, 400, "InvalidParameter", ""),
    ("DELETE", "generate_video_embeddings/UNKNOWN", None, 400, "BadParameter", "No such"),
    ("DELETE", "generate_video_embeddings/FILM", None, 400, "InvalidParameter", ""),
    ("DELETE", "generate_video_embeddings/CAMERA", None, 200, "", ""),
    ("DELETE", "streams/delete-batch", {"stream_ids": []}, 422, "InvalidParameters", "stream_ids"),
    (
        "DELETE", "streams/delete-batch", {"stream_ids": ["UNKNOWN"], "drain_timeout_seconds": 3601},
        422, "InvalidParameters", "drain_timeout_seconds",
    ),
    ("DELETE", "streams/delete-batch", {"stream_ids": ["UNKNOWN", "FILM"]}, 200, "", ""),
    (
        "POST", "stream/remove",
        {"key": "sensor", "value": {"camera_id": "nobody", "change": "camera_remove"}},
        404, "NotFound", "",
    ),
    (
        "POST", "stream/remove", {"key": "sensor", "value": {"camera_id": CAMERA, "change": "paint"}},
        400, "BadRequest", "",
    ),
    (
        "POST", "stream/add",
        {"key": "k", "value": {"camera_id": CAMERA, "camera_url": "rtsp://b", "change": "add"}},
        409, "DuplicateCameraId", "",
    ),
    (
        "POST", "stream/add",
        {"key": "k", "value": {"camera_id": "other", "camera_url": "rtsp://b", "change": "paint"}},
        400, "BadRequest", "",
    ),
]  # fmt: skip


@pytest.mark.parametrize("row", FILE_ROWS + TEXT_ROWS + VIDEO_ROWS + LIVE_ROWS, ids=ids)
def test_row(shared_stack: Stack, world: dict[str, str], row: Row) -> None:
    check(shared_stack, world, row)


@pytest.mark.parametrize(
    ("path", "body", "location"),
    [
        (TEXT, b"", "('body',): Field required"),
        (TEXT, b"null", "('body',): Field required"),
        (TEXT, b"[]", "('body',): "),
        (TEXT, b'{"text_input": "a", "model": }', "('body', 29)"),
        (VIDEO, b'{"id": "', "('body', "),
        (VIDEO, b"[" * 100_000, "('body', "),
        (TEXT, b'{"text_input": "a"}', "('body', 'model'): Field required"),
        (VIDEO, b'{"id": "x"', "('body', "),
    ],
)
def test_bodies_that_are_no_request(shared_stack: Stack, path: str, body: bytes, location: str) -> None:
    answer = shared_stack.client.post(f"/{path}", content=body, headers={"Content-Type": "application/json"})
    assert (answer.status_code, answer.json()["code"]) == (422, "InvalidParameters")
    assert answer.json()["message"].startswith(location)


def test_only_the_first_problem_is_told_and_long_input_is_cut(shared_stack: Stack) -> None:
    answer = shared_stack.client.post(f"/{VIDEO}", json={"id": LONG * 100, "model": 7, "stream": "x"})
    assert answer.json()["message"].startswith("('body', 'id', 'uuid'): ")
    assert "model" not in answer.json()["message"]
    assert len(answer.json()["message"]) < 1024


@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", "/v1"), ("GET", "/v1/license"), ("GET", "/v2/files"), ("GET", "/x")],
)
def test_unknown_paths(shared_stack: Stack, method: str, path: str) -> None:
    answer = shared_stack.client.request(method, shared_stack.url + path)
    assert (answer.status_code, answer.json()) == (404, {"detail": "Not Found"})


@pytest.mark.parametrize("path", [VIDEO, TEXT, "embeddings", "config", "streams/add", "stream/add"])
def test_wrong_methods(shared_stack: Stack, path: str) -> None:
    answer = shared_stack.client.get(f"/{path}")
    assert (answer.status_code, answer.json()) == (405, {"detail": "Method Not Allowed"})


@pytest.mark.parametrize("query", ["detailed=maybe", "detailed="])
def test_health_takes_a_boolean(shared_stack: Stack, query: str) -> None:
    answer = shared_stack.client.get(f"/ready?{query}")
    assert (answer.status_code, answer.json()["code"]) == (422, "InvalidParameters")


def test_ids_come_in_any_spelling(shared_stack: Stack, world: dict[str, str]) -> None:
    film = uuid.UUID(world["FILM"])
    for spelling in (film.hex, str(film).upper(), film.hex.upper()):
        body = {"id": spelling, "model": "null", "media_info": {"type": "offset", "start_offset": 90}}
        assert shared_stack.client.post(f"/{VIDEO}", json=body).status_code == 200
        assert shared_stack.client.get(f"/files/{spelling}").json()["id"] == world["FILM"]
