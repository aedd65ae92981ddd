"""Cutting a live stream into chunks, and choosing the packets that each chunk's frames need.

Pure arithmetic: pictures go in as they arrive, chunks come out as soon as their last frame is known.
"""

from typing import Any, cast

import msgspec

from shared.chunks import Chunk
from worker.live.rtsp.rtp import AccessUnit
from worker.live.sei import read_sei
from worker.live.stream_clock import StreamClock
from worker.media.decoder.runs import Run
from worker.media.decoder.selection.bitstream import Coding, parser
from worker.media.decoder.selection.select import Coded, Irregular, Sampler, Splitter, Unit

LONGEST_GOP = 32 << 20
"""Bytes of packets that wait for the next key frame; of a longer GOP the rest is not embedded."""
LARGEST_CHUNK = 64 << 20
"""Bytes of packets that one chunk may need; frames beyond are left out."""


class Cut(msgspec.Struct, frozen=True):
    """One chunk of a live stream. `start` and `end` are ns since the connection began, `wall_start` and
    `wall_end` ns since 1970. `began` and `finished` are `time.monotonic()` ns of the arrival of its first and
    last picture. `arrived` packets came during the chunk, `kept` of them are in `runs`. `error` says what cut
    the chunk off before it was complete."""

    start: int
    end: int
    wall_start: int
    wall_end: int
    codec: str
    began: int
    finished: int
    arrived: int
    kept: int
    runs: list[Run]
    error: str = ""


class Held(Splitter[tuple[int, bytes]]):
    """The packets of the present GOP."""

    @property
    def started(self) -> bool:
        """Whether there has been a key frame."""
        return bool(self._own)

    def push(self, coded: Coded[tuple[int, bytes]]) -> list[Unit[tuple[int, bytes]]]:
        """Add the next packet; what comes before a key frame weighs nothing."""
        return super().push(coded) if self.started or coded.coding.entry else []

    def so_far(self) -> Unit[tuple[int, bytes]]:
        """What is there of a GOP whose end is not."""
        return Unit(self._own, self._tail)


