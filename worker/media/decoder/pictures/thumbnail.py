"""Thumbnails: a small JPEG of a chunk's middle frame, upright and with its true aspect ratio.

They never change the clip, so vectors are the same with and without them.
"""

import io
from fractions import Fraction

import numpy as np
from av.video.frame import VideoFrame
from numpy.typing import NDArray
from PIL import Image

from worker.media.decoder.pictures.orientation import Turn, turned
from worker.media.decoder.pictures.swscale import Scaler

LONGEST_SIDE = 320
"""Pixels."""
LARGEST_JPEG = 32 << 10
"""Bytes of one thumbnail. Noise of the largest size has 19 kB at the last of QUALITIES; films have about
10 kB at the first."""
QUALITIES = (75, 50, 25, 5)
_ROW = 64
"""Rows of pixels are padded to a multiple of this, which libswscale's vector code may write."""


class Thumbnails:
    """The thumbnails of one job's clips, by their position in the job.

    `aspect` is that of a stored pixel, None where that is not stated. Methods may be called from several
    threads, of one clip by one at a time.
    """

    def __init__(self, aspect: Fraction | None = None) -> None:
        self.aspect = aspect
        self._drawn: dict[int, bytes] = {}
        self._size = 1, 1

    def see(self, position: int, frame: VideoFrame, scaler: Scaler, how: Turn, *, is_middle: bool) -> None:
        """A frame that is turned by `how` goes into the clip at `position`: draw it if it `is_middle`."""
        self._size = thumbnail_size(frame.width, frame.height, self.aspect, how)
        if is_middle:
            self._drawn[position] = _draw(frame, scaler, how, self._size)

    def take(self, position: int, picture: NDArray[np.uint8]) -> bytes:
        """Return the thumbnail of the clip at `position`. If its middle frame was not known in time, it is
        made from that frame's `picture` in the clip, uint8 [3, size, size]."""
        return self._drawn.pop(position, b"") or thumbnail_of(picture, self._size)


def thumbnail_size(width: int, height: int, aspect: Fraction | None, how: Turn) -> tuple[int, int]:
    """Return width and height of the thumbnail of a picture of stored pixels of this `aspect`, turned by
    `how`. Neither side is larger than the picture's."""
    across, down = Fraction(width), Fraction(height)
    if aspect is not None and aspect > 0:
        across, down = (across, down / aspect) if aspect > 1 else (across * aspect, down)
    if how.b:
        across, down = down, across
    return _within(across, down, LONGEST_SIDE)


def thumbnail_of(picture: NDArray[np.uint8], size: tuple[int, int]) -> bytes:
    """Return the thumbnail of a frame of a clip, uint8 [3, size, size], upright already: of the proportions
    of `size`, and no larger than either."""
    fitting = _within(Fraction(size[0]), Fraction(size[1]), picture.shape[1])
    square = Image.fromarray(np.ascontiguousarray(picture.transpose(1, 2, 0)))
    return _jpeg(square.resize(fitting, Image.Resampling.BILINEAR))


def load_jpeg() -> None:
    """Load what encoding a JPEG needs, for a process that is about to lose its file system."""
    Image.preinit()
    _jpeg(Image.new("RGB", (1, 1)))


def _within(across: Fraction, down: Fraction, longest: int) -> tuple[int, int]:
    scale = min(Fraction(1), longest / max(across, down))
    return max(1, round(across * scale)), max(1, round(down * scale))


def _draw(frame: VideoFrame, scaler: Scaler, how: Turn, size: tuple[int, int]) -> bytes:
    width, height = size[::-1] if how.b else size
    padded = np.empty((3, height + 1, -(-width // _ROW) * _ROW), np.uint8)
    out = padded[:, :height, :width]
    scaler.scale(frame, out)
    return _jpeg(Image.fromarray(np.ascontiguousarray(turned(out, how).transpose(1, 2, 0))))


def _jpeg(image: Image.Image) -> bytes:
    """Return the image as a JPEG of at most LARGEST_JPEG bytes, of the best quality that fits; nothing if
    none does."""
    for quality in QUALITIES:
        file = io.BytesIO()
        image.save(file, "JPEG", quality=quality)
        if file.tell() <= LARGEST_JPEG:
            return file.getvalue()
    return b""
