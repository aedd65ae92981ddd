"""The whole service: real processes on a real Valkey, with a model that costs nothing."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from redis import Redis

from shared import keys, s3
from tests.buckets import Bucket, Buckets
from tests.e2e.media import colour_film
from tests.support import RedisServer, free_port

ROOT = Path(__file__).parents[2]
NULL_MODEL = ROOT / "tests" / "models" / "null"


class Stack:
    """One gateway address and any number of workers, started and killed as a test likes, on an emptied
    database; files go into a folder, or into a bucket if one is given."""

    def __init__(self, folder: Path, redis_url: str, bucket: Bucket | None = None) -> None:
        with Redis.from_url(redis_url) as redis:
            redis.flushdb()
        self.redis_url = redis_url
        self.bucket = bucket
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.folder = folder
        self.environment = {
            **{name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ},
            "REDIS_URL": redis_url,
            "BACKEND_PORT": str(self.port),
            "RTEMBED_HOST": "127.0.0.1",
            "ASSET_STORAGE_DIR": str(folder / "assets"),
            "MODEL_IMPLEMENTATION_PATH": str(NULL_MODEL),
            "MODEL_PATH": "null",
            "LOG_LEVEL": "DEBUG",
            "RTEMBED_LOG_FORMAT": "json",
        }
        self.gateway: subprocess.Popen[bytes] | None = None
        self.workers: list[subprocess.Popen[bytes]] = []
        self.indexers: list[subprocess.Popen[bytes]] = []
        self.client = httpx.Client(base_url=f"{self.url}/v1", timeout=60)

    def start(self, workers: int = 1) -> None:
        """A gateway and workers, ready to serve."""
        self.start_gateway()
        for _ in range(workers):
            self.start_worker()
        self.wait_ready()

    def start_gateway(self) -> None:
        self.gateway = self._spawn("gateway")

    def start_worker(self, **environment: str) -> subprocess.Popen[bytes]:
        worker = self._spawn("worker", **environment)
        self.workers.append(worker)
        return worker

    def start_indexer(self, search_url: str) -> None:
        """Search in that database, for gateways that start later, and what fills it."""
        self.environment |= {"RTEMBED_SEARCH_URL": search_url, "MESSAGE_BUS": "redis"}
        self.indexers.append(self._spawn("search"))

    def wait_ready(self, timeout: float = 60) -> None:
        """Until the gateway is ready and as many workers as were started are."""
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            assert all(w.poll() is None for w in (self.gateway, *self.workers) if w), self.logs()[-3000:]
            try:
                health = self.client.get("/ready?detailed=true").json()
            except (httpx.TransportError, ValueError):
                health = {"checks": []}
            ready = [c for c in health["checks"] if c["component"].startswith("worker ") and c["healthy"]]
            if len(ready) >= max(1, sum(w.poll() is None for w in self.workers)):
                return
            time.sleep(0.05)
        raise TimeoutError(f"the service is not ready: {self.logs()[-3000:]}")

    def _spawn(self, module: str, **environment: str) -> subprocess.Popen[bytes]:
        with (self.folder / "log").open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-m", module],
                cwd=ROOT,
                env={**self.environment, **environment},
                stderr=log,
                stdin=subprocess.DEVNULL,
            )

    def logs(self) -> str:
        """What all processes logged, a JSON object per line."""
        return (self.folder / "log").read_text()

    def upload(self, path: Path, media_type: str = "video", **fields: str) -> str:
        """Upload a file; its id."""
        with path.open("rb") as file:
            data = {"purpose": "vision", "media_type": media_type, **fields}
            answer = self.client.post("/files", data=data, files={"file": (path.name, file)})
        assert answer.status_code == 200, answer.text
        identity: str = answer.json()["id"]
        return identity

    def embed(self, **body: Any) -> httpx.Response:
        """Ask for the vectors of a video or picture."""
        return self.client.post("/generate_video_embeddings", json={"model": "null", **body})

    def stored(self) -> list[str]:
        """Every file in the asset store, uploads under way included."""
        if self.bucket:
            return [*self.bucket.sizes(), *self.bucket.uploads()]
        return [str(path) for path in (self.folder / "assets").rglob("*") if path.is_file()]

    def path_of(self, asset_id: str) -> str:
        """Where the asset's record says that its file is."""
        with Redis.from_url(self.redis_url) as redis:
            path: Any = redis.hget(keys.asset(asset_id), "path")
        return str(path.decode())

    def read_stored(self, path: str) -> bytes:
        return self.bucket.read(s3.split(path)[1]) if self.bucket else Path(path).read_bytes()

    def overwrite(self, path: str, data: bytes) -> None:
        """Change a file in the asset store behind the service's back."""
        if self.bucket:
            self.bucket.write(s3.split(path)[1], data)
        else:
            Path(path).write_bytes(data)

    def stop(self) -> None:
        processes = [p for p in (self.gateway, *self.workers, *self.indexers) if p and p.poll() is None]
        for process in processes:
            process.send_signal(signal.SIGTERM)
        for process in processes:
            try:
                process.wait(25)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self.client.close()


@pytest.fixture
def stack(tmp_path: Path, redis_url: str) -> Iterator[Stack]:
    """A service that is not started yet."""
    service = Stack(tmp_path, redis_url)
    yield service
    service.stop()


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """25 s of H.264 at 30 fps; each 5 s have a colour of their own."""
    return colour_film(tmp_path_factory.mktemp("film") / "film.mp4")


@pytest.fixture(scope="session")
def own_address() -> str:
    """An address of this machine that is not its loopback: to the service, one of a private network."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # sends nothing
        except OSError:
            pytest.skip("this machine has no address but its loopback")
        address: str = probe.getsockname()[0]
        return address


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A module with STORES runs its tests on each of them."""
    if "shared_stack" in metafunc.fixturenames and hasattr(metafunc.module, "STORES"):
        metafunc.parametrize("shared_stack", metafunc.module.STORES, indirect=True, scope="module")


@pytest.fixture(scope="module")
def shared_stack(
    request: pytest.FixtureRequest,
    valkey: RedisServer,
    buckets: Buckets,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Stack]:
    """A running service with one worker, for tests that change nothing for each other."""
    bucket = buckets.make() if getattr(request, "param", "folder") == "bucket" else None
    service = Stack(tmp_path_factory.mktemp("stack"), f"redis://127.0.0.1:{valkey.port}/1", bucket)
    service.environment["FILE_URL_ALLOWED_DIRS"] = str(tmp_path_factory.getbasetemp())
    if bucket:
        service.environment |= buckets.environment(bucket)
    try:
        service.start()
        yield service
    finally:
        service.stop()
