"""Both clients on a real service."""

import io
import json
import uuid
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar

import av
import numpy as np
import pytest
from PIL import Image

from rt_embed import (
    AuthenticationError,
    BadRequestError,
    BusyError,
    ConnectionFailed,
    NotFoundError,
    ServiceError,
    ValidationError,
)
from tests.camera import Picture, ScriptedCamera, encode
from tests.e2e.conftest import Stack
from tests.e2e.media import COLOURS
from tests.models.null.inference import text_vector
from tests.rt_embed.conftest import Connect, Wire, serve
from tests.support import free_port


@pytest.fixture
def client(connect: Connect, service: Stack) -> Any:
    return connect(service.url)


@pytest.fixture(scope="module")
def pictures() -> list[Picture]:
    return encode(gop=30, size=96)


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "Ferien (2).png"
    image = av.VideoFrame.from_ndarray(np.full((64, 64, 3), (200, 0, 0), np.uint8), format="rgb24")
    with av.open(str(path), "w", format="image2") as container:
        stream: Any = container.add_stream("png", rate=1)
        stream.width, stream.height, stream.pix_fmt = 64, 64, "rgb24"
        container.mux(stream.encode(image))
        container.mux(stream.encode(None))
    return path


def test_a_film_from_the_disk_gives_its_chunks(client: Any, service: Stack, colours: Path) -> None:
    told: list[tuple[int, int]] = []
    stream = client.embed_video(
        colours, chunk_duration=5, thumbnails=True, progress=lambda *sent: told.append(sent)
    )
    chunks = sorted(stream, key=lambda chunk: float(chunk.start))
    for chunk, colour in zip(chunks, COLOURS, strict=True):
        image = Image.open(io.BytesIO(chunk.thumbnail))
        assert (image.format, image.size) == ("JPEG", (160, 90))
        assert np.asarray(image).mean(axis=(0, 1)) == pytest.approx(colour, abs=6)
    assert [(chunk.start, chunk.end) for chunk in chunks] == [(5.0 * n, 5.0 * n + 5) for n in range(5)]
    assert {chunk.frame_count for chunk in chunks} == {8}
    assert chunks[0].vector.dtype == np.float32
    assert chunks[0].vector.shape == (768,)
    assert {chunk.asset_id for chunk in chunks} == {stream.asset_id}
    assert {chunk.request_id for chunk in chunks} == {stream.request_id}
    assert told[-1] == (colours.stat().st_size, colours.stat().st_size)
    assert client.files.get(stream.asset_id).filename == "film.mp4"
    assert stream.chunks_planned == 5
    assert client.request(stream.request_id).chunks_done == 5
    answer = service.client.post(
        "/generate_video_embeddings", json={"id": stream.asset_id, "model": "null", "chunk_duration": 5}
    ).json()
    expected = [chunk["embeddings"] for chunk in answer["chunk_responses"]]
    assert np.array_equal(np.array([chunk.vector for chunk in chunks]), np.array(expected, np.float32))


def test_a_part_of_a_film_that_is_there_already(client: Any, service: Stack, colours: Path) -> None:
    file_id = service.upload(colours)
    chunks = list(client.embed_video(file_id, chunk_duration=5, chunk_overlap=1, start=10, end=19))
    assert sorted(chunk.start for chunk in chunks) == [10.0, 14.0]
    assert chunks[0].asset_id == file_id


def test_a_film_that_is_not_to_be_kept_is_deleted(client: Any, colours: Path) -> None:
    stream = client.embed_video(colours, keep=False)
    assert len(list(stream)) == 1
    with pytest.raises(BadRequestError):
        client.files.get(stream.asset_id)


def test_times_of_day(client: Any, colours: Path) -> None:
    noon = datetime(2026, 5, 1, 12, 0, 0, 250_000, tzinfo=UTC)
    (chunk,) = client.embed_video(colours, creation_time=noon, sensor_name="door")
    assert chunk.start_time == "2026-05-01T12:00:00.250Z"
    assert chunk.start == noon.timestamp()
    assert chunk.end - chunk.start == pytest.approx(25)
    stored = client.files.get(chunk.asset_id)
    assert (stored.creation_time, stored.sensor_name) == ("2026-05-01T12:00:00.250Z", "door")


