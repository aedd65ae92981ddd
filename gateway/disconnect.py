"""Noticing that a client closed its connection before its answer was ready."""

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

from starlette.requests import Request as HttpRequest
from starlette.types import Receive

T = TypeVar("T")


class ClientGone(Exception):
    """The client closed the connection before its answer was ready."""


async def disconnected(receive: Receive) -> None:
    """Return when the client has closed the connection; drop what it still sends."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def until_gone(request: HttpRequest, answer: Awaitable[T]) -> T:
    """Wait for `answer`, but cancel it when the client disconnects. Raises ClientGone then."""

    async def give_up() -> None:
        await disconnected(request.receive)
        patience.reschedule(0)

    try:
        async with asyncio.timeout(None) as patience:
            watching = asyncio.create_task(give_up())
            try:
                return await answer
            finally:
                watching.cancel()
    except TimeoutError:
        if patience.expired():
            raise ClientGone from None
        raise
