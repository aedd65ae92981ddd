"""What thumbnails cost: films decoded with and without, in turn, by decoder processes.

python -m tests.bench.thumbnails --rounds 7

Both decode the same chunks by the same pool; no model runs. Milliseconds are processor time of the decoder
process, which other work on the machine disturbs less than the clock, divided by the chunks. `more` and
`ratio` are medians of the pairs. Bytes are those of a thumbnail. Before that, one thumbnail on one core
against scaling the same frame into a clip, which is done for each of a chunk's frames.
"""

import argparse
import asyncio
import statistics
import tempfile
import time
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

import numpy as np
import psutil
from av.video.frame import VideoFrame

from shared.chunks import SECOND, Chunk, plan_chunks
from shared.lifecycle.cores import cores
from tests.bench.decode import FRAMES, RATE, SIZE, make_film
from tests.bench.scaling import SHAPES, frames_of
from worker.media.clip_source import Clip
from worker.media.decoder.pictures.orientation import UPRIGHT
from worker.media.decoder.pictures.swscale import Scaler
from worker.media.decoder.pictures.thumbnail import Thumbnails
from worker.media.decoder_pool import DecoderPool

CHUNK_SECONDS = (2, 10)


class Pass(NamedTuple):
    """Milliseconds for each chunk, and the bytes of the thumbnails."""

    per_chunk: float
    sizes: list[int]


async def decode(pool: DecoderPool, film: Path, chunks: list[Chunk], *, thumbnails: bool) -> Pass:
    """Decode the film once."""
    sizes = []
    began = processor_seconds(pool)
    async for clip in pool.clips(film, chunks, FRAMES, SIZE, thumbnails=thumbnails):
        assert isinstance(clip, Clip)
        sizes.append(len(clip.thumbnail))
        clip.release()
    return Pass((processor_seconds(pool) - began) * 1000 / len(chunks), sizes)


def processor_seconds(pool: DecoderPool) -> float:
    """What the decoder process has used so far."""
    process = pool._slots[0].process
    assert process is not None
    used = psutil.Process(process.pid).cpu_times()
    return float(used.user + used.system)


async def compare(film: Path, seconds: int, rounds: int) -> list[str]:
    """Return a line for each length of chunks."""
    pool, lines = DecoderPool(1), []
    await pool.start()
    for length in CHUNK_SECONDS:
        chunks = plan_chunks(0, seconds * SECOND, length * SECOND, 0, Fraction(RATE))
        await decode(pool, film, chunks, thumbnails=True)
        pairs = []
        for _ in range(rounds):
            plain = await decode(pool, film, chunks, thumbnails=False)
            pairs.append((plain, await decode(pool, film, chunks, thumbnails=True)))
        without = statistics.median(plain.per_chunk for plain, _ in pairs)
        more = statistics.median(other.per_chunk - plain.per_chunk for plain, other in pairs)
        ratio = statistics.median(other.per_chunk / plain.per_chunk for plain, other in pairs)
        sizes = pairs[0][1].sizes
        assert min(sizes) > 0
        lines.append(
            f"{film.stem:<28} {length:>4} s {without:>9.2f} {more:>+8.2f} {ratio:>6.2f} "
            f"{statistics.median(sizes):>7.0f} {max(sizes):>7}"
        )
    await pool.close()
    return lines


def draw(width: int, height: int, rounds: int) -> str:
    """Return a line for frames of one size."""
    frames, scaler, out = frames_of(width, height), Scaler(), np.empty((3, SIZE, SIZE), np.uint8)

    def per_frame(work: Callable[[VideoFrame], object]) -> float:
        began = time.process_time()
        for frame in frames:
            work(frame)
        return (time.process_time() - began) * 1000 / len(frames)

    def thumbnail(frame: VideoFrame) -> None:
        Thumbnails().see(0, frame, scaler, UPRIGHT, is_middle=True)

    pairs = [(per_frame(lambda f: scaler.scale(f, out)), per_frame(thumbnail)) for _ in range(rounds + 1)][1:]
    scaler.close()
    scaled, drawn = (statistics.median(column) for column in zip(*pairs, strict=True))
    ratio = statistics.median(b / a for a, b in pairs)
    return f"{width:>5}x{height:<5} {scaled:>17.2f} {drawn:>10.2f} {ratio:>6.2f}"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--seconds", type=int, default=30, help="length of the films")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "rt-embed-bench")
    arguments = parser.parse_args()
    arguments.folder.mkdir(exist_ok=True)
    print(f"frame       scaled to {SIZE}, ms  thumbnail  ratio")
    for shape in SHAPES:
        print(draw(*shape, 4 * arguments.rounds), flush=True)
    print(f"1080p, {cores()} cores, {arguments.rounds} rounds, medians; processor ms for each chunk")
    print("film                        chunks   without     more  ratio   bytes    most")
    for gop in (30, 250):
        film = arguments.folder / f"film-veryfast-{gop}-{arguments.seconds}.mp4"
        if not film.exists():
            make_film(film, gop, arguments.seconds, "veryfast")
        for line in asyncio.run(compare(film, arguments.seconds, arguments.rounds)):
            print(line, flush=True)


if __name__ == "__main__":
    main()
