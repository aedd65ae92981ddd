"""One large upload, and the memory of the gateway meanwhile.

    python -m tests.bench.uploads --gigabytes 2

Starts a gateway of its own, which accepts the file unopened, sends random bytes as a form over HTTP, and as a
data: URL inside JSON (a quarter of the size), and reads the gateway's resident memory every 50 ms.
"""

import argparse
import base64
import os
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil

from tests.e2e.conftest import Stack
from tests.support import RedisServer, valkey_binary, watched

PIECE = 1 << 20
GIB = 1 << 30
HEAD = (
    b'--b\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nvision\r\n'
    b'--b\r\nContent-Disposition: form-data; name="media_type"\r\n\r\nvideo\r\n'
    b'--b\r\nContent-Disposition: form-data; name="file"; filename="a.mp4"\r\n\r\n'
)
NOISE = os.urandom(3 * PIECE)


def form(size: int) -> Iterator[bytes]:
    """A multipart body with a file of `size` bytes."""
    yield HEAD
    for start in range(0, size, len(NOISE)):
        yield NOISE[: size - start]
    yield b"\r\n--b--\r\n"


def json_body(size: int) -> Iterator[bytes]:
    """A JSON body with a data: URL of `size` bytes, in base64."""
    yield b'{"id": "123e4567-e89b-12d3-a456-426614174000", "model": "null", "url": "data:video/mp4;base64,'
    coded = base64.b64encode(NOISE)
    for _ in range(size // len(NOISE)):
        yield coded
    yield b'"}'


class Watch(threading.Thread):
    """Reads a process's resident memory until it is stopped."""

    def __init__(self, process: psutil.Process) -> None:
        super().__init__()
        self._process = process
        self._end = threading.Event()
        self.readings = [process.memory_info().rss]

    def run(self) -> None:
        while not self._end.wait(0.05):
            self.readings.append(self._process.memory_info().rss)

    def stop(self) -> str:
        self._end.set()
        self.join()
        before, peak = self.readings[0], max(self.readings)
        return f"{before / PIECE:.0f} MiB before, at most {peak / PIECE:.0f} MiB"


def measure(stack: Stack, size: int, path: str, body: Iterator[bytes], kind: str) -> None:
    """Send `body`, which holds a file of `size` bytes, and print how long it took and what it cost."""
    assert stack.gateway
    watch = Watch(watched(stack.gateway.pid))
    watch.start()
    began = time.monotonic()
    answer = httpx.post(f"{stack.url}/v1{path}", content=body, headers={"Content-Type": kind}, timeout=600)
    seconds = time.monotonic() - began
    rate = size / PIECE / seconds
    took = f"{size / GIB:.2f} GiB in {seconds:.1f} s, {rate:.0f} MiB/s"
    print(f"{kind.partition(';')[0]}: {took}; memory {watch.stop()}; status {answer.status_code}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gigabytes", type=float, default=2)
    size = int(parser.parse_args().gigabytes * GIB)
    with tempfile.TemporaryDirectory() as folder:
        redis = RedisServer(valkey_binary(), Path(folder))
        redis.start()
        stack = Stack(Path(folder), redis.url)
        stack.environment["VSS_SKIP_INPUT_MEDIA_VERIFICATION"] = "1"
        try:
            stack.start()
            stack.client.get("/models")
            measure(stack, size, "/files", form(size), "multipart/form-data; boundary=b")
            part = size // 4
            # Noise is no video, so the answer is a refusal, given once all of it was decoded and stored.
            measure(stack, part, "/generate_video_embeddings", json_body(part), "application/json")
        finally:
            stack.stop()
            redis.stop()


if __name__ == "__main__":
    main()
