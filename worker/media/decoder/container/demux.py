"""Opens a media file safely and reads the packets of its video."""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Iterator
from fractions import Fraction
from pathlib import Path
from typing import cast

import av
from av.container import InputContainer
from av.packet import Packet
from av.stream import Disposition, Stream
from av.video.codeccontext import VideoCodecContext
from av.video.stream import VideoStream

from shared.chunks import SECOND
from shared.errors import DecodeError, InvalidFile
from worker.media.decoder.container.boxes import ByteFile
from worker.media.decoder.container.byte_sources import LOCAL, ByteSources
from worker.media.decoder.container.encryption import ENCRYPTED, is_encrypted
from worker.media.decoder.container.file_kinds import (
    PICTURES,
    foreign_kind,
    head_of,
    missing_part,
    unknown_picture,
)
from worker.media.decoder.container.timeline import LastFrame, Timeline
from worker.media.decoder.limits import MediaLimits
from worker.media.decoder.selection.copies import shown_copy
from worker.media.decoder.selection.packed import is_packed, unpacked

# Containers that hold their media themselves. No playlists (hls, dash, concat), no device, no network, no
# format that names other files, and no raw streams without times.
CONTAINERS = "mov,matroska,webm,avi,mpegts,mpeg,flv,asf,ogg,ivf,mxf,nut"
SEARCH_BYTES = 16 << 20


class Refused(DecodeError):
    """A limit forbids decoding this; trying again cannot help."""


def container_options(limits: MediaLimits) -> dict[str, str]:
    """Return FFmpeg options that limit it to the one given file."""
    return {
        "protocol_whitelist": "file",
        "format_whitelist": CONTAINERS,
        "max_streams": str(limits.tracks),
        "max_pixels": str(
            8 * limits.pixels
        ),  # probing may decode a frame or two beyond the limit to find their size
        "threads": "1",
    }


