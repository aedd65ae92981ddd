"""What happens when a part dies: nothing is lost, nothing appears twice, health tells the truth."""

import json
import signal
import socket
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
from redis import Redis

from shared import keys
from tests.e2e.conftest import Stack
from tests.e2e.media import colour_film
from tests.support import RedisServer, valkey_binary, wait_for, watched

URL = "/generate_video_embeddings"


@pytest.fixture(scope="module")
def long_film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """40 s, for 40 chunks of a second."""
    return colour_film(tmp_path_factory.mktemp("film") / "long.mp4", seconds=40, per_scene=1)


class Asking(threading.Thread):
    """One request for video embeddings, in the background."""

    def __init__(self, stack: Stack, **body: object) -> None:
        super().__init__(daemon=True)
        self.stack, self.body = stack, {"model": "null", **body}
        self.answer: httpx.Response | None = None
        self.start()

    def run(self) -> None:
        with httpx.Client(timeout=90) as client:
            self.answer = client.post(f"{self.stack.url}/v1{URL}", json=self.body)

    def result(self) -> httpx.Response:
        self.join(90)
        assert self.answer is not None
        return self.answer


def the_request(redis: Redis) -> str:
    """The id of the only video request there is."""
    found = [
        key.decode().removeprefix(keys.request(""))
        for key in redis.scan_iter(keys.request("*"))
        if not key.endswith(b":done") and redis.hget(key, "kind") == b"video"
    ]
    return found[0] if found else ""


def chunks_done(redis: Redis) -> int:
    request = the_request(redis)
    return int(redis.hget(keys.request(request), "done") or 0) if request else 0


@pytest.fixture
def redis(redis_url: str) -> Any:
    with Redis.from_url(redis_url) as client:
        yield client


def test_a_killed_workers_chunks_are_finished_by_another(stack: Stack, redis: Redis, long_film: Path) -> None:
    stack.environment |= {"MODEL_PATH": "null?video=0.1", "RTEMBED_CLAIM_TIMEOUT": "2"}
    stack.start()
    film = stack.upload(long_film)
    asking = Asking(stack, id=film, chunk_duration=1)
    wait_for(lambda: chunks_done(redis) >= 5)
    stack.workers[0].kill()
    stack.workers[0].wait()
    assert chunks_done(redis) < 40
    stack.workers = []
    stack.start_worker()
    answer = asking.result()
    assert answer.status_code == 200, answer.text
    starts = [c["start_time"] for c in answer.json()["chunk_responses"]]
    assert starts == [f"{i}.0" for i in range(40)]
    entries: Any = redis.xrange(keys.results(the_request(redis)))
    assert sorted(int(f[b"chunk"]) for _, f in entries if f[b"type"] == b"result") == list(range(40))
    assert [f[b"state"] for _, f in entries if f[b"type"] == b"end"] == [b"done"]
    wait_for(lambda: redis.xlen(keys.jobs("video", "null")) == 0)


def test_a_stopped_worker_hands_its_jobs_over_at_once(stack: Stack, redis: Redis, long_film: Path) -> None:
    stack.environment |= {"MODEL_PATH": "null?video=0.1", "RTEMBED_SHUTDOWN_TIMEOUT": "0"}
    stack.start(workers=2)
    film = stack.upload(long_film)
    asking = Asking(stack, id=film, chunk_duration=1)
    wait_for(lambda: chunks_done(redis) >= 5)
    stopped = stack.workers.pop(0)
    stopped.send_signal(signal.SIGTERM)
    assert stopped.wait(10) == 0
    answer = asking.result()
    assert len(answer.json()["chunk_responses"]) == 40
    handed_over = [json.loads(line) for line in stack.logs().splitlines() if "taken over" in line]
    assert handed_over
    assert all(line["deliveries"] == 1 for line in handed_over)


def test_a_job_that_kills_every_worker_goes_to_the_dead_letters(
    stack: Stack, redis: Redis, long_film: Path
) -> None:
    stack.environment |= {"MODEL_PATH": "null?video=30", "RTEMBED_CLAIM_TIMEOUT": "1"}
    stack.start()
    film = stack.upload(long_film)
    asking = Asking(stack, id=film)
    for _ in range(3):
        wait_for(lambda: held(redis, stack), 20)
        stack.workers[-1].kill()
        stack.workers[-1].wait()
        stack.workers = []
        stack.start_worker()
    answer = asking.result()
    assert (answer.status_code, answer.json()["code"]) == (500, "InternalServerError")
    assert "given up after 3 deliveries" in answer.json()["message"]
    wait_for(lambda: redis.xlen(keys.jobs("video", "null")) == 0)
    letters: Any = redis.xrange(keys.JOBS_DEAD)
    ((_, letter),) = letters
    assert json.loads(letter[b"payload"])["assets"][0]["id"] == film
    assert stack.client.delete(f"/files/{film}").status_code == 200


def held(redis: Redis, stack: Stack) -> bool:
    """Whether the newest worker holds the only video job."""
    pending = redis.xpending_range(keys.jobs("video", "null"), keys.GROUP, "-", "+", 1)
    record = [redis.hgetall(key) for key in redis.scan_iter(keys.worker("*"))]
    pid = str(watched(stack.workers[-1].pid).pid).encode()
    name = next((r[b"name"] for r in record if r[b"pid"] == pid), None)
    return bool(pending) and pending[0]["consumer"] == name


