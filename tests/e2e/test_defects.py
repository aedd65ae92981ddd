"""What the service that this one replaces gets wrong, and this one must not; clients may rely on either.

Live streams beyond their limit, and refusals while one is embedded, are tested with the live streams.
"""

import json
import re
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event, Thread
from typing import Any

import pytest
from redis import Redis

from shared import keys
from tests.e2e.conftest import Stack
from tests.e2e.media import picture
from tests.support import RedisServer, wait_for

VIDEO = "/generate_video_embeddings"
TEXT = "/generate_text_embeddings"


@pytest.fixture(scope="module")
def service(valkey: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A service with bounds: a film may last a minute, one live stream may be embedded at a time."""
    stack = Stack(tmp_path_factory.mktemp("defects"), f"redis://127.0.0.1:{valkey.port}/4")
    stack.environment |= {
        "FILE_URL_ALLOWED_DIRS": str(tmp_path_factory.getbasetemp()), "RTEMBED_MAX_FILE_DURATION": "1",
        "RTEMBED_MAX_LIVE_STREAMS": "1",
        "ERROR_BUS": "redis", "ERROR_MESSAGE_TOPIC": "mishaps",
        "ASSET_DOWNLOAD_CONNECT_TIMEOUT": "1",
    }  # fmt: skip
    try:
        stack.start()
        yield stack
    finally:
        stack.stop()


@pytest.fixture
def redis(service: Stack) -> Iterator[Redis]:
    with Redis.from_url(service.environment["REDIS_URL"]) as client:
        yield client


def files(service: Stack) -> list[Any]:
    found: list[Any] = service.client.get("/files?purpose=vision").json()["data"]
    return found


def camera(service: Stack, name: str, **metadata: Any) -> Any:
    value = {"camera_id": name, "camera_url": "rtsp://127.0.0.1:9/x", "change": "camera_add"}
    return service.client.post("/stream/add", json={"key": "k", "value": {**value, "metadata": metadata}})


def test_01_beyond_the_limit_of_live_streams_the_service_is_busy(service: Stack) -> None:
    """Not status 500 with a number for a code."""
    embedded = camera(service, "first", model="null", chunk_duration=5).json()
    assert embedded["status"] == "processing"
    other = camera(service, "second").json()["asset_id"]
    answer = service.embed(id=other, stream=True, chunk_duration=5)
    assert (answer.status_code, answer.json()["code"]) == (503, "ServerBusy")
    assert "retry-after" in answer.headers
    for asset_id in (embedded["asset_id"], other):
        assert service.client.delete(f"/streams/delete/{asset_id}").status_code == 200


def test_02_a_url_can_be_streamed(service: Stack, film: Path) -> None:
    """Its asset goes when the stream has ended, not before."""
    answer = service.embed(id=str(uuid.uuid4()), url=f"file://{film}", stream=True, chunk_duration=5)
    assert answer.text.count("chunk_responses") == 5
    assert answer.text.endswith("data: [DONE]\r\n\r\n")
    wait_for(lambda: not files(service))


@contextmanager
def read_by_another(redis: Redis, film_id: str) -> Iterator[None]:
    """Another client reads the film's events: its gateway renews the lease."""
    over = Event()

    def renew() -> None:
        while not over.wait(0.05):
            redis.set(keys.reader(film_id), "another client", px=3000)

    redis.set(keys.reader(film_id), "another client", px=3000)
    renewing = Thread(target=renew)
    renewing.start()
    try:
        yield
    finally:
        over.set()
        renewing.join()
        redis.delete(keys.reader(film_id))


def test_03_a_second_reader_is_refused_before_a_job_is_started(
    service: Stack, redis: Redis, film: Path
) -> None:
    film_id = service.upload(film)
    with read_by_another(redis, film_id):
        answer = service.embed(id=film_id, stream=True)
    assert (answer.status_code, answer.json()["code"]) == (409, "Conflict")
    assert redis.xlen(keys.jobs("video", "null")) == 0
    assert service.client.delete(f"/files/{film_id}").status_code == 200


@pytest.mark.parametrize("stream", [False, True])
def test_04_a_request_without_chunks_lets_go_of_its_asset(service: Stack, film: Path, stream: bool) -> None:
    film_id = service.upload(film)
    answer = service.embed(id=film_id, stream=stream, media_info={"type": "offset", "start_offset": 500})
    assert answer.status_code == 200
    assert service.client.delete(f"/files/{film_id}").status_code == 200


def test_05_a_film_beyond_the_longest_is_refused(service: Stack, tmp_path: Path) -> None:
    """Not status 500, and no stream that ends at once."""
    import av

    long = tmp_path / "long.mp4"
    with av.open(str(long), "w") as container:
        stream = container.add_stream("libx264", rate=1, options={"preset": "ultrafast"})
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for _ in range(70):
            container.mux(stream.encode(av.VideoFrame(64, 48, "yuv420p")))
        container.mux(stream.encode())
    film_id = service.upload(long)
    for streamed in (False, True):
        answer = service.embed(id=film_id, stream=streamed)
        assert (answer.status_code, answer.json()["code"]) == (400, "BadParameter")
        assert "at most 60 s" in answer.json()["message"]
    assert service.client.delete(f"/files/{film_id}").status_code == 200


def test_06_an_empty_list_of_ids_is_the_clients_mistake(service: Stack) -> None:
    answer = service.embed(id=[])
    assert (answer.status_code, answer.json()["code"]) == (422, "InvalidParameters")


def test_07_a_text_too_long_is_refused_before_inference(service: Stack, redis: Redis) -> None:
    before = redis.hgetall(keys.REQUEST_COUNTS)
    answer = service.client.post(TEXT, json={"text_input": ["a", "x" * 1001], "model": "null"})
    assert (answer.status_code, answer.json()["code"]) == (422, "InvalidParameters")
    assert redis.hgetall(keys.REQUEST_COUNTS) == before


def test_08_a_registered_path_replaces_no_asset(service: Stack, film: Path, tmp_path: Path) -> None:
    film_id = service.upload(film)
    other = picture(tmp_path, (1, 2, 3))
    form = {"purpose": "vision", "media_type": "image", "filename": str(other), "id": film_id}
    answer = service.client.post("/files", data=form)
    assert (answer.status_code, answer.json()["code"]) == (409, "DuplicateAssetId")
    assert service.client.get(f"/files/{film_id}").json()["filename"] == "film.mp4"
    assert service.client.delete(f"/files/{film_id}").status_code == 200


def test_09_an_id_that_aged_out_can_be_used_again(service: Stack, redis: Redis, film: Path) -> None:
    aged = str(uuid.uuid4())
    redis.zadd(keys.AGED_OUT_ASSETS, {aged: 1})
    assert "aged out" in service.embed(id=aged).json()["message"]
    assert service.upload(film, id=aged) == aged
    assert service.embed(id=aged).status_code == 200
    assert service.client.delete(f"/files/{aged}").status_code == 200


def test_10_lists_can_hold_whatever_was_accepted(service: Stack, redis: Redis) -> None:
    """A camera with a null place and a name of any letters; a file whose name has a percent sign."""
    name = "Tür №1 <b>;%"
    value = {
        "camera_id": "odd", "camera_name": name, "camera_url": "rtsp://127.0.0.1:9/" + "x" * 900,
        "change": "camera_add",
    }  # fmt: skip
    added = service.client.post("/stream/add", json={"key": "k", "value": value})
    assert added.status_code == 200, added.text
    odd = str(uuid.uuid4())
    redis.hset(keys.asset(odd), mapping={"id": odd, "filename": "100%.mp4", "path": "/nowhere"})
    redis.zadd(keys.ASSETS, {odd: 1})
    try:
        assert [file["filename"] for file in files(service)] == ["100%.mp4"]
        (stream,) = service.client.get("/streams/get-stream-info").json()
        assert stream["description"] == name
        (listed,) = service.client.get("/stream/get-stream-info").json()["stream_list"]
        assert listed["camera_name"] == name
    finally:
        redis.zrem(keys.ASSETS, odd)
        redis.delete(keys.asset(odd))
        service.client.delete(f"/streams/delete/{added.json()['asset_id']}")


@pytest.mark.parametrize(
    "body",
    [{"chunk_duration": 5, "chunk_overlap_duration": 5}, {"model": "other"}, {"media_info": {"type": "x"}}],
)
@pytest.mark.parametrize("stream", [False, True])
def test_11_a_start_that_fails_leaves_no_asset(
    service: Stack, film: Path, body: dict[str, Any], stream: bool
) -> None:
    answer = service.embed(id=str(uuid.uuid4()), url=f"file://{film}", stream=stream, **body)
    assert 400 <= answer.status_code < 500
    wait_for(lambda: not files(service))


def test_12_texts_are_finished_when_their_results_can_be_read(service: Stack) -> None:
    headers = {"Prefer": "respond-async"}
    for number in range(20):
        body = {"text_input": [f"text {number}"], "model": "null"}
        where = service.client.post(TEXT, json=body, headers=headers).headers["location"].removeprefix("/v1")
        while service.client.get(where).json()["status"] == "running":
            pass
        assert len(service.client.get(f"{where}/results").json()["data"]) == 1


def test_13_a_host_that_does_not_answer_is_not_our_error(service: Stack) -> None:
    """Not status 500. The address is one of those that are kept for documentation and lead nowhere."""
    answer = service.embed(id=str(uuid.uuid4()), url="http://192.0.2.1/a.mp4")
    assert (answer.status_code, answer.json()["code"]) == (502, "DownloadFailed")


def test_14_events_carry_milliseconds(service: Stack, redis: Redis) -> None:
    missing = str(uuid.uuid4())
    with redis.pubsub() as pubsub:
        pubsub.subscribe("mishaps")
        assert pubsub.get_message(timeout=5)
        assert service.embed(id=missing).status_code == 400
        event: dict[str, str] = {}
        while event.get("streamId") != missing:  # others may still come from what was asked before
            message = pubsub.get_message(timeout=10)
            assert message, "no event"
            event = json.loads(message["data"])
    assert list(event) == ["streamId", "timestamp", "type", "source", "event"]
    assert event["type"] == "functional"
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", event["timestamp"])
