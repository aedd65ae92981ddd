"""What a container runs is run: the wheel in an environment of its own, with an image's command, variables
and user, on a root file system that cannot be written to."""

import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from redis import Redis

from tests.e2e.media import colour_film
from tests.support import free_port

ROOT = Path(__file__).parents[2]
DOCKERFILE = (ROOT / "deploy" / "Dockerfile").read_text().replace("\\\n", " ")
PYTHON = Path(sys.base_prefix)

# In a mount namespace of its own: the root read-only, /tmp empty, and only the image's volumes writable.
CONTAINER = f"""
set -eu
mount --make-rprivate /
mkdir -p "$BOX/python" && mount --bind {PYTHON} "$BOX/python"
mount --bind {sysconfig.get_path("purelib")} "$BOX/dependencies"
for volume in assets models; do mount --bind "$BOX/$volume" "$BOX/$volume"; done
mount -o remount,bind,ro /
case {PYTHON} in /root/*)
  mount -t tmpfs -o mode=755 tmpfs /root
  mkdir -p {PYTHON} && mount --bind "$BOX/python" {PYTHON};;
esac
mount -t tmpfs -o mode=1777 tmpfs /tmp
mkdir /tmp/assets && mount --bind "$BOX/assets" /tmp/assets
cd /tmp
exec setpriv --reuid 1001 --regid 1001 --clear-groups --no-new-privs \\
  --inh-caps=-all --bounding-set=-all -- "$@"
"""


def may_unshare() -> bool:
    return (
        os.geteuid() == 0
        and shutil.which("setpriv") is not None
        and subprocess.run(["unshare", "--mount", "true"], check=False, capture_output=True).returncode == 0
    )


pytestmark = pytest.mark.skipif(not may_unshare(), reason="needs root and mount namespaces")


def stage(name: str) -> str:
    found = re.search(rf"^FROM \S+ AS {name}\n(.*?)(?=^FROM |\Z)", DOCKERFILE, re.DOTALL | re.MULTILINE)
    assert found, name
    return found[1]


def variables(name: str) -> dict[str, str]:
    """The environment of an image."""
    lines = re.findall(r"^ENV (.*)$", stage("runtime") + stage(name), re.MULTILINE)
    return dict(pair.split("=", 1) for line in lines for pair in shlex.split(line))


def command(name: str) -> list[str]:
    """What an image runs."""
    (listed,) = re.findall(r"^CMD \[(.*)\]$", stage(name), re.MULTILINE)
    return [part.strip(' "') for part in listed.split(",")]


