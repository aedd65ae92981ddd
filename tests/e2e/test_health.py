"""A worker that is stuck is seen, says why, and is replaced."""

import time
from pathlib import Path

import httpx

from shared.lifecycle.watchdog import STUCK
from tests.e2e.conftest import Stack


def test_a_hung_engine_is_reported_and_its_job_goes_to_another(stack: Stack, film: Path) -> None:
    stack.start_gateway()
    hung = stack.start_worker(
        MODEL_PATH="null?video=3600", RTEMBED_ENGINE_TIMEOUT="1", RTEMBED_SHUTDOWN_TIMEOUT="1"
    )
    stack.wait_ready()
    file = stack.upload(film)
    with httpx.Client(base_url=f"{stack.url}/v1", timeout=60) as client:
        body = {"model": "null", "id": file, "stream": True}
        with client.stream("POST", "/generate_video_embeddings", json=body) as answer:
            reasons = set()
            while hung.poll() is None:
                health = stack.client.get("/ready?detailed=true").json()
                reasons |= {c["message"] for c in health["checks"] if c["component"].startswith("worker ")}
                time.sleep(0.1)
            assert hung.returncode == STUCK
            assert any("the video engine works on one batch for more than 1 s" in r for r in reasons), reasons
            stack.start_worker()
            data = [line for line in answer.iter_lines() if line.startswith("data: ")]
    assert len(data) == 2
    assert data[-1] == "data: [DONE]"


def test_health_says_what_a_worker_runs_on(shared_stack: Stack) -> None:
    checks = shared_stack.client.get("/ready?detailed=true").json()["checks"]
    (told,) = {check["message"] for check in checks if check["component"].startswith("worker ")}
    assert told.startswith("running on ")
    assert "GPU" in told or "NVIDIA" in told  # the one that is used, or why none is
