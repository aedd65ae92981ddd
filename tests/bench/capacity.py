"""How far one Redis goes: a simulated fleet of workers and cameras against one Valkey, without any media.

    scripts/bench capacity [--quick]

Workers, in a few processes, use the product's claims, heartbeats, leases, results and metrics. Each row is a
fleet of its own on a Valkey of its own. What it costs is read from Valkey's INFO, so that the speed of the
simulation does not matter. Rows without cameras show what grows with workers, the next what grows with
cameras, the last what a chunk costs.
"""

import argparse
import asyncio
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import uvloop

from gateway.results.follow import ResultListener
from gateway.submission import collect
from shared import keys, live_records
from shared.assets import ASSETS, Asset
from shared.fleet import read_fleet
from shared.inspection.queues import lanes, live
from shared.jobs import TextJob
from shared.live_records import LiveRecord
from shared.redis.connection import Redis, connect
from shared.requests import Request, submit
from shared.settings import Settings, load
from shared.telemetry.fleet_metrics import read_figures
from tests.support import RedisServer, valkey_binary

PROCESSES = 2
"""That the simulated workers share."""
PATIENCE = 60
TEXTS = 100


@dataclass(frozen=True)
class Size:
    """A fleet, and how often each of its cameras has a chunk, in seconds."""

    workers: int
    cameras: int = 0
    chunk: float = 10.0

    @property
    def rate(self) -> float:
        """Chunks per second."""
        return self.cameras / self.chunk


QUICK = (Size(25), Size(50), Size(20, 200), Size(20, 400), Size(10, 100, 0.5))
WHOLE = (
    *(Size(50), Size(100), Size(200), Size(400)),
    *(Size(50, 500), Size(50, 1000), Size(50, 2000), Size(100, 2000), Size(200, 2000)),
    *(Size(20, 200, 1.0), Size(20, 200, 0.4), Size(20, 200, 0.2), Size(20, 200, 0.1)),
)


