"""scripts/images: every image by its digest, and digests looked up at a registry."""

import hashlib
import json
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TOKEN = "let-me-in"
PLATFORMS = ["amd64", "arm64"]


class Registry(ThreadingHTTPServer):
    """A registry that has an index for every tag but `missing`, and asks for a token."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answers)
        self.platforms = PLATFORMS
        self.missing = ""
        self.asked: list[str] = []
        self.url = f"http://127.0.0.1:{self.server_port}"

    def index(self, path: str) -> bytes:
        """The index that is told for a tag."""
        platforms = [{"platform": {"os": "linux", "architecture": a}, "tag": path} for a in self.platforms]
        return json.dumps({"manifests": platforms}).encode()


class Answers(BaseHTTPRequestHandler):
    server: Registry

    def do_GET(self) -> None:
        if self.path.startswith("/token?"):
            self.answer(200, json.dumps({"token": TOKEN}).encode())
        elif self.headers["Authorization"] != f"Bearer {TOKEN}":
            self.answer(401, b"")
        elif self.path == self.server.missing:
            self.answer(404, b"")
        else:
            self.server.asked.append(self.path)
            self.answer(200, self.server.index(self.path))

    def answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        realm = f'Bearer realm="{self.server.url}/token",service="registry",scope="repository:x:pull"'
        self.send_header("WWW-Authenticate", realm)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
        pass


@pytest.fixture
def registry() -> Iterator[Registry]:
    with Registry() as registry:
        thread = threading.Thread(target=registry.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield registry
        registry.shutdown()
        thread.join()


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """The script and the files that it changes."""
    (tmp_path / "scripts").mkdir()
    shutil.copy(ROOT / "scripts" / "images", tmp_path / "scripts")
    for path in (ROOT / "deploy").glob("compose*.yaml"):
        target = tmp_path / "deploy" / path.name
        target.parent.mkdir(exist_ok=True)
        shutil.copy(path, target)
    shutil.copy(ROOT / "deploy" / "Dockerfile", tmp_path / "deploy")
    shutil.copytree(ROOT / "deploy" / "k8s", tmp_path / "deploy" / "k8s")
    return tmp_path


def images(root: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    script = [sys.executable, str(root / "scripts" / "images"), *arguments]
    return subprocess.run(script, capture_output=True, text=True, check=False)


def test_every_image_is_named_by_its_digest(copy: Path) -> None:
    assert images(ROOT, "--check").returncode == 0
    listed = images(ROOT).stdout
    assert {"python:", "valkey/valkey:", "grafana/grafana:"} <= {
        f"{line.partition(':')[0]}:" for line in listed.splitlines()
    }
    compose = copy / "deploy" / "compose.yaml"
    valkey = next(line for line in listed.splitlines() if line.startswith("valkey/"))
    compose.write_text(compose.read_text().replace(valkey.replace(" ", "@"), valkey.split()[0]))
    done = images(copy, "--check")
    assert done.returncode == 1
    assert done.stderr == f"{valkey.split()[0]} has no digest: run scripts/images --pin\n"


def test_tags_get_the_digest_that_the_registry_has(copy: Path, registry: Registry) -> None:
    done = images(copy, "--pin", "--registry", registry.url)
    assert done.returncode == 0, done.stderr
    (python,) = (path for path in registry.asked if path.startswith("/v2/library/python/manifests/3.11."))
    digest = hashlib.sha256(registry.index(python)).hexdigest()
    tag = python.rpartition("/")[2]
    assert f"ARG PYTHON_IMAGE=python:{tag}@sha256:{digest}\n" in (copy / "deploy" / "Dockerfile").read_text()
    for path in ("compose.yaml", "k8s/base/valkey.yaml"):
        (asked,) = (path for path in registry.asked if path.startswith("/v2/valkey/valkey/"))
        digest = hashlib.sha256(registry.index(asked)).hexdigest()
        assert (
            f"image: valkey/valkey:{asked.rpartition('/')[2]}@sha256:{digest}\n"
            in (copy / "deploy" / path).read_text()
        )
    gpu = (copy / "deploy" / "compose.gpu.yaml").read_text()
    assert "${RTEMBED_WORKER_IMAGE:-rt-embed-worker-gpu:" in gpu, "ours stay as they are"
    assert "@sha256:" in gpu.partition("${DCGM_EXPORTER_IMAGE:-")[2].partition("}")[0]


@pytest.mark.parametrize("what", ["missing", "platform", "away"])
def test_nothing_is_changed_if_one_digest_cannot_be_found(copy: Path, registry: Registry, what: str) -> None:
    before = (copy / "deploy" / "compose.yaml").read_text()
    listed = images(copy).stdout.split()[0]
    registry.missing = f"/v2/{listed.replace(':', '/manifests/')}" if what == "missing" else ""
    registry.platforms = ["amd64"] if what == "platform" else PLATFORMS
    address = "http://127.0.0.1:1" if what == "away" else registry.url
    done = images(copy, "--pin", "--registry", address)
    assert done.returncode == 1
    expected = {
        "missing": "answers 404|404",
        "platform": "not built for linux/arm64",
        "away": "cannot be reached",
    }[what]
    assert any(part in done.stderr for part in expected.split("|")), done.stderr
    assert (copy / "deploy" / "compose.yaml").read_text() == before
