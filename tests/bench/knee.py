"""How many chunks a second one Redis stores, and how long a text takes meanwhile: results at rising rates.

    scripts/bench knee [--quick] [--rates 1000,2000,4000] [--plot knee.png]

Valkey has a core to itself. Another sends what workers send for chunks of 200 cameras, encoded beforehand, so
many a second whether answers come or not, over a connection for each of 20 workers; a worker and a gateway's
listener ask for texts at the same time. The knee is the rate at which answers fall behind.
"""

import argparse
import asyncio
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import hiredis
import psutil
import uvloop

from gateway.results.follow import ResultListener
from shared import keys
from shared.assets import Asset
from shared.jobs import LiveJob
from shared.redis.connection import Redis, connect
from shared.results import Result
from shared.settings import Settings, load
from tests.bench.capacity import ask, start_cameras
from tests.bench.capacity_fleet import MODEL, VECTOR
from tests.support import RedisServer, valkey_binary
from worker.publish.publisher import Publisher

CAMERAS, CONNECTIONS = 200, 20
TICK = 0.001
TEXTS = 60
BEHIND = 0.95
"""Part of the rate that must be answered, or Redis is past the knee."""
RATES = (1000, 2000, 4000, 6000, 8000, 10_000, 12_000, 14_000, 16_000)
QUICK = (1000, 4000)


class CommandRecorder:
    """Stands in for Redis: keeps the commands that a publisher sends, and says that they have succeeded."""

    replicated = False

    def __init__(self) -> None:
        self.durable = self.multiplexed = self
        self.commands: list[bytes] = []

    async def call(self, *command: Any) -> list[Any]:
        """Keep a command as it goes over the wire."""
        self.commands.append(hiredis.pack_command(command))
        return [b"running", 1, 0, 0]


@dataclass
class WorkerConnection(asyncio.Protocol):
    """Sends commands and takes the time of each answer."""

    waiting: deque[float] = field(default_factory=deque)
    took: list[float] = field(default_factory=list)
    stored: int = 0
    reader: hiredis.Reader = field(default_factory=hiredis.Reader)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)

    def send(self, command: bytes) -> None:
        """Send one command now."""
        self.waiting.append(time.perf_counter())
        self.transport.write(command)

    def data_received(self, data: bytes) -> None:
        self.reader.feed(data)
        now = time.perf_counter()
        while (answer := self.reader.gets()) is not False:
            self.took.append(now - self.waiting.popleft())
            self.stored += isinstance(answer, list) and answer[1]


def live_job(camera: int) -> LiveJob:
    """Return the session of a camera."""
    asset = Asset(id=f"camera-{camera}", kind="stream")
    return LiveJob(request=f"request-{camera}", assets=[asset], chunk_duration=10, model="null")


def chunk(number: int) -> Result:
    """Return a chunk of ten seconds."""
    times = [(number * 10 + n) * 10**9 for n in range(8)]
    return Result(chunk=number, start=times[0], end=times[0] + 10**10, vector=VECTOR, frame_times=times)


