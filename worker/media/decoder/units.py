"""Selects the units of a file that a job needs, for every decoder."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from worker.media.decoder.collector import Collector, Wanted
from worker.media.decoder.container.demux import VideoSource
from worker.media.decoder.decoder_messages import DecodeCounts
from worker.media.decoder.limits import MediaLimits
from worker.media.decoder.packets import PacketReader
from worker.media.decoder.selection.bitstream import Parser, VideoPacket
from worker.media.decoder.selection.select import Coded, Irregular, Splitter, Unit

SKIP_BYTES = 512 << 10  # reading less than this is faster than seeking over it
OPEN_AT_ONCE = 3  # overlapping chunks that one pass over the file serves


class ParsedFile(Protocol):
    """An open file and the parser of its packets."""

    source: VideoSource
    parse: Parser


class Selection:
    """Goes through a file and finds the frames of each unit that the job's chunks need."""

    def __init__(
        self, file: ParsedFile, collector: Collector, counts: DecodeCounts, limits: MediaLimits
    ) -> None:
        self.collector = collector
        self._source = file.source
        self._limits = limits
        self._reader = PacketReader(file.source, file.parse, counts)

    def stop(self) -> int:
        """Return the position of the chunk up to which the next pass over the file goes."""
        return self.collector.stop_for(OPEN_AT_ONCE)

    def units(self, stop: int) -> Iterator[tuple[Unit[VideoPacket], Wanted]]:
        """Yield the units up to the last one from which a chunk before position `stop` wants a frame, each
        with what is wanted of it, if anything. Raises Irregular.

        A unit's last frame may be wanted because it stands still until the next unit's first, so each is held
        back until the next one is known.
        """
        self._reader.strict = True
        held: tuple[Unit[VideoPacket], int, Wanted] | None = None
        for unit in self._units(stop):
            if not (times := unit.times()):
                continue
            wanted = self.collector.choose(times, stop)
            if held:
                yield _with_last(*held, wanted)
            held = unit, times[-1], wanted
        if held:
            yield _with_last(*held, self.collector.finish(stop, self._reader.end))
        elif self.collector.next_target(stop) is not None:
            raise Irregular("no packet gives a frame")

    def everything(self, stop: int, steps: int = 0) -> Iterator[VideoPacket]:
        """Yield all packets from where a chunk before position `stop` begins, or `steps` of STEPS_BACK
        before."""
        self._reader.strict = False
        packets = self._reader.start(self.collector.next_target(stop) or 0, steps)
        self.collector.begin(is_whole=self._reader.is_whole)
        for coded in packets:
            if coded.coding.shown and coded.time is not None:
                self.collector.read(coded.time, stop)
            yield coded.packet

    def finish(self, stop: int) -> Wanted:
        """Return what is wanted of the last frame, now that no more come for chunks before position
        `stop`."""
        return self.collector.finish(stop, self._reader.end)

    def _units(self, stop: int) -> Iterator[Unit[VideoPacket]]:
        """Units in which a chunk before position `stop` may want a frame, until none wants any more."""
        splitter: Splitter[VideoPacket] = Splitter(self._limits.held)
        packets = self._start(self.collector.next_target(stop) or 0)
        jumps = True
        while (coded := next(packets, None)) is not None:
            units = splitter.push(coded)
            yield from units
            target = self.collector.next_target(stop)
            if target is None:
                return
            if units and jumps and self._source.distance(coded.packet, target) > SKIP_BYTES:
                splitter = Splitter(self._limits.held)
                packets = self._start(target)
                jumps = self._reader.is_after(coded.packet)
        yield from splitter.finish()

    def _start(self, target: int) -> Iterator[Coded[VideoPacket]]:
        packets = self._reader.start(target)
        self.collector.begin(is_whole=self._reader.is_whole)
        return packets


def _with_last(
    unit: Unit[VideoPacket], last: int, wanted: Wanted, later: Wanted
) -> tuple[Unit[VideoPacket], Wanted]:
    """Return the unit, with what is wanted of it, and of its last frame according to `later`, from where it
    goes."""
    places = later.pop(last, [])
    return unit, {**wanted, last: wanted.get(last, []) + places} if places else wanted
