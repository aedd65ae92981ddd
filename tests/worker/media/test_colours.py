"""The colours of films are those that their bit streams state, whatever encoded them."""

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from shared.chunks import SECOND, Chunk
from tests.worker.media.numbered import COLOURS, film
from tests.worker.media.reading import read, setup
from worker.media.decoder.reader import Reader

ENCODERS = {
    "h264.mp4": ("-c:v", "libx264"),
    "hevc.mp4": ("-c:v", "libx265", "-x265-params", "log-level=none:pools=1"),
    "vp9.webm": ("-c:v", "libvpx-vp9", "-deadline", "realtime", "-cpu-used", "8"),
    "av1.mp4": ("-c:v", "libsvtav1", "-preset", "12"),
}
MATRICES = {
    "bt601": ("smpte170m", "smpte170m"), "bt709": ("bt709", "bt709"), "bt2020": ("bt2020nc", "bt2020"),
}  # fmt: skip
"""FFmpeg's names for scaling, for the matrix and for the primaries."""


def patches(picture: NDArray[np.uint8]) -> NDArray[np.float64]:
    """The colours of the six patches of a numbered picture, [patch, channel]."""
    height, width = picture.shape[1:]
    rows = picture[:, int(height * 0.58) : int(height * 0.7)].astype(np.float64)
    step = width / len(COLOURS)
    starts = [int((index + 0.3) * step) for index in range(len(COLOURS))]
    return np.array([rows[:, :, at : at + int(0.4 * step)].mean(axis=(1, 2)) for at in starts])


def wrong_by(path: Path) -> float:
    """By how many levels a patch of the film differs most from what was encoded."""
    reader = Reader(setup())
    clips, _ = read(reader, path, [Chunk(0, 0, SECOND)], 1)
    reader.close()
    return float(np.abs(patches(clips[0][0][1]) - np.array(COLOURS)).max())


@pytest.mark.parametrize("name", ENCODERS)
@pytest.mark.parametrize("matrix", MATRICES)
@pytest.mark.parametrize("colour_range", ["tv", "pc"])
def test_stated_colours(name: str, matrix: str, colour_range: str, tmp_path: Path) -> None:
    space, primaries = MATRICES[matrix]
    path = film(
        tmp_path / name, 2, "-vf", f"scale=out_color_matrix={matrix}:out_range={colour_range},format=yuv420p",
        *ENCODERS[name], "-colorspace", space, "-color_range", colour_range,
        "-color_primaries", primaries, "-color_trc", "bt709",
    )  # fmt: skip
    assert wrong_by(path) < 5


@pytest.mark.parametrize(
    ("size", "matrix"),
    [((720, 576), "bt601"), ((640, 480), "bt601"), ((1280, 536), "bt709"), ((1280, 720), "bt709")],
)
def test_unstated_colours(size: tuple[int, int], matrix: str, tmp_path: Path) -> None:
    unknown = "setparams=colorspace=unknown:range=unknown:color_primaries=unknown:color_trc=unknown"
    scale = f"scale=out_color_matrix={matrix}:out_range=tv,format=yuv420p,{unknown}"
    path = film(tmp_path / "film.mkv", 2, "-vf", scale, "-c:v", "libx264", size=size)
    assert wrong_by(path) < 5
