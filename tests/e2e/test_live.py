"""Live cameras through the whole service: a real RTSP server, and scripted ones for what that cannot do."""

import json
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import httpx
import pytest
from redis import Redis

from shared import keys
from shared.timestamps import parse_timestamp
from tests.camera import Answer, Asked, Picture, ScriptedCamera, encode
from tests.e2e.conftest import Stack
from tests.e2e.media import colour_film
from tests.support import RedisServer, free_port, wait_for, watched

URL = "/generate_video_embeddings"
MILLISECOND = 1_000_000


class RtspServer:
    """aio-rtsp-toolkit's server, in a process of its own."""

    def __init__(self, folder: Path) -> None:
        self.port, self.folder = free_port(), folder
        self.log = folder / "rtsp.log"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        command = [sys.executable, "-m", "server_demo", "-d", str(self.folder), "-H", "127.0.0.1"]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [*command, "-p", str(self.port), "-cp", str(free_port())], stdout=log, stderr=log
            )
        wait_for(lambda: f":{self.port}" in self.log.read_text() or self._answers())

    def _answers(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), 1):
                return True
        except OSError:
            return False

    def kill(self) -> None:
        if self.process:
            self.process.kill()
            self.process.wait()


class Watcher(threading.Thread):
    """A client that reads a stream's events."""

    all: ClassVar[list["Watcher"]] = []

    def __init__(self, stack: Stack, stream_id: str, **body: object) -> None:
        super().__init__(daemon=True)
        self.stack = stack
        self.body = {"id": stream_id, "model": "null", "stream": True, "chunk_duration": 1, **body}
        self.status = 0
        self.request = ""
        self.events: list[Any] = []
        self.done = False
        self.leave = threading.Event()
        Watcher.all.append(self)
        self.start()

    def run(self) -> None:
        with (
            httpx.Client(timeout=60) as client,
            client.stream("POST", f"{self.stack.url}/v1{URL}", json=self.body) as answer,
        ):
            self.status = answer.status_code
            for line in answer.iter_lines():
                if self.leave.is_set():
                    return
                if line == "data: [DONE]":
                    self.done = True
                elif line.startswith("data: "):
                    event = json.loads(line.removeprefix("data: "))
                    self.request = event["id"]
                    self.events.append(event)

    @property
    def chunks(self) -> list[Any]:
        return [event["chunk_responses"][0] for event in self.events]

    @property
    def starts(self) -> list[int]:
        """Start times of the chunks that were embedded, ns."""
        return [parse_timestamp(c["start_time"]) for c in self.chunks if c["embeddings"]]


LIVE = {
    "RTVI_RTSP_RECONNECTION_INTERVAL": "0.3",
    "RTVI_RTSP_TIMEOUT": "500",
    "RTEMBED_RTSP_READ_TIMEOUT": "1",
    "RTEMBED_RTSP_OPEN_TIMEOUT": "3",
    "RTVI_RTSP_RECONNECTION_MAX_ATTEMPTS": "100",
    "ENABLE_REDIS_ERROR_MESSAGES": "true",
    "RTEMBED_CLAIM_TIMEOUT": "2",
}


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("rtsp")
    colour_film(folder / "film.mp4", seconds=5)
    return folder


@pytest.fixture
def server(films: Path) -> Iterator[RtspServer]:
    running = RtspServer(films)
    running.start()
    yield running
    running.kill()


@pytest.fixture(scope="module")
def pictures() -> list[Picture]:
    return encode(seconds=2)


class Kind(NamedTuple):
    """What a service that several tests share is like."""

    workers: int = 1
    environment: tuple[tuple[str, str], ...] = ()


@pytest.fixture(scope="module")
def stacks(
    valkey: RedisServer, tmp_path_factory: pytest.TempPathFactory, films: Path
) -> Iterator[Callable[[Kind], Stack]]:
    """Services of each kind that is asked for, on databases of their own."""
    made: dict[Kind, Stack] = {}

    def stack_of(kind: Kind) -> Stack:
        if kind not in made:
            for other in made.values():
                other.stop()
            made.clear()
            service = Stack(tmp_path_factory.mktemp("live"), f"redis://127.0.0.1:{valkey.port}/2")
            with Redis(port=valkey.port, db=2) as client:
                client.flushdb()
            service.environment |= {**LIVE, "FILE_URL_ALLOWED_DIRS": str(films), **dict(kind.environment)}
            made[kind] = service
            service.start(kind.workers)
        return made[kind]

    yield stack_of
    for service in made.values():
        service.stop()