@contextmanager
def fleet(server: RedisServer, size: Size) -> Iterator[None]:
    """Run the simulated workers meanwhile."""
    share = -(-size.workers // PROCESSES)
    command = [sys.executable, "-m", "tests.bench.capacity_fleet", server.url, str(share), str(size.chunk)]
    processes = [subprocess.Popen(command, stdout=subprocess.DEVNULL) for _ in range(PROCESSES)]
    try:
        yield
    finally:
        for process in processes:
            process.send_signal(signal.SIGTERM)
        for process in processes:
            process.wait()


async def start_cameras(redis: Redis, settings: Settings, count: int) -> None:
    """Start so many live sessions, as `POST /v1/generate_video_embeddings` does."""
    for number in range(count):
        asset = Asset(id=f"camera-{number}", kind="stream", path=f"rtsp://camera/{number}")
        fields: Any = ASSETS.fields(asset)
        await redis.multiplexed.call("HSET", keys.asset(asset.id), *fields)
        session = LiveRecord(request=f"request-{number}", model="null", chunk_duration=10)
        await live_records.start(redis, settings, f"request-{number}", asset, session)


async def settled(redis: Redis, size: Size) -> float:
    """Wait until all workers are ready and all cameras run; return the seconds."""
    began = time.monotonic()
    while True:
        workers = await redis.zcard(keys.WORKERS)
        claimed = 0
        if workers >= size.workers and size.cameras:
            pending: Any = await redis.xpending(keys.jobs("live", "null"), keys.GROUP)
            claimed = pending["pending"]
        if workers >= size.workers and claimed >= size.cameras:
            return time.monotonic() - began
        if time.monotonic() - began > PATIENCE:
            raise TimeoutError(f"{workers} workers, {claimed} cameras after {PATIENCE} s")
        await asyncio.sleep(0.2)


async def ask(redis: Redis, settings: Settings, listener: ResultListener, count: int) -> list[float]:
    """Ask for texts one after the other, as a gateway does; return the milliseconds of each."""
    times = []
    for _ in range(count):
        began = time.perf_counter()
        request_id = listener.new_id()
        async with listener.subscribe(request_id) as follower:
            job = TextJob(request=request_id, texts=["a forklift"], model="null", query=True)
            await submit(redis, settings, Request(id=request_id, lane="text", planned=1, model="null"), [job])
            await collect(follower, 1)
        times.append((time.perf_counter() - began) * 1000)
        await asyncio.sleep(0.02)
    return sorted(times)


Stats = dict[str, float]


async def stats(redis: Redis) -> Stats:
    """What Valkey has done so far."""
    found: Any = await redis.info("everything")
    main = "used_cpu_user_main_thread" in found
    suffix = "_main_thread" if main else ""
    taken = {
        "cpu": float(found[f"used_cpu_user{suffix}"]) + float(found[f"used_cpu_sys{suffix}"]),
        "in": float(found["total_net_input_bytes"]),
        "out": float(found["total_net_output_bytes"]),
        "commands": float(found["total_commands_processed"]),
        "at": time.monotonic(),
    }
    commands = {name: values for name, values in found.items() if name.startswith("cmdstat_")}
    taken |= {f"{name[8:]} calls": values["calls"] for name, values in commands.items()}
    return taken | {name[8:]: values["usec"] / 1e6 for name, values in commands.items()}


async def timed(work: Any) -> float:
    """Return the milliseconds that an awaitable takes."""
    began = time.perf_counter()
    await work
    return (time.perf_counter() - began) * 1000


async def measure(size: Size, seconds: float) -> None:
    """Run one fleet and print what it costs."""
    with tempfile.TemporaryDirectory() as folder:
        server = RedisServer(valkey_binary(), Path(folder))
        server.start()
        settings = load({"REDIS_URL": server.url, "RTEMBED_MAX_LIVE_STREAMS": "100000"})
        redis = connect(settings)
        listener = ResultListener(redis, settings)
        listening = asyncio.create_task(listener.run())
        try:
            with fleet(server, size):
                await settled(redis, replace(size, cameras=0))
                await start_cameras(redis, settings, size.cameras)
                await settled(redis, size)
                await asyncio.sleep(2)
                done = await chunks(redis, size)
                before = await stats(redis)
                await asyncio.sleep(seconds)
                after = await stats(redis)
                done = await chunks(redis, size) - done
                texts = await ask(redis, settings, listener, TEXTS)
                views = [
                    await timed(look)
                    for look in (read_fleet(redis), read_figures(redis), lanes(redis), live(redis))
                ]
            print(Measured(before, after, done, texts, views).show(size), flush=True)
        finally:
            listening.cancel()
            await redis.aclose()
            server.stop()


async def chunks(redis: Redis, size: Size) -> int:
    """Return how many chunks the cameras have had."""
    async with redis.pipeline(transaction=False) as pipe:
        for number in range(size.cameras):
            pipe.hget(keys.request(f"request-{number}"), "done")
        return sum(int(done or 0) for done in await pipe.execute())


@dataclass(frozen=True)
class Measured:
    """What a fleet cost: Valkey's figures before and after, chunks, texts (ms, ascending), views (ms)."""

    before: Stats
    after: Stats
    done: int
    texts: list[float]
    views: list[float]

    def show(self, size: Size) -> str:
        """Return one row, with the commands that took most of Valkey's time."""
        span = self.after["at"] - self.before["at"]
        rate = {name: (value - self.before.get(name, 0)) / span for name, value in self.after.items()}
        other = {"cpu", "in", "out", "commands", "at", "evalsha", "eval", "info"}
        inner = {name: share for name, share in rate.items() if f"{name} calls" in rate and name not in other}
        top = sorted(inner, key=inner.__getitem__, reverse=True)[:5]
        texts, (fleet_ms, metrics_ms, lanes_ms, live_ms) = self.texts, self.views
        parts = (
            f"{size.workers:4} workers {size.cameras:5} cameras",
            f"{self.done / span:6.0f} of {size.rate:.0f} chunks/s",
            f"core {rate['cpu'] * 100:5.1f} %",
            f"{rate['commands']:6.0f} commands/s",
            f"in {rate['in'] / 1e6:.2f} out {rate['out'] / 1e6:.2f} MB/s",
            f"text p50 {statistics.median(texts):.1f} p95 {texts[int(len(texts) * 0.95)]:.1f} ms",
            f"fleet {fleet_ms:.0f} metrics {metrics_ms:.0f} lanes {lanes_ms:.0f} live {live_ms:.0f} ms",
            ", ".join(f"{name} {inner[name] * 100:.1f} % ({rate[f'{name} calls']:.0f}/s)" for name in top),
        )
        return " | ".join(parts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a few small fleets, in a minute")
    parser.add_argument("--seconds", type=float, default=10.0, help="that each fleet is measured")
    parser.add_argument("--fleet", help="one fleet: workers,cameras,seconds of a chunk")
    chosen = parser.parse_args()
    sizes: tuple[Size, ...] = QUICK if chosen.quick else WHOLE
    if chosen.fleet:
        workers, cameras, chunk = chosen.fleet.split(",")
        sizes = (Size(int(workers), int(cameras), float(chunk)),)
    for size in sizes:
        try:
            uvloop.run(measure(size, 4.0 if chosen.quick else chosen.seconds))
        except TimeoutError as error:
            print(f"{size.workers:4} workers {size.cameras:5} cameras: not settled: {error}", flush=True)


if __name__ == "__main__":
    main()
