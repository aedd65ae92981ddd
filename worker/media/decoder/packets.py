"""Reads packets for selection, and seeks to the right place among them."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain

from av.packet import PacketSideData

from shared.chunks import SECOND
from worker.media.decoder.container.demux import VideoSource
from worker.media.decoder.decoder_messages import DecodeCounts
from worker.media.decoder.selection.bitstream import Coding, Parser, VideoPacket, parameter_sets
from worker.media.decoder.selection.select import Coded, Irregular

STEPS_BACK = (0, 2, 10, 60)  # seconds before the target time from which to search for an entry


class PacketReader:
    """Reads the packets of a source with what their bits say about them.

    A decoder that starts in the middle must know the parameter sets in force there. It has those from the
    container; once one inside the stream changes, they must come with every entry, or else reading raises
    Irregular if `strict`. `is_whole` says whether reading began with the first packet of the file.
    """

    def __init__(self, source: VideoSource, parse: Parser, counts: DecodeCounts) -> None:
        self.source = source
        self.last: VideoPacket | None = None
        self.strict = True
        self.is_whole = False
        self._last_frame = source.last_frame()
        self._parse = parse
        self._counts = counts
        context = source.stream.codec_context
        self._known = parameter_sets(context.codec.canonical_name, context.extradata)
        self._inband = False
        self._extradata: PacketSideData | None = None

    @property
    def end(self) -> int:
        """The time (ns) at which the last frame ends, if no more follow."""
        return self.source.time(self._last_frame.end)

    def start(self, time: int, steps: int = 0) -> Iterator[Coded[VideoPacket]]:
        """Return the packets from the last entry at or before `time` (ns) whose frame is shown, or else from
        the start of the file. Skips `steps` of STEPS_BACK, which were tried without success."""
        self.is_whole = False
        for back in STEPS_BACK[steps:]:
            if time - back * SECOND <= 0 or self.source.is_joined:
                break
            self.source.seek(time - back * SECOND)
            packets = self._read(first_is_entry=False)
            entry = next((coded for coded in packets if coded.coding.entry and coded.coding.shown), None)
            if entry is not None and entry.time is not None and entry.time <= time:
                return chain((entry,), packets)
        self.source.rewind()
        self.last = None
        self.is_whole = True
        return self._read(first_is_entry=True)

    def is_after(self, packet: VideoPacket) -> bool:
        """Return whether the last packet read comes after `packet` in the file."""
        if self.last is None or self.last.dts is None or packet.dts is None:
            return False
        return self.last.dts > packet.dts

    def _read(self, *, first_is_entry: bool) -> Iterator[Coded[VideoPacket]]:
        entry = first_is_entry
        for packet in self.source.packets():
            coding = self._parse(packet)
            if entry:
                coding = coding._replace(entry=True, closed=True)
                entry = False
            if self.source.begins_part and coding.entry:
                coding = coding._replace(closed=True)
            if packet.is_discard:
                coding = coding._replace(shown=False)
            if self.strict:
                self._watch_parameters(coding)
            self._keep_extradata(packet)
            self._counts.packets += 1
            self._counts.bytes_read += packet.size
            self.last = packet
            time = None if packet.pts is None else self.source.time(packet.pts)
            self._last_frame.add(packet)
            yield Coded(time, coding, packet, packet.size)

    def _watch_parameters(self, coding: Coding) -> None:
        new = [nal for nal in coding.parameters if nal not in self._known]
        if coding.entry:
            self._known.update(new)
            self._inband = self._inband or bool(new)
            if self._inband and not coding.parameters:
                raise Irregular("parameter sets that changed are not repeated")
        elif new:
            raise Irregular("parameter sets change between key frames")

    def _keep_extradata(self, packet: VideoPacket) -> None:
        """Keep a changed sample description: MP4 states it once, and a reader that starts later needs it."""
        if packet.has_sidedata("new_extradata"):
            self._extradata = packet.get_sidedata("new_extradata")
        elif self._extradata is not None and packet.is_keyframe:
            packet.set_sidedata(self._extradata)