@pytest.fixture
def live_stack(stacks: Callable[[Kind], Stack], request: pytest.FixtureRequest) -> Iterator[Stack]:
    """A service that reconnects soon and tells its errors on Redis; without streams afterwards."""
    service = stacks(getattr(request, "param", Kind()))
    yield service
    for watcher in Watcher.all:
        watcher.leave.set()
        watcher.join(10)
    Watcher.all.clear()
    for stream in service.client.get("/streams/get-stream-info").json():
        service.client.delete(f"/streams/delete/{stream['id']}")


@pytest.fixture
def redis(valkey: RedisServer) -> Iterator[Redis]:
    with Redis(port=valkey.port, db=2) as client:
        yield client


def like(workers: int = 1, **environment: str) -> pytest.MarkDecorator:
    """A service of this kind, for a test."""
    return pytest.mark.parametrize("live_stack", [Kind(workers, tuple(environment.items()))], indirect=True)


def add(stack: Stack, *urls: str, **fields: str) -> list[str]:
    """Register streams; their ids."""
    streams = [{"liveStreamUrl": url, "description": "a camera", **fields} for url in urls]
    answer = stack.client.post("/streams/add", json={"streams": streams}).json()
    assert not answer["errors"], answer
    return [result["id"] for result in answer["results"]]


def listed(stack: Stack, stream_id: str) -> Any:
    return next(s for s in stack.client.get("/streams/get-stream-info").json() if s["id"] == stream_id)


def status(stack: Stack, stream_id: str) -> Any:
    return stack.client.get(f"/streams/{stream_id}/status").json()


def told(redis: Redis) -> Any:
    """Listens to error events."""
    listener: Any = redis.pubsub()
    listener.subscribe("mdx-embed-errors")
    assert listener.get_message(timeout=5)["type"] == "subscribe"
    return listener


def events_of(listener: Any) -> list[Any]:
    found = []
    while message := listener.get_message(timeout=0.5):
        found.append(json.loads(message["data"]))
    return found


# A real server ------------------------------------------------------------------------------------------


def test_a_real_stream_from_add_to_its_end(live_stack: Stack, server: RtspServer, redis: Redis) -> None:
    (stream,) = add(live_stack, f"rtsp://user:secret-word@127.0.0.1:{server.port}/film.mp4")
    assert listed(live_stack, stream)["liveStreamUrl"] == f"rtsp://127.0.0.1:{server.port}/film.mp4"
    assert status(live_stack, stream)["state"] == "idle"
    began = time.time_ns()
    watcher = Watcher(live_stack, stream, stream_options={"include_usage": True})
    wait_for(lambda: watcher.chunks)
    assert listed(live_stack, stream)["chunk_duration"] == 1
    info = status(live_stack, stream)
    assert (info["chunk_duration"], info["state"], info["chunks_dropped"]) == (1, "running", 0)
    watcher.join(20)
    assert watcher.done
    assert "chunk_responses" not in watcher.events[-1]
    assert watcher.events.pop()["usage"]["total_chunks_processed"] == 5
    first, *_ = watcher.starts
    assert 0 <= first - began < 5_000 * MILLISECOND
    steps = [start - first for start in watcher.starts]
    assert all(abs(step - i * 1000 * MILLISECOND) < 50 * MILLISECOND for i, step in enumerate(steps))
    for chunk in watcher.chunks:
        assert len(chunk["embeddings"]) == 768
        assert chunk["frame_count"] == 8
    assert watcher.events[0]["media_info"]["type"] == "timestamp"
    assert status(live_stack, stream)["state"] == "idle"
    wait_for(lambda: redis.xlen(keys.jobs("live", "null")) == 0)
    assert live_stack.client.delete(f"/streams/delete/{stream}").status_code == 200
    assert stream not in live_stack.client.get("/streams/get-stream-info").text
    assert "secret-word" not in live_stack.logs()
    assert not list(redis.scan_iter(f"*{stream}*"))


