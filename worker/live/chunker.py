"""Cutting a live stream into chunks, and choosing the packets that each chunk's frames need.

Pure arithmetic: pictures go in as they arrive, chunks come out as soon as their last frame is known.
"""

import msgspec

from shared.chunks import Chunk
from worker.live.entries import Entries, LivePacket
from worker.live.pictures import FieldPairs, LivePicture, picture_reader
from worker.live.rtp.access_units import AccessUnit
from worker.live.rtp.excess import Note, ignore
from worker.live.stream_clock import TOLERANCE, StreamClock, WallClock, WallSource
from worker.media.decoder.runs import Run
from worker.media.decoder.selection.select import Coded, Irregular, Sampler, Splitter, Unit, is_leading

LARGEST_GOP, LONGEST_GOP = 32 << 20, 18_000
"""Bytes and number of packets that wait for the next key frame; of a longer GOP the rest is not embedded."""
LARGEST_CHUNK = 64 << 20
"""Bytes of packets that one chunk may need; frames beyond are left out."""


class Cut(msgspec.Struct, frozen=True):
    """One chunk of a live stream. `start` and `end` are ns since the connection began, `wall_start` and
    `wall_end` ns since 1970 by `clock`. `began` and `finished` are `time.monotonic()` ns of the arrival of
    its first and last picture. `arrived` packets came during the chunk, `kept` of them are in `runs`. `error`
    says what cut the chunk off before it was complete."""

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
    clock: WallSource = "arrival"
    error: str = ""

    @property
    def size(self) -> int:
        """Bytes of all packets."""
        return sum(run.size for run in self.runs)


class TooLong(Irregular):
    """A GOP is longer than what is held."""


class Held(Splitter[LivePacket]):
    """The packets of the present GOP."""

    def __init__(self) -> None:
        super().__init__(LARGEST_GOP)

    @property
    def started(self) -> bool:
        """Whether there has been a key frame."""
        return bool(self._own)

    def push(self, coded: Coded[LivePacket]) -> list[Unit[LivePacket]]:
        """Add the next packet; what comes before a key frame does not count. Raises TooLong, Irregular."""
        if not self.started and not coded.coding.entry:
            return []
        if self._size + coded.size > LARGEST_GOP or len(self._own) + len(self._tail) >= LONGEST_GOP:
            raise TooLong
        return super().push(coded)

    def hides(self, coded: Coded[LivePacket]) -> bool:
        """Return whether the packet last added cannot be shown: it is presented before the key frame with
        which all began, and needs what came before that."""
        return not self._tail and len(self._own) > 1 and is_leading(coded, self._own[0])

    def so_far(self) -> Unit[LivePacket]:
        """Return what has come of a GOP that is not complete."""
        return Unit(self._own, self._tail)


