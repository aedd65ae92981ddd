"""`rt-embed up` and `rt-embed demo` as a newcomer runs them, with the real small model."""

import json
import os
import re
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import av
import httpx
import psutil
import pytest

from tests.support import free_port, watched
from worker.models.conse.film import SCENES, make_film

RT_EMBED = str(Path(sys.executable).parent / "rt-embed")


class Up:
    """One `rt-embed up` with a data folder of its own."""

    def __init__(self, folder: Path, *options: str, **settings: str) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}/v1"
        self.environment = {
            **os.environ, "BACKEND_PORT": str(self.port), "RTEMBED_DATA_DIR": str(folder),
            "LOG_LEVEL": "warning", **settings,
        }  # fmt: skip
        self.process = subprocess.Popen(
            [RT_EMBED, "up", *options],
            env=self.environment,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def wait_ready(self) -> None:
        assert self.process.stdout
        assert self.process.stdout.readline().startswith(f"rt-embed is ready: http://localhost:{self.port}")

    def family(self) -> list[psutil.Process]:
        """Every process that it started, and theirs."""
        return psutil.Process(self.process.pid).children(recursive=True)

    def stop(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        assert self.process.stdout
        self.process.stdout.close()


@pytest.fixture
def up(tmp_path: Path) -> Iterator[Up]:
    made = Up(tmp_path)
    yield made
    made.stop()


def until_healthy(up: Up) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        with suppress(httpx.TransportError):
            if httpx.get(f"{up.url}/ready?detailed=true").json()["healthy"]:
                return
        time.sleep(0.2)
    raise TimeoutError("not healthy")


def gone(processes: list[psutil.Process], seconds: float) -> bool:
    return not psutil.wait_procs(processes, timeout=seconds)[1]


def test_it_starts_serves_and_stops_cleanly(up: Up) -> None:
    up.wait_ready()
    models = httpx.get(f"{up.url}/models").json()
    assert models["data"][0]["id"] == "conse-efficientnet-lite0-minilm"
    family = up.family()
    assert len(family) >= 3
    listening = [c.laddr for p in family for c in p.net_connections("inet") if c.status == "LISTEN"]
    assert {place.ip for place in listening if place.port == up.port} == {"127.0.0.1"}
    kept = [path for path in Path(up.environment["RTEMBED_DATA_DIR"], "valkey").rglob("*") if path.is_file()]
    assert kept
    assert {stat.S_IMODE(path.stat().st_mode) & 0o077 for path in kept} == {0}
    rebound = httpx.get(f"{up.url}/models", headers={"Host": f"evil.example:{up.port}"})
    assert rebound.status_code == 421
    up.process.send_signal(signal.SIGINT)
    assert up.process.wait(30) == 0
    assert gone(family, 5)


@pytest.fixture
def searching() -> Iterator[Up]:
    """One with search and two gateways. Its folder can be reached by PostgreSQL's user, another where we are
    root."""
    with TemporaryDirectory(prefix="rt-embed-") as folder:
        made = Up(Path(folder), "--search", "--gateways", "2")
        yield made
        made.process.send_signal(signal.SIGINT)
        made.process.wait(60)
        made.stop()


def gateways(up: Up) -> list[psutil.Process]:
    """The processes that serve its port, without those that watch them."""
    return [
        process
        for process in up.family()
        if not process.children() and any(c.laddr.port == up.port for c in process.net_connections("inet"))
    ]


def find(up: Up, text: str) -> list[Any]:
    answer = httpx.post(f"{up.url}/search", json={"text": text, "top_k": 1}, timeout=60)
    hits: list[Any] = answer.json()["hits"] if answer.status_code == 200 else []
    return hits


def until_found(up: Up, text: str, count: int = 1) -> list[Any]:
    deadline = time.monotonic() + 60
    while len(hits := find(up, text)) != count:
        assert time.monotonic() < deadline, hits
        time.sleep(0.2)
    return hits


def test_with_search_what_was_embedded_is_found(searching: Up, tmp_path: Path) -> None:
    searching.wait_ready()
    assert len(gateways(searching)) == 2
    film = tmp_path / "film.mp4"
    make_film(film)
    with film.open("rb") as file:
        form = {"purpose": "vision", "media_type": "video"}
        uploaded = httpx.post(f"{searching.url}/files", data=form, files={"file": file}, timeout=60).json()
    model = httpx.get(f"{searching.url}/models").json()["data"][0]["id"]
    body = {"id": uploaded["id"], "model": model, "chunk_duration": 5}
    assert httpx.post(f"{searching.url}/generate_video_embeddings", json=body, timeout=120).status_code == 200
    (hit,) = until_found(searching, SCENES[0].sentence)
    assert (hit["asset"], hit["name"], hit["start"]) == (uploaded["id"], "film.mp4", 0.0)
    for child in searching.family():
        with suppress(psutil.NoSuchProcess, psutil.ZombieProcess):
            if "postgres" in child.name() or "search" in child.cmdline():
                child.kill()
    assert until_found(searching, SCENES[0].sentence)[0]["chunk"] == hit["chunk"]
    assert httpx.delete(f"{searching.url}/files/{uploaded['id']}").status_code == 200
    assert find(searching, SCENES[0].sentence) == []
    family = searching.family()
    searching.process.send_signal(signal.SIGINT)
    assert searching.process.wait(40) == 0
    assert gone(family, 5)


def test_a_child_that_dies_is_started_again(up: Up) -> None:
    up.wait_ready()
    for child in up.family():
        with suppress(psutil.NoSuchProcess, psutil.ZombieProcess):  # a worker's own processes end with it
            if "gateway" in child.cmdline() or "worker" in child.cmdline():
                child.kill()
    until_healthy(up)
    body = {"text_input": "a cat", "model": "conse-efficientnet-lite0-minilm"}
    assert httpx.post(f"{up.url}/generate_text_embeddings", json=body, timeout=30).status_code == 200


@pytest.mark.parametrize("frozen", ["", "worker", "everything"])
def test_no_process_stays_when_it_is_killed(up: Up, frozen: str) -> None:
    """Not even one that a signal to end would not reach."""
    up.wait_ready()
    family = up.family()
    for process in family:
        if frozen == "everything" or (frozen and frozen in process.cmdline()):
            process.suspend()
    up.process.kill()
    assert gone(family, 30)


@pytest.mark.parametrize("module", ["worker", "gateway"])
def test_a_frozen_process_is_replaced(tmp_path: Path, module: str) -> None:
    up = Up(tmp_path, RTEMBED_STALL_TIMEOUT="2")
    try:
        up.wait_ready()
        (watchdog,) = (p for p in psutil.Process(up.process.pid).children() if module in p.cmdline())
        frozen = watched(watchdog.pid)
        frozen.suspend()
        assert gone([frozen, watchdog], 30)
        until_healthy(up)
        body = {"text_input": "a cat", "model": "conse-efficientnet-lite0-minilm"}
        assert httpx.post(f"{up.url}/generate_text_embeddings", json=body, timeout=60).status_code == 200
    finally:
        up.stop()


def test_no_secret_is_where_it_is_not_needed(tmp_path: Path) -> None:
    """Valkey is not hidden from other processes of the same user, so it is told no secret."""
    up = Up(tmp_path, HF_TOKEN="hf_secret")
    try:
        up.wait_ready()
        (valkey,) = (p for p in up.family() if "valkey" in p.name())
        assert "HF_TOKEN" not in valkey.environ()
    finally:
        up.stop()


def test_a_data_folder_serves_one_at_a_time(up: Up) -> None:
    up.wait_ready()
    second = subprocess.run([RT_EMBED, "up"], env=up.environment, capture_output=True, text=True, check=False)
    assert second.returncode == 2
    assert "another rt-embed up uses" in second.stderr


def test_a_bad_setting_stops_the_start_and_says_why(tmp_path: Path) -> None:
    environment = {**os.environ, "RTEMBED_DATA_DIR": str(tmp_path), "BACKEND_PORT": "eighty"}
    result = subprocess.run([RT_EMBED, "up"], env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 2
    assert "BACKEND_PORT='eighty': must be a whole number from 0 to 65535" in result.stderr


def test_other_commands_find_what_runs_in_the_folder(up: Up, tmp_path: Path) -> None:
    up.wait_ready()
    environment = {name: value for name, value in up.environment.items() if not name.startswith("REDIS_")}
    command = [RT_EMBED, "inspect", "workers", "--json"]
    found = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    (worker,) = json.loads(found.stdout)["workers"]
    assert worker["state"] == "ready"
    assert json.loads((tmp_path / "service.json").read_text())["url"] == f"http://localhost:{up.port}"
    up.process.send_signal(signal.SIGTERM)
    assert up.process.wait(30) == 0
    assert not (tmp_path / "service.json").exists()


def test_the_demo_finds_every_scene_by_its_sentence(tmp_path: Path) -> None:
    environment = {
        **os.environ, "RTEMBED_DATA_DIR": str(tmp_path), "BACKEND_PORT": str(free_port()), "COLUMNS": "120"
    }  # fmt: skip
    result = subprocess.run(
        [RT_EMBED, "demo", "--once"],
        env=environment,
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert f"{len(SCENES)} chunks of 5 s in" in result.stdout
    found = 0
    for index, scene in enumerate(SCENES):
        answer = re.search(rf"{re.escape(scene.sentence)} +0:(\d\d) to 0:\d\d +-?\d\.\d\d", result.stdout)
        assert answer, result.stdout
        found += int(answer[1]) == index * 5
    assert found >= len(SCENES) - 1
    assert "first values" not in result.stdout
    sheet = tmp_path / "demo.jpg"
    assert str(sheet) in result.stdout
    with av.open(str(sheet)) as container:
        picture = next(container.decode(video=0))
    assert (picture.width, picture.height) == (5 * 260 - 4, 2 * 148 - 4)


def test_a_film_of_ones_own(tmp_path: Path) -> None:
    film = tmp_path / "mine.mp4"
    make_film(film, seconds_per_scene=1)
    environment = {**os.environ, "RTEMBED_DATA_DIR": str(tmp_path / "data"), "BACKEND_PORT": str(free_port())}
    result = subprocess.run(
        [RT_EMBED, "demo", str(film), "--once", "--query", "a cat"],
        env=environment, capture_output=True, text=True, timeout=110, check=False,
    )  # fmt: skip
    assert result.returncode == 0, result.stdout + result.stderr
    assert "a cat" in result.stdout
