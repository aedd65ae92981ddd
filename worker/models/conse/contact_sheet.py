"""A contact sheet of a film: one picture for each of some moments, in rows, as a JPEG."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray

COLUMNS = 5
TILE_WIDTH, TILE_HEIGHT, GAP = 256, 144, 4
BACKGROUND = 24
"""Grey level between the pictures and beside those of another shape."""

Tile = NDArray[np.uint8]


def write_contact_sheet(film: Path, sheet: Path, moments: Sequence[float]) -> None:
    """Write the pictures at `moments`, seconds from the start, from left to right.

    Raises av.FFmpegError for a film that cannot be read.
    """
    with av.open(str(film)) as container:
        tiles = [_tile(container, moment) for moment in moments]
    rows = -(-len(tiles) // COLUMNS)
    across = min(COLUMNS, len(tiles))
    canvas = np.full(
        (rows * (TILE_HEIGHT + GAP) - GAP, across * (TILE_WIDTH + GAP) - GAP, 3), BACKGROUND, np.uint8
    )
    for index, tile in enumerate(tiles):
        top = index // COLUMNS * (TILE_HEIGHT + GAP)
        left = index % COLUMNS * (TILE_WIDTH + GAP)
        canvas[top : top + TILE_HEIGHT, left : left + TILE_WIDTH] = tile
    _write_jpeg(sheet, canvas)


def _tile(container: Any, moment: float) -> Tile:
    """Return the last picture at or before a moment, in the middle of a tile of its own."""
    stream = container.streams.video[0]
    start = (stream.start_time or 0) * float(stream.time_base)
    container.seek(max(0, int((start + moment) * av.time_base)))
    shown = None
    for frame in container.decode(stream):
        if shown is not None and frame.time is not None and frame.time > start + moment:
            break
        shown = frame
    tile = np.full((TILE_HEIGHT, TILE_WIDTH, 3), BACKGROUND, np.uint8)
    if shown is None:
        return tile
    scale = min(TILE_WIDTH / shown.width, TILE_HEIGHT / shown.height)
    width, height = max(1, round(shown.width * scale)), max(1, round(shown.height * scale))
    picture = shown.reformat(width, height, "rgb24").to_ndarray()
    top, left = (TILE_HEIGHT - height) // 2, (TILE_WIDTH - width) // 2
    tile[top : top + height, left : left + width] = picture
    return tile


def _write_jpeg(path: Path, canvas: Tile) -> None:
    with av.open(str(path), "w", format="image2", options={"update": "1"}) as container:
        stream: Any = container.add_stream("mjpeg", rate=1, options={"qmin": "2", "qmax": "2"})
        stream.width, stream.height, stream.pix_fmt = canvas.shape[1], canvas.shape[0], "yuvj420p"
        frame = av.VideoFrame.from_ndarray(canvas, format="rgb24").reformat(format="yuvj420p")
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m worker.models.conse.contact_sheet", description=__doc__)
    parser.add_argument("film", type=Path)
    parser.add_argument("sheet", type=Path, help="the JPEG file to write")
    parser.add_argument("moments", type=float, nargs="+", help="seconds from the start")
    arguments = parser.parse_args()
    write_contact_sheet(arguments.film, arguments.sheet, arguments.moments)
