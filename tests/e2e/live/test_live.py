"""Live cameras through the whole service: a real RTSP server, and scripted ones for what that cannot do."""

import json
import time
from pathlib import Path
from typing import Any

import httpx
from redis import Redis

from shared import keys
from shared.results import Result, from_fields
from tests.camera import Answer, Asked, Picture, ScriptedCamera
from tests.e2e.conftest import Stack
from tests.e2e.live.conftest import (
    MILLISECOND,
    URL,
    RtspServer,
    Watcher,
    add,
    events_of,
    listed,
    status,
    told,
)
from tests.support import wait_for

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


def results(redis: Redis, request: str) -> list[Result]:
    """The results of a request that are kept, in order."""
    entries: Any = redis.xrange(keys.results(request))
    found = [from_fields(fields) for _, fields in entries]
    return [result for result in found if isinstance(result, Result)]


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
        seen = len(first.chunks)
        wait_for(lambda: len(results(redis, first.request)) >= seen + 2)
        again = Watcher(live_stack, stream, chunk_duration=7)
        wait_for(lambda: len(again.chunks) >= 3)
        assert again.request == first.request
        both = [start // MILLISECOND for start in first.starts + again.starts]
        found = results(redis, first.request)
        published = [(result.wall_start or 0) // MILLISECOND for result in found if result.vector]
        assert len(both) - len(set(both)) <= 1
        assert sorted(set(both)) == published[: len(set(both))], "nothing that was published is missing"


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
