"""Chunk results through Redis, against arq and taskiq (its Redis stream broker), with the same payload.

    scripts/bench queues [--chunks 5000] [--rounds 3]

One worker, one client, a Valkey of its own for each run, taking turns. The worker returns a vector
of 768 floats for each chunk, and the client waits for all of them. arq and taskiq run one task per chunk
in environments that the benchmark makes once; ours runs what a film is: one request, in jobs of `--run`
chunks, whose results are stored one by one, each exactly once.
"""

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import uvloop

from gateway.results.follow import ResultListener
from gateway.submission import collect
from shared.assets import Asset
from shared.chunks import Chunk
from shared.jobs import VideoJob
from shared.redis.connection import connect
from shared.requests import Request, submit
from shared.settings import load
from tests.support import RedisServer, valkey_binary

PEERS = {"arq": ("arq==0.28.0",), "taskiq": ("taskiq==0.13.0", "taskiq-redis==1.2.4")}
PEERS_CODE = Path(__file__).with_name("queue_peers.py")
READY = 3.0
"""Seconds that a worker gets to start."""


def environment(peer: str) -> Path:
    """Return the Python of an environment with the peer, made when it is first needed."""
    folder = Path(tempfile.gettempdir()) / f"rt-embed-bench-{'-'.join(PEERS[peer])}"
    python = folder / "bin" / "python"
    if not (folder / "made").exists():
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        packages = [*PEERS[peer], "hiredis==3.5.0", "uvloop==0.23.0"]
        subprocess.run(
            [str(python), "-m", "pip", "install", "--quiet", *packages], check=True, stderr=subprocess.DEVNULL
        )
        (folder / "made").touch()
    return python


@contextmanager
def serving(command: list[str], environ: dict[str, str]) -> Iterator[psutil.Process]:
    """Run a worker meanwhile."""
    process = subprocess.Popen(
        command, env=os.environ | environ, cwd=PEERS_CODE.parent if "taskiq" in str(command) else None,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        time.sleep(READY)
        yield psutil.Process(process.pid)
    finally:
        for child in psutil.Process(process.pid).children(recursive=True):
            child.kill()
        process.kill()
        process.wait()


def used(process: psutil.Process) -> float:
    """Return the seconds of processor time that a process and its children have taken."""
    all_of_them = [process, *process.children(recursive=True)]
    return sum(sum(one.cpu_times()[:2]) for one in all_of_them)


def peer_run(peer: str, server: RedisServer, count: int) -> dict[str, float]:
    """Run the chunks through arq or taskiq; return seconds, and processor time of worker and client."""
    python = str(environment(peer))
    environ = {"QUEUE_URL": server.url, "QUEUE_PEER": peer}
    command = [python, str(PEERS_CODE), "arq-worker"]
    if peer == "taskiq":
        command = [str(Path(python).with_name("taskiq")), "worker", "queue_peers:broker", "--workers", "1"]
        command += ["--max-async-tasks", "10", "--log-level", "ERROR"]
    with serving(command, environ) as process:
        before = used(process)
        client = subprocess.run(
            [python, str(PEERS_CODE), peer, str(count)], env=os.environ | environ, check=True,
            stdout=subprocess.PIPE, timeout=300,
        )  # fmt: skip
        return {**json.loads(client.stdout), "worker": used(process) - before}


async def ours(server: RedisServer, count: int, run: int) -> tuple[float, float]:
    """Run the chunks as one request; return seconds, and the client's processor time."""
    settings = load({"REDIS_URL": server.url})
    redis = connect(settings)
    listener = ResultListener(redis, settings)
    listening = asyncio.create_task(listener.run())
    began = used_before = 0.0
    for number in (10, count):  # the first is a warm-up
        began, used_before = time.perf_counter(), time.process_time()
        request_id = listener.new_id()
        chunks = [Chunk(n, n * 10**10, (n + 1) * 10**10) for n in range(number)]
        asset = Asset(id="film", path="/films/film.mp4")
        jobs = [
            VideoJob(request=request_id, assets=[asset], chunks=chunks[at : at + run], model="null")
            for at in range(0, number, run)
        ]
        async with listener.subscribe(request_id) as follower:
            request = Request(id=request_id, lane="video", planned=number, model="null")
            await submit(redis, settings, request, jobs)
            found = await collect(follower, number)
        assert [result.chunk for result in found] == list(range(number))
        assert all(len(result.vector) == 4 * 768 for result in found)
    seconds, client = time.perf_counter() - began, time.process_time() - used_before
    listening.cancel()
    await redis.aclose()
    return seconds, client


def our_run(server: RedisServer, count: int, run: int) -> dict[str, float]:
    """The same through our queue."""
    command = [sys.executable, "-m", "tests.bench.capacity_fleet", server.url, "1", "10"]
    with serving(command, {"RTEMBED_DECODE_SLOTS": "9"}) as process:
        before = used(process)
        seconds, client = uvloop.run(ours(server, count, run))
        return {"seconds": seconds, "client": client, "worker": used(process) - before}


def one_run(name: str, count: int, run: int) -> dict[str, float]:
    """Run the chunks through one of them, over a Valkey of its own."""
    with tempfile.TemporaryDirectory() as folder:
        server = RedisServer(valkey_binary(), Path(folder))
        server.start()
        try:
            assert server.process
            valkey = psutil.Process(server.process.pid)
            found = our_run(server, count, run) if name == "rt-embed" else peer_run(name, server, count)
            return found | {"valkey": used(valkey)}
        finally:
            server.stop()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--chunks", type=int, default=5000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--run", type=int, default=10, help="chunks in one of our jobs")
    parser.add_argument("--quick", action="store_true")
    chosen = parser.parse_args()
    count, rounds = (1000, 1) if chosen.quick else (chosen.chunks, chosen.rounds)
    rates: dict[str, list[float]] = {"rt-embed": [], **{peer: [] for peer in PEERS}}
    times: dict[str, list[float]] = {name: [] for name in rates}
    for _ in range(rounds):
        for name in ("rt-embed", *PEERS):
            found = one_run(name, count, chosen.run)
            rates[name].append(count / found["seconds"])
            parts = {part: found[part] / count * 1e6 for part in ("worker", "client", "valkey")}
            times[name].append(sum(parts.values()))
            told = ", ".join(f"{part} {value:.0f}" for part, value in parts.items())
            print(f"{name:9} {rates[name][-1]:7.0f} chunks/s, processor µs a chunk: {told}", flush=True)
    for peer in PEERS:
        faster = statistics.median(a / b for a, b in zip(rates["rt-embed"], rates[peer], strict=True))
        less = statistics.median(b / a for a, b in zip(times["rt-embed"], times[peer], strict=True))
        print(f"rt-embed to {peer}: {faster:.1f} times the chunks/s, {less:.1f} times less processor time")


if __name__ == "__main__":
    main()
