"""The input of a decoder process: local files, which its worker opens, and objects, whose bytes its worker
fetches.

The process itself has no file system and no network. Before a job it receives the job's open files through
one socket; through another it requests an object block by block.
"""

from __future__ import annotations

import contextlib
import os
import socket
import stat
import struct
import threading
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import msgspec

from shared.assets import is_object
from shared.errors import InvalidFile

BLOCK = 1 << 20
"""Bytes per request, aligned to a multiple of this."""
BLOCKS_KEPT = 8
REQUEST = struct.Struct("<I")
ANSWER = struct.Struct("<qI")
"""The object's size, or one of the two below, and how many bytes follow: the block, or the error text."""
AWAY, MISSING = -1, -2


MOST_FILES = 250
"""Most files of one job; the kernel passes 253 at a time."""
LONGEST_FACTS = 64 << 10


class FileFacts(msgspec.Struct, frozen=True, array_like=True):
    """An open file's size in bytes, and what changes when its path refers to other bytes."""

    size: int
    device: int
    inode: int
    modified: int


class OpenedFile:
    """A local file, open for reading until nothing references it."""

    def __init__(self, descriptor: int, facts: FileFacts) -> None:
        self.descriptor = descriptor
        self.facts = facts

    def __del__(self) -> None:
        os.close(self.descriptor)


def open_file(path: str) -> OpenedFile:
    """Open a local file. Blocks. Raises OSError, and InvalidFile for anything else, such as a pipe."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    status = os.fstat(descriptor)
    facts = FileFacts(status.st_size, status.st_dev, status.st_ino, status.st_mtime_ns)
    opened = OpenedFile(descriptor, facts)
    if not stat.S_ISREG(status.st_mode):
        raise InvalidFile(f"{Path(path).name} is not a regular file")
    return opened


def hand_over(connection: socket.socket, files: Sequence[OpenedFile]) -> None:
    """Send open files to the process at the other end. Raises OSError if it does not accept them."""
    facts = msgspec.msgpack.encode([file.facts for file in files])
    socket.send_fds(connection, [facts], [file.descriptor for file in files])


def receive_files(connection: socket.socket, paths: Sequence[str]) -> dict[str, OpenedFile]:
    """Return the files that the worker has sent, by path. Raises OSError."""
    data, descriptors, flags, _ = socket.recv_fds(connection, LONGEST_FACTS, MOST_FILES)
    facts = msgspec.msgpack.decode(data, type=list[FileFacts])
    opened = [OpenedFile(*pair) for pair in zip(descriptors, facts, strict=False)]
    if len(opened) != len(paths) or flags & socket.MSG_CTRUNC:
        raise OSError(f"{len(opened)} files came from the worker, not {len(paths)}")
    return dict(zip(paths, opened, strict=True))


class StoreAway(Exception):
    """The worker could not fetch an object's bytes. Not an OSError, because FFmpeg's errors are OSErrors."""


class BlockRequest(msgspec.Struct, frozen=True):
    """A request for one block of an object."""

    path: str
    block: Annotated[int, msgspec.Meta(ge=0, le=1 << 40)]


class Blocks:
    """The blocks of objects, from the worker at the other end of the socket. The last few blocks of the
    current object are kept."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._turn = threading.Lock()
        self._path, self._size = "", 0
        self._kept: OrderedDict[int, bytes] = OrderedDict()

    def size(self, path: str) -> int:
        """Return the object's bytes. Raises InvalidFile if there is none, StoreAway."""
        with self._turn:
            self._block(path, 0)
            return self._size

    def block(self, path: str, number: int) -> bytes:
        """Return one block: the last is shorter, one beyond the end empty. Raises InvalidFile, StoreAway."""
        with self._turn:
            return self._block(path, number)

    def _block(self, path: str, number: int) -> bytes:
        if path != self._path:
            self._path = path
            self._kept.clear()
        if number not in self._kept:
            self._kept[number] = self._fetch(path, number)
            if len(self._kept) > BLOCKS_KEPT:
                self._kept.popitem(last=False)
        self._kept.move_to_end(number)
        return self._kept[number]

    def _fetch(self, path: str, number: int) -> bytes:
        body = msgspec.msgpack.encode(BlockRequest(path, number))
        self._connection.sendall(REQUEST.pack(len(body)) + body)
        size, length = ANSWER.unpack(self._receive(ANSWER.size))
        data = self._receive(length)
        if size == MISSING:
            raise InvalidFile(data.decode())
        if size == AWAY:
            raise StoreAway(data.decode())
        self._size = size
        return data

    def _receive(self, length: int) -> bytes:
        data = self._connection.recv(length, socket.MSG_WAITALL) if length else b""
        if len(data) < length:
            raise StoreAway("the worker has gone")
        return data


