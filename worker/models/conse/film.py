"""The demonstration film: freely licensed photographs from a wheel, each slowly zoomed into."""

import argparse
from collections.abc import Iterator
from pathlib import Path

import av
import msgspec
import numpy as np
from av.video.reformatter import Interpolation
from numpy.typing import NDArray

from worker.models.conse.wheels import wheel_file

WIDTH, HEIGHT, FRAME_RATE = 640, 360, 30
OVERSIZE = 2
"""Pictures are cropped at twice the film's size, so that motion has half-pixel steps."""

CC0 = "CC0 1.0"
PUBLIC_DOMAIN = "public domain"


class Scene(msgspec.Struct, frozen=True):
    """One photograph of scikit-image's `skimage.data`, whose docstrings state origin and licence.

    The visible part shrinks from `widths[0]` to `widths[1]` of the picture around `focus`, a point in
    fractions of the picture's width and height.
    """

    name: str
    sentence: str
    file: str
    source: str
    licence: str
    focus: tuple[float, float] = (0.5, 0.5)
    widths: tuple[float, float] = (1.0, 0.75)


SCENES = (
    Scene("cat", "a close-up of a tabby cat", "chelsea.png", "Stefan van der Walt", CC0, (0.4, 0.4)),
    Scene("rocket", "a rocket on its launch pad", "rocket.jpg", "SpaceX, DSCOVR launch", PUBLIC_DOMAIN),
    Scene("coffee", "a cup of coffee on a table", "coffee.png", "Rachel Michetti", CC0),
    Scene("photographer", "a man filming with a camera", "camera.png", "Lav Varshney", CC0, (0.5, 0.3)),
    Scene("horse", "the silhouette of a horse", "horse.png", "Andreas Preuss, openclipart.org", CC0),
    Scene("bricks", "a brick wall", "brick.png", "cc0textures.com, Bricks25", CC0),
    Scene(
        "astronaut",
        "an astronaut in a space suit",
        "astronaut.png",
        "NASA Great Images",
        PUBLIC_DOMAIN,
        (0.35, 0.9),
        (1.0, 0.8),
    ),
    Scene(
        "eye",
        "the retina of a human eye",
        "retina.jpg",
        "Mikael Häggström, Wikimedia Commons",
        CC0,
        widths=(1.0, 0.9),
    ),
    Scene("grass", "a close-up of grass", "grass.png", "linolafett, deviantart.com", CC0),
)


def make_film(path: Path, seconds_per_scene: int = 5) -> None:
    """Write `path`, an MP4 of all SCENES in turn: H.264 with B-frames, 640x360, 30 frames/s, no sound.

    The same machine and packages give the same bytes. Raises ModelError when a picture is not installed.
    """
    part = path.with_name(f".{path.name}.part")
    try:
        _encode(part, seconds_per_scene * FRAME_RATE)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def _encode(path: Path, frames_per_scene: int) -> None:
    with av.open(str(path), "w", format="mp4", options={"movflags": "faststart"}) as container:
        stream = container.add_stream("libx264", rate=FRAME_RATE)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        # x264's own choice of key frames: at the cuts, else every 250 frames.
        stream.options = {"preset": "veryfast", "crf": "23", "bf": "2"}
        stream.thread_type, stream.thread_count = "FRAME", 2  # the thread count affects the bytes
        frames = (frame for scene in SCENES for frame in _frames(scene, frames_per_scene))
        for pts, frame in enumerate(frames):
            frame.pts = pts
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def _frames(scene: Scene, count: int) -> Iterator[av.VideoFrame]:
    """Yield the `count` frames of one scene."""
    picture = _read_picture(scene.file)
    for i in range(count):
        left, top, width, height = _window(scene, picture.shape[2], picture.shape[1], i / (count - 1))
        window = np.ascontiguousarray(picture[:, top : top + height, left : left + width])
        frame = av.VideoFrame.from_ndarray(window, format="yuv444p")
        yield frame.reformat(WIDTH, HEIGHT, "yuv420p", interpolation=Interpolation.BILINEAR)


def _read_picture(file: str) -> NDArray[np.uint8]:
    """Return the picture as uint8 YUV [3, height, width], enlarged to cover the film's frame OVERSIZE
    times."""
    with av.open(str(wheel_file("skimage", f"data/{file}"))) as container:
        frame = next(container.decode(video=0))
    scale = max(WIDTH / frame.width, HEIGHT / frame.height) * OVERSIZE
    width, height = round(frame.width * scale), round(frame.height * scale)
    larger = frame.reformat(width, height, "yuv444p", interpolation=Interpolation.LANCZOS)
    return larger.to_ndarray().astype(np.uint8, copy=False)


def _window(scene: Scene, width: int, height: int, progress: float) -> tuple[int, int, int, int]:
    """Return left, top, width and height (px) of a picture's visible part at `progress` 0 to 1."""
    zoom = scene.widths[0] + (scene.widths[1] - scene.widths[0]) * progress
    across, down = WIDTH * OVERSIZE * zoom, HEIGHT * OVERSIZE * zoom
    left = min(max(scene.focus[0] * width - across / 2, 0), width - across)
    top = min(max(scene.focus[1] * height - down / 2, 0), height - down)
    return int(left), int(top), int(across), int(down)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        prog="python -m worker.models.conse.film",
        description="Write the demonstration film; print a sentence per scene.",
    )
    parser.add_argument("path", type=Path, help="the MP4 file to write")
    make_film(parser.parse_args().path)
    print("\n".join(scene.sentence for scene in SCENES))