def test_a_server_that_is_killed_and_comes_back(live_stack: Stack, server: RtspServer, redis: Redis) -> None:
    (stream,) = add(live_stack, f"rtsp://127.0.0.1:{server.port}/film.mp4?play_count=0")
    listener = told(redis)
    watcher = Watcher(live_stack, stream)
    wait_for(lambda: len(watcher.chunks) >= 2)
    server.kill()
    wait_for(lambda: status(live_stack, stream)["state"] == "reconnecting")
    server.start()
    before = len(watcher.chunks)
    wait_for(lambda: len([c for c in watcher.chunks[before:] if c["embeddings"]]) >= 2)
    assert live_stack.client.delete(f"{URL}/{stream}").status_code == 200
    watcher.join(10)
    assert watcher.done
    assert watcher.starts == sorted(set(watcher.starts))
    stored: Any = redis.xrange(keys.results(watcher.request))
    indices = [int(f[b"chunk"]) for _, f in stored if f[b"type"] == b"result"]
    assert indices == list(range(len(indices)))
    said = [e["event"] for e in events_of(listener) if e["type"] == "stream_reconnection"]
    assert said[0].startswith("Live stream received error. Retrying after 0.3 seconds, attempt 1: ")
    assert any(event.startswith("Live stream reconnection successful. Error message: ") for event in said)
    assert status(live_stack, stream)["state"] == "idle"


# Cameras that misbehave -----------------------------------------------------------------------------------


def test_times_are_those_of_the_cameras_clock(live_stack: Stack, pictures: list[Picture]) -> None:
    """Over UDP, and by a clock that is 100 s fast."""
    with ScriptedCamera(pictures, ahead=100, transports=("udp",)) as camera:
        (stream,) = add(live_stack, camera.url)
        began = time.time_ns()
        watcher = Watcher(live_stack, stream)
        wait_for(lambda: len(watcher.chunks) >= 2)
        late = watcher.starts[0] - began - 100_000 * MILLISECOND
        assert 0 <= late < 5_000 * MILLISECOND
        assert camera.plays[-1] == "udp"


def test_udp_first_then_tcp(live_stack: Stack, pictures: list[Picture]) -> None:
    with ScriptedCamera(pictures, transports=("tcp",)) as camera:
        (stream,) = add(live_stack, camera.url)
        watcher = Watcher(live_stack, stream)
        wait_for(lambda: watcher.chunks)
        assert camera.plays == ["tcp"]


def test_what_cannot_be_added(live_stack: Stack, pictures: list[Picture]) -> None:
    with ScriptedCamera(pictures, login=("me", "right-one")) as camera, ScriptedCamera([], deaf=True) as deaf:
        wrong = {"username": "me", "password": "wrong-one"}
        streams = [
            {"liveStreamUrl": camera.url, "description": "a", **wrong},
            {"liveStreamUrl": deaf.url, "description": "b"},
            {"liveStreamUrl": camera.url, "description": "c", "username": "me"},
            {"liveStreamUrl": camera.url.replace("//", "//me:right-one@"), "description": "d", **wrong},
            {"liveStreamUrl": camera.url.replace("//", "//me:right-one@"), "description": "e"},
        ]
        answer = live_stack.client.post("/streams/add", json={"streams": streams})
        assert answer.status_code == 200
        codes = [(e["index"], e["error_code"], e["status_code"]) for e in answer.json()["errors"]]
        assert codes == [
            (0, "InvalidFile", 400), (1, "InvalidFile", 400), (2, "InvalidParameters", 422),
            (3, "InvalidParameters", 422),
        ]  # fmt: skip
        (added,) = answer.json()["results"]
        again = [{"liveStreamUrl": camera.url, "description": "f", "id": added["id"]}]
        (taken,) = live_stack.client.post("/streams/add", json={"streams": again}).json()["errors"]
        assert (taken["error_code"], taken["status_code"]) == ("DuplicateStreamId", 409)
    assert "right-one" not in live_stack.logs()
    assert "wrong-one" not in live_stack.logs()


PASSWORD = "p@ss/w:o#r%d"
DAHUA = "/cam/realmonitor?channel=1&subtype=0"


