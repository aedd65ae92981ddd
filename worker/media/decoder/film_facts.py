"""A probe's facts about a video: its format, its true end, and that at least one frame can be decoded."""

from __future__ import annotations

import heapq
from contextlib import closing
from itertools import pairwise
from math import inf
from typing import NamedTuple

import av

from shared.assets import is_object
from shared.chunks import SECOND
from shared.errors import InvalidFile
from worker.media.decoder.container.boxes import boxes, find, size_of
from worker.media.decoder.container.demux import Refused, VideoSource, decoding_context, demuxed
from worker.media.decoder.container.encryption import ENCRYPTED, is_encrypted
from worker.media.decoder.container.timeline import BREAKING, Clock
from worker.media.decoder.limits import MediaLimits
from worker.media.decoder.media_facts import MediaFacts
from worker.media.decoder.software import SoftwareDecoder

MILLISECOND = 1_000_000
TAIL_STEPS = (2, 20, 200)  # seconds before the stated end at which the search for the last packet starts
TAIL_BYTES = 64 << 20
DAY = 86_400 * SECOND
"""A packet this much after the stated end counts as damaged."""
WHOLE_BYTES, WHOLE_OBJECT = 4 << 30, 512 << 20
"""Bytes of a file, and of one in a bucket, that are read to know how it ends, where nothing else tells."""


class Ending(NamedTuple):
    """How a video ends: when its last frame does (ns), how long the last two are shown (0: unknown), and
    whether the clock broke on the way there."""

    end: int
    last_frames: int
    breaks: bool = False


def video_facts(source: VideoSource, limits: MediaLimits) -> MediaFacts:
    """Return the video's facts. Raises InvalidFile if it is encrypted, has no duration, has no frame that can
    be decoded, or exceeds a limit."""
    context = source.stream.codec_context
    pid = source.stream.id if source.kind == "mpegts" else -1
    if is_encrypted(source.files.for_ffmpeg(source.path), pid):
        raise InvalidFile(ENCRYPTED)
    ending = _ending(source)
    duration = ending.end // MILLISECOND * MILLISECOND
    if duration <= 0:
        raise InvalidFile("the video has no known duration")
    if limits.duration and duration > limits.duration * SECOND:
        raise InvalidFile(
            f"the video lasts {duration / SECOND:.3f} s, more than the allowed {limits.duration} s"
        )
    _require_frame(source, limits)
    return MediaFacts(
        kind="video",
        codec=context.codec.canonical_name,
        width=context.width,
        height=context.height,
        duration=duration,
        frame_rate=source.stream.average_rate or source.stream.guessed_rate or None,
        last_frames=ending.last_frames,
        joined=ending.breaks,
    )


def _require_frame(source: VideoSource, limits: MediaLimits) -> None:
    """Decode up to the first frame that has a time. Raises InvalidFile if there is none."""
    source.rewind()
    decoder = SoftwareDecoder(decoding_context(source, limits), limits)
    try:
        with closing(decoder.decode(source.packets())) as frames:
            if all(frame.pts is None for frame in frames):
                raise InvalidFile("no frame of the video can be decoded")
    except Refused as error:
        raise InvalidFile(error.detail) from error


# How it ends --------------------------------------------------------------------------------------------


def _ending(source: VideoSource) -> Ending:
    """Return how the video ends.

    Headers are unreliable: audio may be longer than the video, recordings are cut off, joined or never
    closed, and Matroska counts from 0 even if the video starts later.
    """
    stated = _stated_end(source)
    if stated is not None and not _may_be_joined(source):
        ending = _tail(source, stated)
        if ending is None:
            return Ending(stated, 0)
        if not ending.breaks:
            return ending
    source.join()
    whole = _read(source, _most(source), stated)
    return whole or Ending(stated or 0, 0)


def _most(source: VideoSource) -> int:
    return WHOLE_OBJECT if is_object(source.path) else WHOLE_BYTES


def _stated_end(source: VideoSource) -> int | None:
    stream, container = source.stream, source.container
    if stream.duration is not None:
        return source.time((stream.start_time or 0) + stream.duration)
    if container.duration is not None:
        return source.since_start((container.start_time or 0) + container.duration)
    return None


def _tail(source: VideoSource, stated: int) -> Ending | None:
    """Return how the packets near the end of the file end, or None if they cannot be found."""
    source.seek(stated)  # Matroska's index is read by the first seek
    last = _last_complete(source, stated)
    for back in TAIL_STEPS:
        source.seek(max(0, last - back * SECOND))
        if ending := _read(source, TAIL_BYTES, stated):
            return ending
    if len(source.stream.index_entries) > 1:
        return None
    source.rewind()
    return _read(source, _most(source), stated)


def _last_complete(source: VideoSource, stated: int) -> int:
    """Return the time of the last indexed packet that lies within the file, or the stated end if that is
    later, or there is none."""
    index, size = source.stream.index_entries, source.container.size
    if not len(index):
        return stated
    for at in range(len(index) - 1, -1, -1):
        if index[at].pos + index[at].size <= size:
            last = source.time(index[at].timestamp)
            return last if at < len(index) - 1 else max(last, stated)
    return stated


def _read(source: VideoSource, most: int, stated: int | None) -> Ending | None:
    """Return how the remaining packets end; None if there are none, or more than `most` bytes."""
    latest = inf if stated is None else stated + DAY
    clock = Clock(source.kind, source.time_base)
    last, read, breaks = source.last_frame(), 0, False
    times: list[int] = []
    for packet in source.packets():
        read += packet.size
        if read > most:
            return None
        breaks = breaks or clock.breaks(packet.dts)
        if packet.pts is not None and not packet.is_discard and source.time(packet.pts) < latest:
            last.add(packet)
            times = heapq.nlargest(2, [*times, source.time(packet.pts)])
    end = source.time(last.end)
    return Ending(end, end - times[-1], breaks or source.parts > 1) if times else None


def _may_be_joined(source: VideoSource) -> bool:
    """Return whether the clock may break somewhere, without looking into packets."""
    if source.kind in BREAKING:
        return _clock_breaks(source)
    if "mov" in source.kind.split(","):
        file = source.files.for_ffmpeg(source.path)
        is_fragmented = any(True for _ in find(file, boxes(file, 0, size_of(file)), b"moof"))
        times = [entry.timestamp for entry in source.stream.index_entries] if is_fragmented else []
        return any(second < first for first, second in pairwise(times))
    return False


def _clock_breaks(source: VideoSource) -> bool:
    """Read the times of all packets, without parsing any."""
    clock, read, most = Clock(source.kind, source.time_base), 0, _most(source)
    with source.opened_again(fflags="+noparse+nofillin") as container:
        try:
            with demuxed(container, container.streams[source.stream.index]) as packets:
                for packet in packets:
                    read += packet.size
                    if clock.breaks(packet.pts if packet.dts is None else packet.dts):
                        return True
                    if read > most:
                        return False
        except (av.error.FFmpegError, IndexError):
            return False
    return False
