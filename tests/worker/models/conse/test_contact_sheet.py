"""The contact sheet shows the right pictures at the right places."""

import subprocess
import sys
from pathlib import Path

import av
import numpy as np
import pytest

from tests.e2e.media import colour_film
from worker.models.conse.contact_sheet import GAP, TILE_HEIGHT, TILE_WIDTH, write_contact_sheet


def colours(path: Path, count: int) -> list[list[int]]:
    """The colour in the middle of each of the first tiles, rounded."""
    with av.open(str(path)) as container:
        picture = next(container.decode(video=0)).to_ndarray(format="rgb24")
    middles = [
        picture[
            index // 5 * (TILE_HEIGHT + GAP) + TILE_HEIGHT // 2,
            index % 5 * (TILE_WIDTH + GAP) + TILE_WIDTH // 2,
        ]
        for index in range(count)
    ]
    return [[round(int(value) / 32) for value in middle] for middle in middles]


def frame_at(film: Path, moment: float) -> list[int]:
    with av.open(str(film)) as container:
        frame = next(frame for frame in container.decode(video=0) if frame.time >= moment)
    middle = frame.to_ndarray(format="rgb24")[frame.height // 2, frame.width // 2]
    return [round(int(value) / 32) for value in middle]


def test_each_moment_has_its_picture(tmp_path: Path) -> None:
    film = colour_film(tmp_path / "film.mp4")
    moments = [2.5, 7.5, 12.5, 17.5, 22.5, 2.5]
    write_contact_sheet(film, tmp_path / "sheet.jpg", moments)
    shown = colours(tmp_path / "sheet.jpg", 6)
    assert shown == [frame_at(film, moment) for moment in moments]
    assert len({tuple(colour) for colour in shown}) == 5


def test_a_film_of_another_shape_keeps_it(tmp_path: Path) -> None:
    film = tmp_path / "tall.mp4"
    with av.open(str(film), "w") as container:
        stream = container.add_stream("libx264", rate=10)
        stream.width, stream.height, stream.pix_fmt = 96, 192, "yuv420p"
        for _ in range(10):
            picture = np.full((192, 96, 3), 255, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))
    write_contact_sheet(film, tmp_path / "sheet.jpg", [0.5])
    with av.open(str(tmp_path / "sheet.jpg")) as container:
        sheet = next(container.decode(video=0)).to_ndarray(format="rgb24")
    assert sheet.shape == (TILE_HEIGHT, TILE_WIDTH, 3)
    white = (sheet[TILE_HEIGHT // 2].min(axis=1) > 200).sum()
    assert white == pytest.approx(TILE_HEIGHT // 2, abs=2)


def test_the_command(tmp_path: Path) -> None:
    film = colour_film(tmp_path / "film.mp4")
    command = [
        sys.executable,
        "-m",
        "worker.models.conse.contact_sheet",
        str(film),
        str(tmp_path / "s.jpg"),
        "1",
    ]
    subprocess.run(command, check=True)
    assert (tmp_path / "s.jpg").stat().st_size > 500
    assert subprocess.run(command[:-1], check=False, capture_output=True).returncode == 2
