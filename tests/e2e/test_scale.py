"""Fleets that change under load lose nothing."""

import json
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

from tests.e2e.conftest import Stack
from tests.support import free_port


class Load:
    """Clients that ask for texts and videos until they are told to stop; `url` may change meanwhile."""

    def __init__(self, url: str, file: str) -> None:
        self.url = url
        self.answered = 0
        self.failures: list[str] = []
        self._file = file
        self._over = threading.Event()

    @contextmanager
    def running(self, texts: int, videos: int) -> Iterator[None]:
        threads = [threading.Thread(target=self._ask, args=(self._text,)) for _ in range(texts)]
        threads += [threading.Thread(target=self._ask, args=(self._video,)) for _ in range(videos)]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            self._over.set()
            for thread in threads:
                thread.join()

    def _ask(self, ask: object) -> None:
        assert callable(ask)
        while not self._over.is_set():
            # A connection of its own for each request, as a load balancer gives it.
            with httpx.Client(timeout=60) as client:
                try:
                    ask(client, self.url)
                except Exception as error:  # every failure is what this test is about
                    self.failures.append(repr(error))
                self.answered += 1

    def _text(self, client: httpx.Client, url: str) -> None:
        body = {"model": "null", "text_input": ["a forklift"]}
        client.post(f"{url}/generate_text_embeddings", json=body).raise_for_status()

    def _video(self, client: httpx.Client, url: str) -> None:
        body = {"model": "null", "id": self._file, "chunk_duration": 5}
        answer = client.post(f"{url}/generate_video_embeddings", json=body).raise_for_status()
        starts = [chunk["start_time"] for chunk in answer.json()["chunk_responses"]]
        assert starts == ["0.0", "5.0", "10.0", "15.0", "20.0"], starts

    def wait(self, more: int) -> None:
        """Until so many more requests were answered."""
        enough = self.answered + more
        deadline = time.monotonic() + 60
        while self.answered < enough:
            assert time.monotonic() < deadline, "no progress"
            time.sleep(0.02)


def end(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGTERM)
    process.wait(30)


def test_a_rolling_restart_of_everything_fails_no_request(stack: Stack, film: Path) -> None:
    stack.environment["MODEL_PATH"] = "null?video=0.05"
    stack.start(2)
    load = Load(f"{stack.url}/v1", stack.upload(film))
    with load.running(texts=2, videos=2):
        load.wait(5)
        for old in list(stack.workers):
            stack.start_worker()
            stack.wait_ready()
            end(old)
            assert old.returncode == 0
            stack.workers.remove(old)
            load.wait(5)

        port = free_port()
        gateway, old_gateway = stack._spawn("gateway", BACKEND_PORT=str(port)), stack.gateway
        assert old_gateway
        stack.gateway = gateway
        stack.client.close()
        stack.client = httpx.Client(base_url=f"http://127.0.0.1:{port}/v1", timeout=60)
        stack.wait_ready()
        load.url = f"http://127.0.0.1:{port}/v1"
        time.sleep(0.5)  # what a load balancer needs to notice
        end(old_gateway)
        load.wait(10)
    assert load.failures == []
    assert load.answered >= 20


def test_a_worker_that_is_stopped_in_the_middle_hands_its_work_over(stack: Stack, film: Path) -> None:
    """Batches take so long that the worker cannot finish its jobs within its shutdown time."""
    stack.environment |= {
        "MODEL_PATH": "null?video=1",
        "VLM_BATCH_SIZE": "1",
        "RTEMBED_SHUTDOWN_TIMEOUT": "0",
    }
    stack.start(2)
    file = stack.upload(film)
    load = Load(f"{stack.url}/v1", file)
    with load.running(texts=1, videos=1):
        load.wait(3)
        end(stack.workers[0])
        load.wait(5)
    assert load.failures == []
    stopped = [json.loads(line) for line in stack.logs().splitlines() if '"event": "stopped"' in line]
    assert sum(line["jobs_handed_back"] for line in stopped) > 0
