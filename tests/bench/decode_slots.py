"""How many files a worker should decode at a time: 1080p films, six requests at once, alternatives in turn.

`slots` decoder processes share the machine's cores. More of them start more requests at once; fewer leave
each more cores, and memory.
"""

import argparse
import asyncio
import os
import statistics
import tempfile
import time
from fractions import Fraction
from pathlib import Path

from shared.chunks import SECOND, plan_chunks
from tests.bench.decode import FRAMES, RATE, SIZE, make_film
from worker.media.clip_source import Clip
from worker.media.decoder_pool import DecoderPool

REQUESTS = 6


async def decode(slots: int, films: list[Path], seconds: int) -> tuple[float, float]:
    """Seconds until all requests are done, and until the first clip of the median request."""
    pool = DecoderPool(slots)
    await pool.start()
    chunks = plan_chunks(0, seconds * SECOND, 10 * SECOND, 0, Fraction(RATE))
    firsts: list[float] = []

    async def request(film: Path) -> None:
        waiting = True
        async for clip in pool.clips(film, chunks, FRAMES, SIZE):
            assert isinstance(clip, Clip)
            clip.release()
            if waiting:
                firsts.append(time.perf_counter() - began)
                waiting = False

    began = time.perf_counter()
    await asyncio.gather(*(request(films[n % len(films)]) for n in range(REQUESTS)))
    took = time.perf_counter() - began
    await pool.close()
    return took, statistics.median(firsts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=int, default=60, help="length of the films")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--slots", type=int, nargs="+", default=[1, 2, 3, 4])
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "rt-embed-bench")
    arguments = parser.parse_args()
    arguments.folder.mkdir(exist_ok=True)
    films = []
    for gop in (30, 250):
        films.append(arguments.folder / f"film-medium-{gop}-{arguments.seconds}.mp4")
        if not films[-1].exists():
            make_film(films[-1], gop, arguments.seconds, "medium")
    runs: dict[int, list[tuple[float, float]]] = {slots: [] for slots in arguments.slots}
    for _ in range(arguments.rounds):
        for slots in arguments.slots:
            runs[slots].append(asyncio.run(decode(slots, films, arguments.seconds)))
    print(f"{REQUESTS} requests of {arguments.seconds} s each, {os.cpu_count()} cores, medians")
    for slots, figures in runs.items():
        all_done, first = (statistics.median(column) for column in zip(*figures, strict=True))
        print(f"{slots} slots: all done after {all_done:6.2f} s, first clip after {first:6.2f} s")


if __name__ == "__main__":
    main()
