"""Films whose frames show their numbers, made and read by ffmpeg's program: it is independent of the library
under test, so what it decodes is the value to compare with."""

import re
import subprocess
from collections.abc import Sequence
from pathlib import Path

import imageio_ffmpeg
import numpy as np
from numpy.typing import NDArray

WIDTH, HEIGHT, BITS = 192, 128, 12
FFMPEG = imageio_ffmpeg.get_ffmpeg_exe()
PATIENCE = 60
"""Seconds for one run of ffmpeg."""
COLOURS = ((215, 40, 40), (40, 190, 60), (50, 60, 210), (210, 200, 50), (128, 128, 128), (235, 235, 235))

Picture = NDArray[np.uint8]


def numbered(number: int, width: int = WIDTH, height: int = HEIGHT) -> Picture:
    """uint8 [height, width, 3]: the bits of `number` as bars in the upper half, six colours below them, and a
    pattern that moves."""
    picture = np.full((height, width, 3), 70, np.uint8)
    edges = np.linspace(0, width, BITS + 1).astype(int)
    for bit in range(BITS):
        picture[: height // 2, edges[bit] : edges[bit + 1]] = 255 * (number >> (BITS - 1 - bit) & 1)
    edges = np.linspace(0, width, len(COLOURS) + 1).astype(int)
    for index, colour in enumerate(COLOURS):
        picture[height // 2 : height * 3 // 4, edges[index] : edges[index + 1]] = colour
    ramp = np.arange(width)[None, :, None] * np.array([1, 2, 3]) + number * 5
    picture[height * 3 // 4 :] = ramp % 200
    return picture


def number(picture: Picture) -> int:
    """The number that a picture shows, uint8 [3, height, width] or [height, width, 3], of any size."""
    grey = picture.mean(axis=0) if picture.shape[0] == 3 else picture.mean(axis=2)
    height, width = grey.shape
    row = grey[height // 8 : height * 3 // 8].mean(axis=0)
    edges = np.linspace(0, width, BITS + 1)
    bars = [row[int(a + (b - a) * 0.35) : int(a + (b - a) * 0.65) + 1].mean() for a, b in _pairs(edges)]
    return sum(1 << (BITS - 1 - bit) for bit, bar in enumerate(bars) if bar > 128)


def _pairs(edges: NDArray[np.float64]) -> list[tuple[float, float]]:
    return list(zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True))


def ffmpeg(*arguments: str | Path, data: bytes = b"") -> bytes:
    """Run ffmpeg; its standard output."""
    command = [FFMPEG, "-hide_banner", "-loglevel", "error", "-nostdin", "-y", *map(str, arguments)]
    if data:
        command.remove("-nostdin")
    done = subprocess.run(command, input=data, capture_output=True, check=False, timeout=PATIENCE)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr.decode()[-2000:]}")
    return done.stdout


def film(
    path: Path,
    frames: int,
    *options: str | Path,
    first: int = 0,
    rate: int = 30,
    size: tuple[int, int] = (0, 0),
) -> Path:
    """A film of `frames` numbered frames, encoded by ffmpeg with `options`."""
    width, height = size if any(size) else (WIDTH, HEIGHT)
    data = b"".join(numbered(n, width, height).tobytes() for n in range(first, first + frames))
    source = ("-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{width}x{height}", "-r", str(rate), "-i", "-")
    spins = any(str(option).startswith("libvpx") for option in options)  # its threads wait by spinning
    ffmpeg(*source, *options, *(("-threads", "1") if spins else ()), path, data=data)
    return path


def full_decode(path: Path, *options: str) -> list[tuple[float, int]]:
    """Every frame that ffmpeg shows of a file: when (s) and its number. `options` go before the input."""
    text = path.parent / f"{path.name}.times"
    size = f"{WIDTH}x{HEIGHT}"
    raw = ffmpeg(
        *options, "-i", path, "-map", "0:v:0", "-fps_mode", "passthrough", "-enc_time_base", "1:1000000",
        "-vf", "metadata=add:key=n:value=1,metadata=print:file=" + str(text),
        "-s", size, "-pix_fmt", "rgb24", "-f", "rawvideo", "-",
    )  # fmt: skip
    pictures = np.frombuffer(raw, np.uint8).reshape(-1, HEIGHT, WIDTH, 3)
    times = [float(found) for found in re.findall(r"pts_time:(\S+)", text.read_text())]
    text.unlink()
    return list(zip(times, map(number, pictures), strict=True))


def numbers(frames: Sequence[tuple[int, Picture]]) -> list[int]:
    """The numbers of frames with times."""
    return [number(picture) for _, picture in frames]
