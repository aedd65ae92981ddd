"""Common to downloads from any hub: listed files, their digests, free disk space."""

import base64
import hashlib
import shutil
from pathlib import Path
from typing import Literal

import msgspec

from shared.errors import ModelError

PIECE = 1 << 20
MAKE_ROOM = "free space or set NGC_MODEL_CACHE to another disk"
ELSEWHERE = "or download the model elsewhere and set MODEL_PATH to its folder"


class RemoteFile(msgspec.Struct, frozen=True):
    """A file as a hub lists it. `digest` is empty if the hub gives none."""

    path: str
    size: int
    algorithm: Literal["sha256", "git-sha1", ""] = ""
    digest: str = ""
    """In hexadecimal."""


def check_file(file: RemoteFile, path: Path) -> str:
    """Compare `path` with the hub's listing and return its SHA-256. On a mismatch, delete the file, so that
    the next attempt fetches it again, and raise ModelError."""
    size = path.stat().st_size
    sha256, git = hashlib.sha256(), hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False)
    with path.open("rb") as stream:
        while piece := stream.read(PIECE):
            sha256.update(piece)
            if file.algorithm == "git-sha1":
                git.update(piece)
    found = {"sha256": sha256.hexdigest(), "git-sha1": git.hexdigest(), "": ""}[file.algorithm]
    if size != file.size or found != file.digest:
        path.unlink()
        raise ModelError(
            f"{file.path} arrived with {size} bytes and the digest {found}, expected {file.size} and "
            f"{file.digest}; it was deleted: try again"
        )
    return sha256.hexdigest()


def from_base64(digest: str) -> str:
    """Convert a base64 digest to hexadecimal."""
    return base64.b64decode(digest).hex()


def check_room(folder: Path, size: int) -> None:
    """Create the folder. Raises ModelError if its disk has too little space for the rest of `size` bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    missing = size - sum(path.stat().st_size for path in folder.rglob("*") if _counts(path))
    free = shutil.disk_usage(folder).free
    if missing > free:
        raise ModelError(
            f"the download needs {missing / 1e9:.2f} GB in {folder}, where {free / 1e9:.2f} GB are free: "
            f"{MAKE_ROOM}"
        )


def _counts(path: Path) -> bool:
    # The hub's client leaves such files behind when it is killed, and never reuses them.
    return path.is_file() and path.suffix != ".incomplete"
