"""A transport that sends all writes of one turn of the event loop together.

uvicorn writes the head of an answer, then its body, and uvloop sends each at once. Sending is the most
expensive part of an answer, and a client would be woken twice.
"""

import asyncio
from typing import Any

MOST_HELD = 64 << 10
"""Bytes that wait for the end of the turn; more leave at once."""


class JoinedWrites:
    """Writes to `transport`, and leaves everything else to it."""

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        self._held: list[bytes] = []
        self._size = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        """Send the data before the event loop turns to something else."""
        if not self._held:
            self._loop.call_soon(self._send)
        self._held.append(data)
        self._size += len(data)
        if self._size > MOST_HELD:
            self._send()

    def close(self) -> None:
        """Send what is held, and close."""
        self._send()
        self._transport.close()

    def _send(self) -> None:
        held, self._held, self._size = self._held, [], 0
        if held and not self._transport.is_closing():
            self._transport.write(b"".join(held))
