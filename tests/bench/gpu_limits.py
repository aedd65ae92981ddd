"""What a GPU should reach at most: streams and chunks a second.

From its decoders, its arithmetic and what our selection leaves to decode, which is measured on films made in
this run. deploy/gpu.md tells where the other figures come from.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import msgspec

from shared.chunks import SECOND, plan_chunks
from tests.worker.media.films import Film, make, x264
from worker.media.decoder.decoder_messages import Choose, DecodeCounts, Setup
from worker.media.decoder.limits import MediaLimits
from worker.media.decoder.memory import ClipMemory
from worker.media.decoder.reader import Reader

RATE, SECONDS = 30, 30


class Gpu(msgspec.Struct, frozen=True):
    """`fps`: 1080p H.264 frames that one engine decodes a second; `teraflops`: dense 16-bit, as stated.
    `clip_ms` is the measured time of a clip, where there is one; then `fps` is measured too, with all engines
    busy.
    """

    name: str
    engines: int
    fps: float
    teraflops: float
    clip_ms: float = 0.0


# Engines and TFLOPS as stated by NVIDIA. Frames a second are assumptions, except the H200's, which were
# measured in one process with 7 sessions (results/gpu-h200): 4,017 a second; its clips by torch, which
# TensorRT should beat.
GPUS = [
    Gpu("H200", engines=7, fps=4017 / 7, teraflops=989, clip_ms=45.9),
    Gpu("H100 SXM", engines=7, fps=729, teraflops=989),
    Gpu("L40S", engines=3, fps=729, teraflops=362),
    Gpu("RTX PRO 6000", engines=4, fps=1117, teraflops=500),
]
PUBLISHED = "170 and 149 live streams"

# What x264 does by default, what it does for fast recording, and what cameras send: no B-frames, all pictures
# references.
FILMS: dict[str, Film] = {
    "camera, GOP 1 s": x264("mp4", "keyint=30:min-keyint=30:scenecut=0:bframes=0"),
    "camera, GOP 2 s": x264("mp4", "keyint=60:min-keyint=60:scenecut=0:bframes=0"),
    "camera, GOP 4 s": x264("mp4", "keyint=120:min-keyint=120:scenecut=0:bframes=0"),
    "B-frames, GOP 1 s": x264("mp4", "keyint=30:min-keyint=30:scenecut=0:bframes=3:b-pyramid=normal"),
    "B-frames, GOP 8 s": x264("mp4", "keyint=250:scenecut=0:bframes=3:b-pyramid=normal"),
}


def share_decoded(path: Path, chunk: int, frames: int) -> float:
    """Which part of a file's packets is decoded for `frames` frames of every `chunk` seconds."""
    reader, counts = Reader(Setup(limits=MediaLimits(), lanes=1, sparse=True, reuse=False)), DecodeCounts()
    chunks = plan_chunks(0, SECONDS * SECOND, chunk * SECOND, 0, None)
    memory = ClipMemory(lambda _: NotImplemented, [])
    reader.choose(Choose(str(path), chunks, frames), memory, lambda _: None, counts)
    return counts.frames_decoded / (RATE * SECONDS)


def clip_teraflop(arguments: argparse.Namespace) -> float:
    """10^12 operations for one clip of Cosmos-Embed1: 39 ViT-g blocks of width 1408 (MLP 6144) over patches
    of 14 pixels. What follows them is left out: it is a hundredth of that."""
    tokens = (arguments.size // 14) ** 2 + 1
    weights = 4 * 1408**2 + 2 * 1408 * 6144
    a_block = 2 * tokens * weights + 4 * tokens**2 * 1408
    return float(39 * a_block * arguments.frames / 1e12)


def limits(gpu: Gpu, share: float, arguments: argparse.Namespace) -> tuple[float, float]:
    """Chunks a second that the decoders and the engine can do."""
    frames = share * arguments.rate * arguments.chunk
    measured = arguments.clip_ms or gpu.clip_ms
    decoding = gpu.engines * gpu.fps * (1.0 if gpu.clip_ms else arguments.decoder_use) / frames
    if measured:
        return decoding, 1000 / measured
    return decoding, gpu.teraflops * arguments.engine_use / clip_teraflop(arguments)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--chunk", type=int, default=10, help="seconds of a chunk")
    parser.add_argument("--frames", type=int, default=8, help="frames of a clip")
    parser.add_argument("--size", type=int, default=448, help="pixels of the model's square")
    parser.add_argument("--rate", type=float, default=30, help="frames a second of each stream")
    parser.add_argument(
        "--decoder-use", type=float, default=0.9, help="part of an engine's rate that is reached"
    )
    parser.add_argument(
        "--engine-use", type=float, default=0.35, help="part of the stated TFLOPS that is reached"
    )
    parser.add_argument(
        "--clip-ms", type=float, help="measured ms of inference per clip, at the batch in use"
    )
    parser.add_argument("--engines", type=int, help="NVDEC engines of a GPU of your own")
    parser.add_argument("--fps", type=float, help="its frames a second and engine")
    parser.add_argument("--teraflops", type=float, help="its dense 16-bit TFLOPS")
    return parser.parse_args()


def gpus(arguments: argparse.Namespace) -> list[Gpu]:
    """Those above, or the one that the arguments describe."""
    own = (arguments.engines, arguments.fps, arguments.teraflops)
    if not any(own):
        return GPUS
    if not all(own) and not (arguments.engines and arguments.fps and arguments.clip_ms):
        raise SystemExit("a GPU of your own takes --engines, --fps, and --teraflops or --clip-ms")
    return [Gpu("yours", arguments.engines, arguments.fps, arguments.teraflops or 0)]


def main() -> None:
    """Measure the shares, then print a table."""
    arguments = parse()
    with tempfile.TemporaryDirectory() as folder:
        shares = {"everything decoded": 1.0}
        for number, (name, film) in enumerate(FILMS.items()):
            film = msgspec.structs.replace(film, frames=RATE * SECONDS)  # noqa: PLW2901 - the same film, longer
            path = make(Path(folder) / f"{number}.mp4", film)
            shares[name] = share_decoded(path, arguments.chunk, arguments.frames)
    clip = f"{arguments.frames} frames of {arguments.size} pixels, {clip_teraflop(arguments):.1f} TFLOP"
    print(f"chunks of {arguments.chunk} s ({clip}), 1080p H.264 at {arguments.rate:g} frames/s")
    print(f"RT-Embed, as published by NVIDIA for two GPUs: {PUBLISHED}\n")
    print(f"{'GPU':14}{'stream':20}{'decoded':>8}{'NVDEC':>11}{'engine':>11}{'streams':>9}  limited by")
    for gpu in gpus(arguments):
        for name, share in shares.items():
            decoding, engine = limits(gpu, share, arguments)
            streams = min(decoding, engine) * arguments.chunk
            print(f"{gpu.name:14}{name:20}{share:8.0%}{decoding:9.1f}/s{engine:9.1f}/s{streams:9.0f}  "
                  f"{'NVDEC' if decoding < engine else 'the engine'}")  # fmt: skip


if __name__ == "__main__":
    main()
