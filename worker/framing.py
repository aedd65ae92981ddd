"""Messages between a worker and its child processes: length-prefixed MessagePack."""

import socket
import struct
from fractions import Fraction
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import msgspec

if TYPE_CHECKING:
    import asyncio  # a decoder process does not need it

Message = TypeVar("Message")

HEADER = struct.Struct("<I")
LONGEST_FRACTION = 48
LONGEST = 1 << 30
"""Bytes of one message; far more than the packets of a camera's longest chunk."""


class Framing(Generic[Message]):
    """One direction of a connection: every message is one of the tagged structs in a union, and at most
    `longest` bytes long."""

    def __init__(self, union: Any, longest: int = LONGEST) -> None:
        self._longest = longest
        self._encoder = msgspec.msgpack.Encoder(enc_hook=_encode_fraction)
        self._decoder: msgspec.msgpack.Decoder[Message] = msgspec.msgpack.Decoder(
            union, dec_hook=_decode_fraction
        )

    def pack(self, message: Message) -> bytes:
        """Return one message with its length prefix."""
        body = self._encoder.encode(message)
        return HEADER.pack(len(body)) + body

    async def read(self, reader: "asyncio.StreamReader") -> Message:
        """Return the next message of a stream.

        Raises ConnectionError or IncompleteReadError at its end, and ConnectionError for an invalid message.
        """
        length = self._length(await reader.readexactly(HEADER.size))
        return self._decode(await reader.readexactly(length))

    def receive(self, connection: socket.socket) -> Message | None:
        """Return the next message of a blocking socket, or None at its end. Raises ConnectionError for an
        invalid message."""
        head = connection.recv(HEADER.size, socket.MSG_WAITALL)
        if len(head) < HEADER.size:
            return None
        return self._decode(connection.recv(self._length(head), socket.MSG_WAITALL))

    def _decode(self, body: bytes) -> Message:
        try:
            return self._decoder.decode(body)
        except msgspec.MsgspecError as error:
            raise ConnectionError(f"unreadable message of {len(body)} bytes: {error}") from error

    def _length(self, head: bytes) -> int:
        length: int = HEADER.unpack(head)[0]
        if length > self._longest:
            raise ConnectionError(f"a message of {length} bytes is longer than {self._longest}")
        return length


def _encode_fraction(value: Any) -> Any:
    if isinstance(value, Fraction):
        return str(value)
    raise NotImplementedError(type(value))


def _decode_fraction(kind: type, value: Any) -> Any:
    if kind is Fraction and isinstance(value, str) and len(value) <= LONGEST_FRACTION:
        numerator, _, denominator = value.partition("/")
        return Fraction(int(numerator), int(denominator or 1) or 1)
    raise NotImplementedError(kind)
