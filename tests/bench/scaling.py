"""Scaling frames into shared memory: libswscale called directly against PyAV's own reformatter.

python -m tests.bench.scaling --rounds 20

Both scale the same frames to a square, with the same algorithm and flags, and leave planes R, G, B in a NumPy
array that is there already. They take turns; ratios are PyAV's to ours, of processor time on one core.
"""

import argparse
import io
import statistics
import time
from collections.abc import Callable

import av
import numpy as np
from av.video.frame import VideoFrame
from av.video.reformatter import ColorRange, Colorspace, Interpolation, VideoReformatter
from numpy.typing import NDArray

from worker.media.decoder.pictures.swscale import Scaler

Pixels = NDArray[np.uint8]
Scale = Callable[[VideoFrame, Pixels], None]
FLAGS = (
    Interpolation.BILINEAR
    | Interpolation.ACCURATE_RND
    | Interpolation.FULL_CHR_H_INT
    | Interpolation.FULL_CHR_H_INP
)
SHAPES = ((640, 360), (1280, 720), (1920, 1080), (3840, 2160))
SIZES = (224, 448)
FRAMES = 8


def frames_of(width: int, height: int) -> list[VideoFrame]:
    """Frames of a moving gradient with noise, as they come out of FFmpeg's decoder for H.264."""
    random = np.random.default_rng(1)
    rows, columns = np.mgrid[:height, :width]
    film = io.BytesIO()
    with av.open(film, "w", format="matroska") as container:
        stream = container.add_stream("libx264", rate=30, options={"preset": "ultrafast", "qp": "12"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for number in range(FRAMES):
            colours = np.stack([rows + 9 * number, columns, rows + columns], axis=2) % 256
            picture = np.clip(colours + random.integers(-8, 8, colours.shape), 0, 255).astype(np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, "rgb24")))
        container.mux(stream.encode(None))
    film.seek(0)
    with av.open(film, "r") as made:
        return list(made.decode(video=0))


def reformatting(size: int) -> Scale:
    """PyAV's reformatter into a frame of its own, whose planes are then copied."""
    reformatter = VideoReformatter()

    def scale(frame: VideoFrame, out: Pixels) -> None:
        scaled = reformatter.reformat(
            frame,
            size,
            size,
            "gbrp",
            src_colorspace=Colorspace.ITU709,
            interpolation=FLAGS,
            src_color_range=ColorRange.MPEG,
            dst_color_range=ColorRange.JPEG,
            threads=1,
        )
        for plane, target in zip(scaled.planes, (1, 2, 0), strict=True):  # G, B, R
            out[target] = np.frombuffer(memoryview(plane), np.uint8).reshape(size, -1)[:, :size]

    return scale


def timed(scale: Scale, frames: list[VideoFrame], out: Pixels) -> float:
    """Processor milliseconds per frame."""
    start = time.process_time()
    for frame, picture in zip(frames, out, strict=True):
        scale(frame, picture)
    return (time.process_time() - start) * 1000 / len(frames)


def compare(width: int, height: int, size: int, rounds: int) -> str:
    """One line of the table."""
    frames = frames_of(width, height)
    for frame in frames:
        frame.colorspace, frame.color_range = 1, 1  # stated, so that nobody has to guess
    scaler, theirs = Scaler(), reformatting(size)
    ours_out, theirs_out = (np.zeros((FRAMES, 3, size, size), np.uint8) for _ in range(2))
    timed(scaler.scale, frames, ours_out)
    timed(theirs, frames, theirs_out)
    pairs = [
        (timed(scaler.scale, frames, ours_out), timed(theirs, frames, theirs_out)) for _ in range(rounds)
    ]
    scaler.close()
    different = np.abs(ours_out.astype(int) - theirs_out).max()
    ours, other = (statistics.median(column) for column in zip(*pairs, strict=True))
    ratio = statistics.median(b / a for a, b in pairs)
    return f"{width:>5}x{height:<5} {size:>5} {ours:>9.3f} {other:>9.3f} {ratio:>7.2f} {different:>11}"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=20)
    arguments = parser.parse_args()
    print("frame        size  ours ms   PyAV ms   ratio  difference")
    for width, height in SHAPES:
        for size in SIZES:
            print(compare(width, height, size, arguments.rounds), flush=True)


if __name__ == "__main__":
    main()
