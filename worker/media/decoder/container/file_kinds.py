"""Names the kind of an unsupported file, and what a truncated file lacks."""

from __future__ import annotations

import re

from worker.media.decoder.container.boxes import ByteFile, boxes, read_at, size_of

HEAD = 4096
PICTURES = "JPEG, PNG, WebP, GIF, BMP, HEIC and AVIF"
"""Kinds of images that are read."""
_SVG = re.compile(rb"<svg[\s>]", re.IGNORECASE)
_STARTS = {
    b"II*\0": "a TIFF image",
    b"MM\0*": "a TIFF image",
    b"II+\0": "a TIFF image",
    b"MM\0+": "a TIFF image",
    b"%PDF-": "a PDF document",
    b"8BPS": "a Photoshop image",
    b"\0\0\1\0": "an icon",
    b"\xff\x0a": "a JPEG XL image",
    b"\0\0\0\x0cJXL ": "a JPEG XL image",
    b"\0\0\0\x0cjP  ": "a JPEG 2000 image",
    b"\xff\x4f\xff\x51": "a JPEG 2000 image",
    b"\x76\x2f\x31\x01": "an OpenEXR image",
    b"#?RADIANCE": "a Radiance HDR image",
    b"%!PS": "a PostScript document",
    b"P4\n": "a portable bitmap",
    b"P5\n": "a portable greymap",
    b"P6\n": "a portable pixmap",
    b"PK\x03\x04": "a ZIP archive",
    b"\x1f\x8b": "a gzip archive",
    b"7z\xbc\xaf\x27\x1c": "a 7-Zip archive",
    b"Rar!": "a RAR archive",
    b"ID3": "an MP3 sound file",
    b"fLaC": "a FLAC sound file",
    b"#EXTM3U": "a playlist",
    b"ffconcat": "a playlist",
}
_TOP_LEVEL = {b"ftyp", b"moov", b"mdat", b"moof", b"free", b"skip", b"wide", b"uuid", b"styp", b"sidx"}
"""Boxes that an MP4 or MOV file may begin with."""


def foreign_kind(head: bytes) -> str | None:
    """Return the kind of file by its first bytes, if it is known but not supported."""
    for start, name in _STARTS.items():
        if head.startswith(start):
            return name
    if head[:4] == b"RIFF" and head[8:12] == b"WAVE":
        return "a WAVE sound file"
    if head[4:12] == b"ftypcrx ":
        return "a raw image of a camera"
    if _SVG.search(head) and head.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"<"):
        return "an SVG drawing"
    return None


def missing_part(file: ByteFile) -> str | None:
    """Return what an MP4 or MOV file that cannot be opened lacks; None for other or complete files."""
    size = size_of(file)
    found = list(boxes(file, 0, size))
    kinds = {box.kind for box in found}
    if not found or found[0].kind not in _TOP_LEVEL or not kinds & {b"ftyp", b"mdat"}:
        return None
    index = next((box for box in found if box.kind == b"moov"), None)
    if index is None:
        return "the index (moov) is missing: the file is incomplete"
    if index.end > size:
        return "the index (moov) is cut off: the file is incomplete"
    return None


def unknown_picture(file: ByteFile) -> str | None:
    """Return the kind of an MP4-like file that holds pictures and no video (ISO/IEC 23008-12), or None.

    FFmpeg returns the tiles of such a picture one by one, as if each were a video.
    """
    first, has_pictures = None, False
    for box in boxes(file, 0, size_of(file)):
        first = first or box
        if box.kind in (b"moov", b"moof") or first.kind not in _TOP_LEVEL:
            return None
        has_pictures = has_pictures or box.kind == b"meta"
    if not has_pictures:
        return None
    brand = read_at(file, 8, 4).decode("latin-1") if first and first.kind == b"ftyp" else "none"
    return f"a HEIF picture of the brand {brand!r}"


def head_of(file: ByteFile) -> bytes:
    """Return the first bytes of a file, as many as `foreign_kind` needs."""
    return read_at(file, 0, HEAD)
