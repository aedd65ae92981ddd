"""Reads one video file inside a decoder process: chunks in, clips or chosen packets out."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import closing, contextmanager

import numpy as np
from av.video.frame import VideoFrame
from numpy.typing import NDArray

from worker.media.decoder.collector import BeganLate, Collector, Wanted
from worker.media.decoder.container.byte_sources import LOCAL, ByteSources
from worker.media.decoder.container.demux import VideoSource, decoding_context
from worker.media.decoder.decoder_messages import (
    Choose,
    Chosen,
    ClipDone,
    Decode,
    DecodeCounts,
    Empty,
    Planned,
    Setup,
    Spare,
)
from worker.media.decoder.handover import Handover
from worker.media.decoder.limits import MediaLimits
from worker.media.decoder.memory import ClipMemory
from worker.media.decoder.pictures.orientation import orientation, turn
from worker.media.decoder.pictures.swscale import Scaler
from worker.media.decoder.pictures.thumbnail import Thumbnails
from worker.media.decoder.runs import FrameLook
from worker.media.decoder.selection.bitstream import VideoPacket, parse_keys, parser
from worker.media.decoder.selection.select import Irregular
from worker.media.decoder.software import LostFrames, SoftwareDecoder
from worker.media.decoder.units import Selection

BYTES_PER_PIXEL, FRAMES_PER_DECODER = 3, 20  # about the most reference frames that a decoder keeps
LONG_UNIT = 60  # packets in a unit from which several threads pay off
HELD_BACK = 16 << 20  # bytes read ahead to recognise the last units before decoding begins

Portion = tuple[list[VideoPacket], Wanted]
"""The packets to decode of one unit, and the wanted frames."""


class MissingFrame(Exception):
    """The packets chosen for a wanted frame did not yield it."""


class Lane:
    """A decoder and a scaler, used by one unit at a time."""

    def __init__(self, decoder: SoftwareDecoder, threads: int) -> None:
        self.decoder = decoder
        self.threads = threads
        self.scaler = Scaler()


class OpenFile:
    """A file with its decoders."""

    def __init__(
        self, path: str, size: int, setup: Setup, files: ByteSources, *, joined: bool = False
    ) -> None:
        self.key = path, size, joined, files.facts(path)
        self.source = VideoSource(path, setup.limits, files, joined=joined)
        self._limits = setup.limits
        self._idle: list[Lane] = []
        self._lock = threading.Lock()
        context = self.source.stream.codec_context
        parse = parser(context.codec.canonical_name, context.extradata)
        self.parse = parse or parse_keys
        decoder = context.width * context.height * BYTES_PER_PIXEL * FRAMES_PER_DECODER
        self.most_lanes = max(1, min(setup.lanes, setup.limits.memory // 2 // decoder))
        self.chooses = parse is not None and self.source.orders
        self.selects = setup.sparse and self.chooses
        self.looks: dict[tuple[bytes, ...], FrameLook] = {}

    def decoder(self) -> SoftwareDecoder:
        """Return a new decoder that belongs to no lane."""
        return SoftwareDecoder(decoding_context(self.source, self._limits), self._limits)

    def lane(self, threads: int) -> Lane:
        """Return an idle lane whose decoder has so many threads, or a new one. Give it back with `put`."""
        with self._lock:
            for lane in self._idle:
                if lane.threads == threads:
                    self._idle.remove(lane)
                    return lane
        context = decoding_context(self.source, self._limits)
        return Lane(SoftwareDecoder(context, self._limits, threads), threads)

    def put(self, lane: Lane) -> None:
        """Return an idle lane to the pool."""
        with self._lock:
            self._idle.append(lane)

    def close(self) -> None:
        """Close the file and its decoders."""
        self.source.close()
        while self._idle:
            self._idle.pop().scaler.close()


class Reader:
    """Decodes jobs. The last file and its decoders stay open for the next job, unless one has failed."""

    def __init__(self, setup: Setup, files: ByteSources = LOCAL) -> None:
        self._setup = setup
        self._files = files
        self._file: OpenFile | None = None
        self._threads = ThreadPoolExecutor(setup.lanes, "decode")

    def run(
        self,
        job: Decode,
        memory: ClipMemory,
        emit: Callable[[ClipDone | Empty | Spare], None],
        counts: DecodeCounts,
    ) -> None:
        """Decode the job's chunks, in order. Raises InvalidFile, DecodeError, Cancelled."""

        def done(position: int, times: list[int], start: float) -> None:
            thumbnail = b""
            if thumbnails:
                middle = collector.middle(position) or 0
                thumbnail = thumbnails.take(position, memory.region(position)[middle])
            emit(ClipDone(position, memory.finish(position), times, start, time.monotonic(), thumbnail))

        def left_out(position: int) -> None:
            memory.leave_out(position)
            emit(Empty(position))

        collector = Collector(job, done, left_out, counts)
        with self._open(job, job.size, counts) as file:
            thumbnails = Thumbnails(file.source.stream.sample_aspect_ratio) if job.thumbnails else None
            Pass(
                file,
                job,
                collector,
                memory,
                counts,
                thumbnails=thumbnails,
                spare=lambda: emit(Spare()),
                executor=self._threads,
                limits=self._setup.limits,
            ).run()

    def choose(
        self,
        job: Choose,
        memory: ClipMemory,
        emit: Callable[[Chosen | Empty | Planned], None],
        counts: DecodeCounts,
    ) -> None:
        """Hand over the packets that the job's chunks need, in order, without decoding them. `memory` tells
        of cancellation. Raises InvalidFile, DecodeError, Cancelled, and Irregular where it cannot."""

        def planned(position: int, times: list[int], start: float) -> None:
            emit(Planned(position, times, start))

        collector = Collector(job, planned, lambda position: emit(Empty(position)), counts)
        with self._open(job, 0, counts) as file:
            Handover(file, Selection(file, collector, counts, self._setup.limits), emit, counts).run(memory)

    def close(self) -> None:
        """Close the file that is kept open."""
        file, self._file = self._file, None
        if file is not None:
            file.close()

    @contextmanager
    def _open(self, job: Decode | Choose, size: int, counts: DecodeCounts) -> Iterator[OpenFile]:
        path, joined = job.path, job.joined
        try:
            if self._file is None or self._file.key != (path, size, joined, self._files.facts(path)):
                self.close()
                self._file = OpenFile(path, size, self._setup, self._files, joined=joined)
            yield self._file
        except BaseException:
            self.close()
            raise
        finally:
            counts.packets_dropped += counts.packets - counts.frames_decoded
            if not self._setup.reuse:
                self.close()