def test_an_address_with_a_query_and_a_hard_password(
    live_stack: Stack, redis: Redis, pictures: list[Picture]
) -> None:
    """The password is written as it is; the track is known by the form that most clients do not use."""

    def answer(asked: Asked) -> Answer | None:
        unknown = asked.method == "SETUP" and not asked.url.endswith("/realmonitor/video?channel=1&subtype=0")
        return Answer("404 Not Found") if unknown else None

    with ScriptedCamera(pictures, path=DAHUA, answer=answer) as camera:
        (stream,) = add(live_stack, camera.url.replace("//", f"//admin:{PASSWORD}@"))
        watcher = Watcher(live_stack, stream)
        wait_for(lambda: len(watcher.chunks) >= 2)
        assert listed(live_stack, stream)["liveStreamUrl"] == camera.url
        status = live_stack.client.get(f"/streams/{stream}/status").json()
        assert (status["state"], status["clock"]) == ("running", "camera")
        assert redis.hget(keys.camera(stream), "password") == PASSWORD.encode()
        spoken = live_stack.client.get("/streams/get-stream-info").text + json.dumps(watcher.events)
        assert "w:o" not in spoken
        assert "w:o" not in live_stack.logs()


def test_why_a_camera_does_not_play_is_told(live_stack: Stack, redis: Redis, pictures: list[Picture]) -> None:
    listener = told(redis)

    def answer(asked: Asked) -> Answer | None:
        return Answer("503 Too many users") if asked.method == "SETUP" else None

    with ScriptedCamera(pictures, path="/live?token=s3cret", answer=answer, transports=("tcp",)) as camera:
        (stream,) = add(live_stack, camera.url.replace("//", "//me:s3cret@"))
        Watcher(live_stack, stream)
        shown = camera.url.replace("s3cret", "***")
        reason = f"the camera answers SETUP {shown} with 503 Too many users"

        def status() -> Any:
            return live_stack.client.get(f"/streams/{stream}/status").json()

        wait_for(lambda: (status()["state"], status()["detail"]) == ("reconnecting", reason))
        camera.answer = lambda asked: None
        wait_for(lambda: status()["state"] == "running")
        assert (status()["detail"], status()["transport"]) == ("", "tcp")
        (event, *_) = [e for e in events_of(listener) if e["type"] == "stream_reconnection"]
        assert event["streamId"] == stream
        assert event["event"].endswith(f"attempt 1: {reason}")


def test_a_camera_that_falls_silent_fails_the_chunk_under_way(
    live_stack: Stack, redis: Redis, pictures: list[Picture]
) -> None:
    listener = told(redis)
    with ScriptedCamera(pictures, mute_after=45) as camera:
        (stream,) = add(live_stack, camera.url)
        watcher = Watcher(live_stack, stream)
        wait_for(lambda: len(watcher.chunks) >= 3)
        embedded, failed, again, *_ = watcher.chunks
        assert embedded["embeddings"]
        assert failed["embeddings"] == []
        assert again["embeddings"]
        events = [e["event"] for e in events_of(listener) if e["type"] == "functional"]
        assert events[0].startswith("Decode error: no video for 1 s")


def test_one_client_at_a_time_and_the_next_goes_on(
    live_stack: Stack, redis: Redis, pictures: list[Picture]
) -> None:
    with ScriptedCamera(pictures) as camera:
        (stream,) = add(live_stack, camera.url)
        body = {"id": stream, "model": "null", "chunk_duration": 1}
        refused = live_stack.client.post(URL, json=body)
        assert (refused.status_code, refused.json()["code"]) == (400, "BadParameters")
        refused = live_stack.client.post(URL, json={**body, "stream": True, "chunk_duration": 0})
        assert (refused.status_code, refused.json()["code"]) == (400, "BadParameter")
        first = Watcher(live_stack, stream)
        wait_for(lambda: len(first.chunks) >= 1)
        second = live_stack.client.post(URL, json={**body, "stream": True})
        assert (second.status_code, second.json()["code"]) == (409, "Conflict")
        first.leave.set()
        first.join(10)
        time.sleep(1.5)
        again = Watcher(live_stack, stream, chunk_duration=7)
        wait_for(lambda: len(again.chunks) >= 3)
        assert again.request == first.request
        both = first.starts + again.starts
        assert len(both) - len(set(both)) <= 1
        assert max(b - a for a, b in pairwise(both)) < 1_500 * MILLISECOND


# Cameras ------------------------------------------------------------------------------------------------


