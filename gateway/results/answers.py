"""Results as clients see them: JSON answers and events."""

from base64 import b64encode
from typing import Literal, TypeVar

import msgspec

from gateway.api.embedding_schemas import (
    ChunkEmbedding,
    ChunkEvent,
    EventChunk,
    OffsetRange,
    TextEmbedding,
    TextResponse,
    TimestampRange,
    Usage,
    VideoResponse,
)
from gateway.api.schemas import EncodingFormat
from gateway.results.vectors import encoded
from shared.chunks import SECOND
from shared.results import Result
from shared.timestamps import format_offset, format_timestamp, parse_timestamp

Chunk = TypeVar("Chunk", bound=ChunkEmbedding)


class Outline(msgspec.Struct, frozen=True, kw_only=True):
    """What answers repeat of their request. It is stored with the request, so that any gateway can answer.

    `start` and `end` are the requested range in nanoseconds, even beyond the file's end. `dimensions` is 0
    for whole vectors; `thumbnails` are told to those who asked for them. Events of a `live` stream include
    failed chunks, which do not end it.
    """

    request: str
    model: str
    media_type: Literal["video", "image"] = "video"
    creation_time: str = ""
    start: int = 0
    end: int = 0
    encoding_format: EncodingFormat = "float"
    dimensions: int = 0
    thumbnails: bool = False
    live: bool = False


def video_response(outline: Outline, created: int, seconds: float, results: list[Result]) -> VideoResponse:
    """Return the whole answer, sorted by start time, without the chunks that were left out: they have an
    error."""
    answered = [result for result in results if not result.error]
    ordered = sorted(answered, key=lambda result: (result.start, result.chunk))
    return VideoResponse(
        id=outline.request,
        created=created,
        model=outline.model,
        media_info=media_range(outline, outline.start, outline.end),
        usage=usage(len(answered), seconds),
        chunk_responses=[chunk_embedding(ChunkEmbedding, outline, result) for result in ordered],
    )


class TextOptions(msgspec.Struct, frozen=True):
    """What answers repeat of a text request. It is stored with a request that is answered later."""

    text_input: list[str]
    encoding_format: EncodingFormat = "float"
    dimensions: int = 0


def text_response(
    request_id: str, created: int, model: str, options: TextOptions, results: list[Result]
) -> TextResponse:
    """Return the whole answer to texts, in their order."""
    data = [
        TextEmbedding(
            text_input=text, embeddings=encoded(result.vector, options.encoding_format, options.dimensions)
        )
        for text, result in zip(options.text_input, results, strict=True)
    ]
    return TextResponse(id=request_id, created=created, model=model, data=data)


def chunk_event(outline: Outline, created: int, result: Result, so_far: Usage | None) -> ChunkEvent:
    """Return one finished chunk as an event."""
    return ChunkEvent(
        id=outline.request,
        model=outline.model,
        created=created,
        media_info=chunk_range(outline, result),
        chunk_responses=[chunk_embedding(EventChunk, outline, result)],
        usage=so_far,
    )


def usage(chunks: int, seconds: float) -> Usage:
    """Return what the request has taken so far."""
    return Usage(query_processing_time=int(seconds), total_chunks_processed=chunks)


def chunk_embedding(kind: type[Chunk], outline: Outline, result: Result) -> Chunk:
    """Return one chunk of an answer, as `kind`."""
    return kind(
        start_time=chunk_time(outline, result.start, result.wall_start),
        end_time=chunk_time(outline, result.end, result.wall_end),
        embeddings=encoded(result.vector, outline.encoding_format, outline.dimensions),
        decode_latency_ms=result.decode_latency_ms,
        inference_latency_ms=result.inference_latency_ms,
        chunk_latency_ms=result.chunk_latency_ms,
        queue_time_s=result.queue_time_s,
        processing_latency_s=result.processing_latency_s,
        frame_count=len(result.frame_times),
        thumbnail=_thumbnail(outline, result),
    )


def _thumbnail(outline: Outline, result: Result) -> str | msgspec.UnsetType:
    is_told = outline.thumbnails and result.thumbnail
    return b64encode(result.thumbnail).decode() if is_told else msgspec.UNSET


def chunk_time(outline: Outline, ns: int, wall: int | None = None) -> str:
    """Return the absolute time if the camera or the asset has one, else seconds from the file's start."""
    if wall is not None:
        return format_timestamp(wall)
    if outline.media_type == "image" or not outline.creation_time:
        return format_offset(ns)
    return _absolute(outline, ns)


def chunk_range(outline: Outline, result: Result) -> OffsetRange | TimestampRange:
    """Return the range that one chunk covers."""
    if result.wall_start is None or result.wall_end is None:
        return media_range(outline, result.start, result.end)
    return TimestampRange(
        start_timestamp=format_timestamp(result.wall_start), end_timestamp=format_timestamp(result.wall_end)
    )


def media_range(outline: Outline, start: int, end: int) -> OffsetRange | TimestampRange:
    """Return a range of the asset: timestamps if its recording has a start time, else offsets."""
    if outline.creation_time:
        return TimestampRange(
            start_timestamp=_absolute(outline, start), end_timestamp=_absolute(outline, end)
        )
    return OffsetRange(start_offset=start // SECOND, end_offset=end // SECOND)


def _absolute(outline: Outline, ns: int) -> str:
    return format_timestamp(parse_timestamp(outline.creation_time) + ns)
