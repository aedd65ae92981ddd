"""Pictures are embedded upright."""

from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest
from numpy.typing import NDArray

from shared.chunks import SECOND, Chunk
from tests.worker.media.films import copy, rotated_film
from tests.worker.media.reading import Picture, read, setup
from worker.media.decoder.pictures.orientation import Turn, turn
from worker.media.decoder.reader import Reader

FindFilm = Callable[[str], Path]

PICTURE = np.arange(3 * 4 * 4, dtype=np.uint8).reshape(3, 4, 4)


def rotated(times: int) -> Picture:
    """The picture turned by 90 degrees clockwise so many times."""
    return np.rot90(PICTURE, -times, axes=(1, 2))


# The matrices that FFmpeg's documentation and ISO/IEC 14496-12 give for each turn.
@pytest.mark.parametrize(
    ("how", "expected"),
    [
        (Turn(1, 0, 0, 1), PICTURE),
        (Turn(0, 1, -1, 0), rotated(1)),
        (Turn(-1, 0, 0, -1), rotated(2)),
        (Turn(0, -1, 1, 0), rotated(3)),
        (Turn(-1, 0, 0, 1), PICTURE[:, :, ::-1]),
        (Turn(1, 0, 0, -1), PICTURE[:, ::-1]),
        (Turn(0, 1, 1, 0), PICTURE.swapaxes(1, 2)),
        (Turn(0, -1, -1, 0), rotated(2).swapaxes(1, 2)),
    ],
)
def test_turns(how: Turn, expected: NDArray[np.uint8]) -> None:
    picture = PICTURE.copy()
    turn(picture, how)
    assert np.array_equal(picture, expected)


def first_frame(path: Path) -> Picture:
    reader = Reader(setup())
    (((_, picture),),), _ = read(reader, path, [Chunk(0, 0, SECOND)], 1)
    reader.close()
    return picture


@pytest.mark.parametrize("suffix", ["mp4", "mov", "mkv"])
@pytest.mark.parametrize(("degrees", "turns"), [(90, 3), (180, 2), (-90, 1)])
def test_a_rotated_video_stands_upright(
    suffix: str, degrees: int, turns: int, film: FindFilm, tmp_path: Path
) -> None:
    """FFmpeg counts degrees against the clock, as the frame must be turned to be seen."""
    source = film("h264-gop1")
    target = rotated_film(source, tmp_path / f"rotated.{suffix}", degrees)
    upright = np.rot90(first_frame(source), -turns, axes=(1, 2))
    assert np.array_equal(first_frame(target), upright)


def test_a_mirrored_video_is_mirrored_back(film: FindFilm, tmp_path: Path) -> None:
    source, target = film("h264-gop1"), tmp_path / "mirrored.mp4"
    with av.open(str(source)) as reading, av.open(str(target), "w") as writing:
        stream = reading.streams.video[0]
        copied = writing.add_stream_from_template(stream)
        copied.set_display_rotation(0, hflip=True)
        for packet in reading.demux(stream):
            if packet.size:
                packet.stream = copied
                writing.mux(packet)
    assert np.array_equal(first_frame(target), first_frame(source)[:, :, ::-1])


def test_a_video_without_rotation_stays_as_it_is(film: FindFilm, tmp_path: Path) -> None:
    source = film("h264-gop1")
    assert np.array_equal(first_frame(copy(source, tmp_path / "copy.mp4")), first_frame(source))