def test_cameras_are_added_embedded_and_removed(live_stack: Stack, pictures: list[Picture]) -> None:
    client = live_stack.client

    def camera_add(camera_id: str, url: str, **value: Any) -> httpx.Response:
        body = {"camera_id": camera_id, "camera_url": url, "change": "camera_add", **value}
        return client.post("/stream/add", json={"key": "sensor", "value": body})

    with ScriptedCamera(pictures) as camera:
        metadata = {"model": "null", "chunk_duration": 1, "prompt": "ignored"}
        added = camera_add("cam-1", camera.url, camera_name="Front door", metadata=metadata).json()
        assert (added["status"], added["inference"], added["camera_id"]) == ("processing", True, "cam-1")
        watcher = Watcher(live_stack, added["asset_id"])
        wait_for(lambda: watcher.chunks)
        duplicate = camera_add("cam-1", camera.url)
        assert (duplicate.status_code, duplicate.json()["code"]) == (409, "DuplicateCameraId")
        idle = camera_add("cam-2", "rtsp://127.0.0.1:1/dead", metadata={"model": "other"}).json()
        assert (idle["status"], idle["inference"]) == ("added", False)
        info = client.get("/stream/get-stream-info").json()
        assert info["stream_count"] == 2
        by_id = {c["camera_id"]: c for c in info["stream_list"]}
        assert by_id["cam-1"]["inference_active"]
        assert by_id["cam-1"]["camera_name"] == "Front door"
        assert not by_id["cam-2"]["inference_active"]
        body = {"key": "sensor", "value": {"camera_id": "cam-1", "change": "camera_remove"}}
        removed = client.post("/stream/remove", json=body)
        assert removed.json() == {"camera_id": "cam-1", "asset_id": added["asset_id"], "status": "removed"}
        watcher.join(10)
        assert watcher.done
        assert client.post("/stream/remove", json=body).json()["code"] == "NotFound"
        assert camera_add("cam-1", camera.url).json()["status"] == "added"
        assert camera_add("cam-3", camera.url, change="explode").json()["code"] == "BadRequest"


def test_cameras_in_the_envelope_of_vios(live_stack: Stack, films: Path, pictures: list[Picture]) -> None:
    base = f"{live_stack.url}/api/v1/camera"

    def event(change: str, alert_type: str = "camera_status_change", **fields: Any) -> dict[str, Any]:
        happened = {"camera_id": "v-1", "change": change, "unknown": 1, **fields}
        return {
            "alert_type": alert_type, "created_at": "2026-09-04T10:00:00Z", "source": "vios", "more": {},
            "event": happened,
        }  # fmt: skip

    with ScriptedCamera(pictures) as camera, httpx.Client(timeout=30) as client:
        metadata = {"model": "null", "chunk_duration": 1, "anything": "else"}
        wanted = event("camera_streaming", camera_url=camera.url, camera_type="rtsp", metadata=metadata)
        added = client.put(f"{base}/streaming", json=wanted).json()
        assert (added["status"], added["inference"]) == ("processing", True)
        assert client.put(f"{base}/streaming", json=wanted).json()["code"] == "DuplicateCameraId"
        removed = client.request("DELETE", f"{base}/remove", json=event("camera_remove")).json()
        assert removed["asset_id"] == added["asset_id"]
        gone = client.post(f"{base}/remove", json=event("camera_remove"))
        assert (gone.status_code, gone.json()["asset_id"]) == (200, "")
        named = client.post(f"{base}/add", json=event("camera_add", camera_url="")).json()
        assert (named["asset_id"], named["status"]) == ("", "added")
        empty = client.post(f"{base}/add", json=event("camera_streaming", camera_url=""))
        assert (empty.status_code, empty.json()["code"]) == (400, "BadRequest")
        other = client.post(f"{base}/add", json=event("camera_add", "other", camera_url=camera.url))
        assert (other.status_code, other.json()["code"]) == (400, "BadRequest")
        path = str(films / "film.mp4")
        stored = client.post(f"{base}/add", json=event("camera_add", camera_url=path)).json()
        assert stored["inference"] is False
        answer = live_stack.client.post(
            URL, json={"id": stored["asset_id"], "model": "null", "chunk_duration": 5}
        ).json()
        assert answer["chunk_responses"][0]["start_time"] == "2026-09-04T10:00:00.000Z"


# Services of other kinds ----------------------------------------------------------------------------------


