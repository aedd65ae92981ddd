"""Messages with their length before them."""

import asyncio
import socket
from fractions import Fraction

import msgspec
import pytest

from worker.framing import HEADER, LONGEST, Framing


class Rate(msgspec.Struct, tag=True, frozen=True):
    """Frames per second."""

    value: Fraction


class Stop(msgspec.Struct, tag=True, frozen=True):
    """No more."""


FRAMING: Framing[Rate | Stop] = Framing(Rate | Stop)


def stream(data: bytes) -> asyncio.StreamReader:
    reader = asyncio.StreamReader()
    reader.feed_data(data)
    reader.feed_eof()
    return reader


async def test_what_is_packed_is_read_one_by_one() -> None:
    reader = stream(FRAMING.pack(Rate(Fraction(30_000, 1001))) + FRAMING.pack(Stop()))
    assert await FRAMING.read(reader) == Rate(Fraction(30_000, 1001))
    assert await FRAMING.read(reader) == Stop()
    with pytest.raises(asyncio.IncompleteReadError):
        await FRAMING.read(reader)


async def test_a_message_that_ends_early_is_none() -> None:
    with pytest.raises(asyncio.IncompleteReadError):
        await FRAMING.read(stream(FRAMING.pack(Stop())[:-1]))


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (HEADER.pack(LONGEST + 1), f"{LONGEST + 1} bytes is longer"),
        (HEADER.pack(1) + b"\xc1", "unreadable message of 1 bytes"),
        (HEADER.pack(1) + b"\x80", "unreadable message of 1 bytes"),
    ],
)
async def test_what_is_no_message_is_refused(data: bytes, problem: str) -> None:
    with pytest.raises(ConnectionError, match=problem):
        await FRAMING.read(stream(data))


def test_a_blocking_socket_gives_messages_until_its_end() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.sendall(FRAMING.pack(Rate(Fraction(25))) + FRAMING.pack(Stop()))
        theirs.shutdown(socket.SHUT_WR)
        assert FRAMING.receive(ours) == Rate(Fraction(25))
        assert FRAMING.receive(ours) == Stop()
        assert FRAMING.receive(ours) is None
