"""Cutting a span of video into chunks, in integer nanoseconds."""

from collections.abc import Iterator
from fractions import Fraction

import msgspec

from shared.errors import BadParameter

SECOND = 1_000_000_000
MAX_CHUNKS = 10_000


class Chunk(msgspec.Struct, frozen=True, array_like=True):
    """One window of a file: `index` from 0, `start` and `end` in nanoseconds from the start of the file."""

    index: int
    start: int
    end: int


def plan_chunks(start: int, end: int, duration: int, overlap: int, fps: Fraction | None) -> list[Chunk]:
    """Cut the span [start, end) into chunks, in presentation order.

    All times are nanoseconds from the start of the file. `duration` 0 makes one chunk of the whole span.
    A negative `overlap` leaves gaps. A tail shorter than two frames at `fps` is dropped, except for the
    first chunk. An empty span gives no chunk. Raises BadParameter if the overlap is not shorter than the
    duration, or if more than MAX_CHUNKS chunks would be made.
    """
    if duration > 0 and 0 < overlap >= duration:
        raise BadParameter("chunk_overlap_duration must be less than chunk_duration")
    chunks: list[Chunk] = []
    for chunk in _windows(start, end, duration, overlap, fps):
        if len(chunks) == MAX_CHUNKS:
            raise BadParameter(
                f"the request would make more than {MAX_CHUNKS} chunks; use a longer chunk_duration"
            )
        chunks.append(chunk)
    return chunks


def _windows(start: int, end: int, duration: int, overlap: int, fps: Fraction | None) -> Iterator[Chunk]:
    if start >= end:
        return
    if duration <= 0:
        yield Chunk(0, start, end)
        return
    index, begin = 0, start
    while begin < end and not (index and _is_sliver(end - begin, fps)):
        yield Chunk(index, begin, min(begin + duration, end))
        if begin + duration >= end:
            return
        index += 1
        begin += duration - overlap


def _is_sliver(remaining: int, fps: Fraction | None) -> bool:
    """Whether `remaining` ns is less than two frame durations; an unknown rate has no slivers."""
    return fps is not None and fps > 0 and remaining * fps < 2 * SECOND


def frame_targets(start: int, end: int, count: int) -> list[int]:
    """The `count` times (ns) at which a chunk is sampled: left edges of `count` equal parts."""
    return [start + i * (end - start) // count for i in range(count)]


def job_runs(chunks: list[Chunk], jobs: int = 16, longest: int = 16) -> list[list[Chunk]]:
    """Group consecutive chunks into about `jobs` runs of at most `longest`, one run per job.

    Short runs let one file spread over all workers; longer ones let neighbouring chunks share what was
    decoded for both.
    """
    size = min(longest, max(1, -(-len(chunks) // jobs)))
    return [chunks[i : i + size] for i in range(0, len(chunks), size)]
