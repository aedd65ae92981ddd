"""Opening a media file safely and reading the packets of its video."""

from __future__ import annotations

import contextlib
import heapq
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

import av
from av.container import InputContainer
from av.packet import Packet
from av.stream import Disposition, Stream
from av.video.codeccontext import VideoCodecContext
from av.video.stream import VideoStream

from shared.chunks import SECOND
from shared.errors import DecodeError, InvalidFile
from worker.media.clip_source import MediaFacts
from worker.media.decoder.byte_sources import LOCAL, ByteSources
from worker.media.decoder.limits import MediaLimits

# Containers that hold their media themselves. No playlists (hls, dash, concat), no device, no network, no
# format that names other files, and no raw streams without times.
CONTAINERS = "mov,matroska,webm,avi,mpegts,mpeg,flv,asf,ogg,ivf,mxf,nut"
MILLISECOND = 1_000_000
TAIL_STEPS = (2, 20, 200)  # seconds before the stated end from which the last packet is looked for
TAIL_BYTES = 64 << 20
SEARCH_BYTES = 16 << 20


class Refused(DecodeError):
    """A limit forbids decoding this; trying again cannot help."""


def container_options(limits: MediaLimits) -> dict[str, str]:
    """Options of FFmpeg that keep it to the one file it is given."""
    return {
        "protocol_whitelist": "file",
        "format_whitelist": CONTAINERS,
        "max_streams": str(limits.tracks),
        "max_pixels": str(
            8 * limits.pixels
        ),  # a frame or two beyond the limit may be decoded to learn its size
        "threads": "1",
    }


class Ending(NamedTuple):
    """How a video ends: when its last frame does (ns), and how long the last two are shown (0: unknown)."""

    end: int
    last_frames: int


