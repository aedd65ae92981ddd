"""Small real media files that tests make for themselves."""

from pathlib import Path

import av
import numpy as np

COLOURS = [(200, 40, 40), (40, 200, 40), (40, 40, 200), (200, 200, 40), (40, 200, 200)]


def colour_film(path: Path, seconds: int = 25, per_scene: int = 5) -> Path:
    """H.264, 160x90 at 30 fps; each `per_scene` seconds have the next of COLOURS."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=30, options={"preset": "ultrafast", "crf": "10"})
        stream.width, stream.height, stream.pix_fmt = 160, 90, "yuv420p"
        for index in range(seconds * 30):
            colour = COLOURS[index // (30 * per_scene) % len(COLOURS)]
            picture = np.full((90, 160, 3), colour, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    return path


def picture(folder: Path, colour: tuple[int, int, int]) -> Path:
    """A PNG, 64x48, of one colour."""
    path = folder / f"{colour[0]}-{colour[1]}-{colour[2]}.png"
    with av.open(str(path), "w", format="image2") as container:
        stream = container.add_stream("png")
        stream.width, stream.height, stream.pix_fmt = 64, 48, "rgb24"
        frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), colour, np.uint8), format="rgb24")
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path
