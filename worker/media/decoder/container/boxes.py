"""The boxes that MP4, MOV, HEIC and AVIF files are made of (ISO/IEC 14496-12, 4.2)."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import NamedTuple, Protocol

MOST_BOXES = 10_000
"""In one box; real files have fewer."""
LARGEST_FILE = 1 << 62
"""Bytes; a box may state more, to where no file can be read."""
LARGEST_BOX = 64 << 20
"""Bytes of a box that is read as a whole."""


class ByteFile(Protocol):
    """Bytes to read and to seek in."""

    def read(self, size: int) -> bytes:
        """Return the next bytes, perhaps fewer than `size`; none at the end."""

    def seek(self, offset: int, whence: int = 0) -> int:
        """Go to `offset`, counted from the start (`whence` 0) or the end (2), and return where that is."""


class Box(NamedTuple):
    """A box: its type, where its content begins, and where it ends (which may be beyond the file)."""

    kind: bytes
    start: int
    end: int


def size_of(file: ByteFile) -> int:
    """Return the file's number of bytes."""
    return file.seek(0, 2)


def read_at(file: ByteFile, start: int, length: int) -> bytes:
    """Return `length` bytes from `start` on, or as many as there are."""
    file.seek(start)
    data = bytearray()
    while len(data) < length and (piece := file.read(length - len(data))):
        data += piece
    return bytes(data)


def boxes(file: ByteFile, start: int, end: int) -> Iterator[Box]:
    """Yield the boxes between `start` and `end`, up to the first that makes no sense."""
    for _ in range(MOST_BOXES):
        if start + 8 > min(end, LARGEST_FILE) or len(head := read_at(file, start, 16)) < 8:
            return
        size, kind = struct.unpack_from(">I4s", head)
        content = start + 8
        if size == 1 and len(head) == 16:
            (size,), content = struct.unpack_from(">Q", head, 8), start + 16
        elif size == 0:
            size = end - start
        if size < content - start:
            return
        yield Box(kind, content, start + size)
        start += size


def find(file: ByteFile, parents: Iterator[Box], *path: bytes) -> Iterator[Box]:
    """Yield the boxes at `path` below and among `parents`: every box of the first kind, in it every one of
    the second, and so on."""
    kind, *deeper = path
    for box in parents:
        if box.kind == kind and deeper:
            yield from find(file, boxes(file, box.start, box.end), *deeper)
        elif box.kind == kind:
            yield box


def content(file: ByteFile, box: Box) -> bytes:
    """Return what is in a box. Raises ValueError where it is too large to be true."""
    if box.end - box.start > LARGEST_BOX:
        raise ValueError(f"a box of {box.end - box.start} bytes")
    return read_at(file, box.start, box.end - box.start)
