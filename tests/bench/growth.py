"""Whether anything is slower than linear: the same at n, 2 n and 4 n.

    scripts/bench growth [--quick]

Files in the store (listing all, a page, sweeping), requests of the last hour (`inspect requests`,
`/v1/fleet/requests`), cameras (starting them, `inspect live`), and a film of 24 hours (planning it, and
decoding its chunks in jobs as the service makes them). What is told is the processor time of all that take
part; a ratio of 2 from a row to the next is linear.
"""

import argparse
import asyncio
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import psutil
import uvloop

from gateway.store.asset_store import AssetStore
from shared import keys, live_records
from shared.assets import ASSETS, Asset
from shared.chunks import SECOND, Chunk, job_runs, plan_chunks
from shared.inspection import queues
from shared.live_records import LiveRecord
from shared.redis.connection import Redis, connect
from shared.settings import Settings, load
from tests.support import RedisServer, valkey_binary
from worker.media.clip_source import Clip
from worker.media.decoder_pool import DecoderPool

FRAMES, SQUARE = 8, 32
HOUR = 3600
CLEAR = 50.0
"""Milliseconds from which a ratio says something: processor time is counted in steps of 10."""
Timed = tuple[str, float]


async def timed(name: str, work: Awaitable[Any]) -> Timed:
    """Return the name and the milliseconds of processor time that the work takes, in child processes too."""
    began = _used()
    await work
    return name, (_used() - began) * 1000


def _used() -> float:
    mine = psutil.Process()
    return sum(sum(one.cpu_times()[:2]) for one in (mine, *mine.children(recursive=True)))


@asynccontextmanager
async def service() -> AsyncIterator[tuple[Redis, Settings]]:
    """A Valkey of its own, and a folder for files."""
    with tempfile.TemporaryDirectory() as folder:
        server = RedisServer(valkey_binary(), Path(folder))
        server.start()
        environment = {
            "REDIS_URL": server.url,
            "ASSET_STORAGE_DIR": f"{folder}/assets",
            "RTEMBED_MAX_LIVE_STREAMS": "100000",
        }
        settings = load(environment)
        redis = connect(settings)
        try:
            yield redis, settings
        finally:
            await redis.aclose()
            server.stop()


async def many(count: int, work: Callable[[int], Awaitable[Any]]) -> None:
    """Do the work for each number, some at a time."""
    for at in range(0, count, 200):
        await asyncio.gather(*(work(number) for number in range(at, min(at + 200, count))))


async def files(count: int) -> list[Timed]:
    """So many files in the store."""
    async with service() as (redis, settings):
        store = AssetStore(redis, settings)
        await store.check()
        await many(count, lambda n: store.register(Asset(id=f"file-{n}", path=f"/films/{n}.mp4", size=1)))

        async def listing() -> None:
            """As `GET /v1/files` does."""
            await store.sizes(await store.all())

        found = [await timed("listing", listing()), await timed("page of 100", store.files("", 100))]
        last = f"file-{count - 101}"
        found += [
            await timed("late page of 100", store.files(last, 100)),
            await timed("sweep", store.sweep()),
        ]
        found.append(await timed("leftovers", store.sweep_leftovers()))
        store.close()
        return found


async def requests(count: int) -> list[Timed]:
    """So many requests in the last hour."""
    async with service() as (redis, _):
        fields = ("state", "done", "kind", "video", "created", 1, "finished", 2, "done", 6, "planned", 6)

        async def add(number: int) -> None:
            await redis.multiplexed.call("HSET", keys.request(f"request-{number}"), *fields)
            await redis.multiplexed.call("SETBIT", keys.done(f"request-{number}"), 5, 1)

        await many(count, add)
        return [await timed("newest 50", queues.requests(redis))]


async def cameras(count: int) -> list[Timed]:
    """So many cameras added at once."""
    async with service() as (redis, settings):

        async def start(number: int) -> None:
            asset = Asset(id=f"camera-{number}", kind="stream", path="rtsp://camera/")
            fields: Any = ASSETS.fields(asset)
            await redis.multiplexed.call("HSET", keys.asset(asset.id), *fields)
            session = LiveRecord(request=f"request-{number}", model="null", chunk_duration=10)
            await live_records.start(redis, settings, f"request-{number}", asset, session)

        found = [await timed("starting", many(count, start))]
        names = [f"camera-{number}" for number in range(count)]
        found.append(await timed("sessions", live_records.read_sessions(redis, names)))
        found.append(await timed("inspect live", queues.live(redis)))
        return found


def make_film(path: Path, seconds: int) -> None:
    """Write a film of one picture a second, with a key frame every ten."""
    picture = np.zeros((48, 64, 3), np.uint8)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=Fraction(1))
        stream.width, stream.height = 64, 48
        stream.options = {"preset": "ultrafast", "g": "10"}
        for number in range(seconds):
            picture[:] = number % 256
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())


async def film(hours: int) -> list[Timed]:
    """A film of so many hours, in chunks of a minute."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "film.mp4"
        make_film(path, hours * HOUR)
        began = time.perf_counter()
        chunks = plan_chunks(0, hours * HOUR * SECOND, 60 * SECOND, 0, Fraction(1))
        job_runs(chunks)
        planned = "planning", (time.perf_counter() - began) * 1000
        pool = DecoderPool(1)
        await pool.start()

        async def decode(wanted: list[Chunk]) -> None:
            count = 0
            for job in job_runs(wanted):
                async for clip in pool.clips(path, job, FRAMES, SQUARE):
                    assert isinstance(clip, Clip)
                    clip.release()
                    count += 1
            assert count == len(wanted)

        first = await timed("first chunk", decode(chunks[:1]))
        last = await timed("last chunk", decode(chunks[-1:]))
        whole = await timed("all chunks", decode(chunks))
        await pool.close()
        return [planned, first, last, whole]


async def run(quick: bool) -> None:
    sizes: dict[str, tuple[Callable[[int], Awaitable[list[Timed]]], int]] = {
        "files": (files, 2500 if quick else 25_000),
        "requests": (requests, 1000 if quick else 2500),
        "cameras": (cameras, 100 if quick else 250),
        "hours of film": (film, 1 if quick else 6),
    }
    for what, (measure, smallest) in sizes.items():
        before: dict[str, float] = {}
        for factor in (1, 2, 4):
            found = dict(await measure(factor * smallest))
            told = (
                f"{name} {ms:.1f} ms"
                + (f" (x {ms / before[name]:.1f})" if before.get(name, 0) >= CLEAR else "")
                for name, ms in found.items()
            )
            print(f"{factor * smallest:7} {what}: {', '.join(told)}", flush=True)
            before = found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a tenth of it")
    uvloop.run(run(parser.parse_args().quick))


if __name__ == "__main__":
    main()
