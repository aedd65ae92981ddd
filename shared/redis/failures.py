"""The meaning of Redis's errors: the server is away, another one is the primary, or it refuses writes."""

import asyncio
import re
from collections.abc import Awaitable, Callable
from typing import TypeVar

import structlog
from redis.exceptions import (
    BusyLoadingError,
    ConnectionError,  # noqa: A004 - redis-py's names
    NoScriptError,
    RedisError,
    ResponseError,
    TimeoutError,  # noqa: A004
)

log = structlog.get_logger(__name__)

T = TypeVar("T")

RETRY_INTERVAL = 0.5
LONGEST_CODE = 500
"""Characters of an error's text that are looked at."""
REFUSALS = {
    "OOM": "it is full: it refuses writes",
    "MISCONF": "it cannot save its data: it refuses writes",
    "NOREPLICAS": "too few of its replicas answer: it refuses writes",
}
ELSEWHERE = {"READONLY", "MOVED", "ASK", "CLUSTERDOWN", "MASTERDOWN", "UNBLOCKED"}
"""What a server answers that is not the primary, or cannot say now who is."""
# Redis 6.2 puts a script's error into another one: ERR Error running script (...): ... -OOM command ...
_IN_SCRIPT = re.compile(r"-([A-Z]+) ")


class WritesRefused(ResponseError):
    """Redis takes no writes for now; the message says why. Nothing was written."""


class ReplicasBehind(ResponseError):
    """What was written has not reached enough replicas, so it must not be acknowledged."""


class NotPrimary(ConnectionError):
    """The server at the other end is not, or no longer, the primary."""


OUTAGES: tuple[type[RedisError], ...] = (ConnectionError, TimeoutError, WritesRefused, ReplicasBehind)
"""What passes by itself: Redis is away, moves to another server, takes no writes, or has no replicas."""


def error_of(text: str) -> RedisError:
    """Return the error that stands for an error reply."""
    code = text[:LONGEST_CODE].partition(" ")[0]
    if code == "ERR" and (inner := _IN_SCRIPT.search(text[:LONGEST_CODE])):
        code = inner[1]
    if code in REFUSALS:
        return WritesRefused(f"{REFUSALS[code]} ({code})")
    if code in ELSEWHERE:
        return NotPrimary(text)
    if code == "LOADING":
        return BusyLoadingError(text)
    return NoScriptError(text) if code == "NOSCRIPT" else ResponseError(text)


async def through_outages(call: Callable[[], Awaitable[T]], what: str) -> T:
    """Return the result of `call`, retried as long as Redis is away, refuses writes or has no replicas.
    `call` must be safe to repeat. `what` is logged. Raises other errors of Redis.
    """
    warned = False
    while True:
        try:
            return await call()
        except OUTAGES as error:
            if not warned:
                log.warning("waiting for redis", waiting=what, error=str(error))
                warned = True
            await asyncio.sleep(RETRY_INTERVAL)
