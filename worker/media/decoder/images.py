"""Reading still images: JPEG, PNG, WebP, GIF (its first frame) and BMP."""

import struct
from io import BytesIO
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray

from shared.errors import DecodeError, InvalidFile
from worker.media.clip_source import MediaFacts
from worker.media.decoder.byte_sources import LOCAL, ByteSources
from worker.media.decoder.demux import Refused
from worker.media.decoder.limits import MediaLimits
from worker.media.decoder.orientation import exif_orientation, turn
from worker.media.decoder.swscale import Scaler

MOST_HEADER, MOST_BYTES = 16 << 20, 256 << 20  # what comes later in a file is not looked at

_DEMUXERS = {"jpeg": "jpeg_pipe", "png": "png_pipe", "webp": "webp_pipe", "gif": "gif", "bmp": "bmp_pipe"}


def image_format(head: bytes) -> str | None:
    """What the first bytes of a file say it is, if it is an image."""
    if head.startswith(b"\xff\xd8\xff"):
        return "jpeg"
    if head.startswith(b"\x89PNG\r\n\x1a\n"):
        return "png"
    if head.startswith((b"GIF87a", b"GIF89a")):
        return "gif"
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "webp"
    return "bmp" if head[:2] == b"BM" and head[14:18] in _BMP_HEADERS else None


_BMP_HEADERS = {struct.pack("<I", size) for size in (12, 40, 52, 56, 64, 108, 124)}


def image_facts(path: str, kind: str, limits: MediaLimits, files: ByteSources = LOCAL) -> MediaFacts:
    """The facts of an image, from its header alone. Raises InvalidFile."""
    return _facts(files.read(path, MOST_HEADER), kind, limits)


def _facts(data: bytes, kind: str, limits: MediaLimits) -> MediaFacts:
    try:
        width, height = image_size(data, kind)
    except (struct.error, IndexError) as error:
        raise InvalidFile(f"the {kind} image has no complete header") from error
    if not width or not height:
        raise InvalidFile(f"the {kind} image is {width}x{height} pixels")
    if width * height > limits.image_pixels:
        raise InvalidFile(
            f"the image is {width}x{height}, more than the allowed {limits.image_pixels} pixels per image"
        )
    return MediaFacts(kind="image", codec=kind, width=width, height=height)


def image_size(data: bytes, kind: str) -> tuple[int, int]:
    """Width and height that the header states. Raises struct.error or IndexError where it is cut off."""
    match kind:
        case "png":
            return _pair(struct.unpack_from(">II", data, 16))
        case "gif":
            return _pair(struct.unpack_from("<HH", data, 6))
        case "bmp":
            if struct.unpack_from("<I", data, 14)[0] == 12:
                return _pair(struct.unpack_from("<HH", data, 18))
            width, height = struct.unpack_from("<ii", data, 18)
            return width, abs(height)
        case "webp":
            return _webp_size(data)
    return _jpeg_size(data)


def _pair(values: tuple[int, ...]) -> tuple[int, int]:
    return values[0], values[1]


def _webp_size(data: bytes) -> tuple[int, int]:
    """RFC 9649: the size is at a different place in each of the three kinds of first chunk."""
    match data[12:16]:
        case b"VP8 ":
            width, height = struct.unpack_from("<HH", data, 26)
            return width & 0x3FFF, height & 0x3FFF
        case b"VP8L":
            bits = struct.unpack_from("<I", data, 21)[0]
            return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    low, high = data[24:27], data[27:30]
    return int.from_bytes(low, "little") + 1, int.from_bytes(high, "little") + 1


def _jpeg_size(data: bytes) -> tuple[int, int]:
    """The frame header (ITU-T T.81, B.2.2), found by going from marker to marker."""
    at = 2
    while True:
        while data[at] != 0xFF or data[at + 1] in (0xFF, 0x00):
            at += 1
        marker, at = data[at + 1], at + 2
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            height, width = struct.unpack_from(">HH", data, at + 3)
            return width, height
        if marker != 0x01 and not 0xD0 <= marker <= 0xD8:
            at += struct.unpack_from(">H", data, at)[0]


def read_image(
    path: str, scaler: Scaler, limits: MediaLimits, out: NDArray[np.uint8], files: ByteSources = LOCAL
) -> None:
    """Decode the image to `out`, uint8 [3, size, size]. Raises DecodeError.

    Its EXIF orientation is followed: the picture is embedded as a viewer shows it.
    """
    name = Path(path).name
    try:
        data = files.read(path, MOST_BYTES)
        kind = image_format(data[:32])
        if kind is None:
            raise DecodeError(f"{name} is no image of a known kind")
        _facts(data, kind, limits)
        options = {"protocol_whitelist": "file", "max_pixels": str(limits.image_pixels), "threads": "1"}
        with av.open(BytesIO(data), "r", format=_DEMUXERS[kind], options=options) as container:
            container.streams.video[0].codec_context.thread_count = 1
            frame = next(container.decode(video=0))
            scaler.scale(frame, out)
            turn(out, exif_orientation(data))
    except InvalidFile as error:
        raise Refused(f"{name}: {error.message}") from error
    except (av.error.FFmpegError, OSError, ValueError, StopIteration, IndexError) as error:
        raise DecodeError(
            f"{name}: {getattr(error, 'strerror', None) or error or 'no picture in it'}"
        ) from error
