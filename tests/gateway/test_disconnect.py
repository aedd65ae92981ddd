import asyncio
from typing import Any

import pytest
from starlette.requests import Request as HttpRequest

from gateway.disconnect import ClientGone, until_gone
from shared.errors import ServerBusy


def connection() -> tuple[HttpRequest, asyncio.Queue[dict[str, Any]]]:
    """A request whose client the test plays."""
    messages: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
    return HttpRequest({"type": "http", "method": "POST", "headers": []}, messages.get), messages


async def test_an_answer_is_passed_on() -> None:
    request, _ = connection()

    async def answer() -> str:
        await asyncio.sleep(0)
        return "done"

    assert await until_gone(request, answer()) == "done"


async def test_an_error_is_passed_on() -> None:
    request, _ = connection()

    async def answer() -> None:
        raise ServerBusy("full")

    with pytest.raises(ServerBusy, match="full"):
        await until_gone(request, answer())


async def test_a_client_that_goes_cancels_its_answer() -> None:
    request, messages = connection()
    cancelled = asyncio.Event()

    async def answer() -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            await asyncio.sleep(0)
            cancelled.set()
            raise

    waiting = asyncio.create_task(until_gone(request, answer()))
    messages.put_nowait({"type": "http.request", "body": b"more", "more_body": False})
    await asyncio.sleep(0.01)
    assert not waiting.done()
    messages.put_nowait({"type": "http.disconnect"})
    with pytest.raises(ClientGone):
        await waiting
    assert cancelled.is_set()


async def test_an_answer_that_is_ready_wins_over_a_client_that_goes() -> None:
    request, messages = connection()
    ready: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    ready.set_result(7)
    messages.put_nowait({"type": "http.disconnect"})
    assert await until_gone(request, ready) == 7


async def test_whoever_waits_may_be_cancelled() -> None:
    request, _ = connection()
    ended = asyncio.Event()

    async def answer() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    waiting = asyncio.create_task(until_gone(request, answer()))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert ended.is_set()