def test_leaving_early(client: Any, colours: Path) -> None:
    stream = client.embed_video(colours, chunk_duration=1)
    first = next(stream)
    stream.close()
    assert first.request_id
    with pytest.raises((StopIteration, StopAsyncIteration)):
        next(stream)


def test_texts_keep_their_order_however_many(client: Any) -> None:
    texts = [f"text {number}" for number in range(230)]
    vectors = client.embed_texts(texts)
    assert len(vectors) == 230
    for text, vector in zip(texts, vectors, strict=True):
        assert np.array_equal(vector, text_vector(text))
    assert client.embed_texts([]) == []


def test_pictures(client: Any, service: Stack, picture: Path) -> None:
    file_id = service.upload(picture.rename(picture.with_name("red.png")), "image")
    path = picture.with_name("red.png")
    before = len(client.files.list())
    from_disk, from_store = client.embed_images([path, file_id])
    assert np.array_equal(from_disk, from_store)
    (shown,) = client.embed_images([path], thumbnails=True)
    assert np.array_equal(shown.vector, from_disk)
    assert Image.open(io.BytesIO(shown.thumbnail)).size == (64, 64)
    assert from_disk[:3] == pytest.approx([200 / 255, 0, 0], abs=0.02)
    assert len(client.files.list()) == before


def test_files(client: Any, picture: Path, tmp_path: Path) -> None:
    stored = client.files.upload(picture)
    assert (stored.media_type, stored.filename) == ("image", "Ferien (2).png")
    assert stored.bytes == picture.stat().st_size
    assert (client.files.media(stored.id).codec, client.files.media(stored.id).duration) == ("png", None)
    assert stored.id in {file.id for file in client.files.list()}
    client.files.download(stored.id, tmp_path / "copy.png")
    assert (tmp_path / "copy.png").read_bytes() == picture.read_bytes()
    client.files.delete(stored.id)
    with pytest.raises(BadRequestError) as raised:
        client.files.get(stored.id)
    assert (raised.value.code, raised.value.status) == ("BadParameter", 400)
    assert stored.id in raised.value.message


def test_errors_say_what_the_service_said(client: Any) -> None:
    with pytest.raises(ValidationError) as raised:
        client.call("POST", "/v1/generate_text_embeddings", json={"text_input": "x"})
    assert (raised.value.status, raised.value.code) == (422, "InvalidParameters")
    assert raised.value.message == "('body', 'model'): Field required"
    assert uuid.UUID(raised.value.request_id)
    assert f"(request {raised.value.request_id})" in str(raised.value)
    with pytest.raises(NotFoundError, match="Not Found"):
        client.call("GET", "/v1/nowhere")
    with pytest.raises(BadRequestError, match="BadParameters"):
        client.embed_texts(["x"], model="another")
    with pytest.raises(BadRequestError) as refused:
        list(client.embed_video(str(uuid.uuid4())))
    assert refused.value.code == "BadParameter"
    with pytest.raises(FileNotFoundError):
        list(client.embed_video("nowhere.mp4"))


def test_a_file_that_cannot_be_embedded(client: Any, tmp_path: Path) -> None:
    (tmp_path / "broken.mp4").write_bytes(b"no film")
    with pytest.raises(BadRequestError) as raised:
        list(client.embed_video(tmp_path / "broken.mp4"))
    assert raised.value.code == "InvalidFile"


def test_any_other_endpoint(client: Any) -> None:
    assert client.call("GET", "/v1/files", purpose="other") == {"data": [], "object": "list"}
    assert client.call("GET", "/v1/manifest")["model"] == "null"


# Live streams -------------------------------------------------------------------------------------------


