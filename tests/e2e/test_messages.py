"""Messages of the whole service on real brokers, read by an independent consumer with classes of its own."""

import base64
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from shared.timestamps import parse_timestamp
from tests.brokers import MockCluster, Reader
from tests.e2e.conftest import Stack
from tests.e2e.media import COLOURS, colour_film, picture
from tests.proto import schema
from tests.support import RedisServer, free_port

VisionLLM: Any = schema.classes()["VisionLLM"]
TOPIC, ERRORS = "mdx-embed", "mdx-embed-errors"
JPEG = b"\xff\xd8\xff"
URL = "/generate_video_embeddings"


@pytest.fixture(scope="module")
def cluster() -> Iterator[MockCluster]:
    cluster = MockCluster()
    cluster.create_topic(TOPIC, partitions=3)
    cluster.create_topic(ERRORS)
    yield cluster
    cluster.close()


@pytest.fixture(scope="module")
def stack(
    valkey: RedisServer, cluster: MockCluster, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Stack]:
    service = Stack(tmp_path_factory.mktemp("stack"), f"redis://127.0.0.1:{valkey.port}/3")
    service.environment |= {
        "KAFKA_ENABLED": "true",
        "KAFKA_BOOTSTRAP_SERVERS": cluster.servers,
        "ENABLE_KAFKA_MESSAGES_FOR_TEXT_INPUT": "true",
    }
    try:
        service.start()
        yield service
    finally:
        service.stop()


@pytest.fixture(scope="module")
def reader(cluster: MockCluster) -> Iterator[Reader]:
    with Reader(cluster.servers, TOPIC) as reading:
        yield reading


def messages(reader: Reader, request: str, count: int) -> list[Any]:
    """The request's messages in the order of their chunks; keys and headers are checked."""

    def mine(records: Any) -> list[Any]:
        return [r for r in records if (r[0] or b"").startswith(f"{request}:".encode())]

    records = mine(reader.until(lambda found: len(mine(found)) >= count))
    records = sorted(mine(reader.rest(0.2)), key=lambda r: int(r[0].partition(b":")[2]))
    assert [key for key, _, _ in records] == [f"{request}:{n}".encode() for n in range(count)]
    assert all(headers == [("message_type", b"vision_llm")] for _, _, headers in records)
    return [VisionLLM.FromString(value) for _, value, _ in records]


def same_vector(message: Any, embedding: list[float]) -> bool:
    (sent,) = message.llm.visionEmbeddings
    return list(sent.vector) == pytest.approx(embedding, rel=1e-6)


def moment(stamp: Any) -> int:
    return int(stamp.seconds * 10**9 + stamp.nanos)


def test_a_file(stack: Stack, reader: Reader, film: Path) -> None:
    created = "2024-06-09T18:32:11.123Z"
    film_id = stack.upload(film, creation_time=created, sensor_name="gate")
    body = {"id": film_id, "model": "null", "chunk_duration": 5}
    answer = stack.client.post(URL, json=body).json()
    found = messages(reader, answer["id"], 5)
    for index, (message, chunk) in enumerate(zip(found, answer["chunk_responses"], strict=True)):
        start = parse_timestamp(created) + index * 5 * 10**9
        assert (moment(message.timestamp), moment(message.end)) == (start, start + 5 * 10**9)
        assert message.version == message.llm.info["modelId"] == message.llm.info["requestedModel"] == "null"
        assert (message.sensor.id, message.sensor.type) == ("gate", "Video")
        assert message.sensor.info["videoFps"] == "30.00"
        assert message.sensor.info["path"].startswith(message.sensor.info["assetDir"])
        assert [frame.id for frame in message.frames] == [f"{index}:{n}" for n in range(8)]
        assert (message.startFrameId, message.endFrameId) == (f"{index}:0", f"{index}:7")
        assert all(start <= moment(frame.timestamp) < start + 5 * 10**9 for frame in message.frames)
        assert message.info["streamId"] == film_id
        assert message.info["frameCount"] == "8"
        assert "thumbnail" not in message.info
        for name in ("decodeLatencyMs", "vlmLatencyMs", "chunkLatencyMs", "processingLatencyS"):
            assert float(message.info[name]) >= 0
        assert same_vector(message, chunk["embeddings"])
        (query,) = message.llm.queries
        assert query.id == f"{answer['id']}:{index}"
        assert parse_timestamp(query.params["startNtp"]) == start


