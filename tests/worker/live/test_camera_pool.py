"""What is logged for a camera belongs to its own session, whichever session started the camera's process."""

import asyncio
from unittest.mock import Mock

import structlog

from worker.live.camera_messages import Opened
from worker.live.camera_pool import CameraProcess, Feed
from worker.live.rtsp.camera_description import Habits


async def test_each_feed_is_called_in_the_context_of_its_session() -> None:
    seen: list[tuple[int, str]] = []
    feeds: dict[int, Feed] = {}

    async def session(number: int) -> None:
        structlog.contextvars.bind_contextvars(request_id=f"request-{number}")

        def opened(message: Opened) -> None:
            bound = structlog.contextvars.get_contextvars()
            seen.append((message.camera, bound["request_id"]))

        feeds[number] = Feed(opened, Mock(), Mock(), Mock())

    await asyncio.gather(session(1), session(2))
    process = object.__new__(CameraProcess)
    process.feeds, process._pulse = feeds, 0.0
    structlog.contextvars.bind_contextvars(request_id="request-1")  # of the session that started the process
    try:
        for number in (1, 2):
            process._dispatch(Opened(number, "h264", Habits()))
    finally:
        structlog.contextvars.clear_contextvars()
    assert seen == [(1, "request-1"), (2, "request-2")]
