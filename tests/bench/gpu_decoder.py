"""What NVDEC and PyNvVideoCodec cost on this machine's GPU: sessions, ends of stream, many sessions at once.

python -m tests.bench.gpu_decoder [--seconds 2] [--json FILE]
"""

import argparse
import itertools
import json
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

from tests.worker.media.films import make, x264
from worker.media.decoder.pictures.orientation import UPRIGHT
from worker.media.decoder.runs import FrameLook, Run
from worker.media.decoder.selection.bitstream import annex_b, header
from worker.media.gpu.nvdec_sessions import NvdecSession, SessionKind
from worker.media.gpu.surface import Picture, coefficients

Packets = list[tuple[int, bytes, bool]]
B_FRAMES = "keyint=30:min-keyint=30:scenecut=0:bframes=3"


def coded(path: Path) -> tuple[bytes, Packets]:
    """Parameter sets, and (time in ns, Annex B data, whether it is a key frame), as workers hand packets
    over."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        extradata = stream.codec_context.extradata or b""
        base = stream.time_base or Fraction()
        packets = [
            (int((p.pts or 0) * base * 10**9), annex_b("h264", extradata, p), bool(p.is_keyframe))
            for p in container.demux(stream)
            if p.size and p.pts is not None
        ]
    return header("h264", extradata), packets


def open_for(size: tuple[int, int]) -> NvdecSession:
    from worker.media.gpu.nvdec import open_session

    return open_session(SessionKind("h264", "yuv420p", *size), low_latency=False)


def decode(session: NvdecSession, parameters: bytes, packets: Packets) -> int:
    run = Run(parameters, [(when, data) for when, data, _ in packets], [])
    with session.stream:
        return sum(1 for _ in session.decode(run))


def milliseconds(call: Callable[[], object]) -> float:
    began = time.perf_counter()
    call()
    return round((time.perf_counter() - began) * 1000, 1)


def capabilities() -> dict[str, Any]:
    from worker.media.gpu.nvdec import capabilities, engines
    from worker.media.gpu.nvdec_sessions import CODECS

    formats = ("yuv420p", "yuv420p10le", "yuv422p", "yuv444p")
    found = [f"{c} {p}" for c in CODECS for p in formats if capabilities(c, p)["supported"]]
    return {"engines": engines(), "decodes": found}


def sessions(folder: Path) -> dict[str, Any]:
    """Milliseconds to open a session, for its first and second picture, and to close it."""
    parameters, packets = coded(film(folder, "gop30", B_FRAMES, (640, 352), 90))
    rows = []
    for _ in range(3):
        opened = time.perf_counter()
        session = open_for((640, 352))
        row = [round((time.perf_counter() - opened) * 1000, 1)]
        row += [milliseconds(lambda s=session: decode(s, parameters, packets[:1])) for _ in range(2)]  # type: ignore[misc]
        rows.append([*row, milliseconds(session.close)])
    return {"open, first, second, close (ms)": rows}


def ends_of_stream(folder: Path) -> dict[str, Any]:
    """Microseconds a picture of 1080p in runs of 1, 6 and 30 pictures."""
    parameters, packets = coded(film(folder, "intra", "keyint=1", (1920, 1088), 60))
    session, found = open_for((1920, 1088)), {}
    decode(session, parameters, packets)
    for length in (1, 6, 30):
        began, pictures = time.perf_counter(), 0
        for _ in range(4):
            for at in range(0, 60, length):
                pictures += decode(session, parameters, packets[at : at + length])
        found[length] = round((time.perf_counter() - began) / pictures * 1e6)
    session.close()
    return {"microseconds a picture, by the length of runs": found, "an end of stream": found[1] - found[30]}


def kernel() -> dict[str, Any]:
    """Microseconds of the kernel for one picture."""
    import cupy

    from worker.media.gpu.pixels import Canvas

    found = {}
    for size, (width, height) in itertools.product((224, 448), ((1280, 720), (1920, 1080), (3840, 2160))):
        canvas = Canvas(2, 8, size)
        data = cupy.empty(width * height * 3 // 2, np.uint8)
        at = data.data.ptr
        u = at + width * height
        source = Picture(at, u, u + 1, width, height, width, width // 2, height // 2, width, 2, 1)
        look = FrameLook("h264", "yuv420p", width, height, 1, False, UPRIGHT)
        canvas._draw(source, coefficients(look), look, 0, 0)
        cupy.cuda.get_current_stream().synchronize()
        began = time.perf_counter()
        for index in range(200):
            canvas._draw(source, coefficients(look), look, 0, index % 8)
        cupy.cuda.get_current_stream().synchronize()
        found[f"{width}x{height} to {size}"] = round((time.perf_counter() - began) / 200 * 1e6)
    return {"microseconds a picture": found}


def film(folder: Path, name: str, settings: str, size: tuple[int, int], frames: int) -> Path:
    path = folder / f"{name}.mp4"
    return path if path.exists() else make(path, x264("mp4", settings, frames=frames), size)


def rate(path: Path, count: int, seconds: float, *, wanted: int = 1) -> int:
    """Pictures a second of `count` sessions in this process; only every `wanted`-th is mapped and copied."""
    from worker.media.gpu.nvdec import packet

    parameters, packets = coded(path)
    buffers = [np.frombuffer((parameters if key else b"") + data, np.uint8) for _, data, key in packets]
    done, barrier = [0.0] * count, threading.Barrier(count)

    def loop(index: int) -> None:
        session, pictures = open_for((1920, 1080)), 0
        barrier.wait()
        began = time.perf_counter()
        with session.stream:
            while time.perf_counter() - began < seconds:
                for number, buffer in enumerate(buffers):
                    if number and packets[number][2]:
                        session._send(b"", 0)
                    made: Any = packet(buffer.ctypes.data, len(buffer), packets[number][0])
                    made.discardable = bool(number % wanted)
                    session._decoder.Decode(made)  # type: ignore[union-attr]
                    pictures += 1
                session._send(b"", 0)
        done[index] = pictures / (time.perf_counter() - began)
        session.close()

    threads = [threading.Thread(target=loop, args=(index,)) for index in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return round(sum(done))


def rates(folder: Path, seconds: float) -> dict[str, Any]:
    from worker.media.gpu.nvdec import engines

    engine, found = engines(), {}
    for gop in (30, 250):
        path = film(folder, f"speed-{gop}", f"keyint={gop}:bframes=3:scenecut=0", (1920, 1080), 300)
        for count, wanted in itertools.product((1, engine, 2 * engine), (1, 37)):
            name = f"GOP {gop}, {count} sessions, {'all' if wanted == 1 else 'one in 37'} mapped"
            found[name] = rate(path, count, seconds, wanted=wanted)
    for processes in (2, 4):
        each = -(-engine // processes)
        command = [
            sys.executable,
            "-m",
            "tests.bench.gpu_decoder",
            "--rate",
            str(path),
            str(each),
            str(seconds),
        ]
        running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(processes)]
        found[f"GOP 250, {processes} processes of {each} sessions"] = sum(
            int(process.communicate(timeout=60)[0].split()[-1]) for process in running
        )
    return {"pictures a second": found}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=2.0, help="of each measurement of speed")
    parser.add_argument("--json", type=Path, help="write the figures to this file, too")
    parser.add_argument("--rate", nargs=3, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "rt-embed-bench")
    arguments = parser.parse_args()
    if arguments.rate:
        path, count, seconds = arguments.rate
        print(rate(Path(path), int(count), float(seconds)))
        return
    arguments.folder.mkdir(exist_ok=True)
    parts: dict[str, Callable[[], dict[str, Any]]] = {
        "capabilities": capabilities,
        "sessions": lambda: sessions(arguments.folder),
        "ends of stream": lambda: ends_of_stream(arguments.folder),
        "kernel": kernel,
        "speed": lambda: rates(arguments.folder, arguments.seconds),
    }
    found = {}
    for name, part in parts.items():
        found[name] = part()
        print(f"{name}: {json.dumps(found[name], indent=1)}", flush=True)
    if arguments.json:
        arguments.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
