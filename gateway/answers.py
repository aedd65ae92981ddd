"""Results as clients see them: JSON answers and events."""

from typing import TypeVar

from gateway.planning import Plan
from gateway.schemas import (
    ChunkEmbedding,
    ChunkEvent,
    EventChunk,
    OffsetRange,
    TimestampRange,
    Usage,
    VideoResponse,
)
from gateway.text import floats
from shared.assets import Asset
from shared.chunks import SECOND
from shared.results import Result
from shared.timestamps import format_offset, format_timestamp, parse_timestamp

Chunk = TypeVar("Chunk", bound=ChunkEmbedding)


def video_response(plan: Plan, created: int, seconds: float, results: list[Result]) -> VideoResponse:
    """The whole answer, sorted by start time."""
    asset = plan.assets[0]
    ordered = sorted(results, key=lambda result: (result.start, result.chunk))
    return VideoResponse(
        id=plan.request.id,
        created=created,
        model=plan.request.model,
        media_info=media_range(asset, plan.start, plan.end),
        usage=usage(len(results), seconds),
        chunk_responses=[chunk_embedding(ChunkEmbedding, asset, result) for result in ordered],
    )


def chunk_event(plan: Plan, created: int, result: Result, so_far: Usage | None) -> ChunkEvent:
    """One finished chunk as an event."""
    asset = plan.assets[0]
    return ChunkEvent(
        id=plan.request.id,
        model=plan.request.model,
        created=created,
        media_info=media_range(asset, result.start, result.end),
        chunk_responses=[chunk_embedding(EventChunk, asset, result)],
        usage=so_far,
    )


def usage(chunks: int, seconds: float) -> Usage:
    """What the request took so far."""
    return Usage(query_processing_time=int(seconds), total_chunks_processed=chunks)


def chunk_embedding(kind: type[Chunk], asset: Asset, result: Result) -> Chunk:
    """One chunk of an answer."""
    return kind(
        start_time=chunk_time(asset, result.start),
        end_time=chunk_time(asset, result.end),
        embeddings=floats(result.vector),
        decode_latency_ms=result.decode_latency_ms,
        inference_latency_ms=result.inference_latency_ms,
        chunk_latency_ms=result.chunk_latency_ms,
        queue_time_s=result.queue_time_s,
        processing_latency_s=result.processing_latency_s,
        frame_count=len(result.frame_times),
    )


def chunk_time(asset: Asset, ns: int) -> str:
    """Seconds from the start of the file, or the absolute time where the asset says when it began."""
    if asset.media_type == "image" or not asset.creation_time:
        return format_offset(ns)
    return _absolute(asset, ns)


def media_range(asset: Asset, start: int, end: int) -> OffsetRange | TimestampRange:
    """A range of the asset, in the form that fits it."""
    if asset.creation_time:
        return TimestampRange(start_timestamp=_absolute(asset, start), end_timestamp=_absolute(asset, end))
    return OffsetRange(start_offset=start // SECOND, end_offset=end // SECOND)


def _absolute(asset: Asset, ns: int) -> str:
    return format_timestamp(parse_timestamp(asset.creation_time) + ns)
