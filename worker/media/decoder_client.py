"""One decoder process, as its worker sees it: its socket, its shared memory, its life."""

import asyncio
import contextlib
import mmap
import os
import signal
import socket
import sys

import numpy as np
from numpy.typing import NDArray

from shared.redis.ending import end
from worker.media.decoder.decoder_messages import (
    HEADER,
    FromDecoder,
    Ready,
    Setup,
    ToDecoder,
    from_decoder,
    pack,
)
from worker.media.fetching import Fetching

# What FFmpeg and Python need of the environment, and no more: no proxy, no credential, no preload.
_ENVIRONMENT = ("PATH", "PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "LD_LIBRARY_PATH", "LANG", "TZ")
START_TIMEOUT = 60.0
END_GRACE = 2.0
REGION_ALIGNMENT = 4096


class DecoderDied(Exception):
    """The process ended by itself; `signal` is what ended it, 0 if nothing did."""

    def __init__(self, returncode: int) -> None:
        self.signal = -returncode if returncode < 0 else 0
        name = signal.Signals(self.signal).name if self.signal else f"exit status {returncode}"
        super().__init__(f"the decoder process died ({name})")


class SharedMemory:
    """Anonymous memory shared with one decoder process, given out in regions.

    It has no name, so nothing can be left behind: the kernel frees it with its last user.
    """

    def __init__(self) -> None:
        self.fd = os.memfd_create("rt-embed-clips", os.MFD_CLOEXEC)
        self.size = 0
        self._used: dict[int, int] = {}
        self._map: mmap.mmap | None = None

    def take(self, size: int) -> int:
        """The offset of a region of `size` bytes that nobody uses; the memory grows where it must."""
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
        """The region at `offset` is free again."""
        self._used.pop(offset, None)

    def array(self, offset: int, shape: tuple[int, ...]) -> NDArray[np.uint8]:
        """The uint8 array of `shape` at `offset`. It stays valid after `close`."""
        if self._map is None or len(self._map) < self.size:
            self._map = mmap.mmap(self.fd, self.size)
        return np.frombuffer(self._map, np.uint8, int(np.prod(shape)), offset).reshape(shape)

    def close(self) -> None:
        """Let go of the memory; arrays in it keep theirs."""
        os.close(self.fd)
        self._map = None


class DecoderProcess:
    """A running decoder process."""

    def __init__(
        self,
        process: asyncio.subprocess.Process,
        connection: socket.socket,
        memory: SharedMemory,
        fetching: Fetching | None = None,
    ) -> None:
        self.memory = memory
        self.fetching = fetching
        self._serving: asyncio.Task[None] | None = None
        self.sandbox = ""
        self._process = process
        self._socket = connection
        self._reader: asyncio.StreamReader
        self._writer: asyncio.StreamWriter

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    @property
    def alive(self) -> bool:
        """Whether it has not ended yet."""
        return self._process.returncode is None

    @classmethod
    async def start(cls, setup: Setup, niceness: int, fetching: Fetching | None = None) -> "DecoderProcess":
        """Start one and wait until it is ready. Without `fetching` it can read no objects. Raises DecoderDied
        or TimeoutError."""
        memory = SharedMemory()
        ours, theirs = socket.socketpair()
        blocks, their_blocks = socket.socketpair()
        given = (theirs.fileno(), memory.fd, *((their_blocks.fileno(),) if fetching else ()))
        environment = {name: os.environ[name] for name in _ENVIRONMENT if name in os.environ}
        try:
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "worker.media.decoder.decoder_process",
                str(theirs.fileno()), str(memory.fd), str(niceness), *map(str, given[2:]),
                stdin=asyncio.subprocess.DEVNULL,
                pass_fds=given,
                env={**environment, "MALLOC_ARENA_MAX": "2"},
            )  # fmt: skip
        except BaseException:
            ours.close()
            blocks.close()
            memory.close()
            raise
        finally:
            theirs.close()
            their_blocks.close()
        started = cls(process, ours, memory, fetching)
        try:
            async with asyncio.timeout(START_TIMEOUT):
                await started._connect(setup, blocks)
        except BaseException:
            await started.kill()
            raise
        return started

    async def _connect(self, setup: Setup, blocks: socket.socket) -> None:
        self._reader, self._writer = await asyncio.open_unix_connection(sock=self._socket)
        if self.fetching:
            ends = await asyncio.open_unix_connection(sock=blocks)
            self._serving = asyncio.create_task(self.fetching.serve(*ends))
        else:
            blocks.close()
        self.send(setup)
        ready = await self.receive()
        if isinstance(ready, Ready):
            self.sandbox = ready.sandbox

    def send(self, message: ToDecoder) -> None:
        """Send a message. One that has died will not get it; `receive` tells."""
        with contextlib.suppress(OSError):
            self._writer.write(pack(message))

    async def receive(self) -> FromDecoder:
        """The next message. Raises DecoderDied."""
        try:
            (length,) = HEADER.unpack(await self._reader.readexactly(HEADER.size))
            return from_decoder(await self._reader.readexactly(length))
        except (asyncio.IncompleteReadError, ConnectionError) as error:
            raise DecoderDied(await self._end()) from error

    async def _end(self) -> int:
        """Its exit status, now that its socket is closed. Killing it at once would hide why it died."""
        try:
            async with asyncio.timeout(END_GRACE):
                return await self._process.wait()
        except TimeoutError:
            self.terminate()
            return await self._process.wait()

    async def kill(self) -> None:
        """End it at once, whatever it does, and free what it held."""
        self.terminate()
        await self._process.wait()
        if self._serving:
            await end([self._serving])
        if hasattr(self, "_writer"):
            self._writer.close()
        self._socket.close()
        self.memory.close()

    def terminate(self) -> None:
        """Kill it without waiting for its end.

        Not through asyncio, whose `kill` may reap the process before asyncio's own watcher, so that its exit
        status is lost (cpython issue 87744).
        """
        if self.alive:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)
