"""Damaged media, many of them: whether any hurts a worker, and what they cost.

Every kind of file that the tests know is damaged in turn (bit flips, truncations, splices, extreme numbers)
and read as a worker does: probed, and decoded where the probe accepts it.
"""

import argparse
import asyncio
import collections
import tempfile
import time
from io import BytesIO
from pathlib import Path

from PIL import Image

from tests.worker.media.films import FILMS, make, picture
from tests.worker.media.mutants import mutant
from tests.worker.media.test_mutants import read_all
from worker.media.decoder.limits import MediaLimits
from worker.media.decoder_pool import DecoderPool


def samples(folder: Path) -> list[bytes]:
    """One film of each kind, and one image of each."""
    films = [make(folder / f"{name}.{film.suffix}", film).read_bytes() for name, film in FILMS.items()]
    images = []
    for kind in ("JPEG", "PNG", "WEBP", "GIF", "BMP"):
        buffer = BytesIO()
        Image.fromarray(picture(0, 200, 150)).save(buffer, kind)
        images.append(buffer.getvalue())
    return films + images


async def run(count: int, first: int) -> None:
    """Read `count` mutants, the seeds from `first` on."""
    limits = MediaLimits(seconds=10, pace=0.5)
    pool = DecoderPool(1, limits=limits)
    await pool.start()
    endings: collections.Counter[str] = collections.Counter()
    slowest: list[tuple[float, int]] = []
    with tempfile.TemporaryDirectory() as name:
        sources = samples(Path(name))
        for seed in range(first, first + count):
            path = Path(name) / "mutant"
            path.write_bytes(mutant(sources, seed))
            began = time.perf_counter()
            endings[await read_all(pool, path)] += 1
            slowest.append((time.perf_counter() - began, seed))
        good = Path(name) / f"h264-open.{FILMS['h264-open'].suffix}"
        print(f"{count} mutants of {len(sources)} files:", dict(endings))
        print("slowest:", ", ".join(f"{took:.2f} s (seed {seed})" for took, seed in sorted(slowest)[-5:]))
        print(f"processes replaced: {pool.counts.restarts}, attempts repeated: {pool.counts.retries}")
        print("a good file afterwards:", await read_all(pool, good))
    await pool.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=500)
    parser.add_argument("--first", type=int, default=0, help="first seed")
    arguments = parser.parse_args()
    asyncio.run(run(arguments.count, arguments.first))


if __name__ == "__main__":
    main()