class VideoSource:
    """One video file: its facts, its clock and its packets.

    Times are nanoseconds from the start of the file, rounded down. The file starts where its container says
    that the earliest of its streams does, which is not 0 in a transport stream or a cut-out fragment. Streams
    that start before 0 are primed audio, whose first samples are not presented, so the start is then 0,
    unless it is the video itself that starts before 0. Edit lists are followed: what they hide is not there.

    Raises InvalidFile naming what is wrong with the file.
    """

    def __init__(self, path: str, limits: MediaLimits, files: ByteSources = LOCAL) -> None:
        self.path = path
        self.files = files
        self._limits = limits
        self.container = _open(path, limits, files)
        try:
            self.stream = _video_stream(self.container, limits)
        except InvalidFile:
            self.container.close()
            raise
        self.time_base = self.stream.time_base or Fraction(1, av.time_base)
        self._zero = _start_of_file(self.container, self.stream)
        self._numerator = self.time_base.numerator * SECOND
        rate = self.stream.average_rate or self.stream.guessed_rate
        self._usual_duration = int(1 / (rate * self.time_base)) if rate else 1
        self.at_start = True
        if self._made_up:  # all of them are late by the same number of frames, which the header does not tell
            first = next(self.packets(), None)
            self._zero += self.time(first.pts) if first is not None and first.pts is not None else 0
            self.rewind()

    def close(self) -> None:
        """Close the file."""
        self.container.close()

    def time(self, timestamp: int) -> int:
        """A timestamp of the video stream as nanoseconds from the start of the file."""
        return timestamp * self._numerator // self.time_base.denominator - self._zero

    def end_of(self, packet: Packet[VideoStream]) -> int:
        """Until when (ns) the packet's frame is shown, if nothing follows it; 0 where it is not shown."""
        if packet.pts is None or packet.is_discard:
            return 0
        return self.time(packet.pts + (packet.duration or self._usual_duration))

    def timestamp(self, time: int) -> int:
        """The last timestamp of the video stream at or before `time` (ns)."""
        return (time + self._zero) * self.time_base.denominator // self._numerator

    @property
    def orders(self) -> bool:
        """Whether packets tell in which order their frames are presented: not where times are made up and the
        codec may have B-frame pyramids."""
        context = self.stream.codec_context
        pyramids = context.codec.canonical_name in ("h264", "hevc") and context.reorder_depth > 0
        return not (pyramids and self._made_up)

    @property
    def _made_up(self) -> bool:
        """AVI has no presentation times, so FFmpeg guesses them from the order of decoding."""
        return self.container.format.name == "avi"

    def packets(self) -> Iterator[Packet[VideoStream]]:
        """The packets from the present position on. Ends where the file is cut off or unreadable."""
        self.at_start = False
        with contextlib.suppress(av.error.FFmpegError):
            while True:
                try:
                    for packet in self.container.demux(self.stream):
                        if packet.size:
                            yield packet
                    return
                except IndexError:  # PyAV's, at a packet of a stream that began after the file was opened
                    continue

    def seek(self, time: int) -> None:
        """Go to where the container believes the last key frame at or before `time` (ns) to be."""
        self.at_start = False
        try:
            self.container.seek(self.timestamp(time), stream=self.stream)
        except av.error.FFmpegError:
            self.rewind()

    def distance(self, packet: Packet[VideoStream], time: int) -> int:
        """About how many bytes lie between `packet` and the key frame before `time` (ns): by the container's
        index, or by the bit rate less what a search in a file without index reads."""
        index = self.stream.index_entries
        if packet.pos is None or packet.dts is None:
            return 0
        if not len(index):
            ahead = time - self.time(packet.dts)
            return self.container.bit_rate // 8 * ahead // SECOND - SEARCH_BYTES
        entry = index.search_timestamp(self.timestamp(time))
        if entry < 0 or index[entry].timestamp <= packet.dts:
            return 0
        return index[entry].pos - packet.pos

    def rewind(self) -> None:
        """Go back to the first packet."""
        if self.at_start:
            return
        self.container.close()
        self.container = _open(self.path, self._limits, self.files)
        self.at_start = True
        self.stream = _video_stream(self.container, self._limits)

    def facts(self) -> MediaFacts:
        """What the file is. Raises InvalidFile where it has no usable duration or breaks a limit."""
        context = self.stream.codec_context
        end, last_frames = self._ending()
        duration = end // MILLISECOND * MILLISECOND
        if duration <= 0:
            raise InvalidFile("the video has no known duration")
        limit = self._limits.duration * SECOND
        if limit and duration > limit:
            raise InvalidFile(
                f"the video lasts {duration / SECOND:.3f} s, more than the allowed {self._limits.duration} s"
            )
        return MediaFacts(
            kind="video",
            codec=context.codec.canonical_name,
            width=context.width,
            height=context.height,
            duration=duration,
            frame_rate=self.stream.average_rate or self.stream.guessed_rate or None,
            last_frames=last_frames,
        )

    def _ending(self) -> Ending:
        """How the video ends.

        Headers are not to be trusted: audio outlasts the video, recordings are cut off or were never closed,
        and Matroska counts from 0 where the video starts later. A chunk beyond the last frame would fail.
        """
        stated = self._stated_end()
        seen = self._seen_end(stated)
        if seen is None or (stated is not None and seen.end > stated + SECOND):
            return Ending(stated or 0, 0)
        return seen

    def _stated_end(self) -> int | None:
        if self.stream.duration is not None:
            return self.time((self.stream.start_time or 0) + self.stream.duration)
        if self.container.duration is not None:
            start = self.container.start_time or 0
            return (start + self.container.duration) * (SECOND // av.time_base) - self._zero
        return None

    def _seen_end(self, stated: int | None) -> Ending | None:
        """Return how the video really ends, or None if the last packets cannot be found."""
        last = self._last_complete(stated)
        for back in TAIL_STEPS if last is not None else ():
            self.seek(max(0, (last or 0) - back * SECOND))
            if ending := self._end_of_packets(TAIL_BYTES):
                return ending
        if stated is None:
            self.rewind()
            return self._end_of_packets(None)
        return None

    def _last_complete(self, stated: int | None) -> int | None:
        """The time of the last packet in the index that the file is long enough for."""
        index = self.stream.index_entries
        size = self.container.size
        if not len(index) or not index[-1].size or index[-1].pos + index[-1].size <= size:
            return stated
        for at in range(len(index) - 1, -1, -1):
            if index[at].pos + index[at].size <= size:
                return self.time(index[at].timestamp)
        return stated

    def _end_of_packets(self, most: int | None) -> Ending | None:
        """Return how the packets ahead end; None if there is none, or more than `most` bytes."""
        end, read = 0, 0
        times: list[int] = []
        for packet in self.packets():
            read += packet.size
            if most is not None and read > most:
                return None
            if packet.pts is not None and not packet.is_discard:
                end = max(end, self.end_of(packet))
                times = heapq.nlargest(2, [*times, self.time(packet.pts)])
        return Ending(end, end - times[-1]) if times else None


def _open(path: str, limits: MediaLimits, files: ByteSources) -> InputContainer:
    try:
        return av.open(files.for_ffmpeg(path), "r", options=container_options(limits))
    except FileNotFoundError as error:
        raise InvalidFile(f"no such file: {Path(path).name}") from error
    except av.error.ArgumentError as error:  # what FFmpeg says of a format that is not allowed
        raise InvalidFile(f"not a video container of a supported kind ({CONTAINERS})") from error
    except (av.error.FFmpegError, OSError, ValueError) as error:
        detail = getattr(error, "strerror", None) or str(error)
        raise InvalidFile(f"not a readable video file: {detail}") from error


def _video_stream(container: InputContainer, limits: MediaLimits) -> VideoStream:
    """The default video track, or the first; cover pictures do not count."""
    tracks = [s for s in container.streams.video if not s.disposition & Disposition.attached_pic]
    if not tracks:
        kinds = {"cover picture" if s.type == "video" else s.type for s in container.streams}
        raise InvalidFile(f"the file has no video track, only {', '.join(sorted(kinds)) or 'nothing'}")
    stream = next((s for s in tracks if s.disposition & Disposition.default), tracks[0])
    if stream.codec_context is None:
        raise InvalidFile("the video's codec is not supported")
    pixels = stream.codec_context.width * stream.codec_context.height
    size = f"{stream.codec_context.width}x{stream.codec_context.height}"
    if pixels <= 0:
        raise InvalidFile("the video's size is unknown")
    if pixels > limits.pixels:
        raise InvalidFile(f"the video is {size}, more than the allowed {limits.pixels} pixels per frame")
    return stream


def _start_of_file(container: InputContainer, stream: VideoStream) -> int:
    """When the file starts, in ns on its own clock, rounded as `Source.time` rounds."""
    starts = [
        _start(s) for s in (*container.streams.video, *container.streams.audio) if s.start_time is not None
    ]
    return max(min(starts, default=0), min(_start(stream), 0))


def _start(stream: Stream) -> int:
    base = stream.time_base or Fraction(1, av.time_base)
    return (stream.start_time or 0) * base.numerator * SECOND // base.denominator


def decoding_context(source: VideoSource, limits: MediaLimits) -> VideoCodecContext:
    """A decoder of the source's video, with everything that FFmpeg knows about the stream.

    Only a context that belongs to an open container has all of it, so the file is opened once more. The
    source's own context would not do: PyAV flushes it in every seek, in the middle of another thread's work.
    """
    container = _open(source.path, limits, source.files)
    try:
        return _video_stream(container, limits).codec_context
    finally:
        container.close()
