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


ROUNDING = 2_000_000
"""Nanoseconds by which containers that count milliseconds get the length of two frames wrong."""


def plan_chunks(
    start: int, end: int, duration: int, overlap: int, fps: Fraction | None, *, last_frames: int = 0
) -> list[Chunk]:
    """Cut the span [start, end) into chunks, in presentation order.

    All times are nanoseconds from the start of the file. `duration` 0 makes one chunk of the whole span.
    A negative `overlap` leaves gaps. A tail shorter than two frames is dropped, except for the first chunk:
    two frames at the average rate `fps`, or the two that are really at the end, which take `last_frames` ns
    (0 where that is unknown). Frames shown for long do not count, so if the last frames are known, no
    second of a film is dropped. An empty span gives no chunk. Raises BadParameter if the overlap is not
    shorter than the duration, or if more than MAX_CHUNKS chunks would be made.
    """
    if duration > 0 and 0 < overlap >= duration:
        raise BadParameter("chunk_overlap_duration must be less than chunk_duration")
    chunks: list[Chunk] = []
    for chunk in _windows(start, end, duration, overlap, _sliver(fps, last_frames)):
        if len(chunks) == MAX_CHUNKS:
            raise BadParameter(
                f"the request would make more than {MAX_CHUNKS} chunks; use a longer chunk_duration"
            )
        chunks.append(chunk)
    return chunks


def _windows(start: int, end: int, duration: int, overlap: int, sliver: Fraction) -> Iterator[Chunk]:
    if start >= end:
        return
    if duration <= 0:
        yield Chunk(0, start, end)
        return
    index, begin = 0, start
    while begin < end and not (index and end - begin < sliver):
        yield Chunk(index, begin, min(begin + duration, end))
        if begin + duration >= end:
            return
        index += 1
        begin += duration - overlap


def _sliver(fps: Fraction | None, last_frames: int) -> Fraction:
    """Return the length (ns) below which a tail is no chunk; a film of unknown rate has no slivers."""
    if fps is None or fps <= 0:
        return Fraction(0)
    average = 2 * SECOND / fps
    return min(average, Fraction(min(last_frames + ROUNDING, SECOND))) if last_frames else average


def frame_targets(start: int, end: int, count: int) -> list[int]:
    """Return the `count` times (ns) at which a chunk is sampled: left edges of `count` equal parts."""
    return [start + i * (end - start) // count for i in range(count)]


def job_runs(chunks: list[Chunk], jobs: int = 16, longest: int = 16) -> list[list[Chunk]]:
    """Group consecutive chunks into about `jobs` runs of at most `longest`, one run per job.

    Short runs let one file spread over all workers; longer ones let neighbouring chunks share what was
    decoded for both.
    """
    size = min(longest, max(1, -(-len(chunks) // jobs)))
    return [chunks[i : i + size] for i in range(0, len(chunks), size)]