def test_a_live_stream_goes_on_over_broken_connections(
    connect: Connect, wire: Wire, pictures: list[Picture]
) -> None:
    with ScriptedCamera(pictures) as camera:
        client = connect(wire.url)
        stream_id = client.streams.add(camera.url, "door", sensor_name="s")
        (listed,) = client.streams.list()
        assert (listed.id, listed.url, listed.description) == (stream_id, camera.url, "door")
        client.close()
        client = connect(wire.url)
        wire.cuts = [15_000, 9_000]
        chunks = client.live(stream_id, chunk_duration=1, model="null")
        times = [next(chunks).start for _ in range(9)]
        assert wire.cuts == []
        gaps = [later - earlier for earlier, later in pairwise(times)]
        assert gaps == pytest.approx([1] * 8, abs=0.1)
        chunks.close()
        client.streams.stop(stream_id)
        client.streams.delete(stream_id)
        assert client.streams.list() == []


def test_a_camera_by_its_address_is_registered_until_the_end(client: Any, pictures: list[Picture]) -> None:
    with ScriptedCamera(pictures) as camera:
        chunks = client.live(camera.url, chunk_duration=1, thumbnails=True)
        first = next(chunks)
        assert first.vector.shape == (768,)
        assert Image.open(io.BytesIO(first.thumbnail)).size == (96, 96)
        (listed,) = client.streams.list()
        assert (listed.id, listed.chunk_duration) == (chunks.asset_id, 1)
        chunks.close()
        assert client.streams.list() == []


def test_a_camera_that_is_refused(client: Any) -> None:
    url = f"rtsp://127.0.0.1:{free_port()}/live"
    with pytest.raises(BadRequestError) as raised:
        client.streams.add(url)
    assert (raised.value.code, raised.value.status) == ("InvalidFile", 400)


# A connection that breaks -------------------------------------------------------------------------------


@pytest.mark.parametrize("cut", [50, 1500, 12_000])
def test_a_broken_stream_goes_on_and_no_chunk_comes_twice(
    connect: Connect, service: Stack, wire: Wire, colours: Path, cut: int
) -> None:
    file_id = service.upload(colours)
    client = connect(wire.url, retries=8)
    model = client.models()[0].id
    client.close()
    client = connect(wire.url, retries=8)
    wire.cuts = [cut, cut, cut]
    chunks = list(client.embed_video(file_id, chunk_duration=1, model=model))
    assert sorted(chunk.start for chunk in chunks) == [float(n) for n in range(25)]
    assert wire.cuts == []


def test_an_upload_whose_answer_was_lost_is_not_made_twice(
    connect: Connect, service: Stack, wire: Wire, colours: Path
) -> None:
    before = len(service.client.get("/files?purpose=vision").json()["data"])
    wire.cuts = [10]
    stored = connect(wire.url).files.upload(colours)
    assert wire.connections >= 2
    assert len(service.client.get("/files?purpose=vision").json()["data"]) == before + 1
    assert stored.bytes == colours.stat().st_size


def test_nobody_there(connect: Connect) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    client = connect(url, retries=1)
    with pytest.raises(ConnectionFailed, match=url) as raised:
        client.models()
    assert uuid.UUID(raised.value.request_id)


