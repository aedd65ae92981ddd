"""One clock for a file that was joined from several recordings, each with its own clock."""

from __future__ import annotations

from fractions import Fraction

from av.packet import Packet
from av.video.stream import VideoStream

TOLERANCE = Fraction(1, 10)
"""Seconds by which the clock of one recording may run backwards."""
JUMP = 10
"""Seconds by which the clock of one recording may jump forwards, in containers whose clock may break."""
BREAKING = {"mpegts", "mpeg", "ogg", "nut"}
"""FFmpeg's names of containers whose clock may break anywhere, and which have no index that shows it."""


class Clock:
    """Watches decoding times of packets. Both bounds are those of the ffmpeg program."""

    def __init__(self, container: str, time_base: Fraction) -> None:
        self._backwards = int(TOLERANCE / time_base)
        self._forwards = int(JUMP / time_base) if container in BREAKING else None
        self._last: int | None = None
        self.runs_backwards = False

    def breaks(self, time: int | None) -> bool:
        """Return whether a packet decoded at `time` must be of another recording than the one before it."""
        if time is None:
            return False
        last, self._last = self._last, time
        self.runs_backwards = last is not None and time < last
        if last is None:
            return False
        return time < last - self._backwards or (self._forwards is not None and time > last + self._forwards)


class LastFrame:
    """The frame presented last among those read, on the stream's clock.

    It is shown for the duration of the packet read last. Its own duration may be wrong: in MP4 a packet
    states the time until the next one is decoded, which may be a pause after another frame.
    """

    def __init__(self, usual_duration: int) -> None:
        self.pts: int | None = None
        self.end = 0
        self._usual_duration = usual_duration

    def add(self, packet: Packet[VideoStream]) -> None:
        """Another packet was read."""
        if packet.pts is not None and not packet.is_discard:
            self.pts = packet.pts if self.pts is None else max(self.pts, packet.pts)
            self.end = self.pts + (packet.duration or self._usual_duration)


class Timeline:
    """Lays recordings end to end: the first key frame of each is presented when the last frame of the one
    before it ends. Frames before a recording's first key frame cannot be decoded, and are left out.

    `parts` counts the recordings so far; `begins` tells whether the last packet is the first of another one.
    """

    def __init__(self, container: str, time_base: Fraction, usual_duration: int) -> None:
        self.parts = 1
        self.begins = False
        self._clock = Clock(container, time_base)
        self._last = LastFrame(usual_duration)
        self._waits = False
        self._shift = 0
        self._start: int | None = None
        self._latest: int | None = None

    def place(self, packet: Packet[VideoStream]) -> bool:
        """Move the packet onto the common clock. Return False if it must be left out."""
        self.begins = False
        if self._clock.breaks(packet.dts) or self._overlaps(packet):
            self.parts += 1
            self._waits = True
            self._latest = None
        if packet.pts is not None:
            self._latest = packet.pts if self._latest is None else max(self._latest, packet.pts)
        if self._waits:
            if packet.pts is None or not packet.is_keyframe:
                return False
            self._waits, self.begins = False, True
            self._start = packet.pts if self._last.pts is None else self._last.end
            self._shift = self._start - packet.pts
        if packet.dts is not None:
            packet.dts += self._shift
        if packet.pts is None:
            return True
        packet.pts += self._shift
        if self._start is not None and packet.pts < self._start:
            return False
        self._last.add(packet)
        return True

    def _overlaps(self, packet: Packet[VideoStream]) -> bool:
        """Return whether the packet is a key frame earlier than one seen before: its recording begins a
        little before the previous one ends."""
        runs_backwards = self._clock.runs_backwards and packet.is_keyframe and packet.pts is not None
        return runs_backwards and self._latest is not None and (packet.pts or 0) < self._latest