class VideoSource:
    """One video file: its facts, its clock and its packets.

    Times are nanoseconds from the start of the file, rounded down. The file starts where its container says
    that the earliest of its streams does, which is not 0 in a transport stream or a cut-out fragment. Streams
    that start before 0 are primed audio, whose first samples are not presented, so the start is then 0,
    unless the video itself starts before 0. Edit lists are followed: frames that they hide do not exist.
    A `joined` file of several recordings is one video: they are laid end to end, which requires reading
    from the start.

    Raises InvalidFile saying what is wrong with the file.
    """

    def __init__(
        self, path: str, limits: MediaLimits, files: ByteSources = LOCAL, *, joined: bool = False
    ) -> None:
        self.path = path
        self.files = files
        self._limits = limits
        self.container = _open(path, limits, files)
        try:
            if self.container.format.name.startswith("mov") and unknown_picture(files.for_ffmpeg(path)):
                raise InvalidFile("a picture, not a video")
            self.stream = _video_stream(self.container, limits)
        except InvalidFile as error:
            self.container.close()
            raise InvalidFile(_what_is_wrong(files.for_ffmpeg(path), error)) from error
        self.time_base = self.stream.time_base or Fraction(1, av.time_base)
        self._zero = _start_of_file(self.container, self.stream)
        self._numerator = self.time_base.numerator * SECOND
        rate = self.stream.average_rate or self.stream.guessed_rate
        self._usual_duration = int(1 / (rate * self.time_base)) if rate else 1
        self._timeline = self._new_timeline() if joined else None
        self.at_start = True
        self._packed = False
        if self._made_up and self.stream.codec_context.codec.canonical_name == "mpeg4":
            self._packed = is_packed(self.stream.codec_context.extradata, self.packets())
            self.rewind()
        if self._made_up:  # all times are late by the same number of frames, which the header does not state
            first = next(self.packets(), None)
            self._zero += self.time(first.pts) if first is not None and first.pts is not None else 0
            self.rewind()

    def close(self) -> None:
        """Close the file."""
        self.container.close()

    @property
    def kind(self) -> str:
        """FFmpeg's name of the container format, or several separated by commas."""
        return self.container.format.name

    @property
    def is_joined(self) -> bool:
        """Whether recordings in the file are laid end to end."""
        return self._timeline is not None

    @property
    def parts(self) -> int:
        """Number of recordings read from so far."""
        return self._timeline.parts if self._timeline else 1

    @property
    def begins_part(self) -> bool:
        """Whether the last packet is the first of a recording after another one."""
        return self._timeline is not None and self._timeline.begins

    def join(self) -> None:
        """Rewind, and lay the recordings in the file end to end from now on."""
        self.at_start = False
        self._timeline = self._new_timeline()
        self.rewind()

    def _new_timeline(self) -> Timeline:
        return Timeline(self.kind, self.time_base, self._usual_duration)

    def time(self, timestamp: int) -> int:
        """Return a timestamp of the video stream as nanoseconds from the start of the file."""
        return timestamp * self._numerator // self.time_base.denominator - self._zero

    def last_frame(self) -> LastFrame:
        """Return an observer of the next packets that finds the frame presented last."""
        return LastFrame(self._usual_duration)

    def since_start(self, microseconds: int) -> int:
        """Return a time on the container's clock as nanoseconds from the start of the file."""
        return microseconds * (SECOND // av.time_base) - self._zero

    def timestamp(self, time: int) -> int:
        """Return the last timestamp of the video stream at or before `time` (ns)."""
        return (time + self._zero) * self.time_base.denominator // self._numerator

    @property
    def orders(self) -> bool:
        """Whether packet times give the order of presentation: not if times are guessed and the codec may
        have B-frame pyramids."""
        context = self.stream.codec_context
        pyramids = context.codec.canonical_name in ("h264", "hevc") and context.reorder_depth > 0
        return not (pyramids and self._made_up)

    @property
    def _made_up(self) -> bool:
        """Whether FFmpeg guesses times from the order of decoding: AVI has no presentation times."""
        return self.container.format.name == "avi"

    def packets(self) -> Iterator[Packet[VideoStream]]:
        """Yield the packets from the current position. Ends where the file is cut off or unreadable."""
        return unpacked(self._read(), self.stream) if self._packed else self._read()

    def _read(self) -> Iterator[Packet[VideoStream]]:
        self.at_start = False
        with contextlib.suppress(av.error.FFmpegError):
            while True:
                try:
                    with demuxed(self.container, self.stream) as packets:
                        for packet in packets:
                            if packet.size and (self._timeline is None or self._timeline.place(packet)):
                                # FFmpeg hides the first fragment of MP4 that comes after another recording
                                yield shown_copy(packet) if packet.is_discard and self.parts > 1 else packet
                    return
                except IndexError:  # PyAV raises it for a stream that began after the file was opened
                    continue

    def seek(self, time: int) -> None:
        """Seek to the last key frame at or before `time` (ns) in the container's index; to the start in a
        joined file."""
        if self.is_joined:
            self.rewind()
            return
        self.at_start = False
        try:
            self.container.seek(self.timestamp(time), stream=self.stream)
        except av.error.FFmpegError:
            self.rewind()

    def distance(self, packet: Packet[VideoStream], time: int) -> int:
        """Estimate the bytes between `packet` and the key frame before `time` (ns): from the container's
        index, or from the bit rate minus what a search without an index reads."""
        index = self.stream.index_entries
        if packet.pos is None or packet.dts is None or self.is_joined:
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
        if self._timeline is not None:
            self._timeline = self._new_timeline()

    def opened_again(self, **options: str) -> InputContainer:
        """Open the file again with further FFmpeg options. The caller closes it."""
        return _open(self.path, self._limits, self.files, **options)


def demuxed(container: InputContainer, stream: Stream) -> contextlib.closing[Generator[Packet[VideoStream]]]:
    """Return a video stream's packets, for use in a `with`: PyAV frees what it holds for each, 150 bytes,
    only when the iterator ends or is closed."""
    return contextlib.closing(cast("Generator[Packet[VideoStream]]", container.demux(stream)))


def _open(path: str, limits: MediaLimits, files: ByteSources, **options: str) -> InputContainer:
    try:
        return av.open(files.for_ffmpeg(path), "r", options=container_options(limits) | options)
    except FileNotFoundError as error:
        raise InvalidFile(f"no such file: {Path(path).name}") from error
    except (av.error.FFmpegError, OSError, ValueError) as error:
        raise InvalidFile(_what_is_wrong(files.for_ffmpeg(path), error)) from error


def _what_is_wrong(file: ByteFile, error: Exception) -> str:
    """Return why FFmpeg cannot, or may not, open the file or its video."""
    if kind := foreign_kind(head_of(file)) or unknown_picture(file):
        return f"{kind} is not supported; images may be {PICTURES}, videos in {CONTAINERS}"
    if missing := missing_part(file):
        return missing
    if is_encrypted(file):
        return ENCRYPTED
    if isinstance(error, InvalidFile):
        return error.message
    if isinstance(error, av.error.ArgumentError):  # FFmpeg's error for a format that is not allowed
        return f"not a video container of a supported kind ({CONTAINERS})"
    return f"not a readable video file: {getattr(error, 'strerror', None) or error}"


def _video_stream(container: InputContainer, limits: MediaLimits) -> VideoStream:
    """Return the default video track, or the first; cover pictures do not count."""
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
    """Return the file's start, in ns on its own clock, rounded like `VideoSource.time`."""
    starts = [
        _start(s) for s in (*container.streams.video, *container.streams.audio) if s.start_time is not None
    ]
    return max(min(starts, default=0), min(_start(stream), 0))


def _start(stream: Stream) -> int:
    base = stream.time_base or Fraction(1, av.time_base)
    return (stream.start_time or 0) * base.numerator * SECOND // base.denominator


def decoding_context(source: VideoSource, limits: MediaLimits) -> VideoCodecContext:
    """Return a decoder of the source's video, with everything that FFmpeg knows about the stream.

    Only a context of an open container has all of it, so the file is opened again. The source's own context
    is unsuitable: PyAV flushes it in every seek, in the middle of another thread's work.
    """
    container = _open(source.path, limits, source.files)
    try:
        return _video_stream(container, limits).codec_context
    finally:
        container.close()
