"""Server-sent events: lines end with CRLF, a ping every second, slow readers are disconnected."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AsyncExitStack, aclosing
from datetime import UTC, datetime

import msgspec
import structlog
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from gateway.disconnect import disconnected

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


def event(value: object, event_id: str = "") -> bytes:
    """Return one event: a msgspec value as JSON, or a string. Clients may resume after `event_id`."""
    data = value.encode() if isinstance(value, str) else msgspec.json.encode(value)
    last = b"\r\nid: " + event_id.encode() if event_id else b""
    return b"data: " + data + last + b"\r\n\r\n"


class EventStream(Response):
    """Sends what `events` yields, and pings in between, until it ends, the client leaves, or `watch` returns.

    `events` is closed and `held` is exited in every case, also when nothing could be sent.
    """

    def __init__(
        self,
        events: AsyncGenerator[bytes, None],
        held: AsyncExitStack | None = None,
        watch: Callable[[], Awaitable[object]] | None = None,
    ) -> None:
        super().__init__(headers=HEADERS)
        del self.headers["content-length"]
        self._events = events
        self._held = held or AsyncExitStack()
        self._watch = watch or asyncio.Event().wait

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve the stream on one connection."""
        sending = asyncio.Lock()
        ended = False

        async def push(message: Message) -> None:
            nonlocal ended
            async with sending, asyncio.timeout(SEND_TIMEOUT):
                if not ended:  # a ping may have waited for the last event to be sent
                    ended = not message.get("more_body", True)
                    await send(message)

        async with self._held, aclosing(self._events):
            work = (self._stream(push), _ping(push), disconnected(receive), self._watch())
            tasks = [asyncio.ensure_future(part) for part in work]
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
        await push({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        async for data in self._events:
            await push({"type": "http.response.body", "body": data, "more_body": True})
        await push({"type": "http.response.body", "body": b"", "more_body": False})


async def _ping(push: Send) -> None:
    while True:
        await asyncio.sleep(PING_INTERVAL)
        comment = f": ping - {datetime.now(UTC)}\r\n\r\n".encode()
        await push({"type": "http.response.body", "body": comment, "more_body": True})
