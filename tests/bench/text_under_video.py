"""How fast text stays while eight video requests run: p50 and p95 of one text client, idle and under load.

With `--model paced` the engine takes its time without using the cores, so what is seen is the queueing. With
`--model demo` the real small model and the decoders fill the cores.
"""

import argparse
import tempfile
import threading
import time
from pathlib import Path

import httpx

from tests.e2e.conftest import Stack
from tests.e2e.media import colour_film
from tests.support import RedisServer, valkey_binary
from worker.models.conse.film import make_film

VIDEO_CLIENTS = 8


class VideoClient(threading.Thread):
    """Asks for the same film's embeddings again and again until told to stop."""

    def __init__(self, url: str, body: dict[str, object], stop: threading.Event) -> None:
        super().__init__(daemon=True)
        self.url, self.body, self.stop, self.chunks = url, body, stop, 0

    def run(self) -> None:
        with httpx.Client(base_url=self.url, timeout=300) as client:
            while not self.stop.is_set():
                answer = client.post("/v1/generate_video_embeddings", json=self.body)
                assert answer.status_code == 200, answer.text
                self.chunks += len(answer.json()["chunk_responses"])


def ask(stack: Stack, model: str, seconds: float) -> list[float]:
    """Milliseconds of each text request, for so many seconds."""
    body = {"text_input": ["a forklift moving pallets"], "model": model}
    times: list[float] = []
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        began = time.perf_counter()
        answer = stack.client.post("/generate_text_embeddings", json=body)
        times.append((time.perf_counter() - began) * 1000)
        assert answer.status_code == 200, answer.text
    return sorted(times)


def figures(name: str, times: list[float]) -> float:
    """Print and return the p95."""
    p50, p95 = times[len(times) // 2], times[int(len(times) * 0.95)]
    print(f"{name:12} n {len(times):5}  p50 {p50:6.2f} ms  p95 {p95:6.2f} ms")
    return p95


def measure(stack: Stack, film: Path, seconds: float) -> None:
    """Idle, then under load, then idle again: the machine's own drift shows."""
    model = stack.client.get("/models").json()["data"][0]["id"]
    body: dict[str, object] = {"id": stack.upload(film), "model": model, "chunk_duration": 1}
    ask(stack, model, 1)
    idle = ask(stack, model, seconds)
    stop = threading.Event()
    clients = [VideoClient(stack.url, body, stop) for _ in range(VIDEO_CLIENTS)]
    for client in clients:
        client.start()
    time.sleep(2)
    loaded = ask(stack, model, seconds)
    stop.set()
    for client in clients:
        client.join()
    again = ask(stack, model, seconds)
    before = figures("idle", idle)
    during = figures("under video", loaded)
    after = figures("idle again", again)
    chunks = sum(client.chunks for client in clients)
    print(f"p95 under video / idle: {during / max(before, after):.2f}  ({chunks} chunks embedded meanwhile)")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", choices=["paced", "demo"], default="paced")
    parser.add_argument("--seconds", type=float, default=15)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        server = RedisServer(valkey_binary(), Path(folder))
        server.start()
        stack = Stack(Path(folder), server.url)
        stack.environment["LOG_LEVEL"] = "WARNING"
        film = Path(folder) / "film.mp4"
        if arguments.model == "demo":
            del stack.environment["MODEL_IMPLEMENTATION_PATH"]
            stack.environment["MODEL_PATH"] = "demo"
            make_film(film, seconds_per_scene=2)
        else:
            stack.environment["MODEL_PATH"] = "null?video=0.2&text=0.005"
            colour_film(film, seconds=20, per_scene=1)
        try:
            stack.start()
            measure(stack, film, arguments.seconds)
        finally:
            stack.stop()
            server.stop()


if __name__ == "__main__":
    main()
