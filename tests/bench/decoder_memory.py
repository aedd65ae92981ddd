"""Memory of a decoder over many thousands of chunks: what is in use, and what malloc keeps.

    scripts/bench decoder_memory [--chunks 60000]

A decoder's reader, in this process, decodes a small film again and again in jobs as the service makes them.
Before each line the garbage collector runs, so that what is in use is what something still refers to. What is
free is what malloc keeps of what was given back; `trimmed` is what is left when it must return that.
"""

import argparse
import ctypes
import gc
import sys
import tempfile
import time
from fractions import Fraction
from pathlib import Path

import numpy as np
import psutil

from shared.chunks import SECOND, Chunk, job_runs, plan_chunks
from tests.bench.memory import FILM_SECONDS, make_film
from worker.media.decoder.decoder_messages import ClipDone, Decode, DecodeCounts, Empty, Setup, Spare
from worker.media.decoder.decoder_process import silence_ffmpeg
from worker.media.decoder.limits import MediaLimits
from worker.media.decoder.memory import ClipMemory
from worker.media.decoder.reader import Reader

FRAMES, SIZE, LANES, AHEAD = 8, 32, 2, 4
LINES = 20


class Malloc(ctypes.Structure):
    """glibc's `struct mallinfo2`: ten sizes, of all arenas."""

    _fields_ = [("sizes", ctypes.c_size_t * 10)]

    @classmethod
    def read(cls) -> tuple[float, float]:
        """Return the MiB in use, and those that are free and kept."""
        libc = ctypes.CDLL(None)
        libc.mallinfo2.restype = cls
        sizes = libc.mallinfo2().sizes
        return sizes[7] / 2**20, sizes[8] / 2**20


def decode(reader: Reader, film: Path, chunks: list[Chunk]) -> None:
    """Do one job, giving each clip's memory back at once."""
    regions = [np.empty((FRAMES, 3, SIZE, SIZE), np.uint8) for _ in range(AHEAD)]
    memory = ClipMemory(regions.__getitem__, range(AHEAD))

    def emit(message: ClipDone | Empty | Spare) -> None:
        if isinstance(message, ClipDone):
            memory.grant(message.offset, regions.__getitem__)

    job = Decode(str(film), chunks, FRAMES, SIZE, LANES, LANES, 0, [])
    reader.run(job, memory, emit, DecodeCounts())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--chunks", type=int, default=60_000)
    wanted = parser.parse_args().chunks
    silence_ffmpeg()
    process, done, began, line = psutil.Process(), 0, time.monotonic(), 0
    reader = Reader(Setup(limits=MediaLimits(), lanes=LANES, sparse=True, reuse=True))
    lines: list[tuple[int, float]] = []
    jobs = job_runs(plan_chunks(0, FILM_SECONDS * SECOND, SECOND, 0, Fraction(8)))
    with tempfile.TemporaryDirectory() as folder:
        film = Path(folder) / "film.mp4"
        make_film(film)
        while done < wanted:
            for job in jobs:
                decode(reader, film, job)
                done += len(job)
            if done * LINES >= line * wanted:
                line += 1
                gc.collect()
                used, free = Malloc.read()
                lines.append((done, used))
                resident = process.memory_info().rss / 2**20
                print(
                    f"{done:6} chunks, {time.monotonic() - began:4.0f} s: malloc {used:6.2f} MiB in use, "
                    f"{free:5.2f} free, {sys.getallocatedblocks()} blocks in Python, {resident:6.2f} in all",
                    flush=True,
                )
        later = [used for chunks, used in lines if chunks >= wanted / 3]
        print(f"{later[-1] - later[0]:+.2f} MiB in use since a third of the chunks")
        ctypes.CDLL(None).malloc_trim(0)
        print(f"trimmed: {process.memory_info().rss / 2**20:.2f} MiB resident")


if __name__ == "__main__":
    main()
