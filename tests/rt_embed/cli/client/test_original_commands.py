"""RT-Embed's own client's commands: its argument names, what they send, and exit statuses."""

import json
import os
import re
import shutil
import subprocess
import sys
import uuid
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any, ClassVar, NamedTuple
from urllib.parse import parse_qsl

import pytest

from rt_embed.cli.main import run
from tests.e2e.conftest import Stack
from tests.rt_embed.conftest import serve
from tests.support import free_port

ID = "123e4567-e89b-12d3-a456-426614174000"
OTHER = "223e4567-e89b-12d3-a456-426614174000"
TIME = "2024-06-09T18:32:11.123Z"
FILE: dict[str, Any] = {
    "id": ID, "bytes": 3, "filename": "a.mp4", "creation_time": None, "purpose": "vision", "sensor_name": "",
    "media_type": "video",
}  # fmt: skip
CHUNK = {"start_time": "0.0", "end_time": "5.0", "embeddings": [0.5, 0.25], "frame_count": 8}
VIDEO = {"id": ID, "model": "m", "created": 1, "chunk_responses": [CHUNK]}
TEXTS = {"id": ID, "model": "m", "created": 1, "data": [{"text_input": "a cat", "embeddings": [1.0, 0.0]}]}
CAMERA = {"camera_id": "c", "asset_id": ID, "status": "added", "inference": False}