class Pass:
    """Runs a job on its file: by selection if possible, else by decoding everything."""

    def __init__(
        self,
        file: OpenFile,
        job: Decode,
        collector: Collector,
        memory: ClipMemory,
        counts: DecodeCounts,
        *,
        thumbnails: Thumbnails | None,
        spare: Callable[[], None],
        executor: ThreadPoolExecutor,
        limits: MediaLimits,
    ) -> None:
        self._file = file
        self._collector = collector
        self._memory = memory
        self._counts = counts
        self._thumbnails = thumbnails
        self._spare = spare
        self._executor = executor
        self._lanes = min(job.lanes, file.most_lanes)
        self._threads = min(job.threads, file.most_lanes)
        self._selection = Selection(file, collector, counts, limits)

    def run(self) -> None:
        """Decode until every chunk is done."""
        selects = self._file.selects
        while self._collector.first < self._collector.last:
            stop = self._selection.stop()
            try:
                if selects:
                    self._select(stop)
                else:
                    self._decode_all(stop)
            except Irregular:
                selects = False
                self._collector.restart()
            except (MissingFrame, LostFrames):
                self._collector.restart()
                self._decode_all(self._collector.first + 1)

    def _select(self, stop: int) -> None:
        """Decode what chunks before position `stop` need, several units at a time.

        One thread for each costs least, as long as there are units for all lanes; so the last units are held
        back until they are known to be the last.
        """
        pending: deque[Future[None]] = deque()
        last: deque[Portion] = deque()
        try:
            for unit, wanted in self._selection.units(stop):
                if wanted:
                    last.append((unit.needed(wanted), wanted))
                if len(last) > self._lanes or (len(last) > 1 and _size(last) > HELD_BACK):
                    if len(pending) > 2 * self._lanes:  # some wait, so that short and long units alternate
                        pending.popleft().result()
                    pending.append(self._submit(*last.popleft(), threads=1))
                self._memory.check()
            for packets, wanted in last:
                threads = self._threads if len(packets) >= LONG_UNIT else 1
                pending.append(self._submit(packets, wanted, threads))
            self._finish(pending, last=stop == self._collector.last)
        except BaseException:
            self._memory.interrupt(on=True)
            wait(pending)
            self._memory.interrupt(on=False)
            raise

    def _finish(self, pending: Iterable[Future[None]], *, last: bool) -> None:
        """Wait for pending units; in the last pass, report when a lane has no more work."""
        left = set(pending)
        while left:
            if last and len(left) < self._lanes:
                self._spare()
                last = False
            done, left = wait(left, return_when=FIRST_COMPLETED)
            for future in done:
                future.result()

    def _submit(self, packets: list[VideoPacket], wanted: Wanted, threads: int) -> Future[None]:
        self._counts.frames_decoded += len(packets)
        return self._executor.submit(self._decode_unit, packets, wanted, threads)

    def _decode_unit(self, packets: Iterable[VideoPacket], wanted: Wanted, threads: int) -> None:
        left = deque(sorted(wanted))
        for when, frame, lane in self._frames(packets, threads):
            if when == left[0]:
                self._place(frame, lane.scaler, wanted[left.popleft()])
                if not left:
                    return
            elif when in wanted and when > left[0]:
                break
        raise MissingFrame(left[0])

    def _decode_all(self, stop: int) -> None:
        """Decode every frame from the chunks' start, or from further back if it needs an earlier one."""
        self._spare()
        before, steps, threads = self._collector.first, 0, self._threads
        while True:
            try:
                self._decode_from(stop, steps, threads)
                break
            except BeganLate:
                steps += 1
            except LostFrames:
                threads = 1
            self._collector.restart()
        self._counts.dense_chunks += self._collector.first - before

    def _decode_from(self, stop: int, steps: int, threads: int) -> None:
        """Decode every frame, by one decoder. Raises BeganLate where earlier ones are needed, LostFrames."""
        last: tuple[VideoFrame, Scaler] | None = None
        errors = self._counts.decode_errors
        packets = self._counted(self._selection.everything(stop, steps))
        for when, frame, lane in self._frames(packets, threads):
            if lane.decoder.errors:
                self._collector.failed()
            shown = frame, lane.scaler
            for wanted, places in self._collector.choose([when], stop).items():
                self._place(*(shown if wanted == when or last is None else last), places)
            if self._collector.next_target(stop) is None:
                return
            last = shown
        if self._counts.decode_errors > errors:
            self._collector.failed()
        for places in self._selection.finish(stop).values():
            if last is not None:
                self._place(*last, places)

    def _place(self, frame: VideoFrame, scaler: Scaler, places: Sequence[tuple[int, int]]) -> None:
        """Scale the frame into its clips one by one: there may be more clips than free regions."""
        picture: NDArray[np.uint8] | None = None
        how = orientation(frame)
        for place in sorted(places):
            position, index = place
            out = self._memory.region(position)[index]
            if picture is None:
                scaler.scale(frame, out)
                turn(out, how)
                picture = out.copy() if len(places) > 1 else out
            else:
                out[...] = picture
            if self._thumbnails:
                is_middle = self._collector.middle(position) == index
                self._thumbnails.see(position, frame, scaler, how, is_middle=is_middle)
            self._collector.placed([place])

    def _counted(self, packets: Iterable[VideoPacket]) -> Iterator[VideoPacket]:
        for packet in packets:
            self._counts.frames_decoded += 1
            yield packet

    def _frames(self, packets: Iterable[VideoPacket], threads: int) -> Iterator[tuple[int, VideoFrame, Lane]]:
        """Yield the frames of `packets` that have a time, with it and with the lane that decoded them."""
        lane = self._file.lane(threads)
        try:
            with closing(lane.decoder.decode(packets)) as frames:
                for frame in frames:
                    self._memory.check()
                    if frame.pts is not None:
                        yield self._file.source.time(frame.pts), frame, lane
        finally:
            self._counts.decode_errors += lane.decoder.errors
            self._file.put(lane)


def _size(portions: Iterable[Portion]) -> int:
    return sum(packet.size for packets, _ in portions for packet in packets)
