"""Services with cameras, a real RTSP server, and clients that watch."""

import json
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import httpx
import pytest
from redis import Redis

from shared.timestamps import parse_timestamp
from tests.camera import Picture, encode
from tests.e2e.conftest import Stack
from tests.e2e.media import colour_film
from tests.support import RedisServer, free_port, wait_for

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
                if line == "data: [DONE]":
                    self.done = True
                elif line.startswith("data: "):
                    event = json.loads(line.removeprefix("data: "))
                    self.request = event["id"]
                    self.events.append(event)
                if self.leave.is_set():  # what has been read counts as seen
                    return

    @property
    def chunks(self) -> list[Any]:
        return [event["chunk_responses"][0] for event in self.events]

    @property
    def starts(self) -> list[int]:
        """Start times of the chunks that were embedded, ns."""
        return [parse_timestamp(c["start_time"]) for c in self.chunks if c["embeddings"]]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run the tests of one kind of service one after the other, so that each is started once."""
    here = [index for index, item in enumerate(items) if item.path.parent == Path(__file__).parent]
    ordered = sorted((items[index] for index in here), key=lambda item: (item.path, _kind(item)))
    for index, item in zip(here, ordered, strict=True):
        items[index] = item


def _kind(item: pytest.Item) -> str:
    call = getattr(item, "callspec", None)
    return repr(call.params.get("live_stack", "")) if call else ""


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