class Recorder(BaseHTTPRequestHandler):
    """Takes whatever comes, and answers what a test chose."""

    answer: ClassVar[tuple[int, bytes]] = (200, b"{}")
    seen: ClassVar[list[tuple[str, str, dict[str, str], bytes]]] = []

    def handle_any(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        headers = {name.lower(): value for name, value in self.headers.items()}
        type(self).seen.append((self.command, self.path, headers, body))
        status, content = self.answer
        self.send_response(status)
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    do_GET = do_POST = do_DELETE = handle_any  # noqa: N815

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def backend(monkeypatch: pytest.MonkeyPatch) -> Any:
    Recorder.answer, Recorder.seen = (200, b"{}"), []
    for name in ("RTVI_BACKEND", "RTEMBED_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    with serve(Recorder) as url:
        yield url


@pytest.fixture
def film(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "a.mp4"
    path.write_bytes(b"abc")
    return path


def sensor(value: dict[str, Any], source: str = "cli") -> dict[str, Any]:
    return {"key": "sensor", "value": value, "headers": {"source": source, "created_at": "*"}}


def video(**fields: Any) -> dict[str, Any]:
    return {
        "id": ID, "model": "m", "stream": False, "chunk_duration": 0, "chunk_overlap_duration": 0,
        "media_type": "video", **fields,
    }  # fmt: skip


STREAM = {"liveStreamUrl": "rtsp://c/1", "description": "door"}
GENERATE = ["generate-video-embeddings", "--id", ID, "--model", "m"]


class Case(NamedTuple):
    """A command's arguments, the request that it makes (JSON or form), and the answer that it gets."""

    arguments: list[str]
    method: str
    path: str
    body: Any
    answer: Any

    @property
    def request(self) -> tuple[str, str, Any]:
        return self.method, self.path, self.body


CASES = [Case(*case) for case in (
    (["add-file", "a.mp4", "--add-as-path"], "POST", "/v1/files",
     {"purpose": "vision", "media_type": "video", "filename": "a.mp4"}, FILE),
    (["add-file", "a.mp4", "--add-as-path", "--is-image", "--creation-time", TIME, "--stream-id", ID,
      "--sensor-name", "s"], "POST", "/v1/files",
     {"purpose": "vision", "media_type": "image", "filename": "a.mp4", "creation_time": TIME, "id": ID,
      "sensor_name": "s"}, FILE),
    (["list-files"], "GET", "/v1/files?purpose=vision", None, {"data": [FILE], "object": "list"}),
    (["file-info", ID], "GET", f"/v1/files/{ID}", None, FILE),
    (["file-content", ID], "GET", f"/v1/files/{ID}/content", None, "bytes"),
    (["delete-file", ID], "DELETE", f"/v1/files/{ID}", None, {"id": ID, "object": "file", "deleted": True}),
    (GENERATE, "POST", "/v1/generate_video_embeddings", video(), VIDEO),
    ([*GENERATE, "--id", OTHER, "--media-type", "image"], "POST", "/v1/generate_video_embeddings",
     video(id=[ID, OTHER], media_type="image"), VIDEO),
    ([*GENERATE, "--chunk-duration", "10", "--chunk-overlap-duration", "2", "--file-start-offset", "3",
      "--file-end-offset", "30"], "POST", "/v1/generate_video_embeddings",
     video(chunk_duration=10, chunk_overlap_duration=2,
           media_info={"type": "offset", "start_offset": 3, "end_offset": 30}), VIDEO),
    ([*GENERATE, "--url", "https://x/y.mp4", "--media-type", "video", "--creation-time", TIME], "POST",
     "/v1/generate_video_embeddings", video(url="https://x/y.mp4", creation_time=TIME), VIDEO),
    ([*GENERATE, "--base64", "a.mp4"], "POST", "/v1/generate_video_embeddings",
     video(url="data:video/mp4;base64,YWJj"), VIDEO),
    (["generate-text-embeddings", "--text-input", "a cat", "--text-input", "a dog", "--model", "m"], "POST",
     "/v1/generate_text_embeddings", {"text_input": ["a cat", "a dog"], "model": "m"}, TEXTS),
    (["add-live-stream", "rtsp://c/1", "--description", "door"], "POST", "/v1/streams/add",
     {"streams": [STREAM]}, {"results": [{"id": ID}], "errors": []}),
    (["add-live-stream", "rtsp://c/1", "--description", "door", "--username", "u", "--password", "p",
      "--place-name", "n", "--place-type", "t", "--place-lat", "1.5", "--place-lon", "2.5",
      "--place-alt", "3", "--place-coordinate-x", "4", "--place-coordinate-y", "-5", "--stream-id", ID,
      "--sensor-name", "s"], "POST", "/v1/streams/add",
     {"streams": [{**STREAM, "username": "u", "password": "p", "place_name": "n", "place_type": "t",
                   "place_lat": 1.5, "place_lon": 2.5, "place_alt": 3.0, "place_coordinate_x": 4.0,
                   "place_coordinate_y": -5.0, "id": ID, "sensor_name": "s"}]},
     {"results": [{"id": ID}], "errors": []}),
    (["list-live-streams"], "GET", "/v1/streams/get-stream-info", None, [{"id": ID, **STREAM}]),
    (["delete-live-stream", ID], "DELETE", f"/v1/streams/delete/{ID}", None, None),
    (["stop-live-stream-embed-processing", ID], "DELETE", f"/v1/generate_video_embeddings/{ID}", None, None),
    (["stream-add", "--camera-url", "rtsp://c/1", "--camera-id", "c"], "POST", "/v1/stream/add",
     sensor({"camera_id": "c", "camera_url": "rtsp://c/1", "change": "camera_add"}), CAMERA),
    (["stream-add", "--camera-url", "rtsp://c/1", "--camera-id", "c", "--camera-name", "Door", "--model", "m",
      "--chunk-duration", "5", "--chunk-overlap-duration", "1", "--source", "vst"], "POST", "/v1/stream/add",
     sensor({"camera_id": "c", "camera_url": "rtsp://c/1", "change": "camera_add", "camera_name": "Door",
             "metadata": {"model": "m", "chunk_duration": 5, "chunk_overlap_duration": 1}}, "vst"), CAMERA),
    (["stream-remove", "--camera-id", "c"], "POST", "/v1/stream/remove",
     sensor({"camera_id": "c", "change": "camera_remove"}), CAMERA),
    (["stream-list"], "GET", "/v1/stream/get-stream-info", None,
     {"status": "ok", "stream_count": 1, "stream_list": [{"camera_id": "c", "inference_active": True}]}),
    (["list-models"], "GET", "/v1/models", None, {"object": "list", "data": [{"id": "m"}]}),
    (["get-version"], "GET", "/v1/version", None, {"release": "3.2.0", "api": "3.1.0"}),
    (["get-manifest"], "GET", "/v1/manifest", None, {"version": "3.2.0", "model": "m"}),
    (["server-metrics"], "GET", "/v1/metrics", None, {}),
    (["server-health-check"], "GET", "/v1/ready?detailed=true", None, {"healthy": True, "checks": []}),
    (["server-health-check", "--liveness"], "GET", "/v1/live?detailed=true", None,
     {"healthy": True, "checks": []}),
)]  # fmt: skip
EVERY_CASE = pytest.mark.parametrize("case", CASES, ids=lambda case: " ".join(case.arguments)[:60])


def sent() -> tuple[str, str, Any]:
    """Method, path and body of the one request that came; times that pass are a star."""
    ((method, path, headers, body),) = Recorder.seen
    if headers.get("content-type") == "application/x-www-form-urlencoded":
        return method, path, dict(parse_qsl(body.decode()))
    text = re.sub(r'"created_at":"[^"]*"', '"created_at":"*"', body.decode())
    return method, path, json.loads(text) if text else None


@pytest.mark.usefixtures("film")
@EVERY_CASE
def test_what_each_command_sends(backend: str, case: Case) -> None:
    Recorder.answer = (200, b"" if case.answer is None else json.dumps(case.answer).encode())
    assert run([*case.arguments, "--backend", backend]) == 0
    assert sent() == case.request


@pytest.mark.usefixtures("film")
@EVERY_CASE
def test_an_error_answer_is_a_failure_in_one_line(
    backend: str, case: Case, capsys: pytest.CaptureFixture[str]
) -> None:
    Recorder.answer = (400, b'{"code": "BadParameter", "message": "no such thing"}')
    assert run([*case.arguments, "--backend", backend]) == 1
    shown = capsys.readouterr()
    assert shown.out == ""
    (line,) = shown.err.splitlines()
    assert line.startswith(f"rt-embed {case.arguments[0]}: ")
    assert "no such thing" in line


@pytest.mark.parametrize("command", ["list-files", "get-version", "server-health-check"])
def test_nobody_there(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run([command, "--backend", f"127.0.0.1:{free_port()}"]) == 6
    assert "no answer from http://127.0.0.1:" in capsys.readouterr().err


@pytest.mark.skipif(not shutil.which("curl"), reason="curl is not installed")
@pytest.mark.usefixtures("film")
@EVERY_CASE
def test_the_printed_curl_command_sends_the_same(
    backend: str, case: Case, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run([*case.arguments, "--backend", backend, "--print-curl-command", "--api-key", "secret"]) == 0
    command = capsys.readouterr().out
    assert Recorder.seen == []
    assert "secret" not in command
    environment = {**os.environ, "RTEMBED_API_KEY": "secret"}
    subprocess.run(command, shell=True, check=True, capture_output=True, env=environment)  # noqa: S602
    assert sent() == case.request
    assert Recorder.seen[0][2]["authorization"] == "Bearer secret"


@pytest.mark.parametrize(
    "arguments",
    [
        ["add-file"],
        ["generate-text-embeddings"],
        ["generate-video-embeddings", "--model", "m"],
        ["generate-video-embeddings", "--url", "https://x", "--base64", "a.mp4"],
        ["add-live-stream", "rtsp://c/1"],
        ["stream-add", "--camera-id", "c"],
        ["stream-remove"],
    ],
    ids=" ".join,
)
def test_a_command_without_what_it_needs(backend: str, arguments: list[str]) -> None:
    assert run([*arguments, "--backend", backend]) == 2
    assert Recorder.seen == []


def test_a_file_that_is_not_there(backend: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["add-file", "nowhere.mp4", "--backend", backend]) == 1
    assert capsys.readouterr().err == "rt-embed add-file: nowhere.mp4: No such file or directory\n"


def test_a_file_that_would_not_fit_into_a_request(
    backend: str, film: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with film.open("r+b") as file:
        file.truncate(3 << 30)  # a hole: no byte of it is written
    assert run([*GENERATE, "--base64", str(film), "--backend", backend]) == 1
    assert "has 3221225472 bytes; encoded it would not fit into 4 GiB" in capsys.readouterr().err
    assert Recorder.seen == []


def test_the_backend_and_the_key_come_from_the_environment(
    backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RTVI_BACKEND", backend)
    monkeypatch.setenv("RTEMBED_API_KEY", "secret")
    Recorder.answer = (200, b'{"release": "3.2.0", "api": "3.1.0"}')
    assert run(["get-version"]) == 0
    assert Recorder.seen[0][2]["authorization"] == "Bearer secret"


def test_a_stream_that_is_refused(backend: str, capsys: pytest.CaptureFixture[str]) -> None:
    refused = {
        "index": 0,
        "url": "u",
        "error": "no such camera",
        "error_code": "InvalidFile",
        "status_code": 400,
    }
    Recorder.answer = (200, json.dumps({"results": [], "errors": [refused]}).encode())
    assert run(["add-live-stream", "rtsp://c/1", "--description", "d", "--backend", backend]) == 1
    assert capsys.readouterr().err == "rt-embed add-live-stream: 400 InvalidFile: no such camera\n"


def test_a_service_that_is_not_ready(backend: str, capsys: pytest.CaptureFixture[str]) -> None:
    Recorder.answer = (503, b'{"healthy": false, "checks": []}')
    assert run(["server-health-check", "--backend", backend]) == 1
    assert len(Recorder.seen) == 1
    assert capsys.readouterr().err.startswith("rt-embed server-health-check: the service is not ready")


# On a real service --------------------------------------------------------------------------------------


def rt_embed(service: Stack, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [str(Path(sys.executable).parent / "rt-embed"), *arguments]
    environment = {**os.environ, "RTVI_BACKEND": service.url}
    environment.pop("COLUMNS", None)  # the width of whoever runs the tests
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=60)


def test_a_film_from_upload_to_deletion(service: Stack, colours: Path, tmp_path: Path) -> None:
    added = json.loads(rt_embed(service, "add-file", str(colours), "--stream-id", ID, "--json").stdout)
    assert (added["id"], added["bytes"]) == (ID, colours.stat().st_size)
    assert ID in rt_embed(service, "list-files").stdout
    generate = ["generate-video-embeddings", "--id", ID, "--chunk-duration", "5"]
    answer = json.loads(rt_embed(service, *generate, "--json").stdout)
    assert [chunk["start_time"] for chunk in answer["chunk_responses"]] == [
        "0.0",
        "5.0",
        "10.0",
        "15.0",
        "20.0",
    ]
    shown = rt_embed(service, *generate).stdout
    assert len(re.findall(r"\b768\b", shown)) == 5
    lines = rt_embed(service, *generate, "--stream").stdout.splitlines()
    assert sorted(line.split()[0] for line in lines) == ["0.0", "10.0", "15.0", "20.0", "5.0"]
    events = rt_embed(service, *generate, "--stream", "--json").stdout.splitlines()
    assert {json.loads(event)["model"] for event in events} == {"null"}
    copy = tmp_path / "copy.mp4"
    assert rt_embed(service, "file-content", ID, "--out", str(copy)).returncode == 0
    assert copy.read_bytes() == colours.read_bytes()
    assert rt_embed(service, "delete-file", ID).stdout == f"deleted {ID}\n"
    gone = rt_embed(service, "file-info", ID)
    assert (gone.returncode, gone.stdout) == (1, "")
    assert "400 BadParameter" in gone.stderr


def test_a_film_inside_the_request(service: Stack, colours: Path) -> None:
    done = rt_embed(service, "generate-video-embeddings", "--base64", str(colours), "--json")
    (chunk,) = json.loads(done.stdout)["chunk_responses"]
    assert chunk["end_time"] == "25.0"


def test_a_camera(service: Stack) -> None:
    name = f"camera-{uuid.uuid4()}"
    arguments = ("--camera-id", name, "--camera-url", f"rtsp://127.0.0.1:{free_port()}/x")
    assert rt_embed(service, "stream-add", *arguments).returncode == 0
    assert rt_embed(service, "stream-add", *arguments).returncode == 1
    assert name in rt_embed(service, "stream-list").stdout
    assert rt_embed(service, "stream-remove", "--camera-id", name).returncode == 0


@pytest.mark.parametrize(
    "command", ["list-models", "get-version", "get-manifest", "server-metrics", "server-health-check"]
)
def test_questions_about_the_server(service: Stack, command: str) -> None:
    done = rt_embed(service, command)
    assert done.returncode == 0
    expected = {"get-version": "3.2.0", "server-health-check": "redis", "server-metrics": "# TYPE"}
    assert expected.get(command, "null") in done.stdout
