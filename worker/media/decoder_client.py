"""The worker's side of one decoder process: socket, shared memory, lifetime."""

import asyncio
import contextlib
import contextvars
import fcntl
import mmap
import os
import socket
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from shared.redis.ending import end
from worker.children import ChildProcess, Spawned, spawn
from worker.media.decoder.container.byte_sources import OpenedFile, hand_over
from worker.media.decoder.decoder_messages import (
    FROM_DECODER,
    TO_DECODER,
    FromDecoder,
    Ready,
    Setup,
    ToDecoder,
)
from worker.media.fetching import Fetching

START_TIMEOUT = 60.0
REGION_ALIGNMENT = 4096
F_ADD_SEALS, F_SEAL_SHRINK = 1033, 2


class SharedMemory:
    """Anonymous memory shared with one decoder process, given out in regions.

    It has no name, so nothing can be left behind: the kernel frees it with its last user.
    """

    def __init__(self) -> None:
        self.fd = os.memfd_create("rt-embed-clips", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        fcntl.fcntl(self.fd, F_ADD_SEALS, F_SEAL_SHRINK)  # or reading it could end the worker (SIGBUS)
        self.size = 0
        self._used: dict[int, int] = {}
        self._map: mmap.mmap | None = None

    def take(self, size: int) -> int:
        """Return the offset of an unused region of `size` bytes; the memory grows if there is none."""
        size = -(-size // REGION_ALIGNMENT) * REGION_ALIGNMENT
        offset = 0
        for start in sorted(self._used):
            if start - offset >= size:
                break
            offset = start + self._used[start]
        self._used[offset] = size
        if offset + size > self.size:
            self.size = offset + size
            os.ftruncate(self.fd, self.size)
        return offset

    def give_back(self, offset: int) -> None:
        """Free the region at `offset`."""
        self._used.pop(offset, None)

    def array(self, offset: int, shape: tuple[int, ...]) -> NDArray[np.uint8]:
        """Return the uint8 array of `shape` at `offset`. It stays valid after `close`."""
        if self._map is None or len(self._map) < self.size:
            self._map = mmap.mmap(self.fd, self.size)
        return np.frombuffer(self._map, np.uint8, int(np.prod(shape)), offset).reshape(shape)

    def close(self) -> None:
        """Close the memory; arrays keep their mappings."""
        os.close(self.fd)
        self._map = None


class DecoderProcess(ChildProcess[ToDecoder, FromDecoder]):
    """A running decoder process."""

    def __init__(
        self, spawned: Spawned, memory: SharedMemory, files: socket.socket, fetching: Fetching | None = None
    ) -> None:
        super().__init__("decoder", spawned, TO_DECODER, FROM_DECODER)
        self.memory = memory
        self._files = files
        self.fetching = fetching
        self.sandbox = ""
        """What isolates the process."""
        self._serving: asyncio.Task[None] | None = None

    @classmethod
    async def start(cls, setup: Setup, niceness: int, fetching: Fetching | None = None) -> "DecoderProcess":
        """Start a process and wait until it is ready. Without `fetching` it cannot read objects. Raises
        OSError, ChildDied or TimeoutError."""
        memory = SharedMemory()
        blocks, their_blocks = socket.socketpair()
        files, their_files = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        files.setblocking(False)
        needed = (memory.fd, their_files.fileno())
        more = (their_blocks.fileno(),) if fetching else ()
        try:
            with their_blocks, their_files:
                spawned = await spawn(
                    "worker.media.decoder.decoder_process", (*needed, niceness, *more), (*needed, *more)
                )
        except BaseException:
            blocks.close()
            files.close()
            memory.close()
            raise
        started = cls(spawned, memory, files, fetching)
        try:
            async with asyncio.timeout(START_TIMEOUT):
                await started.set_up(setup, blocks)
        except BaseException:
            await started.close()
            raise
        return started

    async def set_up(self, setup: Setup, blocks: socket.socket) -> None:
        """Send the first message, and answer what the process asks for over `blocks`. Raises ChildDied."""
        if self.fetching:
            ends = await asyncio.open_unix_connection(sock=blocks)
            self._serving = asyncio.create_task(self.fetching.serve(*ends), context=contextvars.Context())
        else:
            blocks.close()
        self.send(setup)
        ready = await self.receive()
        if isinstance(ready, Ready):
            self.sandbox = ready.sandbox

    def hand_over(self, files: Sequence[OpenedFile]) -> None:
        """Send the local files of the next job, which the process cannot open itself. If the process has died
        or does not accept them, that job fails."""
        with contextlib.suppress(OSError):
            hand_over(self._files, files)

    async def close(self) -> None:
        """Kill the process and free its resources."""
        await super().close()
        if self._serving:
            await end([self._serving])
        self._files.close()
        self.memory.close()
