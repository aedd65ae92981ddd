"""Commands that are answered once enough replicas have what was written: RTEMBED_REDIS_REPLICAS.

They have their own connection: while WAIT waits for replicas that are behind, what comes after it on its
connection waits, too. All who wait share rounds of one WAIT each, so that slow replicas do not make a queue.
"""

import asyncio
from collections.abc import Callable
from typing import Any

from redis.exceptions import ConnectionError, TimeoutError  # noqa: A004 - redis-py's names

from shared import keys
from shared.redis.failures import ReplicasBehind
from shared.redis.multiplexed import PAUSES, Argument, Multiplexed, Replies

PATIENCE = 1.0
"""Seconds that replicas have to confirm."""
MARK_SECONDS = 60


class Replicated(Multiplexed):
    """A Multiplexed that answers once `replicas` replicas have all that was written until then."""

    def __init__(self, make_connection: Callable[[], Any], timeout: float, replicas: int) -> None:
        super().__init__(make_connection, timeout)
        self._replicas = replicas
        self._patience_ms = int(1000 * min(PATIENCE, timeout / 2))
        self._turn = asyncio.Lock()
        self._next: asyncio.Task[None] | None = None
        self._next_over: Replies | None = None

    async def call(self, *command: Argument) -> Any:
        """Return the answer. Raises ReplicasBehind, with the command carried out, and as Multiplexed."""
        for pause in PAUSES:
            try:
                return await self._attempt(command)
            except (ConnectionError, TimeoutError):
                await asyncio.sleep(pause)
        return await self._attempt(command)

    async def _attempt(self, command: tuple[Argument, ...]) -> Any:
        replies = await self._connected()
        answer = await replies.to(command)
        if self._next is None or self._next_over is not replies:
            self._next, self._next_over = asyncio.create_task(self._round(replies)), replies
            self._next.add_done_callback(_seen)
        await asyncio.shield(self._next)
        return answer

    async def _round(self, replies: Replies) -> None:
        """Wait until the replicas have what was written before now. Over this connection: another may lead
        to another primary."""
        async with self._turn:
            if self._next_over is replies:
                self._next = None  # who comes from now on needs another round
            mark = replies.to(("SET", keys.REPLICATED, "1", "EX", MARK_SECONDS))
            reached = replies.to(("WAIT", self._replicas, self._patience_ms))
            _, count = await asyncio.gather(mark, reached)
        if count < self._replicas:
            raise ReplicasBehind(
                f"{count} replicas have the write, {self._replicas} are required (RTEMBED_REDIS_REPLICAS)"
            )


def _seen(round_: "asyncio.Task[None]") -> None:
    """Ignore the result if nobody waits any more."""
    if not round_.cancelled():
        round_.exception()