class Box:
    """Where containers run: a built wheel, installed, and their volumes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.processes: list[subprocess.Popen[bytes]] = []
        for volume in ("assets", "models"):
            (folder / volume).mkdir()
            os.chown(folder / volume, 1001, 1001)
        shutil.copytree(ROOT / "tests" / "models" / "null", folder / "null")
        self._install()
        for path in (folder, *folder.rglob("*")):
            if not path.is_symlink():
                path.chmod(path.stat().st_mode | (0o055 if path.is_dir() else 0o044))

    def _install(self) -> None:
        """Build the wheel from what the Dockerfile copies; its dependencies are those of this environment."""
        source = self.folder / "source"
        for names in re.findall(r"^COPY (?!--from)(.+) \S+$", stage("wheel"), re.MULTILINE):
            for name in names.split():
                target = source / name
                target.parent.mkdir(parents=True, exist_ok=True)
                if (ROOT / name).is_dir():
                    shutil.copytree(ROOT / name, target, ignore=shutil.ignore_patterns("__pycache__"))
                else:
                    shutil.copy(ROOT / name, target)
        pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*pip, "wheel", "--no-deps", "--wheel-dir", self.folder, source], check=True)
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", self.folder / "venv"], check=True)
        (packages,) = (self.folder / "venv" / "lib").glob("python*/site-packages")
        (wheel,) = self.folder.glob("*.whl")
        subprocess.run(
            [*pip, "--python", self.folder / "venv" / "bin" / "python", "install", "--no-deps", wheel],
            check=True,
        )
        dependencies = self.folder / "dependencies"
        dependencies.mkdir()
        (packages / "dependencies.pth").write_text(f"{dependencies}\n")

    def run(self, name: str, **environment: str) -> subprocess.Popen[bytes]:
        """Start a container of the image."""
        own = variables(name)
        own["PATH"] = own["PATH"].replace("/opt/rt-embed", str(self.folder / "venv"))
        own["PATH"] = own["PATH"].replace("$PATH", "/usr/local/bin:/usr/bin:/bin")
        own["NGC_MODEL_CACHE"] = str(self.folder / "models")
        pairs = [f"{key}={value}" for key, value in {**own, **environment}.items()]
        with (self.folder / "log").open("ab") as log:
            process = subprocess.Popen(
                ["unshare", "--mount", "sh", "-c", CONTAINER, "sh", "env", "-i", *pairs, *command(name)],
                env={"PATH": os.environ["PATH"], "BOX": str(self.folder)},
                stderr=log,
                stdout=log,
            )
        self.processes.append(process)
        return process

    def close(self) -> None:
        for process in self.processes:
            process.terminate()
        for process in self.processes:
            process.wait(30)


@pytest.fixture(scope="module")
def box() -> Iterator[Box]:
    with tempfile.TemporaryDirectory(dir="/var/tmp") as folder:
        Path(folder).chmod(0o755)
        box = Box(Path(folder))
        yield box
        box.close()


def wait_ready(client: httpx.Client, box: Box) -> None:
    deadline = time.monotonic() + 60
    while True:
        assert all(p.poll() is None for p in box.processes), (box.folder / "log").read_text()
        try:
            if client.get("/ready").status_code == 200:
                return
        except httpx.TransportError:
            pass
        assert time.monotonic() < deadline, (box.folder / "log").read_text()
        time.sleep(0.1)


def test_the_images_commands_serve_a_file_and_stop(box: Box, redis_url: str, tmp_path: Path) -> None:
    port, metrics_port = free_port(), free_port()
    gateway = box.run("gateway", REDIS_URL=redis_url, BACKEND_PORT=str(port))
    worker = box.run(
        "worker-cpu",
        REDIS_URL=redis_url,
        MODEL_PATH="null",
        MODEL_IMPLEMENTATION_PATH=str(box.folder / "null"),
        RTEMBED_METRICS_PORT=str(metrics_port),
    )
    with httpx.Client(base_url=f"http://127.0.0.1:{port}/v1", timeout=30) as client:
        wait_ready(client, box)
        with colour_film(tmp_path / "film.mp4", seconds=10).open("rb") as film:
            form = {"purpose": "vision", "media_type": "video"}
            uploaded = client.post("/files", data=form, files={"file": ("film.mp4", film)})
        assert uploaded.status_code == 200, uploaded.text
        body: dict[str, Any] = {"model": "null", "id": uploaded.json()["id"], "chunk_duration": 5}
        answer = client.post("/generate_video_embeddings", json=body)
        assert len(answer.json()["chunk_responses"]) == 2, answer.text
        assert client.get("/metrics").text.count("# TYPE") > 30
    assert httpx.get(f"http://127.0.0.1:{metrics_port}/live").status_code == 200
    with Redis.from_url(redis_url) as redis:
        assert redis.zcard("{rtembed}:workers") == 1
    (kept,) = (
        path for path in (box.folder / "assets").rglob("*") if path.is_file() and path.stat().st_size > 1000
    )
    assert (kept.stat().st_uid, kept.stat().st_gid) == (1001, 1001)
    status = Path(f"/proc/{worker.pid}/status").read_text()
    assert "Uid:\t1001\t1001\t1001\t1001" in status
    assert "CapBnd:\t0000000000000000" in status
    for process in (gateway, worker):
        process.terminate()
    assert worker.wait(30) == 0
    assert gateway.wait(30) in (0, -15)


def test_the_root_is_read_only_in_these_containers(box: Box) -> None:
    """So that the test above says something."""
    script = "touch /etc/x || touch $BOX/venv/x || touch /x || { touch /tmp/assets/x && echo fine; }"
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", CONTAINER, "sh", "sh", "-c", script],
        env={"PATH": os.environ["PATH"], "BOX": str(box.folder)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout == "fine\n", done.stderr
    assert done.stderr.count("Read-only file system") == 3


def test_the_gateway_needs_none_of_the_workers_packages() -> None:
    media = {"av", "numpy", "onnx", "onnxruntime", "tokenizers"}
    script = "import sys, gateway.gateway_process; print(*{n.partition('.')[0] for n in sys.modules})"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert "gateway" in done.stdout.split()
    assert not media & set(done.stdout.split())
