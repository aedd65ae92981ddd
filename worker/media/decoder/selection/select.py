"""Chooses the frames of a chunk, and the packets that must be decoded for them.

Pure arithmetic on integers; times are nanoseconds from the start of the file. The same code serves files
and live streams, the CPU's decoder and the GPU's.
"""

from collections.abc import Iterable, Sequence
from typing import Generic, NamedTuple, TypeVar

from shared.chunks import Chunk, frame_targets
from worker.media.decoder.selection.bitstream import Coding

P = TypeVar("P")


class Irregular(Exception):
    """The stream breaks the assumptions of selection, so everything must be decoded."""


class Sampler:
    """Chooses the frames of one chunk while frames pass by in presentation order.

    A frame is taken if it lies at or after the next target and not after the chunk's end; it serves all
    targets up to its own time. A frame at or beyond the end serves whatever is left. So a chunk gets between
    0 and `count` frames.
    """

    def __init__(self, chunk: Chunk, count: int) -> None:
        self.chunk = chunk
        self._targets = frame_targets(chunk.start, chunk.end, count)
        self._next = 0

    @property
    def next_target(self) -> int | None:
        """The earliest time that still needs a frame."""
        return self._targets[self._next] if self._next < len(self._targets) else None

    def take(self, time: int) -> bool:
        """Return whether the frame at `time` belongs to the chunk."""
        target = self.next_target
        if target is None:
            return False
        taken = target <= time <= self.chunk.end
        if time >= self.chunk.end:
            self._next = len(self._targets)
        while self._next < len(self._targets) and self._targets[self._next] <= time:
            self._next += 1
        return taken


class Coded(NamedTuple, Generic[P]):
    """One packet as selection sees it: when its frame is presented, None if unknown, and how it depends on
    others. A packet whose frame an edit list hides is not shown."""

    time: int | None
    coding: Coding
    packet: P
    size: int = 0


class Unit(Generic[P]):
    """Packets that can be decoded by themselves, and the frames that only they give.

    In decoding order: a key frame (an entry), the pictures that follow it, and, if the next entry does not
    cut all ties, that entry and its leading pictures, which are presented before it and need both sides. The
    frames of one unit are all presented before those of the next.
    """

    def __init__(self, own: Sequence[Coded[P]], tail: Sequence[Coded[P]]) -> None:
        self.packets = [*own, *tail]
        self._own_leading = {index for index, coded in enumerate(own) if index and is_leading(coded, own[0])}
        borrowed = len(own) if tail else -1
        self._frames = {
            index: coded.time
            for index, coded in enumerate(self.packets)
            if coded.coding.shown and index != borrowed and index not in self._own_leading
        }

    def times(self) -> list[int]:
        """Presentation times of the unit's frames, ascending. Raises Irregular if they are unknown."""
        times = [time for time in self._frames.values() if time is not None]
        if len(set(times)) < len(self._frames):
            raise Irregular("packets without a time, or two with the same")
        return sorted(times)

    def needed(self, wanted: Iterable[int]) -> list[P]:
        """Return the packets to decode, in order, for the frames presented at the times `wanted`.

        Everything after the last of them is left out, and before it every picture from which nothing that is
        kept can be predicted: the ones of higher temporal layers, and those that are no references.
        """
        times = set(wanted)
        chosen: list[P] = []
        top = -1
        for index in range(len(self.packets) - 1, -1, -1):
            coding = self.packets[index].coding
            is_wanted = self._frames.get(index) in times
            is_needed = coding.layer < top or (coding.layer == top and coding.reference)
            if index in self._own_leading and coding.leading:
                continue
            if is_wanted or is_needed:
                chosen.append(self.packets[index].packet)
                top = max(top, coding.layer)
        return chosen[::-1]


def is_leading(coded: Coded[P], entry: Coded[P]) -> bool:
    """Return whether a picture is presented before the entry that it follows, and needs what came before."""
    if coded.coding.leading is not None:
        return coded.coding.leading
    if entry.coding.closed:
        return False
    if coded.time is None or entry.time is None:
        raise Irregular("packets without a time")
    return coded.time < entry.time


class Splitter(Generic[P]):
    """Cuts a stream of packets, in decoding order, into units. Packets before the first entry are dropped.

    Raises Irregular when more than `held` bytes wait for their unit to end, and when times are missing,
    double or run backwards from one unit to the next.
    """

    def __init__(self, held: int) -> None:
        self._held = held
        self._own: list[Coded[P]] = []
        self._tail: list[Coded[P]] = []
        self._size = 0
        self._latest: int | None = None

    def push(self, coded: Coded[P]) -> list[Unit[P]]:
        """Add the next packet; return the units that it completes."""
        self._size += coded.size
        if self._size > self._held:
            raise Irregular(f"a GOP of more than {self._held} bytes")
        complete: list[Unit[P]] = []
        if not self._own:
            if coded.coding.entry:
                self._own, self._size = [coded], coded.size
            return complete
        if coded.coding.entry:
            if self._tail or coded.coding.closed:
                complete = self.finish() if coded.coding.closed else [self._complete()]
            if self._own:
                self._tail = [coded]
            else:
                self._own = [coded]
        elif self._tail and not is_leading(coded, self._tail[0]):
            complete = [self._complete()]
            self._own.append(coded)
        else:
            (self._tail or self._own).append(coded)
        return complete

    def finish(self) -> list[Unit[P]]:
        """Return the remaining units at the end of the stream."""
        complete = []
        while self._own:
            complete.append(self._complete())
        return complete

    def _complete(self) -> Unit[P]:
        unit = Unit(self._own, self._tail)
        self._own, self._tail = self._tail, []
        self._size = sum(coded.size for coded in self._own)
        times = unit.times()
        if times and self._latest is not None and times[0] <= self._latest:
            raise Irregular(f"a frame at {times[0]} ns comes after one at {self._latest} ns")
        self._latest = times[-1] if times else self._latest
        return unit
