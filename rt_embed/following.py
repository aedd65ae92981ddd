"""Reading a request's events, and going on where a broken connection left off."""

import base64
import contextlib
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol, TypeVar

import httpx
import msgspec

from rt_embed.calls import Call, Flow, Retries, answered
from rt_embed.exceptions import ConnectionFailed, NotFoundError, ServiceError
from rt_embed.flows import (
    VIDEO_PATH,
    Source,
    add_stream,
    idempotent,
    is_id,
    is_url,
    timestamp,
    upload_file,
    why_it_failed,
)
from rt_embed.types import Bookmark, VideoChunk, to_vector
from rt_embed.upload_body import UploadProgress

CONFLICT: frozenset[int] = frozenset({409})
DONE = "[DONE]"
E_co = TypeVar("E_co", covariant=True)


@dataclass(frozen=True, kw_only=True)
class EmbedOptions:
    """How a film or a live stream is embedded."""

    chunk_duration: int = 0
    chunk_overlap: int = 0
    start: int | None = None
    end: int | None = None
    creation_time: str | datetime | None = None
    sensor_name: str = ""
    thumbnails: bool = False
    url_headers: dict[str, str] | None = None
    keep: bool = True
    live: bool = False
    progress: UploadProgress | None = None
    resume_from: Bookmark | None = None

    def body(self, model: str) -> dict[str, Any]:
        """Return what the service is asked for, but for the source."""
        body: dict[str, Any] = {
            "model": model,
            "stream": True,
            "chunk_duration": self.chunk_duration,
            "chunk_overlap_duration": self.chunk_overlap,
            "encoding_format": "base64",
        }
        if self.start is not None or self.end is not None:
            ends = {"start_offset": self.start, "end_offset": self.end}
            body["media_info"] = {
                "type": "offset", **{name: value for name, value in ends.items() if value is not None}
            }  # fmt: skip
        if self.thumbnails:
            body["thumbnails"] = True
        if not self.live:
            body["stream_options"] = {"include_progress": True}
        return body


class _EventChunk(msgspec.Struct):
    start_time: str
    end_time: str
    embeddings: str | list[float]
    frame_count: int | None = None
    decode_latency_ms: float | None = None
    inference_latency_ms: float | None = None
    chunk_latency_ms: float | None = None
    queue_time_s: float | None = None
    processing_latency_s: float | None = None
    thumbnail: str | None = None


class _Progress(msgspec.Struct):
    chunks_planned: int


class _Event(msgspec.Struct):
    id: str = ""
    progress: _Progress | None = None
    chunk_responses: list[_EventChunk] | None = None
    usage: dict[str, Any] | None = None


class EventReader(Protocol[E_co]):
    """What reads the lines of server-sent events, and goes on after a connection that broke."""

    ended: bool

    def feed(self, line: str) -> Iterator[E_co]:
        """Take one line of the answer; yield what it completes."""

    def lost(self, error: httpx.TransportError | None) -> Flow[None]:
        """Wait before the next connection, or raise ConnectionFailed."""


class EventLines:
    """Puts the events of a stream together from its lines. `last_id` is the id of the last whole one."""

    def __init__(self, last_id: str = "") -> None:
        self.last_id = last_id
        self.restart()

    def restart(self) -> None:
        """Forget an event that a broken connection left unfinished."""
        self._data: list[str] = []
        self._id = ""

    def feed(self, line: str) -> str | None:
        """Take one line; return the data of the event that it completes."""
        name, _, value = line.partition(":")
        match name:
            case "data":
                self._data.append(value.removeprefix(" "))
            case "id":
                self._id = value.strip()
            case "" if not line and self._data:
                data = "\n".join(self._data)
                self.last_id = self._id or self.last_id
                self._data = []
                return data
        return None


