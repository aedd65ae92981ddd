"""The engine of a remote model, against a scripted Cosmos-Embed1 NIM."""

import base64
import io
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from shared.errors import EngineError, ModelError, NotSupported, Unavailable
from tests.support import free_port
from worker.engine.remote_engine import RemoteEngine

Script = Callable[[dict[str, Any]], tuple[int, dict[str, str], Any]]
BEGINNING = "data:video_frames/jpg;base64,{"


def embed(body: dict[str, Any]) -> tuple[int, dict[str, str], Any]:
    """As a NIM answers: the vectors of many texts in an order of its own."""
    inputs = body["input"] if isinstance(body["input"], list) else [body["input"]]
    data = [{"index": i, "embedding": [float(len(text)), 1.0, 0.0]} for i, text in enumerate(inputs)]
    return 200, {}, {"data": data[::-1], "model": body["model"]}


class Nim:
    """Answers by `script`, which gets a call's body; `calls` are the bodies, `headers` the last one's."""

    def __init__(self) -> None:
        self.script: Script = embed
        self.calls: list[dict[str, Any]] = []
        self.headers: dict[str, str] = {}
        self.connections = 0
        nim = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def setup(self) -> None:
                nim.connections += 1
                super().setup()

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                nim.calls.append(body)
                nim.headers = {**dict(self.headers), "path": self.path}
                status, headers, answer = nim.script(body)
                data = answer.encode() if isinstance(answer, str) else json.dumps(answer).encode()
                self.send_response(status)
                for name, value in {**headers, "Content-Length": str(len(data))}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_: object) -> None: ...

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def nim() -> Iterator[Nim]:
    server = Nim()
    yield server
    server.close()


Make = Callable[..., RemoteEngine]


@pytest.fixture
def engine_of() -> Iterator[Make]:
    """Makes engines, which are closed afterwards."""
    with ExitStack() as held:

        def make(url: str, **changes: Any) -> RemoteEngine:
            options: dict[str, Any] = {"timeout": 5, "patience": 5, "connections": 4, **changes}
            engine = RemoteEngine(url, "nvidia/cosmos-embed1", "a-key", **options)
            held.callback(engine.close)
            return engine

        yield make


@pytest.fixture
def engine(nim: Nim, engine_of: Make) -> RemoteEngine:
    """An engine that has learnt what the endpoint is."""
    made = engine_of(nim.url)
    made.learn()
    nim.calls.clear()
    return made


def clip_of(colour: tuple[int, int, int]) -> NDArray[np.uint8]:
    clip = np.zeros((8, 3, 224, 224), np.uint8)
    clip[:] = np.array(colour, np.uint8)[None, :, None, None]
    return clip


def test_what_is_learnt(nim: Nim, engine_of: Make) -> None:
    engine = engine_of(nim.url + "/v1/")
    engine.learn()
    assert (engine.dimension, engine.supports_text, engine.trouble) == (3, True, "")
    assert nim.headers["path"] == "/v1/embeddings"
    assert nim.headers["Authorization"] == "Bearer a-key"
    assert nim.calls == [
        {
            "input": "a first text",
            "request_type": "query",
            "encoding_format": "float",
            "model": "nvidia/cosmos-embed1",
        }
    ]


def test_one_text_is_a_query_and_several_are_bulk(nim: Nim, engine: RemoteEngine) -> None:
    assert engine.embed_text(["abc"]).tolist() == [[3, 1, 0]]
    assert engine.embed_text(["a", "bcd"]).tolist() == [[1, 1, 0], [3, 1, 0]]
    assert engine.embed_text([]).shape == (0, 3)
    sent = [(call["request_type"], call["input"]) for call in nim.calls]
    assert sent == [("query", "abc"), ("bulk_text", ["a", "bcd"])]


def test_a_clip_is_eight_jpeg_files_in_braces(nim: Nim, engine: RemoteEngine) -> None:
    vectors = engine.embed_video(np.stack([clip_of((200, 30, 90)), clip_of((0, 0, 0))]))
    assert vectors.shape == (2, 3)
    (first, second) = nim.calls
    assert first["request_type"] == second["request_type"] == "query"
    assert first["input"].startswith(BEGINNING)
    assert first["input"].endswith("}")
    frames = first["input"][len(BEGINNING) : -1].split(",")
    assert len(frames) == 8
    picture = np.asarray(Image.open(io.BytesIO(base64.b64decode(frames[7], validate=True))).convert("RGB"))
    assert picture.shape == (224, 224, 3)
    assert np.abs(picture.astype(int) - [200, 30, 90]).max() <= 3