class SeekableBytes:
    """A sequence of bytes of known size with its own read position, for FFmpeg."""

    def __init__(self, name: str, size: int) -> None:
        self.name = name
        self._size = size
        self._at = 0

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Go to `offset`, and return the new position."""
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._size}[whence]
        self._at = max(0, base + offset)
        return self._at

    def tell(self) -> int:
        """Return the position."""
        return self._at


class LocalFile(SeekableBytes):
    """An open local file. Others may read it at other positions."""

    def __init__(self, path: str, opened: OpenedFile) -> None:
        super().__init__(path, opened.facts.size)
        self._opened = opened

    def read(self, size: int) -> bytes:
        """Return the next bytes; empty at the end. Raises OSError."""
        left = max(0, self._size - self._at)
        data = os.pread(self._opened.descriptor, min(size, left), self._at)
        self._at += len(data)
        return data


class ObjectFile(SeekableBytes):
    """An object in a bucket."""

    def __init__(self, blocks: Blocks, path: str) -> None:
        super().__init__(path, blocks.size(path))
        self._blocks = blocks

    def read(self, size: int) -> bytes:
        """Return the next bytes, up to the end of a block; empty at the end. Raises StoreAway."""
        number, start = divmod(self._at, BLOCK)
        if self._at >= self._size:
            return b""
        data = self._blocks.block(self.name, number)
        data = data[start : start + size]
        self._at += len(data)
        return data


class ByteSources:
    """Opens paths: local files that the worker sends through `handed`, and objects that it fetches through
    `blocks`. Without `handed`, outside a sandbox, local files are opened here."""

    def __init__(self, blocks: Blocks | None = None, handed: socket.socket | None = None) -> None:
        self._blocks = blocks
        self._handed = handed
        self._local: dict[str, OpenedFile] = {}

    def begin(self, paths: Sequence[str]) -> None:
        """Receive the local files of a new job. Raises OSError."""
        local = [path for path in paths if not is_object(path)]
        if local and self._handed:
            self._local = receive_files(self._handed, local)

    def end(self) -> None:
        """End the job: close its files, except one that stays open for the next job."""
        self._local.clear()

    def for_ffmpeg(self, path: str) -> LocalFile | ObjectFile:
        """Return a file object for FFmpeg. Raises OSError (local), InvalidFile and StoreAway (objects)."""
        return self._object(path) if is_object(path) else LocalFile(path, self._opened(path))

    def read(self, path: str, most: int) -> bytes:
        """Return a file's first bytes. Raises OSError (local), InvalidFile and StoreAway (objects)."""
        data, found = bytearray(), self.for_ffmpeg(path)
        while len(data) < most and (piece := found.read(most - len(data))):
            data += piece
        return bytes(data)

    def facts(self, path: str) -> FileFacts | None:
        """Return a local file's current facts; None for an object, which never changes, or a missing file."""
        if is_object(path):
            return None
        with contextlib.suppress(OSError, InvalidFile):
            return self._opened(path).facts
        return None

    def _opened(self, path: str) -> OpenedFile:
        if self._handed is None:
            return open_file(path)
        if path not in self._local:
            raise FileNotFoundError(f"{Path(path).name} was not handed over")
        return self._local[path]

    def _object(self, path: str) -> ObjectFile:
        if self._blocks is None:
            raise InvalidFile(f"{Path(path).name} is in a bucket, which is not read here")
        return ObjectFile(self._blocks, path)


LOCAL = ByteSources()
