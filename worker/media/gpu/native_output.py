"""Reads what native libraries print to standard output, when that is the only place where they report errors.

PyNvVideoCodec asks the driver for each picture's state and prints `Decode Error occurred for picture N`; it
still returns the concealed picture.
"""

import ctypes
import os
import threading
from functools import cache

import structlog

log = structlog.get_logger(__name__)

ERROR = b"Decode Error occurred"
LONGEST_LINE = 300
STANDARD_OUTPUT = 1


class NativeOutput:
    """Reads what is written to `descriptor` from now on. Neither end ever waits: what does not fit into the
    pipe is lost to the library that writes it."""

    def __init__(self, descriptor: int = STANDARD_OUTPUT) -> None:
        self._reading, writing = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._before = os.dup(descriptor)
        self._descriptor = descriptor
        self._flush = ctypes.CDLL(None).fflush
        self._turn = threading.Lock()
        self._rest = b""
        self._errors = 0
        self._flush(None)
        os.dup2(writing, descriptor)
        os.close(writing)

    def errors(self) -> int:
        """Return how many pictures have been reported as damaged so far. Every other line goes to the log."""
        with self._turn:
            self._flush(None)
            *lines, self._rest = (self._rest + self._read()).split(b"\n")
            self._rest = self._rest[-LONGEST_LINE:]
            for line in lines:
                if ERROR in line:
                    self._errors += 1
                elif line.strip():
                    log.info("native library", said=line[:LONGEST_LINE].decode(errors="replace"))
            return self._errors

    def close(self) -> None:
        """Restore the descriptor."""
        self._flush(None)
        os.dup2(self._before, self._descriptor)
        os.close(self._before)
        os.close(self._reading)

    def _read(self) -> bytes:
        parts = []
        while True:
            try:
                part = os.read(self._reading, 65536)
            except BlockingIOError:
                break
            if not part:
                break
            parts.append(part)
        return b"".join(parts)


@cache
def native_output() -> NativeOutput:
    """Return the one that reads this process's standard output."""
    return NativeOutput()