class Chunker:
    """Cuts one connection to a camera into chunks of `duration` ns with up to `frames` frames each.

    The first chunk starts at the first frame that can be decoded, each next one where the last one ends by
    plan. A chunk is cut when its last frame is known: then its end is that of the last frame seen. Windows
    without a frame make no chunk.
    """

    def __init__(self, codec: str, parameters: bytes, duration: int, frames: int) -> None:
        self.lost_gops = 0
        self._codec = codec
        self._duration = duration
        self._frames = frames
        parse = parser(codec, parameters)
        if parse is None:
            raise ValueError(codec)
        self._parse = cast("Any", parse)  # takes anything with the buffer protocol
        self._parameters = parameters
        self._sets: tuple[bytes, ...] = ()
        self._clock = StreamClock()
        self._splitter = Held(LONGEST_GOP)
        self._unsettled: list[int] = []
        self._highest = -1
        self._fed = -1
        self._base = 0
        self._sei_base: int | None = None
        self._arrival = 0
        self._start: int | None = None
        self._sampler: Sampler | None = None
        self._wanted: list[int] = []
        self._runs: list[Run] = []
        self._taken = 0
        self._last_seen = 0
        self._began = 0
        self._arrived = 0
        self._cuts: list[Cut] = []

    def push(self, unit: AccessUnit, arrival: int, now: int) -> list[Cut]:
        """Add the next picture, which arrived at `arrival` (ns, monotonic) or `now` (ns since 1970).

        Returns the chunks that it completes.
        """
        coding: Coding = self._parse(unit.data)
        self._keep_parameters(coding)
        self._arrived += 1
        self._arrival = arrival
        if not coding.shown:
            return []
        said = read_sei(unit.sei, self._codec) if unit.sei else None
        raw = said.time if said and said.time is not None else unit.time
        time = self._clock.place(raw, arrival, entry=coding.closed)
        if said and said.wall is not None and self._sei_base is None:
            self._sei_base = said.wall - time
        self._base = self._sei_base if self._sei_base is not None else (unit.wall or now) - time
        self._add(Coded(time, coding, (time, unit.data), len(unit.data)))
        cuts, self._cuts = self._cuts, []
        return cuts

    def finish(self) -> list[Cut]:
        """The stream has ended: the chunk that is under way, if it has a frame."""
        try:
            for unit in self._splitter.finish():
                self._complete(unit)
        except Irregular:
            self.lost_gops += 1
        if self._sampler is not None:
            self._cut()
        cuts, self._cuts = self._cuts, []
        return cuts

    def _keep_parameters(self, coding: Coding) -> None:
        """Remember the parameter sets in force: a key frame does not always repeat them."""
        if not coding.parameters:
            return
        self._sets = (
            coding.parameters if len(coding.parameters) > 1 else (*self._sets[-7:], *coding.parameters)
        )
        joined = b"".join(b"\0\0\0\1" + nal for nal in self._sets)
        if joined != self._parameters:
            self._parameters = joined

    def _add(self, coded: Coded[tuple[int, bytes]]) -> None:
        time = coded.time or 0
        try:
            complete = self._splitter.push(coded)
        except Irregular:
            self._restart(coded)
            complete = []
        for unit in complete:
            self._complete(unit)
        if not self._splitter.started:
            return
        self._unsettled.append(time)
        if time > self._highest:
            # What is presented before the latest picture has come before the next that is later still.
            settled = sorted(t for t in self._unsettled if t <= self._highest)
            self._unsettled = [t for t in self._unsettled if t > self._highest]
            self._highest = time
            for when in settled:
                self._feed(when, None)

    def _restart(self, coded: Coded[tuple[int, bytes]]) -> None:
        """Give up the GOP: it is too long, or its times make no sense."""
        self.lost_gops += 1
        self._splitter = Held(LONGEST_GOP)
        self._unsettled, self._wanted = [], []
        if coded.coding.entry:
            self._splitter.push(coded)

    def _complete(self, unit: Unit[tuple[int, bytes]]) -> None:
        """All frames of a GOP are known."""
        for when in unit.times():
            self._feed(when, unit)
        self._extract(unit)
        self._highest = max(self._highest, self._fed)
        self._unsettled = [t for t in self._unsettled if t > self._fed]

    def _feed(self, when: int, unit: Unit[tuple[int, bytes]] | None) -> None:
        """Pass the next frame in presentation order; `unit` holds it if that is complete."""
        if when <= self._fed:
            return
        self._fed = when
        if self._start is None:
            self._open(when)
        if self._sampler is not None:
            self._sample(when, unit)
        if self._sampler is None and self._start is not None and when >= self._start + self._duration:
            steps = (when - self._start) // self._duration
            self._open(self._start + steps * self._duration)
            self._sample(when, unit)

    def _open(self, start: int) -> None:
        self._start = start
        self._sampler = Sampler(Chunk(0, start, start + self._duration), self._frames)
        self._wanted, self._runs, self._taken = [], [], 0
        self._last_seen, self._began = start, self._arrival

    def _sample(self, when: int, unit: Unit[tuple[int, bytes]] | None) -> None:
        assert self._sampler is not None  # noqa: S101 - for the type checker
        if when <= self._sampler.chunk.end:
            self._last_seen = when
        if self._sampler.take(when):
            self._wanted.append(when)
        if self._sampler.next_target is None:
            self._extract(unit or self._splitter.so_far())
            self._cut()

    def _extract(self, unit: Unit[tuple[int, bytes]]) -> None:
        """Keep what the wanted frames of the unit need."""
        wanted, self._wanted = self._wanted, []
        if not wanted:
            return
        run = Run(self._parameters, unit.needed(wanted), wanted)
        self._taken += run.size
        if self._taken <= LARGEST_CHUNK:
            self._runs.append(run)

    def _cut(self) -> None:
        """The chunk is complete."""
        self._sampler = None
        if not self._runs:
            return
        start = self._start or 0
        self._cuts.append(
            Cut(
                start=start,
                end=self._last_seen,
                wall_start=self._base + start,
                wall_end=self._base + self._last_seen,
                codec=self._codec,
                began=self._began,
                finished=self._arrival,
                arrived=self._arrived,
                kept=sum(len(run.packets) for run in self._runs),
                runs=self._runs,
            )
        )
        self._runs, self._arrived = [], 0