def test_an_image_list(stack: Stack, reader: Reader, tmp_path: Path) -> None:
    ids = [stack.upload(picture(tmp_path, colour), "image") for colour in COLOURS[:3]]
    answer = stack.client.post(URL, json={"id": ids, "model": "null", "thumbnails": True}).json()
    (message,) = messages(reader, answer["id"], 1)
    assert (message.sensor.id, message.sensor.type, message.info["streamId"]) == (ids[0], "Video", ids[0])
    assert "videoFps" not in message.sensor.info
    assert [frame.id for frame in message.frames] == ["0:0", "0:1", "0:2"]
    assert {moment(frame.timestamp) for frame in message.frames} == {0}
    assert same_vector(message, answer["chunk_responses"][0]["embeddings"])
    assert message.info["thumbnail"] == answer["chunk_responses"][0]["thumbnail"]
    assert base64.b64decode(message.info["thumbnail"]).startswith(JPEG)


def test_texts(stack: Stack, reader: Reader) -> None:
    texts = ["a red car", "snow on a street"]
    body = {"text_input": texts, "model": "null"}
    answer = stack.client.post("/generate_text_embeddings", json=body).json()
    found = messages(reader, answer["id"], 2)
    for message, text, item in zip(found, texts, answer["data"], strict=True):
        assert [field.name for field, _ in message.ListFields()] == ["llm", "info"]
        assert message.llm.queries[0].prompts == {"text": text}
        assert same_vector(message, item["embeddings"])


@pytest.fixture
def camera(tmp_path: Path) -> Iterator[str]:
    """The address of a real RTSP server that loops a film."""
    colour_film(tmp_path / "film.mp4", seconds=5)
    port = free_port()
    command = [sys.executable, "-m", "server_demo", "-d", str(tmp_path), "-H", "127.0.0.1"]
    server = subprocess.Popen(
        [*command, "-p", str(port), "-cp", str(free_port())],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    yield f"rtsp://127.0.0.1:{port}/film.mp4"
    server.kill()
    server.wait()


def test_a_live_stream(stack: Stack, reader: Reader, camera: str) -> None:
    stream = {"liveStreamUrl": camera, "description": "Gate 4"}
    stream_id = eventually(
        lambda: stack.client.post("/streams/add", json={"streams": [stream]}).json()["results"]
    )[0]["id"]
    body = {"id": stream_id, "model": "null", "stream": True, "chunk_duration": 1, "thumbnails": True}
    events: list[Any] = []
    with stack.client.stream("POST", URL, json=body) as answer:
        for line in answer.iter_lines():
            if line.startswith("data: {"):
                events.append(json.loads(line.removeprefix("data: ")))
            if len(events) == 3:
                break
    request = events[0]["id"]
    assert stack.client.delete(f"/streams/delete/{stream_id}").status_code == 200
    for index, event in enumerate(events):
        chunk = event["chunk_responses"][0]
        value = next(
            r[1]
            for r in reader.until(lambda found: any(k == f"{request}:2".encode() for k, _, _ in found))
            if r[0] == f"{request}:{index}".encode()
        )
        message = VisionLLM.FromString(value)
        assert moment(message.timestamp) == parse_timestamp(chunk["start_time"])
        assert (message.sensor.id, message.sensor.type) == (stream_id, "Camera")
        assert message.sensor.description == "Gate 4"
        assert dict(message.sensor.info) == {"path": camera}
        assert "queueTimeS" not in message.info
        assert len(message.frames) == int(message.info["frameCount"]) > 0
        assert message.info["thumbnail"] == chunk["thumbnail"]
        assert base64.b64decode(chunk["thumbnail"]).startswith(JPEG)
        assert all(abs(moment(f.timestamp) - moment(message.timestamp)) < 2 * 10**9 for f in message.frames)
        assert same_vector(message, chunk["embeddings"])


def test_error_events(stack: Stack, cluster: MockCluster) -> None:
    unknown = "11111111-2222-4333-8444-555555555555"
    assert stack.client.get(f"/files/{unknown}").status_code == 400
    with Reader(cluster.servers, ERRORS) as errors:
        records = errors.until(lambda found: any(unknown.encode() in value for _, value, _ in found))
    key, value, headers = next(r for r in records if unknown.encode() in r[1])
    event = json.loads(value)
    assert (key, headers) == (None, [("message_type", b"error")])
    assert list(event) == ["streamId", "timestamp", "type", "source", "event"]
    assert (event["streamId"], event["type"]) == (unknown, "functional")


def eventually(attempt: Callable[[], Any], timeout: float = 30) -> Any:
    deadline = time.monotonic() + timeout
    while not (found := attempt()):
        assert time.monotonic() < deadline
        time.sleep(0.2)
    return found