class Following:
    """One request whose events are read, over as many connections as it takes."""

    def __init__(self, source: Source, options: EmbedOptions, retries: Retries) -> None:
        seen = options.resume_from
        self.asset_id = seen.asset_id if seen else ""
        self.request_id = ""
        self.chunks_planned: int | None = None
        self.ended = False
        self._source = source
        self._options = options
        self._retries = retries
        self._idempotent = idempotent()
        self._body: dict[str, Any] = {}
        self._temporary = False
        self._lines = EventLines(seen.event_id if seen else "")
        self._failures = 0
        self._failed = False

    @property
    def bookmark(self) -> Bookmark | None:
        """How far the events were read; None before the first."""
        return Bookmark(self.asset_id, self._lines.last_id) if self._lines.last_id else None

    def open(self, model: str) -> Flow[httpx.Response]:
        """Return an open answer: the events after the last one that was seen."""
        if not self._body:
            self._body = (yield from self._prepare()) | self._options.body(model)
        self._lines.restart()
        try:
            return (yield from self._connect())
        except NotFoundError:
            if not (self._options.live and self._lines.last_id):
                raise
            self._lines.last_id = ""  # that session has ended: join or begin the next
            return (yield from self._connect())

    def _connect(self) -> Flow[httpx.Response]:
        headers = {**self._idempotent, "Accept": "text/event-stream"}
        if self._lines.last_id:
            headers["Last-Event-ID"] = self._lines.last_id
        call = Call("POST", VIDEO_PATH, json=self._body, headers=headers, stream=True)
        # Our own broken connection may count as a reader for a few seconds.
        again = CONFLICT if self._failures or self._lines.last_id else frozenset()
        return (yield from answered(call, self._retries, again))

    def feed(self, line: str) -> Iterator[VideoChunk]:
        """Take one line of the answer; yield the chunks of an event that it completes."""
        if (data := self._lines.feed(line)) is not None:
            self._failures = 0
            yield from self._chunks(data)

    def lost(self, error: httpx.TransportError | None) -> Flow[None]:
        """Wait before the next connection. Raises ConnectionFailed after too many without an event."""
        self._failures += 1
        if not self._retries.allow(self._failures):
            reason = str(error) or type(error).__name__ if error else "the stream ended early"
            raise ConnectionFailed(
                f"lost the events of {self.asset_id}: {reason}", request_id=self.request_id
            ) from error
        yield self._retries.pause(self._failures)

    def finish(self) -> Flow[None]:
        """Tidy up after the last event. Raises ServiceError if the request failed."""
        yield from self.forget()
        if self._failed:
            raise (yield from why_it_failed(self.request_id, self._retries))

    def forget(self) -> Flow[None]:
        """Delete what was added for this request only: a file not to be kept, a live stream."""
        if not self._temporary:
            return
        self._temporary = False
        kind = "streams/delete" if self._options.live else "files"
        with contextlib.suppress(ServiceError):  # it is gone, or still in use
            yield from answered(Call("DELETE", f"/v1/{kind}/{self.asset_id}"), Retries(2))

    def _prepare(self) -> Flow[dict[str, Any]]:
        """Return the part of the body that names the source; upload it, or register it, if need be."""
        options, source = self._options, self._source
        if options.resume_from:
            self._temporary = not options.keep and not is_id(source)
        elif options.live and is_url(source):
            self._temporary = True
            self.asset_id = yield from add_stream(str(source), "live", self._retries)
        elif is_id(source) or options.live:
            self.asset_id = str(source)
        elif is_url(source):
            self.asset_id = str(uuid.uuid4())
            extra = {"url_headers": options.url_headers} if options.url_headers else {}
            if options.creation_time:
                extra["creation_time"] = timestamp(options.creation_time)  # type: ignore[assignment]
            return {"id": self.asset_id, "url": source, **extra}
        else:
            self._temporary = not options.keep
            stored = yield from upload_file(
                source,
                self._retries,
                creation_time=options.creation_time,
                sensor_name=options.sensor_name,
                progress=options.progress,
            )
            self.asset_id = stored.id
        return {"id": self.asset_id}

    def _chunks(self, data: str) -> Iterator[VideoChunk]:
        if data == DONE:
            self.ended = True
            return
        event = msgspec.json.decode(data, type=_Event)
        self.request_id = event.id or self.request_id
        if event.progress is not None:
            self.chunks_planned = event.progress.chunks_planned
            return
        if event.chunk_responses is None:
            self._failed = self._failed or event.usage is None
            return
        for chunk in event.chunk_responses:
            yield VideoChunk(
                asset_id=self.asset_id,
                request_id=self.request_id,
                start_time=chunk.start_time,
                end_time=chunk.end_time,
                vector=to_vector(chunk.embeddings),
                frame_count=chunk.frame_count,
                decode_latency_ms=chunk.decode_latency_ms,
                inference_latency_ms=chunk.inference_latency_ms,
                chunk_latency_ms=chunk.chunk_latency_ms,
                queue_time_s=chunk.queue_time_s,
                processing_latency_s=chunk.processing_latency_s,
                thumbnail=base64.b64decode(chunk.thumbnail) if chunk.thumbnail else None,
            )