def test_a_gateway_that_is_killed_loses_no_asset_and_no_request(
    stack: Stack, redis: Redis, long_film: Path
) -> None:
    stack.environment |= {"MODEL_PATH": "null?video=0.1"}
    stack.start()
    film = stack.upload(long_film)
    body = {"id": film, "model": "null", "stream": True, "chunk_duration": 1}
    assert stack.gateway
    with suppress(httpx.TransportError), stack.client.stream("POST", URL, json=body) as answer:
        for line in answer.iter_lines():
            if line.startswith("data:"):
                stack.gateway.kill()
    assert stack.gateway.wait() == -signal.SIGKILL
    stack.start_gateway()
    stack.wait_ready()
    assert stack.client.get(f"/files/{film}").json()["filename"] == "long.mp4"
    wait_for(lambda: redis.hget(keys.request(the_request(redis)), "state") == b"done")
    assert chunks_done(redis) == 40


def test_a_json_client_that_goes_away_cancels_its_work(stack: Stack, redis: Redis, long_film: Path) -> None:
    stack.environment |= {"MODEL_PATH": "null?video=0.3", "VLM_BATCH_SIZE": "1"}
    stack.start()
    film = stack.upload(long_film)
    body = json.dumps({"id": film, "model": "null", "chunk_duration": 1}).encode()
    with socket.create_connection(("127.0.0.1", stack.port)) as connection:
        head = (
            f"POST /v1{URL} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\n\r\n"
        ).encode()
        connection.sendall(head + body)
        wait_for(lambda: chunks_done(redis) >= 1)
    wait_for(lambda: redis.hget(keys.request(the_request(redis)), "state") == b"cancelled", 5)
    wait_for(lambda: redis.xlen(keys.jobs("video", "null")) == 0, 10)
    assert chunks_done(redis) < 20
    assert stack.client.delete(f"/files/{film}").status_code == 200


def test_an_event_client_that_goes_away_leaves_the_work_running(
    stack: Stack, redis: Redis, long_film: Path
) -> None:
    stack.start()
    film = stack.upload(long_film)
    body = {"id": film, "model": "null", "stream": True, "chunk_duration": 1}
    with stack.client.stream("POST", URL, json=body) as answer:
        next(answer.iter_lines())
    wait_for(lambda: redis.hget(keys.request(the_request(redis)), "state") == b"done")
    assert chunks_done(redis) == 40


def test_a_second_reader_of_the_same_file_is_refused(stack: Stack, redis: Redis, long_film: Path) -> None:
    stack.environment |= {"MODEL_PATH": "null?video=0.1"}
    stack.start()
    film = stack.upload(long_film)
    body = {"id": film, "model": "null", "stream": True, "chunk_duration": 1}
    with stack.client.stream("POST", URL, json=body) as answer:
        lines = answer.iter_lines()
        next(lines)
        jobs = redis.xlen(keys.jobs("video", "null"))
        second = stack.client.post(URL, json=body)
        assert (second.status_code, second.json()["code"]) == (409, "Conflict")
        assert redis.xlen(keys.jobs("video", "null")) <= jobs
    wait_for(lambda: stack.client.post(URL, json={**body, "chunk_duration": 0}).status_code == 200)


def test_ready_follows_the_workers(stack: Stack) -> None:
    stack.start_gateway()
    wait_for(lambda: alive(stack))
    answer = stack.client.get("/ready")
    assert (answer.status_code, answer.text) == (503, "Service is not healthy")
    assert stack.client.get("/live").status_code == 200
    assert "ready" in stack.client.get("/startup").text.lower()
    unserved = stack.client.post("/generate_text_embeddings", json={"text_input": "a", "model": "null"})
    assert (unserved.status_code, unserved.json()["code"]) == (503, "ServiceUnavailable")
    assert int(unserved.headers["retry-after"]) > 0
    worker = stack.start_worker()
    stack.wait_ready()
    assert stack.client.get("/ready").text == "Service is healthy"
    worker.kill()
    wait_for(lambda: stack.client.get("/ready").status_code == 503, 15)
    detailed = stack.client.get("/ready?detailed=true").json()
    assert not detailed["healthy"]
    assert [c["message"] for c in detailed["checks"] if not c["healthy"]] == ["no worker is running"]
    assert stack.client.get("/models").json()["data"][0]["id"] == "null"


def alive(stack: Stack) -> bool:
    try:
        return stack.client.get("/live").status_code == 200
    except httpx.TransportError:
        return False


def test_ready_follows_redis_and_work_goes_on_afterwards(tmp_path: Path) -> None:
    server = RedisServer(valkey_binary(), tmp_path, "--appendfsync", "always")
    server.start()
    stack = Stack(tmp_path, server.url)
    try:
        stack.start()
        assert server.process
        server.process.send_signal(signal.SIGSTOP)
        wait_for(lambda: stack.client.get("/ready").status_code == 503, 10)
        metrics = stack.client.get("/metrics", timeout=10)  # as long as Prometheus waits
        assert "\nrtembed_redis_up 0.0\n" in metrics.text
        server.process.send_signal(signal.SIGCONT)
        server.stop()
        wait_for(lambda: stack.client.get("/ready").status_code == 503, 5)
        assert stack.client.get("/live").status_code == 200
        server.start()
        wait_for(lambda: stack.client.get("/ready").status_code == 200, 20)
        answer = stack.client.post("/generate_text_embeddings", json={"text_input": "a", "model": "null"})
        assert answer.status_code == 200, answer.text
    finally:
        stack.stop()
        server.stop()
