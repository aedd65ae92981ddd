"""Throughput on this machine's GPU: decoding, inference and both together, beside RT-Embed's figures.

Decoding is compared with this machine's CPU in the same run. `--cpu` leaves the GPU out, to try the rest.
"""

import argparse
import asyncio
import os
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from pathlib import Path
from typing import Any

import numpy as np

from shared import settings
from shared.chunks import SECOND, plan_chunks
from tests.bench.decode import make_film
from worker.batcher import Batcher
from worker.compose import Loaded, load
from worker.job_tasks import stack_clips
from worker.media.clip_source import Clip
from worker.media.decoder_pool import DecoderPool
from worker.media.gpu.gpu_media import GpuMedia, open_device

PUBLISHED = """\
Published by NVIDIA, measured by nobody here:
  VSS documentation (docs.nvidia.com/vss, Performance, RT-Embed): 170 and 149 live streams on the two GPUs of
  that page; chunks of 10 s, 8 frames of 448x448, Cosmos-Embed1-448p
  NIM for Cosmos-Embed1 (docs.nvidia.com/nim/cosmos-embed1, Performance): 28.57 videos/s on an H100 and 16 on
  an A100 (15 s, 1080p); one video in 43.1 ms on an H100 80GB HBM3, in 51.1 ms on an L40S"""
AHEAD = 8


async def decoded(
    media: DecoderPool, films: list[Path], arguments: argparse.Namespace, keep: Callable[[Clip], None]
) -> tuple[float, float]:
    """Clips and frames a second that come out of `films`, all read at once."""
    chunks = plan_chunks(0, arguments.seconds * SECOND, arguments.chunk * SECOND, 0, None)
    before = media.counts.frames_decoded

    async def read(film: Path) -> None:
        async with aclosing(media.clips(film, chunks, arguments.frames, arguments.size)) as clips:
            async for clip in clips:
                assert isinstance(clip, Clip)
                keep(clip)

    began = time.perf_counter()
    await asyncio.gather(*(read(film) for film in films))
    took = time.perf_counter() - began
    return len(films) * len(chunks) / took, (media.counts.frames_decoded - before) / took


async def decode_alone(media: DecoderPool, film: Path, arguments: argparse.Namespace) -> tuple[float, float]:
    """As `decoded`, each clip released at once, after one round that warms up."""
    await media.start()
    try:
        await decoded(media, [film], arguments, lambda clip: clip.release())
        return await decoded(media, [film] * arguments.files, arguments, lambda clip: clip.release())
    finally:
        await media.close()


def infer_alone(loaded: Loaded, batch: int, rounds: int = 10) -> float:
    """Milliseconds of inference per clip in batches of `batch`, clips being in the GPU's memory."""
    import cupy

    shape = (batch, loaded.info.frames, 3, loaded.info.resolution, loaded.info.resolution)
    clips: Any = cupy.empty(shape, np.uint8)
    loaded.engine.embed_video(clips)
    began = time.perf_counter()
    for _ in range(rounds):
        loaded.engine.embed_video(clips)
    return (time.perf_counter() - began) / rounds / batch * 1000


async def together(loaded: Loaded, media: DecoderPool, film: Path, arguments: argparse.Namespace) -> float:
    """Clips a second from files to vectors."""
    embedding: set[asyncio.Task[None]] = set()
    with ThreadPoolExecutor(1) as thread:
        batcher: Batcher[Clip] = Batcher(
            lambda batch: loaded.engine.embed_video(stack_clips(batch, loaded.info.frames)),
            loaded.batch_size,
            thread,
        )

        async def embed(clip: Clip) -> None:
            await batcher.embed(clip)
            clip.release()

        running = asyncio.create_task(batcher.run())
        began = time.perf_counter()
        await decoded(
            media,
            [film] * arguments.files,
            arguments,
            lambda clip: embedding.add(asyncio.create_task(embed(clip))),
        )
        clips = len(embedding)
        await asyncio.gather(*embedding)
        took = time.perf_counter() - began
        running.cancel()
    return clips / took


def gpu_media(arguments: argparse.Namespace, batch_size: int = 0) -> GpuMedia:
    slots = arguments.files * AHEAD + 2 * batch_size
    return GpuMedia(open_device(slots, arguments.frames, arguments.size), arguments.files, ahead=AHEAD)


def measure_decoding(arguments: argparse.Namespace, folder: Path) -> Path:
    """Print a table; the last film."""
    chunk = f"chunks of {arguments.chunk} s with {arguments.frames} frames of {arguments.size} pixels"
    print(f"{arguments.files} files at once, 1080p H.264, 30 frames/s, {chunk}")
    print(f"{'film':24}{'decoder':9}{'chunks/s':>10}{'frames/s':>10}")
    film = folder / "none"
    for gop in (30, 250):
        film = folder / f"film-medium-{gop}-{arguments.seconds}.mp4"
        if not film.exists():
            make_film(film, gop, arguments.seconds, "medium")
        pools: dict[str, Callable[[], DecoderPool]] = {
            "CPU": lambda: DecoderPool(arguments.files, niceness=0)
        }
        if not arguments.cpu:
            pools["NVDEC"] = lambda: gpu_media(arguments)
        for name, pool in pools.items():
            chunks, frames = asyncio.run(decode_alone(pool(), film, arguments))
            print(f"{film.stem:24}{name:9}{chunks:10.1f}{frames:10.0f}", flush=True)
    return film


async def measure_whole(arguments: argparse.Namespace, film: Path) -> None:
    """Print what the engine does alone and with decoding."""
    chosen = settings.load({**os.environ, "RTEMBED_BACKEND": "cuda", "MODEL_PATH": arguments.model})
    loaded = load(chosen, lambda step, done, total: None)
    arguments.frames, arguments.size = loaded.info.frames, loaded.info.resolution
    print(f"\n{loaded.info.id}, engine {', '.join(loaded.engine_files)}")
    print(f"{'clips in a batch':24}{'ms a clip':>10}{'clips/s':>10}{'streams':>10}")
    batch = 1
    while batch <= loaded.batch_size:
        each = infer_alone(loaded, batch)
        print(f"{batch:<24}{each:10.2f}{1000 / each:10.1f}{1000 / each * arguments.chunk:10.0f}", flush=True)
        batch *= 2
    media = gpu_media(arguments, loaded.batch_size)
    await media.start()
    try:
        await together(loaded, media, film, arguments)
        rate = await together(loaded, media, film, arguments)
    finally:
        await media.close()
        loaded.engine.close()
    print(f"{'with decoding':24}{'':10}{rate:10.1f}{rate * arguments.chunk:10.0f}")
    print(f"fallbacks to the CPU: {dict(media.fallbacks)}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--model", help="MODEL_PATH of a model for the GPU; without it only decoding is measured"
    )
    parser.add_argument("--cpu", action="store_true", help="measure decoding on the CPU only")
    parser.add_argument("--files", type=int, default=16, help="read at once")
    parser.add_argument("--seconds", type=int, default=60, help="length of each film")
    parser.add_argument("--chunk", type=int, default=10, help="seconds of a chunk")
    parser.add_argument("--frames", type=int, default=8, help="frames of a clip, if there is no model")
    parser.add_argument("--size", type=int, default=448, help="pixels of the square, if there is no model")
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "rt-embed-bench")
    arguments = parser.parse_args()
    arguments.folder.mkdir(exist_ok=True)
    film = measure_decoding(arguments, arguments.folder)
    if arguments.model and not arguments.cpu:
        asyncio.run(measure_whole(arguments, film))
    print(f"\n{PUBLISHED}")


if __name__ == "__main__":
    main()