@like(
    RTVI_RTSP_RECONNECTION_MAX_ATTEMPTS="2",
    VSS_SKIP_INPUT_MEDIA_VERIFICATION="1",
    RTEMBED_RTSP_OPEN_TIMEOUT="1",
    RTEMBED_MAX_LIVE_STREAMS="2",
)
def test_a_silent_camera_is_given_up_and_the_others_go_on(
    live_stack: Stack, redis: Redis, pictures: list[Picture]
) -> None:
    listener = told(redis)
    with ScriptedCamera(pictures, deaf=True) as deaf, ScriptedCamera(pictures) as good:
        silent, lively = add(live_stack, deaf.url, good.url)
        lost, watcher = Watcher(live_stack, silent), Watcher(live_stack, lively)
        lost.join(20)
        assert lost.done
        assert lost.events == []
        wait_for(lambda: len(watcher.chunks) >= 2)
        assert not watcher.done
    said = [e["event"] for e in events_of(listener) if e["streamId"] == silent]
    assert [event.split(":")[0] for event in said] == [
        "Live stream received error. Retrying after 0.3 seconds, attempt 1",
        "Live stream received error. Retrying after 0.3 seconds, attempt 2",
        "Live stream received error. Max reconnection attempts 2, timeout 60 seconds",
    ]


@like(
    RTVI_RTSP_RECONNECTION_MAX_ATTEMPTS="2",
    VSS_SKIP_INPUT_MEDIA_VERIFICATION="1",
    RTEMBED_RTSP_OPEN_TIMEOUT="1",
    RTEMBED_MAX_LIVE_STREAMS="2",
)
def test_more_streams_than_may_be(live_stack: Stack, pictures: list[Picture]) -> None:
    with ScriptedCamera(pictures) as camera:
        one, two, other = add(live_stack, *[camera.url] * 3)
        running = [Watcher(live_stack, one), Watcher(live_stack, two)]
        wait_for(lambda: all(watcher.chunks for watcher in running))
        busy = live_stack.client.post(
            URL, json={"id": other, "model": "null", "stream": True, "chunk_duration": 1}
        )
        assert (busy.status_code, busy.json()["code"]) == (503, "ServerBusy")
        assert "maximum number of live streams (2)" in busy.json()["message"]
        live_stack.client.delete(f"{URL}/{one}")
        watcher = Watcher(live_stack, other)
        wait_for(lambda: watcher.chunks)


def owner(redis: Redis, stream: str) -> bytes:
    found = redis.hget(keys.live(stream), "owner")
    return found if isinstance(found, bytes) else b""


def worker_of(redis: Redis, stack: Stack, stream: str) -> subprocess.Popen[bytes]:
    """The watchdog of the worker that has the stream's session."""
    wait_for(lambda: owner(redis, stream))
    pid = int(redis.hget(keys.worker(owner(redis, stream).decode()), "pid") or 0)
    return next(w for w in stack.workers if w.poll() is None and watched(w.pid).pid == pid)


@like(workers=2)
def test_sessions_spread_over_the_workers(live_stack: Stack, redis: Redis, pictures: list[Picture]) -> None:
    with ScriptedCamera(pictures) as camera:
        streams = add(live_stack, *[camera.url] * 4)
        watchers = [Watcher(live_stack, stream) for stream in streams]
        wait_for(lambda: all(watcher.chunks for watcher in watchers))
        owners = [owner(redis, stream) for stream in streams]
        assert sorted(owners.count(name) for name in set(owners)) == [2, 2]
        answer = live_stack.client.request(
            "DELETE", "/streams/delete-batch", json={"stream_ids": [*streams, "0" * 32]}
        )
        assert answer.json()["deleted"] == streams
        (error,) = answer.json()["errors"]
        assert (error["error_code"], error["status_code"]) == ("BadParameter", 400)
        for watcher in watchers:
            watcher.join(10)
            assert watcher.done
        wait_for(lambda: redis.xlen(keys.jobs("live", "null")) == 0)