class Chunker:
    """Cuts one connection to a camera into chunks of `duration` ns with up to `frames` frames each.

    The first chunk starts at the first frame that can be decoded, not before `begin` (ns since 1970), each
    next one where the last one ends by plan. A chunk is cut when its last frame is known: then its end is
    that of the last frame seen. Windows without a frame make no chunk.
    """

    def __init__(
        self,
        codec: str,
        parameters: bytes,
        duration: int,
        frames: int,
        *,
        after: int = 0,
        begin: int = 0,
        tolerance: int = TOLERANCE,
        note: Note = ignore,
    ) -> None:
        self.lost_gops = 0
        self._note = note
        self._codec = codec
        self._duration = duration
        self._frames = frames
        self._begin = begin
        self._reader = picture_reader(codec, parameters)
        self._pairs = FieldPairs()
        self._entries = Entries(self._reader, LARGEST_GOP, LONGEST_GOP)
        self._clock = StreamClock()
        self._wall = WallClock(tolerance, after)
        self._splitter = Held()
        self._unsettled: list[int] = []
        self._highest = -1
        self._fed = -1
        self._arrival = self._now = 0
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
        self._arrived += 1
        self._arrival, self._now = arrival, now
        for picture in self._pairs.push(self._reader.read(unit)):
            self._take(picture)
        cuts, self._cuts = self._cuts, []
        return cuts

    @property
    def primed(self) -> WallSource | None:
        """The source of the time of day, once there is a key frame, so that chunks can begin."""
        return self._wall.best()[1] if self._splitter.started else None

    @property
    def events(self) -> list[str]:
        """Events about the stream, for people, once each; the reader clears the list."""
        return self._entries.events

    def _take(self, picture: LivePicture) -> None:
        if not picture.coding.shown:
            return
        unit, said = picture.unit, picture.said
        raw = said.time if said and said.time is not None else unit.time
        time = self._clock.place(raw, self._arrival, entry=picture.coding.closed)
        self._wall.arrived(time, self._now)
        if unit.wall is not None:
            self._wall.reported(time, unit.wall, unit.reports)
        if said and said.wall is not None:
            self._wall.said(time, said.wall)
        picture, packet = self._entries.judge(picture, time, self._arrival)
        self._add(Coded(time, picture.coding, packet, packet.size))

    def finish(self) -> list[Cut]:
        """Return the chunk under way, if it has a frame, now that the stream has ended."""
        try:
            for picture in self._pairs.flush():
                self._take(picture)
            for unit in self._splitter.finish():
                self._complete(unit)
        except Irregular:
            self.lost_gops += 1
        if self._sampler is not None:
            self._cut()
        cuts, self._cuts = self._cuts, []
        return cuts

    def _add(self, coded: Coded[LivePacket]) -> None:
        time = coded.time or 0
        try:
            complete = self._splitter.push(coded)
        except Irregular as problem:
            if isinstance(problem, TooLong):
                most = f"{LARGEST_GOP >> 20} MiB or {LONGEST_GOP} pictures"
                self._note(f"of more than {most} without a key frame the rest is not embedded")
            self._restart()
            if coded.coding.entry:
                self._splitter.push(coded)
            complete = []
        for unit in complete:
            self._complete(unit)
        if not self._splitter.started or self._splitter.hides(coded):
            return
        self._unsettled.append(time)
        if time > self._highest:
            # What is presented before the latest picture has come before the next that is later still.
            settled = sorted(t for t in self._unsettled if t <= self._highest)
            self._unsettled = [t for t in self._unsettled if t > self._highest]
            self._highest = time
            for when in settled:
                self._feed(when, None)

    def interrupt(self) -> None:
        """Note a gap: pictures were not read."""
        if self._splitter.started:
            self._extract(self._splitter.so_far())
        self._restart()

    def _restart(self) -> None:
        """Give up the GOP: it is too long, it has a gap, or its times make no sense."""
        self.lost_gops += 1
        self._entries.lost()
        self._splitter = Held()
        self._unsettled, self._wanted = [], []

    def _complete(self, unit: Unit[LivePacket]) -> None:
        """All frames of a GOP are known."""
        for when in unit.times():
            self._feed(when, unit)
        self._extract(unit)
        self._highest = max(self._highest, self._fed)
        self._unsettled = [t for t in self._unsettled if t > self._fed]

    def _feed(self, when: int, unit: Unit[LivePacket] | None) -> None:
        """Pass the next frame in presentation order; `unit` holds it if that is complete."""
        if when <= self._fed:
            return
        self._fed = when
        if self._start is None:
            if when + self._wall.best()[0] < self._begin:
                return
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

    def _sample(self, when: int, unit: Unit[LivePacket] | None) -> None:
        assert self._sampler is not None  # noqa: S101 - for the type checker
        if when <= self._sampler.chunk.end:
            self._last_seen = when
        if self._sampler.take(when):
            self._wanted.append(when)
        if self._sampler.next_target is None:
            self._extract(unit or self._splitter.so_far())
            self._cut()

    def _extract(self, unit: Unit[LivePacket]) -> None:
        """Keep what the wanted frames of the unit need."""
        wanted, self._wanted = self._wanted, []
        if not wanted:
            return
        needed = unit.needed(wanted)
        if not needed:
            return
        packets = [(packet.time, packet.data) for packet in (*needed[0].before, *needed)]
        run = Run(needed[0].parameters, packets, wanted)
        self._taken += run.size
        if self._taken <= LARGEST_CHUNK:
            self._runs.append(run)

    def _cut(self) -> None:
        """The chunk is complete."""
        self._sampler = None
        if not self._runs:
            return
        start = self._start or 0
        wall_start, wall_end = self._wall.span(start, self._last_seen)
        self._cuts.append(
            Cut(
                start=start,
                end=self._last_seen,
                wall_start=wall_start,
                wall_end=wall_end,
                clock=self._wall.source,
                codec=self._codec,
                began=self._began,
                finished=self._arrival,
                arrived=self._arrived,
                kept=sum(len(run.packets) for run in self._runs),
                runs=self._runs,
            )
        )
        self._runs, self._arrived = [], 0
