"""Server-sent events: lines end with CRLF, a ping every second, a slow reader is let go."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from datetime import UTC, datetime

import msgspec
import structlog
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

log = structlog.get_logger(__name__)

PING_INTERVAL = 1.0
SEND_TIMEOUT = 5.0
DONE = "[DONE]"
HEADERS = {
    "content-type": "text/event-stream; charset=utf-8",
    "cache-control": "no-cache",
    "connection": "keep-alive",
    "x-accel-buffering": "no",
}


def event(value: object) -> bytes:
    """One event: a msgspec value as JSON, or a text as it is."""
    data = value.encode() if isinstance(value, str) else msgspec.json.encode(value)
    return b"data: " + data + b"\r\n\r\n"


class EventStream(Response):
    """Sends what `events` yields, and pings in between, until it ends or the client goes.

    `events` is closed in every case, so what it holds is released.
    """

    def __init__(self, events: AsyncGenerator[bytes, None]) -> None:
        super().__init__(headers=HEADERS)
        del self.headers["content-length"]
        self._events = events

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve the stream on one connection."""
        sending = asyncio.Lock()

        async def push(message: Message) -> None:
            async with sending, asyncio.timeout(SEND_TIMEOUT):
                await send(message)

        await push({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        tasks = [
            asyncio.create_task(self._stream(push)),
            asyncio.create_task(_ping(push)),
            asyncio.create_task(_gone(receive)),
        ]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        for task in done:
            if isinstance(task.exception(), TimeoutError | OSError):
                log.warning("event stream ended: the client reads too slowly or has gone")
            else:
                task.result()

    async def _stream(self, push: Send) -> None:
        async with aclosing(self._events) as events:
            async for data in events:
                await push({"type": "http.response.body", "body": data, "more_body": True})
        await push({"type": "http.response.body", "body": b"", "more_body": False})


async def _ping(push: Send) -> None:
    while True:
        await asyncio.sleep(PING_INTERVAL)
        comment = f": ping - {datetime.now(UTC)}\r\n\r\n".encode()
        await push({"type": "http.response.body", "body": comment, "more_body": True})


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
