"""Headers of a file's bytes: the type that a worker has verified, and nothing that a browser would run."""

from pathlib import PurePath
from urllib.parse import quote

from shared.assets import Asset

BINARY = "application/octet-stream"
IMAGES = {codec: f"image/{codec}" for codec in ("avif", "bmp", "gif", "heic", "jpeg", "png", "webp")}
VIDEOS = {
    ".3gp": "video/3gpp",
    ".avi": "video/x-msvideo",
    ".flv": "video/x-flv",
    ".m2ts": "video/mp2t",
    ".m4v": "video/mp4",
    ".mkv": "video/x-matroska",
    ".mov": "video/quicktime",
    ".mp4": "video/mp4",
    ".mpeg": "video/mpeg",
    ".mpg": "video/mpeg",
    ".mts": "video/mp2t",
    ".ts": "video/mp2t",
    ".webm": "video/webm",
}
"""Containers by the file's extension. It may lie, but whatever it says is a video."""


def content_type(asset: Asset) -> str:
    """Return the media type of the asset's file: that of an image or a video, or of nothing in particular."""
    if not asset.probed:
        return BINARY
    if asset.media_type == "image":
        return IMAGES.get(asset.codec, BINARY)
    return VIDEOS.get(PurePath(asset.filename).suffix.lower(), BINARY)


def content_headers(asset: Asset) -> dict[str, str]:
    """Return the headers with which the file is sent, whole or in part."""
    kind = content_type(asset)
    shown = "attachment" if kind == BINARY else "inline"
    quoted = quote(asset.filename)
    name = f'filename="{quoted}"' if quoted == asset.filename else f"filename*=utf-8''{quoted}"
    return {
        "content-type": kind,
        "content-disposition": f"{shown}; {name}",
        "content-security-policy": "default-src 'none'; sandbox",
        "x-content-type-options": "nosniff",
    }
