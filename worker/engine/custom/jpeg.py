"""Encodes frames as JPEG."""

from fractions import Fraction

import numpy as np
from numpy.typing import NDArray


def jpeg_frames(clip: NDArray[np.uint8]) -> list[bytes]:
    """Encode uint8 [frames, height, width, 3] RGB as one JPEG file per frame."""
    return [encode_jpeg(frame) for frame in clip]


def encode_jpeg(picture: NDArray[np.uint8]) -> bytes:
    """Encode uint8 [height, width, 3] RGB as a JPEG file, chroma at full size."""
    import av  # noqa: PLC0415 - only models that ask for JPEG need it

    encoder = av.CodecContext.create("mjpeg", "w")
    encoder.height, encoder.width = picture.shape[:2]
    encoder.pix_fmt = "yuvj444p"
    encoder.time_base = Fraction(1)
    encoder.options = {"qmin": "2", "qmax": "2"}
    frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
    return b"".join(bytes(packet) for packet in [*encoder.encode(frame), *encoder.encode(None)])