def test_connections_are_kept(nim: Nim, engine: RemoteEngine) -> None:
    for _ in range(5):
        engine.embed_text(["a"])
    assert nim.connections == 1


@pytest.mark.parametrize(
    ("status", "headers"), [(429, {"Retry-After": "0.05"}), (503, {"Retry-After": "0"}), (502, {}), (504, {})]
)
def test_a_busy_endpoint_is_asked_again(
    nim: Nim, engine: RemoteEngine, status: int, headers: dict[str, str]
) -> None:
    nim.script = lambda body: embed(body) if len(nim.calls) > 2 else (status, headers, "busy")
    assert engine.embed_text(["abc"]).tolist() == [[3, 1, 0]]
    assert len(nim.calls) == 3
    assert engine.trouble == ""


def test_an_endpoint_that_stays_away_is_said_and_noticed_when_it_is_back(nim: Nim, engine_of: Make) -> None:
    engine = engine_of(nim.url, patience=0.3)
    engine.learn()
    nim.script = lambda _: (503, {"Retry-After": "0.1"}, "warming up")
    with pytest.raises(Unavailable, match="the remote model answers 503: warming up"):
        engine.embed_text(["abc"])
    assert engine.trouble == "the remote model answers 503: warming up"
    engine.ping()
    assert engine.trouble
    nim.script = embed
    engine.ping()
    assert engine.trouble == ""


def test_a_pause_that_is_longer_than_patience_is_not_waited_for(
    nim: Nim, engine: RemoteEngine, engine_of: Make
) -> None:
    nim.script = lambda _: (429, {"Retry-After": "3600"}, "")
    with pytest.raises(Unavailable, match="429"):
        engine_of(nim.url, patience=2).embed_text(["abc"])
    assert len(nim.calls) == 1


def test_nobody_listens(engine_of: Make) -> None:
    engine = engine_of(f"http://127.0.0.1:{free_port()}", patience=0.2)
    with pytest.raises(Unavailable, match="the remote model does not answer: ConnectError"):
        engine.learn()
    with pytest.raises(Unavailable, match="does not answer"):
        engine.embed_text(["abc"])


def test_an_answer_that_does_not_come_is_not_waited_for(nim: Nim, engine_of: Make) -> None:
    release = threading.Event()
    engine = engine_of(nim.url, timeout=0.2, patience=0.1)
    nim.script = lambda body: (release.wait(20), embed(body))[1]
    with pytest.raises(Unavailable, match="ReadTimeout"):
        engine.embed_text(["abc"])
    release.set()


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ((400, {}, "no such\n\nmodel " + "x" * 5000), r"answers 400: no such model x{100,300}$"),
        ((302, {"Location": "http://127.0.0.1:1/"}, ""), "answers 302"),
        ((200, {}, "<html>"), "cannot be parsed"),
        ((200, {}, {"data": []}), "gave 0 vectors for 1 inputs"),
        ((200, {}, {"data": [{"index": 1, "embedding": [1, 2, 3]}]}), "gave 1 vectors for 1 inputs"),
        ((200, {}, {"data": [{"index": 0, "embedding": [1, 2]}]}), "another length than 3"),
        ((200, {}, {"data": [{"index": 0, "embedding": []}]}), "another length than 3"),
    ],
)
def test_answers_that_are_none(
    nim: Nim, engine: RemoteEngine, answer: tuple[int, dict[str, str], Any], message: str
) -> None:
    nim.script = lambda _: answer
    with pytest.raises(EngineError, match=message):
        engine.embed_text(["abc"])
    assert len(nim.calls) == 1, "what an endpoint refuses is not sent again"
    assert engine.trouble == ""


def test_a_server_that_knows_no_request_type_embeds_texts_only(nim: Nim, engine_of: Make) -> None:
    nim.script = lambda body: (400, {}, "unknown field") if "request_type" in body else embed(body)
    engine = engine_of(nim.url)
    engine.learn()
    assert engine.embed_text(["a", "bc"]).tolist() == [[1, 1, 0], [2, 1, 0]]
    assert "request_type" not in nim.calls[-1]
    with pytest.raises(NotSupported, match="embeds no video"):
        engine.embed_video(clip_of((0, 0, 0))[None])


def test_a_server_without_vectors_is_no_model(nim: Nim, engine_of: Make) -> None:
    nim.script = lambda _: (404, {}, "not here")
    with pytest.raises(ModelError, match="no vector for a text: the remote model answers 404: not here"):
        engine_of(nim.url).learn()
