"""What a decoder process reads: local files, and objects whose bytes its worker fetches for it.

The process itself has no network. It asks through a socket of its own for a block of an object at a time.
"""

from __future__ import annotations

import os
import socket
import struct
import threading
from collections import OrderedDict
from pathlib import Path
from typing import Annotated

import msgspec

from shared.assets import is_object
from shared.errors import InvalidFile

BLOCK = 1 << 20
"""Bytes that are asked for at a time, from a multiple of it on."""
BLOCKS_KEPT = 8
REQUEST = struct.Struct("<I")
ANSWER = struct.Struct("<qI")
"""The object's size, or one of the two below, and how many bytes follow: the block, or what went wrong."""
AWAY, MISSING = -1, -2


class StoreAway(Exception):
    """The worker could not fetch an object's bytes. Not an OSError, which FFmpeg's errors are taken for."""


class BlockRequest(msgspec.Struct, frozen=True):
    """Which block of which object is wanted."""

    path: str
    block: Annotated[int, msgspec.Meta(ge=0, le=1 << 40)]


class Blocks:
    """The blocks of objects, from the worker at the other end of the socket; the last few of the object that
    is being read are kept."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._turn = threading.Lock()
        self._path, self._size = "", 0
        self._kept: OrderedDict[int, bytes] = OrderedDict()

    def size(self, path: str) -> int:
        """The object's bytes. Raises InvalidFile if there is none, StoreAway."""
        with self._turn:
            self._block(path, 0)
            return self._size

    def block(self, path: str, number: int) -> bytes:
        """One block; the last is shorter, and what is beyond the end empty. Raises InvalidFile, StoreAway."""
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


class ObjectFile:
    """An object as a file to read and seek in, as FFmpeg does."""

    def __init__(self, blocks: Blocks, path: str) -> None:
        self.name = path
        self._blocks = blocks
        self._size = blocks.size(path)
        self._at = 0

    def read(self, size: int) -> bytes:
        """The next bytes, no more than up to the end of a block; empty at the end. Raises StoreAway."""
        number, start = divmod(self._at, BLOCK)
        if self._at >= self._size:
            return b""
        data = self._blocks.block(self.name, number)
        data = data[start : start + size]
        self._at += len(data)
        return data

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Go to `offset`, and say where that is."""
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._size}[whence]
        self._at = max(0, base + offset)
        return self._at

    def tell(self) -> int:
        """Where it is."""
        return self._at


class ByteSources:
    """Opens what a path names."""

    def __init__(self, blocks: Blocks | None = None) -> None:
        self._blocks = blocks

    def for_ffmpeg(self, path: str) -> str | ObjectFile:
        """What to give to FFmpeg: the URL of a local file, or an object as a file, for which it raises
        InvalidFile and StoreAway."""
        return self._object(path) if is_object(path) else f"file:{Path(path).absolute()}"

    def read(self, path: str, most: int) -> bytes:
        """The first bytes of a file. Raises OSError (local), InvalidFile and StoreAway (objects)."""
        if not is_object(path):
            with Path(path).open("rb") as file:
                return file.read(most)
        data, found = bytearray(), self._object(path)
        while len(data) < most and (piece := found.read(most - len(data))):
            data += piece
        return bytes(data)

    def _object(self, path: str) -> ObjectFile:
        if self._blocks is None:
            raise InvalidFile(f"{Path(path).name} lies in a bucket, which is not read here")
        return ObjectFile(self._blocks, path)


LOCAL = ByteSources()
