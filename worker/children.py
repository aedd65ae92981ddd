"""Child processes of a worker: they get a socket to the worker and an environment without secrets."""

import asyncio
import contextlib
import os
import signal
import socket
import sys
from collections.abc import Sequence
from typing import Generic, TypeVar

import msgspec

from worker.framing import Framing

Sent = TypeVar("Sent")
Received = TypeVar("Received")

# The variables that FFmpeg and Python need, and no others: no proxy, no credential, no preload.
_ENVIRONMENT = ("PATH", "PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "LD_LIBRARY_PATH", "LANG", "TZ")
END_GRACE = 2.0
"""Seconds that a child has to exit after its socket closed."""


class ChildDied(Exception):
    """A child process ended by itself. `signal` killed it (0: none did); `status` is its exit status."""

    def __init__(self, name: str, returncode: int) -> None:
        self.status = returncode
        self.signal = -returncode if returncode < 0 else 0
        reason = signal.Signals(self.signal).name if self.signal else f"exit status {returncode}"
        super().__init__(f"the {name} process died ({reason})")


def child_environment() -> dict[str, str]:
    """Return the environment of a child process."""
    kept = {name: os.environ[name] for name in _ENVIRONMENT if name in os.environ}
    # One thread: isolation is only certain for the thread that gives up the privileges.
    return {**kept, "MALLOC_ARENA_MAX": "2", "OPENBLAS_NUM_THREADS": "1", "UV_USE_IO_URING": "0"}


_FOR_NETWORK = (
    *("HOME", "USER", "TMPDIR", "LC_ALL", "XDG_CACHE_HOME", "XDG_CONFIG_HOME"),
    *("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSH_AUTH_SOCK"),
    *("http_proxy", "https_proxy", "all_proxy", "no_proxy"),
    *("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"),
)


def network_environment(*prefixes: str) -> dict[str, str]:
    """Return the environment of a program that downloads, such as pip: the network variables, and its own,
    which begin with one of `prefixes`. It holds none of our keys, tokens and passwords."""
    names = {*_ENVIRONMENT, *_FOR_NETWORK} - {"PYTHONPATH", "PYTHONHOME"}
    return {name: os.environ[name] for name in os.environ if name in names or name.startswith(prefixes)}


class Spawned(msgspec.Struct, frozen=True):
    """A started child, and our end of its socket."""

    process: asyncio.subprocess.Process
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter


async def spawn(module: str, arguments: Sequence[object] = (), descriptors: Sequence[int] = ()) -> Spawned:
    """Start `python -m MODULE SOCKET ARGUMENTS...`, which inherits `descriptors`. Raises OSError."""
    ours, theirs = socket.socketpair()
    try:
        with theirs:
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", module, str(theirs.fileno()), *map(str, arguments),
                stdin=asyncio.subprocess.DEVNULL,
                pass_fds=(theirs.fileno(), *descriptors),
                env=child_environment(),
            )  # fmt: skip
        return Spawned(process, *await asyncio.open_unix_connection(sock=ours))
    except BaseException:
        ours.close()  # ends a child that has started
        raise


class ChildProcess(Generic[Sent, Received]):
    """A running child process. The worker sends it `Sent` messages; it answers with `Received`."""

    def __init__(self, name: str, spawned: Spawned, sent: Framing[Sent], received: Framing[Received]) -> None:
        self._name = name
        self._process = spawned.process
        self._reader, self._writer = spawned.reader, spawned.writer
        self._sent = sent
        self._received = received

    @property
    def pid(self) -> int:
        """The child's process id."""
        return self._process.pid

    @property
    def alive(self) -> bool:
        """Whether the child is still running."""
        return self._process.returncode is None

    def send(self, message: Sent) -> None:
        """Send a message. If the child has died, it is lost, and `receive` raises."""
        with contextlib.suppress(OSError):
            self._writer.write(self._sent.pack(message))

    async def receive(self) -> Received:
        """Return the next message. Raises ChildDied."""
        try:
            return await self._received.read(self._reader)
        except (asyncio.IncompleteReadError, ConnectionError) as error:
            raise ChildDied(self._name, await self._exit_status()) from error

    async def _exit_status(self) -> int:
        """Return the child's exit status after its socket closed. Killing it would hide why it died."""
        try:
            async with asyncio.timeout(END_GRACE):
                return await self._process.wait()
        except TimeoutError:
            self.terminate()
            return await self._process.wait()

    def terminate(self) -> None:
        """Kill the child without waiting for it to end.

        Not through asyncio: its `kill` may reap the process before asyncio's own watcher does, which loses
        the exit status (cpython issue 87744).
        """
        if self.alive:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)

    async def close(self) -> None:
        """Kill the child, wait until it has ended, and close its socket."""
        self.terminate()
        await self._process.wait()
        self._writer.close()
