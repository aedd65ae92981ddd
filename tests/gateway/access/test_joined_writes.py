"""Writes of one turn of the event loop leave together, in their order, and none is lost."""

import asyncio
from typing import Any

import pytest

from gateway.access.joined_writes import MOST_HELD, JoinedWrites


class Sent(asyncio.Transport):
    """Keeps what it is told to write."""

    def __init__(self) -> None:
        super().__init__({"peername": ("192.0.2.1", 7)})
        self.writes: list[bytes] = []
        self.closed = False

    def write(self, data: Any) -> None:
        self.writes.append(bytes(data))

    def close(self) -> None:
        self.closed = True

    def is_closing(self) -> bool:
        return self.closed


@pytest.fixture
def sent() -> Sent:
    return Sent()


@pytest.fixture
async def joined(sent: Sent) -> JoinedWrites:
    return JoinedWrites(sent, asyncio.get_running_loop())


async def test_head_and_body_leave_in_one_write_before_the_next_turn(
    joined: JoinedWrites, sent: Sent
) -> None:
    joined.write(b"head ")
    joined.write(b"body")
    assert sent.writes == []
    await asyncio.sleep(0)
    joined.write(b"next")
    await asyncio.sleep(0)
    assert sent.writes == [b"head body", b"next"]


async def test_what_is_held_leaves_before_the_connection_closes(joined: JoinedWrites, sent: Sent) -> None:
    joined.write(b"last words")
    joined.close()
    assert (sent.writes, sent.closed) == ([b"last words"], True)


async def test_nothing_is_written_to_a_closed_connection(joined: JoinedWrites, sent: Sent) -> None:
    joined.write(b"too late")
    sent.closed = True
    await asyncio.sleep(0)
    assert sent.writes == []


async def test_a_large_answer_is_not_held(joined: JoinedWrites, sent: Sent) -> None:
    joined.write(b"head")
    joined.write(bytes(MOST_HELD))
    joined.write(b"tail")
    assert sent.writes == [b"head" + bytes(MOST_HELD)]
    await asyncio.sleep(0)
    assert sent.writes[1:] == [b"tail"]


async def test_all_else_is_the_transports(joined: JoinedWrites) -> None:
    assert joined.get_extra_info("peername") == ("192.0.2.1", 7)