class Chunks:
    """Encodes chunks of all cameras, one after the other."""

    def __init__(self, settings: Settings) -> None:
        self._recorder = CommandRecorder()
        self._publisher = Publisher(self._recorder, settings)  # type: ignore[arg-type]
        self._publisher.model = MODEL
        self._next = CAMERAS  # the first has had its chunk 0

    async def encoded(self, count: int) -> list[tuple[int, bytes]]:
        """Return the connection and the command of each of the next chunks."""
        self._recorder.commands.clear()
        cameras = [(self._next + n) % CAMERAS for n in range(count)]
        for camera in cameras:
            await self._publisher.publish(live_job(camera), [chunk(self._next // CAMERAS)])
            self._next += 1
        ends = [camera % CONNECTIONS for camera in cameras]  # each camera's chunks in order
        return list(zip(ends, self._recorder.commands, strict=True))


async def send(connections: list[WorkerConnection], work: list[tuple[int, bytes]], rate: int) -> None:
    """Send the commands, so many a second."""
    began, at = time.perf_counter(), 0
    while at < len(work):
        due = min(len(work), int((time.perf_counter() - began) * rate))
        for connection, command in work[at:due]:
            connections[connection].send(command)
        at = due
        await asyncio.sleep(TICK)


def main_thread(pid: int) -> float:
    """Return the seconds of processor time of the thread that runs commands."""
    return int(Path(f"/proc/{pid}/task/{pid}/schedstat").read_text().split()[0]) / 1e9


@contextmanager
def server_on_a_core(folder: str) -> Iterator[RedisServer]:
    """A Valkey on the last core, and a worker for texts on the others, as this process."""
    *others, last = sorted(os.sched_getaffinity(0))
    server = RedisServer(valkey_binary(), Path(folder))
    server.start()
    assert server.process
    psutil.Process(server.process.pid).cpu_affinity([last])
    os.sched_setaffinity(0, others or [last])
    try:
        yield server
    finally:
        os.sched_setaffinity(0, [*others, last])
        server.stop()


@dataclass(frozen=True)
class Rig:
    """What takes part: the server, a gateway's side of it for texts, and the workers' connections."""

    server: RedisServer
    redis: Redis
    settings: Settings
    listener: ResultListener
    connections: list[WorkerConnection]
    chunks: Chunks

    async def texts(self) -> list[float]:
        """Ask for texts; return the milliseconds of each, ascending."""
        return await ask(self.redis, self.settings, self.listener, TEXTS)


@dataclass(frozen=True)
class Level:
    """What one rate was like: percent of the core, then milliseconds."""

    rate: int
    kept: bool
    core: float
    chunk_p50: float
    text_p50: float
    text_p95: float


async def level(rig: Rig, rate: int, seconds: float) -> Level:
    """Measure one rate and print it."""
    assert rig.server.process
    server = rig.server.process.pid
    work = await rig.chunks.encoded(int(rate * seconds))
    for connection in rig.connections:
        connection.took.clear()
        connection.stored = 0
    before, began = main_thread(server), time.perf_counter()
    texts = asyncio.create_task(rig.texts())
    await send(rig.connections, work, rate)
    spent, took = time.perf_counter() - began, sorted(t for c in rig.connections for t in c.took)
    used = main_thread(server) - before
    asked = await texts
    while any(connection.waiting for connection in rig.connections):  # noqa: ASYNC110 - they are many
        await asyncio.sleep(0.01)
    stored = sum(connection.stored for connection in rig.connections)
    found = Level(
        rate, len(took) >= BEHIND * len(work), used / spent * 100, took[len(took) // 2] * 1000,
        statistics.median(asked), asked[int(len(asked) * 0.95)],
    )  # fmt: skip
    print(
        f"{rate:6} chunks/s: {len(took) / spent:6.0f} answered, {stored} of {len(work)} stored | "
        f"core {found.core:5.1f} %, {used / max(1, len(took)) * 1e6:4.0f} µs a chunk | "
        f"a chunk p50 {found.chunk_p50:.1f} p99 {took[len(took) * 99 // 100] * 1000:.1f} ms | "
        f"a text p50 {found.text_p50:.1f} p95 {found.text_p95:.1f} ms",
        flush=True,
    )
    return found


async def run(server: RedisServer, rates: list[int], seconds: float) -> list[Level]:
    """Raise the rate until Redis falls behind; return what each was like."""
    environment = {"REDIS_URL": server.url, "RTEMBED_MAX_LIVE_STREAMS": "1000", "RTEMBED_REDIS_TIMEOUT": "20"}
    settings = load(environment)
    redis = connect(settings)
    listener = ResultListener(redis, settings)
    listening = asyncio.create_task(listener.run())
    try:
        await start_cameras(redis, settings, CAMERAS)
        await redis.delete(keys.jobs("live", "null"))  # nobody is to play them
        while not await redis.zcard(keys.WORKERS):  # noqa: ASYNC110 - another process's doing
            await asyncio.sleep(0.1)
        await Publisher(redis, settings).publish(live_job(0), [chunk(0)])  # Redis learns the script
        loop, connections = asyncio.get_running_loop(), list[WorkerConnection]()
        for _ in range(CONNECTIONS):
            _, connection = await loop.create_connection(WorkerConnection, "127.0.0.1", server.port)
            connections.append(connection)
        rig = Rig(server, redis, settings, listener, connections, Chunks(settings))
        return await raise_rate(rig, rates, seconds)
    finally:
        listening.cancel()
        await redis.aclose()


async def raise_rate(rig: Rig, rates: list[int], seconds: float) -> list[Level]:
    """Measure texts without chunks, then each rate."""
    alone = await rig.texts()
    p95 = alone[int(len(alone) * 0.95)]
    print(f"no chunks: a text p50 {statistics.median(alone):.1f} p95 {p95:.1f} ms", flush=True)
    levels = list[Level]()
    for rate in rates:
        levels.append(await level(rig, rate, seconds))
        if not levels[-1].kept:
            print(f"knee: between {levels[-2].rate if levels[1:] else 0} and {rate} chunks/s")
            return levels
    print(f"knee: above {rates[-1]} chunks/s")
    return levels


def draw(levels: list[Level], path: Path) -> None:
    """Write a picture of the rates."""
    import matplotlib.pyplot as plt

    rates = [found.rate for found in levels]
    figure, (core, times) = plt.subplots(1, 2, figsize=(9, 3.4))
    core.plot(rates, [found.core for found in levels], "o-")
    core.set(ylim=(0, 100), xlabel="chunks sent a second", ylabel="% of Redis's core")
    times.plot(rates, [found.text_p50 for found in levels], "o-", label="a text, median")
    times.plot(rates, [found.text_p95 for found in levels], "o--", label="a text, 95 %")
    times.plot(rates, [found.chunk_p50 for found in levels], "s-", label="storing a chunk, median")
    times.set(xlabel="chunks sent a second", ylabel="ms")
    times.set_ylim(0)
    times.legend()
    figure.tight_layout()
    figure.savefig(path, dpi=90)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="two rates, below the knee")
    parser.add_argument(
        "--rates", default=",".join(map(str, RATES)), help="chunks a second; default: %(default)s"
    )
    parser.add_argument("--seconds", type=float, default=5.0, help="of each rate")
    parser.add_argument("--plot", type=Path, help="where to write a picture (PNG)")
    chosen = parser.parse_args()
    rates = list(QUICK) if chosen.quick else [int(rate) for rate in chosen.rates.split(",")]
    with tempfile.TemporaryDirectory() as folder, server_on_a_core(folder) as server:
        command = [sys.executable, "-m", "tests.bench.capacity_fleet", server.url, "1", "10"]
        with subprocess.Popen(command, stdout=subprocess.DEVNULL) as worker:
            try:
                levels = uvloop.run(run(server, rates, 3.0 if chosen.quick else chosen.seconds))
            finally:
                worker.terminate()
    if chosen.plot:
        draw(levels, chosen.plot)


if __name__ == "__main__":
    main()
