"""Hands chosen packets over to a decoder elsewhere: on a GPU, in the worker."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from itertools import chain
from typing import Protocol

from shared.errors import DecodeError
from worker.media.decoder.collector import Wanted
from worker.media.decoder.decoder_messages import Chosen, DecodeCounts, Planned
from worker.media.decoder.memory import ClipMemory
from worker.media.decoder.runs import FrameLook, Run, frame_look
from worker.media.decoder.selection.bitstream import VideoPacket, annex_b, first_units, header, nal_units
from worker.media.decoder.selection.continuity import missing_hevc_reference, missing_reference
from worker.media.decoder.selection.copies import shown_copy
from worker.media.decoder.selection.h264_headers import SET_BYTES
from worker.media.decoder.selection.hevc_headers import SET_BYTES as HEVC_SET_BYTES
from worker.media.decoder.selection.select import Irregular, Unit
from worker.media.decoder.software import SoftwareDecoder
from worker.media.decoder.units import ParsedFile, Selection

CODECS = ("h264", "hevc", "vp8", "vp9", "av1", "mpeg4")
VOP = b"\0\0\1\xb6"  # ISO/IEC 14496-2, 6.2.1
NOT_SHOWN = -1
"""The time of a packet whose frame has none: no chunk can need it."""


class DecodableFile(ParsedFile, Protocol):
    """An open file with decoders."""

    chooses: bool
    looks: dict[tuple[bytes, ...], FrameLook]

    def decoder(self) -> SoftwareDecoder:
        """Return an unused decoder."""


class Handover:
    """Sends a job's packets, unit by unit."""

    def __init__(
        self,
        file: DecodableFile,
        selection: Selection,
        emit: Callable[[Chosen | Planned], None],
        counts: DecodeCounts,
    ) -> None:
        self._file = file
        self._selection = selection
        self._emit = emit
        self._counts = counts
        self._codec = file.source.stream.codec_context.codec.canonical_name
        self._extradata = file.source.stream.codec_context.extradata or b""

    def run(self, memory: ClipMemory) -> None:
        """Send until every chunk is done. Raises Irregular if packets cannot be chosen or cut out."""
        collector = self._selection.collector
        if self._codec not in CODECS:
            raise Irregular(f"packets of {self._codec} are not handed over")
        if not self._file.chooses:
            raise Irregular(f"no frames can be chosen from the packets of this {self._codec} file")
        while collector.first < collector.last:
            stop = self._selection.stop()
            for unit, wanted in self._selection.units(stop):
                if wanted:
                    self._send(unit, wanted)
                memory.check()

    def _send(self, unit: Unit[VideoPacket], wanted: Wanted) -> None:
        entry = unit.packets[0]
        extradata = self._extradata
        if entry.packet.has_sidedata("new_extradata"):
            extradata = bytes(entry.packet.get_sidedata("new_extradata"))
        parameters = header(self._codec, extradata)
        look = self._look(entry.packet, (parameters, *entry.coding.parameters))
        needed = list(unit.needed(wanted))
        self._check(unit, needed, parameters, extradata)
        packets = [self._cut_out(packet, extradata) for packet in needed]
        self._counts.frames_decoded += len(packets)
        times = sorted(wanted)
        self._emit(Chosen(look, Run(parameters, packets, times), [wanted[when] for when in times]))
        for when in times:
            self._selection.collector.placed(wanted[when])

    def _check(
        self, unit: Unit[VideoPacket], needed: list[VideoPacket], parameters: bytes, extradata: bytes
    ) -> None:
        """Raise Irregular if a reference picture is missing: a GPU conceals it silently."""
        if self._codec == "h264":  # frame numbers only help if no picture is left out
            packets = [entry.packet for entry in unit.packets]
            packets = packets[: packets.index(needed[-1]) + 1]
            find, size = missing_reference, SET_BYTES
        elif self._codec == "hevc":
            packets, find, size = needed, missing_hevc_reference, HEVC_SET_BYTES
        else:
            return
        units = (first_units(self._codec, extradata, packet, size) for packet in packets)
        if missing := find(chain(nal_units(parameters), *units)):
            raise Irregular(missing)

    def _look(self, entry: VideoPacket, key: tuple[bytes, ...]) -> FrameLook:
        """Return what the unit's frames look like: parameter sets say, so one key frame for each is
        decoded."""
        if key not in self._file.looks:
            with closing(self._file.decoder().decode([shown_copy(entry)])) as frames:
                frame = next(frames, None)
            aspect = self._file.source.stream.sample_aspect_ratio
            if frame is None:
                raise DecodeError("the key frame cannot be decoded")
            self._file.looks[key] = frame_look(self._codec, frame, aspect)
        return self._file.looks[key]

    def _cut_out(self, packet: VideoPacket, extradata: bytes) -> tuple[int, bytes]:
        time = NOT_SHOWN if packet.pts is None else self._file.source.time(packet.pts)
        data = annex_b(self._codec, extradata, packet)
        if self._codec == "mpeg4" and data.count(VOP) > 1:
            raise Irregular("packets hold two pictures each (packed B-frames)")
        return time, data