@like(workers=2)
@pytest.mark.parametrize("how", [signal.SIGSTOP, signal.SIGTERM, signal.SIGKILL])
def test_a_session_goes_on_when_its_worker_does_not(
    live_stack: Stack, redis: Redis, pictures: list[Picture], how: signal.Signals
) -> None:
    """Dead, hung or stopped: another worker goes on, and the client sees no more than a gap."""
    with ScriptedCamera(pictures) as camera:
        (stream,) = add(live_stack, camera.url)
        watcher = Watcher(live_stack, stream)
        wait_for(lambda: len(watcher.chunks) >= 2)
        victim = worker_of(redis, live_stack, stream)
        before = owner(redis, stream)
        process = watched(victim.pid)
        process.send_signal(how)
        wait_for(lambda: owner(redis, stream) != before, 15)
        count = len(watcher.chunks)
        wait_for(lambda: len(watcher.chunks) >= count + 2)
        if how == signal.SIGSTOP:
            process.send_signal(signal.SIGCONT)
            wait_for(lambda: "claim lost to another worker" in live_stack.logs())
        else:
            victim.wait(20)
            live_stack.start_worker()
        live_stack.client.delete(f"{URL}/{stream}")
        watcher.join(10)
        assert watcher.done
        assert watcher.starts == sorted(set(watcher.starts))
        stored: Any = redis.xrange(keys.results(watcher.request))
        indices = [int(f[b"chunk"]) for _, f in stored if b"chunk" in f]
        assert indices == sorted(set(indices))
        assert redis.xlen(keys.JOBS_DEAD) == 0


def test_a_camera_that_ends_every_worker_is_given_up(
    live_stack: Stack, redis: Redis, pictures: list[Picture]
) -> None:
    with ScriptedCamera(pictures) as camera:
        (stream,) = add(live_stack, camera.url)
        watcher = Watcher(live_stack, stream)
        for _ in range(3):
            victim = worker_of(redis, live_stack, stream)
            victim.kill()
            victim.wait()
            live_stack.workers = []
            redis.hdel(keys.live(stream), "owner")
            live_stack.start_worker()
        wait_for(lambda: redis.xlen(keys.JOBS_DEAD) == 1)
        watcher.join(10)
        letters: Any = redis.xrange(keys.JOBS_DEAD)
        ((_, letter),) = letters
        assert (letter[b"lane"], letter[b"deliveries"]) == (b"live", b"4")
        assert redis.xlen(keys.jobs("live", "null")) == 0
        detail: Any = redis.hget(keys.live(stream), "detail")
        assert b"given up after 3 deliveries" in detail
        assert live_stack.client.delete(f"/streams/delete/{stream}").status_code == 200


@like(MODEL_PATH="null?video=2")
def test_deleting_while_a_chunk_is_in_flight(
    live_stack: Stack, redis: Redis, pictures: list[Picture]
) -> None:
    with ScriptedCamera(pictures) as camera:
        (stream,) = add(live_stack, camera.url)
        watcher = Watcher(live_stack, stream)
        wait_for(lambda: len(watcher.chunks) == 1)
        time.sleep(0.3)
        assert live_stack.client.delete(f"/streams/delete/{stream}").status_code == 200
        watcher.join(10)
        assert watcher.done
        assert len(watcher.chunks) == 2
        gone = live_stack.client.delete(f"/streams/delete/{stream}")
        assert (gone.status_code, gone.json()["code"]) == (400, "BadParameter")


SLOW = (("MODEL_PATH", "null?video=2"),)


@pytest.mark.parametrize(
    ("live_stack", "rule"),
    [(Kind(1, SLOW), "drop"), (Kind(1, (*SLOW, ("RTEMBED_LIVE_OVERLOAD", "block"))), "block")],
    indirect=["live_stack"],
)
def test_overload(live_stack: Stack, redis: Redis, pictures: list[Picture], rule: str) -> None:
    """The engine needs two seconds for a chunk of one: whole chunks are dropped, or the camera waits."""
    listener = told(redis)
    with ScriptedCamera(pictures, transports=("tcp",)) as camera:
        (stream,) = add(live_stack, camera.url)
        watcher = Watcher(live_stack, stream)
        wait_for(lambda: len(watcher.chunks) >= 5)
        dropped = status(live_stack, stream)["chunks_dropped"]
        gaps = [b - a for a, b in pairwise(watcher.starts)]
        events = [e["event"] for e in events_of(listener) if "overloaded" in e["event"]]
        if rule == "drop":
            assert dropped >= 2
            assert max(gaps) > 1_500 * MILLISECOND
            assert time.time_ns() - watcher.starts[-1] < 8_000 * MILLISECOND
            assert events
        else:
            assert dropped == 0
            assert all(abs(gap - 1000 * MILLISECOND) < 50 * MILLISECOND for gap in gaps)
            assert not events
