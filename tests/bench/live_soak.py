"""Many cameras for a long time: is every chunk accounted for, does memory stay flat, what does a camera cost?

python -m tests.bench.live_soak --cameras 20 --seconds 600
"""

import argparse
import json
import statistics
import tempfile
import threading
import time
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import psutil
from redis import Redis

from shared import keys
from shared.timestamps import parse_timestamp
from tests.camera import ScriptedCamera, encode
from tests.e2e.conftest import Stack
from tests.support import RedisServer, valkey_binary, watched

BODY = {"model": "null", "stream": True}


@dataclass
class Soak:
    """What was seen. `memory` is MiB of the worker with all its processes, `redis_memory` MiB of Redis, a
    sample every five seconds; CPU in seconds."""

    cameras: int
    seconds: float
    chunk_duration: int
    expected: int = 0
    embedded: int = 0
    dropped: int = 0
    failed: int = 0
    missing: int = 0
    late_p50: float = 0
    late_max: float = 0
    demux_cpu_per_camera_second: float = 0
    megabits_per_camera: float = 0
    cameras_per_core: float = 0
    decode_cpu_per_camera_second: float = 0
    memory: list[int] = field(default_factory=list)
    redis_memory: list[float] = field(default_factory=list)


def soak(cameras: int, seconds: float, chunk_duration: int, folder: Path, size: int = 320) -> Soak:
    """Run the whole service on `cameras` cameras of 30 fps with a key frame every second."""
    pictures = encode(seconds=10, size=size)
    megabits = sum(len(nal) for p in pictures for nal in p.nals) * 8 / 10 / 1e6
    server = RedisServer(valkey_binary(), folder)
    server.start()
    stack = Stack(folder, server.url)
    stack.environment |= {"RTEMBED_RTSP_TRANSPORT": "tcp", "LOG_LEVEL": "INFO", "VLM_BATCH_SIZE": "16"}
    seen = Soak(cameras, seconds, chunk_duration, megabits_per_camera=round(megabits, 2))
    try:
        with ScriptedCamera(pictures) as camera, Redis.from_url(server.url) as redis:
            stack.start()
            _run(stack, redis, camera, seen)
    finally:
        stack.stop()
        server.stop()
    return seen


def _run(stack: Stack, redis: Any, camera: ScriptedCamera, seen: Soak) -> None:
    ids = []
    for number in range(seen.cameras):
        value = {
            "camera_id": f"camera-{number}",
            "camera_url": camera.url,
            "change": "camera_add",
            "metadata": {"model": "null", "chunk_duration": seen.chunk_duration},
        }
        answer = stack.client.post("/stream/add", json={"key": "sensor", "value": value}).json()
        assert answer["inference"], answer
        ids.append(answer["asset_id"])
    _until_all_run(stack, seen.cameras)
    before = [_session(redis, i)[0] for i in ids]
    cpu = _cpu(stack)
    started = time.monotonic()
    late: list[float] = []
    watching = threading.Event()
    watcher = threading.Thread(target=_watch, args=(stack, ids[0], late, watching), daemon=True)
    watcher.start()
    while time.monotonic() - started < seen.seconds:
        time.sleep(min(5, max(0, started + seen.seconds - time.monotonic())))
        seen.memory.append(sum(p.memory_info().rss for p in _processes(stack)) >> 20)
        seen.redis_memory.append(round(redis.info("memory")["used_memory"] / 2**20, 1))
    spent = time.monotonic() - started
    watching.set()
    demux, decode = (b - a for a, b in zip(cpu, _cpu(stack), strict=True))
    seen.demux_cpu_per_camera_second = round(demux / spent / seen.cameras, 5)
    seen.decode_cpu_per_camera_second = round(decode / spent / seen.cameras, 5)
    seen.cameras_per_core = round(spent * seen.cameras / max(demux, 1e-9))
    seen.expected = round(spent / seen.chunk_duration) * seen.cameras
    for stream_id, first in zip(ids, before, strict=True):
        last, dropped, failed, indices = _session(redis, stream_id)
        seen.embedded += last - first
        seen.dropped += dropped
        seen.failed += failed
        seen.missing += indices
    if late:
        seen.late_p50, seen.late_max = round(statistics.median(late), 3), round(max(late), 3)
    stack.client.request("DELETE", "/streams/delete-batch", json={"stream_ids": ids})
    watcher.join(10)


def _until_all_run(stack: Stack, cameras: int) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        ids = [s["id"] for s in stack.client.get("/streams/get-stream-info").json()]
        states = [stack.client.get(f"/streams/{stream}/status").json()["state"] for stream in ids]
        if states.count("running") == cameras:
            return
        time.sleep(0.2)
    raise TimeoutError("not every camera plays")


def _session(redis: Any, stream_id: str) -> tuple[int, int, int, int]:
    """Results so far, chunks dropped and failed, and results that are missing between the kept ones."""
    record = redis.hgetall(keys.live(stream_id))
    request = record[b"request"].decode()
    done = int(redis.hget(keys.request(request), "done") or 0)
    stored = [int(f[b"chunk"]) for _, f in redis.xrange(keys.results(request)) if f[b"type"] == b"result"]
    gaps = sum(b - a - 1 for a, b in pairwise(stored))
    return done, int(record[b"dropped"]), int(record[b"failed"]), gaps


def _watch(stack: Stack, stream_id: str, late: list[float], over: threading.Event) -> None:
    """Read one camera's events; how long after its last frame each comes (s)."""
    with stack.client.stream(
        "POST", "/generate_video_embeddings", json={**BODY, "id": stream_id, "chunk_duration": 1}
    ) as answer:
        for line in answer.iter_lines():
            if over.is_set() or line == "data: [DONE]":
                return
            if line.startswith("data: "):
                end = json.loads(line[6:])["media_info"]["end_timestamp"]
                late.append(time.time() - _seconds(end))


def _seconds(text: str) -> float:
    return parse_timestamp(text) / 1e9


def _processes(stack: Stack) -> list[psutil.Process]:
    worker = watched(stack.workers[0].pid)
    return [worker, *worker.children(recursive=True)]


def _cpu(stack: Stack) -> tuple[float, float]:
    """CPU seconds of the camera processes and of the decoders so far."""
    demux = decode = 0.0
    for process in _processes(stack)[1:]:
        times = process.cpu_times()
        if "worker.live.camera_process" in process.cmdline():
            demux += times.user + times.system
        else:
            decode += times.user + times.system
    return demux, decode


def main() -> None:
    """Print what was seen as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cameras", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--chunk-duration", type=int, default=10)
    parser.add_argument("--size", type=int, default=320, help="pixels of a side")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        seen = soak(options.cameras, options.seconds, options.chunk_duration, Path(folder), size=options.size)
    print(json.dumps(vars(seen)))


if __name__ == "__main__":
    main()
