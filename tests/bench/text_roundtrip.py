"""What gateway, Redis and worker add to a text request: against a bare Starlette echo, in one run.

Both are asked in turn by one client over kept-alive connections; the model computes nothing.
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import httpx

from tests.e2e.conftest import Stack
from tests.support import RedisServer, free_port, valkey_binary

BODY = {"text_input": ["a forklift moving pallets"], "model": "null"}
PATH = "/v1/generate_text_embeddings"


def ask(client: httpx.Client) -> float:
    """Milliseconds of one request."""
    began = time.perf_counter()
    answer = client.post(PATH, json=BODY)
    milliseconds = (time.perf_counter() - began) * 1000
    assert answer.status_code == 200, answer.text
    return milliseconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=2000)
    count = parser.parse_args().requests
    with tempfile.TemporaryDirectory() as folder:
        server = RedisServer(valkey_binary(), Path(folder))
        server.start()
        stack = Stack(Path(folder), server.url)
        stack.environment["LOG_LEVEL"] = "WARNING"
        port = free_port()
        echo = subprocess.Popen([sys.executable, "-m", "tests.bench.echo", str(port)])
        try:
            stack.start()
            run(stack.url, f"http://127.0.0.1:{port}", count)
        finally:
            echo.kill()
            echo.wait()
            stack.stop()
            server.stop()


def run(service: str, bare: str, count: int) -> None:
    """Ask both in turn and print the figures."""
    with httpx.Client(base_url=service) as ours, httpx.Client(base_url=bare) as theirs:
        for _ in range(200):
            ask(ours), ask(theirs)
        pairs = [(ask(ours), ask(theirs)) for _ in range(count)]
    for name, column in (("service", 0), ("bare echo", 1)):
        times = sorted(pair[column] for pair in pairs)
        p95 = times[int(len(times) * 0.95)]
        print(f"{name:10} p50 {statistics.median(times):.2f} ms  p95 {p95:.2f} ms")
    added = statistics.median(ours - theirs for ours, theirs in pairs)
    print(f"added, median of {count} pairs: {added:.2f} ms")


if __name__ == "__main__":
    main()