class Scripted(BaseHTTPRequestHandler):
    """Answers that a test wrote down, one after another."""

    answers: ClassVar[list[tuple[int, dict[str, str], bytes]]] = []
    seen: ClassVar[list[tuple[str, dict[str, str]]]] = []
    bodies: ClassVar[list[bytes]] = []

    def do_POST(self) -> None:
        self.bodies.append(self.rfile.read(int(self.headers.get("content-length", 0))))
        self.do_GET()

    def do_DELETE(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        type(self).seen.append((self.path, {name.lower(): value for name, value in self.headers.items()}))
        status, headers, body = self.answers.pop(0)
        self.send_response(status)
        for name, value in {"content-length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def scripted() -> Any:
    Scripted.answers, Scripted.seen, Scripted.bodies = [], [], []
    with serve(Scripted) as url:
        yield url


MODELS = b'{"object": "list", "data": [{"id": "m", "created": 1, "object": "model", "owned_by": "x"}]}'


def test_a_busy_service_is_asked_again(connect: Connect, scripted: str) -> None:
    busy = b'{"code": "ServerBusy", "message": "the lane is full"}'
    Scripted.answers = [
        (503, {"retry-after": "0.3"}, busy),
        (429, {"retry-after": "0"}, b"{}"),
        (502, {}, b"<html>bad gateway</html>"),
        (200, {}, MODELS),
    ]
    client = connect(scripted, api_key="k")
    assert client.models()[0].id == "m"
    ids = {headers["x-request-id"] for _, headers in Scripted.seen}
    assert len(ids) == 1
    assert {headers["authorization"] for _, headers in Scripted.seen} == {"Bearer k"}


def test_a_service_that_stays_busy(connect: Connect, scripted: str) -> None:
    Scripted.answers = [(503, {"retry-after": "0"}, b'{"code": "ServerBusy", "message": "full"}')] * 3
    with pytest.raises(BusyError, match="503 ServerBusy: full") as raised:
        connect(scripted, retries=2).models()
    assert raised.value.retry_after == 0
    assert len(Scripted.seen) == 3


def test_what_cannot_help_is_not_tried_again(connect: Connect, scripted: str) -> None:
    for status, kind in ((401, AuthenticationError), (500, ServiceError), (502, ServiceError)):
        Scripted.answers = [(status, {}, b'{"code": "DownloadFailed", "message": "no"}')]
        Scripted.seen = []
        with pytest.raises(kind):
            connect(scripted).models()
        assert len(Scripted.seen) == 1


def test_a_failed_request_says_why(connect: Connect, scripted: str) -> None:
    request = str(uuid.uuid4())
    failure = f'data: {{"id": "{request}", "model": "m", "usage": null}}\r\n\r\ndata: [DONE]\r\n\r\n'
    state = (
        f'{{"id": "{request}", "kind": "video", "status": "failed", "model": "m", "created": 1,'
        '"error": {"code": "InternalServerError", "message": "chunk 3: Decode error: cut short"}}'
    )
    Scripted.answers = [
        (200, {"content-type": "text/event-stream"}, failure.encode()),
        (200, {}, state.encode()),
    ]
    with pytest.raises(ServiceError, match="chunk 3: Decode error: cut short") as raised:
        list(connect(scripted).embed_video(str(uuid.uuid4()), model="m"))
    assert raised.value.request_id == request
    assert Scripted.seen[1][0] == f"/v1/requests/{request}"


def test_a_repeated_request_keeps_its_key_and_says_where_it_was(connect: Connect, scripted: str) -> None:
    event = (
        'data: {"id": "r", "chunk_responses": [{"start_time": "0.0", "end_time": "1", "embeddings": [0.5]}]}'
        "\r\nid: r/1-0\r\n\r\n"
    )
    Scripted.answers = [
        (200, {}, event.encode()),
        (409, {}, b'{"code": "Conflict", "message": "another client reads"}'),
        (200, {}, b"data: [DONE]\r\n\r\n"),
    ]
    chunks = list(connect(scripted).embed_video(str(uuid.uuid4()), model="m"))
    assert [chunk.vector.tolist() for chunk in chunks] == [[0.5]]
    keys = [headers["idempotency-key"] for _, headers in Scripted.seen]
    assert len(set(keys)) == 1
    assert [headers.get("last-event-id") for _, headers in Scripted.seen] == [None, "r/1-0", "r/1-0"]


def test_texts_that_are_sent_again_keep_their_key(connect: Connect, scripted: str) -> None:
    answer = b'{"data": [{"embeddings": [0.5]}]}'
    Scripted.answers = [(503, {}, b'{"code": "ServiceUnavailable", "message": "x"}'), (200, {}, answer)] * 2
    for _ in range(2):
        assert len(connect(scripted).embed_texts(["a"], model="m")) == 1
    first, second, third, fourth = (headers["idempotency-key"] for _, headers in Scripted.seen)
    assert first == second != third == fourth


def test_another_reader_is_an_error_at_first(connect: Connect, scripted: str) -> None:
    Scripted.answers = [(409, {}, b'{"code": "Conflict", "message": "another client reads"}')]
    with pytest.raises(ServiceError, match="Conflict"):
        list(connect(scripted).embed_video(str(uuid.uuid4()), model="m"))


def test_the_address_and_the_key_come_from_the_environment(
    connect: Connect, scripted: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RTVI_BACKEND", scripted.removeprefix("http://"))
    monkeypatch.setenv("RTEMBED_API_KEY", "secret")
    Scripted.answers = [(200, {}, MODELS)]
    connect(None).models()
    assert Scripted.seen[0][1]["authorization"] == "Bearer secret"


def test_a_search_of_the_service(connect: Connect, scripted: str) -> None:
    hit = {
        "chunk": 2, "start": 10.0, "end": 15.0, "start_time": None, "end_time": None, "request": "r",
        "thumbnail": None, "asset": "a", "name": "one.mp4", "kind": "file", "media_type": "video",
        "camera": "a", "chunks": [2], "score": 0.42,
    }  # fmt: skip
    Scripted.answers = [(200, {}, json.dumps({"model": "m", "hits": [hit]}).encode())]
    (found,) = connect(scripted).search("a cup", top_k=1, cameras=["a"])
    assert (found.asset, found.name, found.chunk, found.start, found.end, found.score) == (
        "a", "one.mp4", 2, 10.0, 15.0, 0.42,
    )  # fmt: skip
    assert Scripted.seen[0][0] == "/v1/search"


TRIGGER = {
    "id": "t1", "name": "Cup", "question": "text", "text": "a cup", "model": "m", "threshold": 0.4,
    "cameras": ["a"], "files": False, "cooldown": 5.0, "created": 1, "matches": 0, "last_match": None,
    "webhook": {"host": "https://h", "signed": False, "waiting": 1, "given_up": 2, "error": "status 500"},
}  # fmt: skip


def test_triggers_are_saved_and_listed(connect: Connect, scripted: str) -> None:
    made = json.dumps(TRIGGER).encode()
    Scripted.answers = [(201, {}, made), (200, {}, b'{"triggers": [%b]}' % made), (200, {}, made)]
    triggers = connect(scripted).triggers
    added = triggers.add("Cup", threshold=0.4, text="a cup", cameras=["a"], cooldown=5)
    assert (added.id, added.cameras, added.webhook.given_up) == ("t1", ["a"], 2)
    assert json.loads(Scripted.bodies[0]) == {
        "name": "Cup", "threshold": 0.4, "text": "a cup", "cameras": ["a"], "cooldown": 5,
    }  # fmt: skip
    assert triggers.list() == [triggers.get("t1")] == [added]
    assert [path for path, _ in Scripted.seen] == ["/v1/triggers", "/v1/triggers", "/v1/triggers/t1"]


def test_a_trigger_is_not_saved_twice(connect: Connect, scripted: str) -> None:
    """An answer that is lost does not tell whether the service has it."""
    Scripted.answers = [(201, {"content-length": "500"}, b"{")]
    with pytest.raises(ConnectionFailed):
        connect(scripted).triggers.add("Cup", threshold=0.4, text="a cup")
    assert len(Scripted.seen) == 1


def test_matches_are_read_on_after_a_broken_connection(connect: Connect, scripted: str) -> None:
    def event(number: int) -> bytes:
        data = {"id": str(number), "asset": "a", "score": 0.5, "trigger": "t1", "matched_at": "now"}
        return b"data: %b\r\nid: %d\r\n\r\n" % (json.dumps(data).encode(), number)

    Scripted.answers = [
        (200, {}, event(7) + event(8) + b"data: {"),
        (200, {}, event(9) + b"data: [DONE]\n\n"),
    ]
    found = list(connect(scripted).triggers.matches("t1", last=2))
    assert [(match.id, match.asset, match.score) for match in found] == [
        (number, "a", 0.5) for number in ("7", "8", "9")
    ]
    assert [(path, headers.get("last-event-id")) for path, headers in Scripted.seen] == [
        ("/v1/triggers/t1/events?last=2", None),
        ("/v1/triggers/t1/events?last=2", "8"),
    ]


def test_a_trigger_is_deleted(connect: Connect, scripted: str) -> None:
    Scripted.answers = [(200, {}, b'{"id": "t1", "deleted": true}')]
    connect(scripted).triggers.delete("t1")
    assert Scripted.seen[0][0] == "/v1/triggers/t1"
