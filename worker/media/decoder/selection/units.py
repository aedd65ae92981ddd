"""Which units of a file a job needs: the same for whoever decodes them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from worker.media.decoder.collector import Collector, Wanted
from worker.media.decoder.decoder_messages import DecodeCounts
from worker.media.decoder.demux import VideoSource
from worker.media.decoder.limits import MediaLimits
from worker.media.decoder.selection.bitstream import Parser, VideoPacket
from worker.media.decoder.selection.packets import PacketReader
from worker.media.decoder.selection.select import Coded, Splitter, Unit

SKIP_BYTES = 512 << 10  # less than this is read faster than it is jumped over
OPEN_AT_ONCE = 3  # overlapping chunks that one pass over the file serves


class ParsedFile(Protocol):
    """An open file and the parser of its packets."""

    source: VideoSource
    parse: Parser


class Selection:
    """Goes through a file and says which frames of which unit the job's chunks want."""

    def __init__(
        self, file: ParsedFile, collector: Collector, counts: DecodeCounts, limits: MediaLimits
    ) -> None:
        self.collector = collector
        self._source = file.source
        self._limits = limits
        self._reader = PacketReader(file.source, file.parse, counts)

    def stop(self) -> int:
        """The position of the chunk up to which the next pass over the file goes."""
        return self.collector.stop_for(OPEN_AT_ONCE)

    def units(self, stop: int) -> Iterator[tuple[Unit[VideoPacket], Wanted]]:
        """The units up to the last one from which a chunk before position `stop` wants a frame, each with
        what is wanted of it, if anything. Raises Irregular."""
        self._reader.strict = True
        for unit in self._units(stop):
            yield unit, self.collector.choose(unit.times(), stop)

    def everything(self, stop: int) -> Iterator[Coded[VideoPacket]]:
        """All packets from where a chunk before position `stop` begins."""
        self._reader.strict = False
        return self._reader.start(self.collector.next_target(stop) or 0)

    def _units(self, stop: int) -> Iterator[Unit[VideoPacket]]:
        """Units in which a chunk before position `stop` may want a frame, until none wants any more."""
        splitter: Splitter[VideoPacket] = Splitter(self._limits.held)
        packets = self._reader.start(self.collector.next_target(stop) or 0)
        jumps = True
        while (coded := next(packets, None)) is not None:
            units = splitter.push(coded)
            yield from units
            target = self.collector.next_target(stop)
            if target is None:
                return
            if units and jumps and self._source.distance(coded.packet, target) > SKIP_BYTES:
                splitter = Splitter(self._limits.held)
                packets = self._reader.start(target)
                jumps = self._reader.is_after(coded.packet)
        yield from splitter.finish()
