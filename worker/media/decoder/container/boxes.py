"""The boxes that MP4, MOV, HEIC and AVIF files are made of (ISO/IEC 14496-12, 4.2)."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import NamedTuple, Protocol

MOST_BOXES = 10_000
"""Most boxes in one box; real files have fewer."""
LARGEST_FILE = 1 << 62
"""The largest file offset in bytes; a box may state more, where no file can be read."""
LARGEST_BOX = 64 << 20
"""Most bytes of a box that is read completely."""


class ByteFile(Protocol):
    """Bytes to read and to seek in."""

    def read(self, size: int) -> bytes:
        """Return the next bytes, perhaps fewer than `size`; none at the end."""

    def seek(self, offset: int, whence: int = 0) -> int:
        """Go to `offset` from the start (`whence` 0) or the end (2), and return the new position."""


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
    """Yield the boxes between `start` and `end`, up to the first invalid one."""
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
    """Return a box's content. Raises ValueError if it is too large to be valid."""
    if box.end - box.start > LARGEST_BOX:
        raise ValueError(f"a box of {box.end - box.start} bytes")
    return read_at(file, box.start, box.end - box.start)
