"""Reads still images: JPEG, PNG, WebP, GIF, BMP, HEIC and AVIF; the first frame of an animation.

FFmpeg reads most of them. It has no decoder for animated WebP, and returns the tiles of phones' HEIC and AVIF
pictures one by one, so Pillow and libheif read those.
"""

import struct
from io import BytesIO
from pathlib import Path

import av
import numpy as np
from av.video.frame import VideoFrame
from numpy.typing import NDArray
from PIL import AvifImagePlugin, Image, ImageFile, WebPImagePlugin
from pillow_heif.as_plugin import HeifImageFile

from shared.errors import DecodeError, InvalidFile
from worker.media.decoder.container.byte_sources import LOCAL, ByteSources
from worker.media.decoder.container.demux import Refused
from worker.media.decoder.limits import MediaLimits
from worker.media.decoder.media_facts import MediaFacts
from worker.media.decoder.pictures.orientation import Turn, exif_orientation, tiff_orientation, turn
from worker.media.decoder.pictures.swscale import Scaler
from worker.media.decoder.pictures.thumbnail import Thumbnails

IMAGE_HEAD = 64
"""Bytes at the front of a file that show whether it is an image."""
MOST_BYTES = 256 << 20
"""Bytes of a file that are read at most."""
LONGEST_REASON = 200

_DEMUXERS = {"jpeg": "jpeg_pipe", "png": "png_pipe", "webp": "webp_pipe", "gif": "gif", "bmp": "bmp_pipe"}
_BMP_HEADERS = {struct.pack("<I", size) for size in (12, 40, 52, 56, 64, 108, 124)}
_HEIC_BRANDS = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx"}
_AVIF_BRANDS = {b"avif", b"avis"}
_ANY_BRANDS = {b"mif1", b"msf1", b"mif2"}
"""Brands of images whose codec only the compatible brands state."""
_UNREADABLE = (
    *(av.error.FFmpegError, OSError, ValueError, StopIteration, IndexError, struct.error),
    *(SyntaxError, RuntimeError, EOFError),  # Pillow's and libheif's
)

Image.MAX_IMAGE_PIXELS = None  # MediaLimits.image_pixels is the limit


def image_format(head: bytes) -> str | None:
    """Return the image format by the first IMAGE_HEAD bytes of a file; None if it is no image."""
    if head.startswith(b"\xff\xd8\xff"):
        return "jpeg"
    if head.startswith(b"\x89PNG\r\n\x1a\n"):
        return "png"
    if head.startswith((b"GIF87a", b"GIF89a")):
        return "gif"
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "webp"
    if head[4:8] == b"ftyp":
        return _heif_format(head)
    return "bmp" if head[:2] == b"BM" and head[14:18] in _BMP_HEADERS else None


def _heif_format(head: bytes) -> str | None:
    """Return the format by a file's brands (ISO/IEC 23008-12, 10.2): the major, then compatible ones."""
    size = min(int.from_bytes(head[:4], "big"), len(head))
    major, compatible = head[8:12], {head[at : at + 4] for at in range(16, size - 3, 4)}
    if major in _AVIF_BRANDS or (major in _ANY_BRANDS and compatible & _AVIF_BRANDS):
        return "avif"
    return "heic" if major in _HEIC_BRANDS | _ANY_BRANDS else None


def image_facts(path: str, kind: str, limits: MediaLimits, files: ByteSources = LOCAL) -> MediaFacts:
    """Return an image's facts. Raises InvalidFile if it cannot be decoded."""
    data = files.read(path, MOST_BYTES)
    try:
        frame, _ = _decoded(data, kind, limits)
    except _UNREADABLE as error:
        raise InvalidFile(f"the {kind} image cannot be decoded: {_reason(error)}") from error
    return MediaFacts(kind="image", codec=kind, width=frame.width, height=frame.height)


def _reason(error: Exception) -> str:
    return str(getattr(error, "strerror", None) or error or "no picture in it")[:LONGEST_REASON]


def _decoded(data: bytes, kind: str, limits: MediaLimits) -> tuple[VideoFrame, Turn]:
    """Return the picture, and how to turn it upright. Raises InvalidFile beyond a limit, _UNREADABLE."""
    if kind == "heic":
        opened = HeifImageFile(BytesIO(data))  # type: ignore[no-untyped-call]
        return _by_pillow(opened, kind, limits)
    if kind == "avif":
        return _by_pillow(AvifImagePlugin.AvifImageFile(BytesIO(data)), kind, limits)
    _check_size(*_stated_size(data, kind), kind, limits)
    if kind == "webp" and _is_animated(data):
        return _by_pillow(WebPImagePlugin.WebPImageFile(BytesIO(data)), kind, limits)
    options = {"protocol_whitelist": "file", "max_pixels": str(limits.image_pixels), "threads": "1"}
    with av.open(BytesIO(data), "r", format=_DEMUXERS[kind], options=options) as container:
        container.streams.video[0].codec_context.thread_count = 1
        return next(container.decode(video=0)), exif_orientation(data)


def _by_pillow(image: ImageFile.ImageFile, kind: str, limits: MediaLimits) -> tuple[VideoFrame, Turn]:
    """Decode an image whose header has been read. An alpha channel is dropped."""
    with image:
        _check_size(*image.size, kind, limits)
        if image.mode.startswith("I;16"):
            frame = VideoFrame.from_ndarray(np.asarray(image).astype(np.uint16), format="gray16le")
        else:
            frame = VideoFrame.from_ndarray(np.asarray(image.convert("RGB")), format="rgb24")
        return frame, tiff_orientation(image.info.get("exif") or b"")


def _check_size(width: int, height: int, kind: str, limits: MediaLimits) -> None:
    if not width or not height:
        raise InvalidFile(f"the {kind} image is {width}x{height} pixels")
    if width * height > limits.image_pixels:
        raise InvalidFile(
            f"the image is {width}x{height}, more than the allowed {limits.image_pixels} pixels per image"
        )


def _stated_size(data: bytes, kind: str) -> tuple[int, int]:
    try:
        return image_size(data, kind)
    except (struct.error, IndexError) as error:
        raise InvalidFile(f"the {kind} image has no complete header") from error


def _is_animated(webp: bytes) -> bool:
    """RFC 9649, 2.7: a flag of the extended header."""
    return webp[12:16] == b"VP8X" and bool(webp[20] & 0x02)


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
    """Return the frame header (ITU-T T.81, B.2.2), found by going from marker to marker."""
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
    path: str,
    scaler: Scaler,
    limits: MediaLimits,
    out: NDArray[np.uint8],
    files: ByteSources = LOCAL,
    *,
    thumbnail: bool = False,
) -> bytes:
    """Decode the image to `out`, uint8 [3, size, size]; return its thumbnail, if one is wanted.

    Orientation is applied: the picture is embedded as a viewer shows it. Raises DecodeError.
    """
    name = Path(path).name
    try:
        data = files.read(path, MOST_BYTES)
        kind = image_format(data[:IMAGE_HEAD])
        if kind is None:
            raise DecodeError(f"{name} is not an image of a known kind")
        frame, how = _decoded(data, kind, limits)
        scaler.scale(frame, out)
        turn(out, how)
        if not thumbnail:
            return b""
        thumbnails = Thumbnails()
        thumbnails.see(0, frame, scaler, how, is_middle=True)
        return thumbnails.take(0, out)
    except InvalidFile as error:
        raise Refused(f"{name}: {error.message}") from error
    except _UNREADABLE as error:
        raise DecodeError(f"{name}: {_reason(error)}") from error
