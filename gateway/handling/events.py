"""A request's results as server-sent events, from the first one or from where a client stopped reading.

The id of an event holds the ids of the request and of the entry in its results stream. A client that sends it
as `Last-Event-ID` gets the events after it from any gateway.
"""

import re
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import AsyncExitStack, aclosing
from typing import Any

import structlog

from gateway.api.embedding_schemas import (
    ChunkProgress,
    FailureEvent,
    ProgressEvent,
    StreamOptions,
    UsageEvent,
    VideoRequest,
)
from gateway.context import Context
from gateway.results.answers import Outline, chunk_event, usage
from gateway.results.reader_lease import reading, start_reading
from gateway.results.request_records import KnownRequest, find_record
from gateway.results.sse import DONE, EventStream, event
from gateway.results.vectors import require_dimensions
from shared import keys
from shared.errors import BadParameters, InvalidParameters, NotFound, RequestLost
from shared.results import End, Entry, Result

log = structlog.get_logger(__name__)

BEGINNING = "0-0"
PAGE = 500
_EVENT_ID = re.compile(r"(?P<request>[0-9a-f-]{36})/(?P<entry>[0-9]{1,19}-[0-9]{1,19})")

Entries = AsyncGenerator[tuple[str, Entry], None]


class EventWriter:
    """Writes the events of one request for one client."""

    def __init__(
        self,
        outline: Outline,
        created: int,
        options: StreamOptions,
        planned: int = 0,
        *,
        chunks: int = 0,
        after: str = BEGINNING,
    ) -> None:
        """Of `planned` chunks the client has got `chunks`, those up to the entry `after`."""
        self._outline, self._created = outline, created
        self._options = options
        self._planned = planned
        self._chunks = chunks
        self._began = time.monotonic()
        self._last = f"{outline.request}/{after}"

    def since(self, seconds: float) -> None:
        """Count usage from `seconds` ago, when the request began."""
        self._began -= seconds

    async def events(
        self, entries: Entries | None, on_result: Callable[[Result], None] | None = None
    ) -> AsyncGenerator[bytes, None]:
        """Yield progress, if asked for; one event per chunk; usage, if asked for; and `[DONE]`.

        Without `entries` there are no chunks. `on_result` is called with each result as it comes. A request
        that failed, or that Redis has lost, ends with a FailureEvent.
        """
        if self._options.include_progress and not self._outline.live:
            yield event(self._progress(), self._last)
        try:
            async with aclosing(entries or _none()) as told:
                async for entry_id, entry in told:
                    self._last = f"{self._outline.request}/{entry_id}"
                    match entry:
                        case Result(error=error) if not error or self._outline.live:
                            self._chunks += 1
                            if on_result:
                                on_result(entry)
                            so_far = self._usage() if self._options.include_usage else None
                            yield event(chunk_event(self._outline, self._created, entry, so_far), self._last)
                        case End(state=state) if state != "done":
                            log.warning("video request failed", state=state, error=entry.error)
                            yield self._failure()
        except RequestLost:
            yield self._failure()
        if self._options.include_usage:
            final = UsageEvent(
                id=self._outline.request,
                model=self._outline.model,
                created=self._created,
                usage=self._usage(),
            )
            yield event(final, self._last)
        yield event(DONE)

    def _failure(self) -> bytes:
        failure = FailureEvent(id=self._outline.request, model=self._outline.model, created=self._created)
        return event(failure, self._last)

    def _progress(self) -> ProgressEvent:
        return ProgressEvent(
            id=self._outline.request,
            model=self._outline.model,
            created=self._created,
            progress=ChunkProgress(chunks_planned=self._planned, chunks_done=self._chunks),
        )

    def _usage(self) -> Any:
        return usage(self._chunks, time.monotonic() - self._began)


async def _none() -> Entries:
    return
    yield  # makes this a generator


StorePosition = Callable[[Context, str, str, Entries], Entries]
"""Passes on the entries of a live stream, by its id and its request's, and stores the last one read."""


async def resume(ctx: Context, body: VideoRequest, seen: str, store_position: StorePosition) -> EventStream:
    """Return the events after the one whose id is `seen`.

    Raises InvalidParameters if it is not an event's id, NotFound if its request has expired, BadParameters if
    that embeds other assets than the body names, Conflict if another client reads the same events.
    """
    match = _EVENT_ID.fullmatch(seen)
    if match is None:
        raise InvalidParameters("('header', 'last-event-id'): Must be the id of an event")
    request_id, after = match["request"], match["entry"]
    record = await find_record(ctx.redis, request_id)
    outline = _outline(ctx, request_id, record, body) if record else None
    if record is None or outline is None:
        raise NotFound(f"No such request {request_id}, or its results have expired")
    if record.assets != body.ids:
        raise BadParameters(f"The request {request_id} embeds other assets than id names")
    log.info("client resumes its events", request_id=request_id, after=after)
    options = body.event_options
    counted = options.include_usage or options.include_progress
    chunks = await _chunks_until(ctx, request_id, after) if counted else 0
    writer = EventWriter(outline, record.created, options, record.planned, chunks=chunks, after=after)
    writer.since(record.age)
    async with AsyncExitStack() as held:
        client = client_of(ctx, request_id)
        await start_reading(ctx.redis, record.assets[0], client, replaces=f"{request_id}:")
        replaced = await held.enter_async_context(reading(ctx.redis, record.assets[0], client))
        follower = await held.enter_async_context(ctx.listener.subscribe(request_id))
        entries: Entries | None = None
        if await _goes_on(ctx, record, request_id, after):
            entries = follower.entries(after)
            if outline.live:
                entries = store_position(ctx, record.assets[0], request_id, entries)
        return EventStream(writer.events(entries), held.pop_all(), replaced.wait)


def _outline(ctx: Context, request_id: str, record: KnownRequest, body: VideoRequest) -> Outline | None:
    if record.lane != "live":
        return record.outline
    return Outline(
        request=request_id,
        model=record.model,
        live=True,
        encoding_format=body.encoding_format,
        thumbnails=body.thumbnails,
        dimensions=require_dimensions(body.dimensions, ctx.view.require_model(record.model)),
    )


def client_of(ctx: Context, request_id: str) -> str:
    """Return a new name for a client that reads this request's events."""
    return f"{request_id}:{ctx.listener.new_id()}"


async def _goes_on(ctx: Context, record: KnownRequest, request_id: str, after: str) -> bool:
    """Return whether entries follow that one, as they always do until the request has ended."""
    return record.state == "running" or bool(
        await ctx.redis.xrange(keys.results(request_id), min=f"({after}", count=1)
    )


async def _chunks_until(ctx: Context, request_id: str, last: str) -> int:
    count, start = 0, BEGINNING
    while page := await _page(ctx, request_id, start, last):
        count += sum(b"error" not in fields for _, fields in page)
        start = page[-1][0].decode()
    return count


async def _page(ctx: Context, request_id: str, after: str, last: str) -> list[Any]:
    found: Any = await ctx.redis.xrange(keys.results(request_id), f"({after}", last, count=PAGE)
    return list(found)
