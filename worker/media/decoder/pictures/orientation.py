"""Turns pictures upright: by the rotation that a phone stores with a video, and by EXIF in images.

The original service leaves videos as they are stored, because its GStreamer pipeline holds no `videoflip`.
Here they are turned, because models are trained on upright pictures, and people search for those.
"""

import struct
from collections.abc import Iterator
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


ORIENTATION_TAG = 0x0112
APP1, START_OF_SCAN = 0xE1, 0xDA
LONGEST_EXIF = 65_536
MOST_PARTS = 100_000
"""Most parts of an image that are examined: a PNG of 256 MiB has 32,768 of the usual size."""
UPRIGHT = Turn(1, 0, 0, 1)


# What a picture with each value of EXIF's tag Orientation needs (CIPA DC-008, 4.6.5).
EXIF = {
    1: UPRIGHT,
    2: Turn(-1, 0, 0, 1),
    3: Turn(-1, 0, 0, -1),
    4: Turn(1, 0, 0, -1),
    5: Turn(0, 1, 1, 0),
    6: Turn(0, 1, -1, 0),
    7: Turn(0, -1, -1, 0),
    8: Turn(0, -1, 1, 0),
}
CLOCKWISE = {0: UPRIGHT, 90: EXIF[6], 180: EXIF[3], 270: EXIF[8]}


def orientation(frame: VideoFrame) -> Turn:
    """Return how to turn a video's frame upright. Only multiples of 90 degrees count."""
    try:
        data = cast("SideDataContainer", frame.side_data).get(Type.DISPLAYMATRIX)
    except (
        ValueError
    ):  # PyAV gives up where it does not know all kinds; the angle alone does not tell of mirrors
        return CLOCKWISE.get(-frame.rotation % 360, UPRIGHT)
    if data is None:
        return UPRIGHT
    a, b, _, c, d = (int(value) for value in np.sign(np.frombuffer(data, np.int32)[:5]))
    straight = abs(a) == abs(d) != abs(b) == abs(c)
    return Turn(a, b, c, d) if straight else UPRIGHT


def exif_orientation(data: bytes) -> Turn:
    """Return how to turn an image (JPEG, PNG or WebP) upright, by its EXIF block."""
    return tiff_orientation(next(_exif_blocks(data), b""))


def tiff_orientation(exif: bytes) -> Turn:
    """Return how to turn an image with this EXIF block upright."""
    tiff = exif.removeprefix(b"Exif\0\0")
    known = tiff.startswith((b"II*\0", b"MM\0*"))
    return EXIF.get(_tag(tiff[:LONGEST_EXIF], ORIENTATION_TAG), UPRIGHT) if known else UPRIGHT


def _exif_blocks(data: bytes) -> Iterator[bytes]:
    """Yield the EXIF blocks of an image, going from one of its parts to the next."""
    if data.startswith(b"\xff\xd8"):  # JPEG: ITU-T T.81, B.1.1; everything after SOS is picture
        for marker, block in _parts(data, 2, ">xBH", before=2):
            if marker == START_OF_SCAN:
                return
            if marker == APP1 and block.startswith(b"Exif\0\0"):
                yield block
    elif data.startswith(b"\x89PNG"):
        yield from (block for kind, block in _parts(data, 8, ">I4s", after=4) if kind == b"eXIf")
    elif data.startswith(b"RIFF"):  # WebP: RFC 9649
        yield from (block for kind, block in _parts(data, 12, "<4sI", even=True) if kind == b"EXIF")


def _parts(
    data: bytes, at: int, head: str, *, before: int = 0, after: int = 0, even: bool = False
) -> Iterator[tuple[int | bytes, bytes]]:
    """Yield the kind and the content of an image's parts from `at` on.

    The length in a part's head counts `before` bytes of the head, and not `after` bytes behind the content.
    """
    size = struct.calcsize(head)
    for _ in range(MOST_PARTS):
        if at + size > len(data):
            return
        first, second = struct.unpack_from(head, data, at)
        kind, length = (second, first) if isinstance(second, bytes) else (first, second)
        at += size
        end = at + max(0, length - before)
        yield kind, data[at : min(end, at + LONGEST_EXIF)]
        at = end + after + (length & 1 if even else 0)


def _tag(tiff: bytes, tag: int) -> int:
    """Return the SHORT value of `tag` in a TIFF header's first directory; 0 if there is none."""
    order = "<" if tiff[:1] == b"I" else ">"
    try:
        (directory,) = struct.unpack_from(f"{order}I", tiff, 4)
        (count,) = struct.unpack_from(f"{order}H", tiff, directory)
        for index in range(count):
            number, _, _, value = struct.unpack_from(f"{order}HHIH", tiff, directory + 2 + 12 * index)
            if number == tag:
                return int(value)
    except struct.error:
        pass
    return 0


def turn(picture: NDArray[np.uint8], how: Turn) -> None:
    """Turn and mirror a square `picture`, uint8 [3, size, size], in place."""
    if how != UPRIGHT:
        picture[...] = turned(picture, how).copy()


def turned(picture: NDArray[np.uint8], how: Turn) -> NDArray[np.uint8]:
    """Return a view of a `picture`, uint8 [3, height, width], turned and mirrored."""
    swapped = picture.swapaxes(1, 2) if how.b else picture
    return swapped[:, :: how.b or how.d, :: how.c or how.a]
