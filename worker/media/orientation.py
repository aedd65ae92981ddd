"""Turning pictures upright: the rotation that a phone writes beside its video, EXIF orientation in images.

Both reach us as FFmpeg's display matrix. The original service leaves videos as they are stored, because its
GStreamer pipeline holds no `videoflip`; here they are turned, since a model knows the world upright and
so does the person who searches.
"""

from typing import TYPE_CHECKING, NamedTuple, cast

import numpy as np
from av.sidedata.sidedata import Type
from av.video.frame import VideoFrame
from numpy.typing import NDArray

if TYPE_CHECKING:
    from av.sidedata.sidedata import SideDataContainer


class Turn(NamedTuple):
    """Signs of a display matrix (ISO/IEC 14496-12, 8.3.2): a pixel stored at (x, y) is shown at
    (a*x + c*y, b*x + d*y)."""

    a: int
    b: int
    c: int
    d: int


UPRIGHT = Turn(1, 0, 0, 1)


def orientation(frame: VideoFrame) -> Turn:
    """How the frame must be turned to stand upright. Turns by no multiple of 90 degrees are left alone."""
    data = cast("SideDataContainer", frame.side_data).get(Type.DISPLAYMATRIX)
    if data is None:
        return UPRIGHT
    a, b, _, c, d = (int(value) for value in np.sign(np.frombuffer(data, np.int32)[:5]))
    turn = Turn(a, b, c, d)
    straight = abs(a) == abs(d) != abs(b) == abs(c)
    return turn if straight else UPRIGHT


def turn(picture: NDArray[np.uint8], how: Turn) -> None:
    """Turn and mirror a square `picture`, uint8 [3, size, size], in place."""
    if how == UPRIGHT:
        return
    turned = picture.swapaxes(1, 2) if how.b else picture
    picture[...] = turned[:, :: how.b or how.d, :: how.c or how.a].copy()
