"""The time line of a live stream, which never runs backwards or jumps, whatever the camera's clock does,
and the time of day on it."""

from typing import Literal, TypeAlias

from shared.chunks import SECOND

WallSource: TypeAlias = Literal["picture", "camera", "arrival"]
"""Source of the time of day: the camera's pictures, its sender reports, or our clock on arrival."""
TOLERANCE = 24 * 3600 * SECOND
"""A camera's clock that differs from ours by more is not believed."""
DRIFT = SECOND
"""A larger step of the reported time of day is a jump, and believed when a second report confirms it."""

BACKWARD = 2 * SECOND
"""Pictures are presented out of order by less than this; a larger step back is a jump."""
FORWARD = 10 * SECOND
"""A larger step ahead is a jump, unless as much time has really passed."""
USUAL_FRAME = SECOND // 30


class StreamClock:
    """Maps a camera's times (ns) to a time line that starts at 0 and goes on over jumps.

    Two pictures never have the same time.
    """

    def __init__(self) -> None:
        self._offset: int | None = None
        self._latest = 0
        self._arrival = 0
        self._interval = USUAL_FRAME
        self._recent: list[int] = []

    def place(self, time: int, arrival: int, *, entry: bool) -> int:
        """Return the place on the time line of a picture that arrived at `arrival` (ns, monotonic).

        `entry` says that it is never presented before the pictures that came earlier.
        """
        if self._offset is None:
            self._offset = -time
        placed = time + self._offset
        step = placed - self._latest
        waited = arrival - self._arrival
        earliest = 0 if entry else -BACKWARD
        if self._recent and (step < earliest or step > max(FORWARD, 2 * waited)):
            placed = self._latest + self._interval
            self._offset = placed - time
        elif 0 < step < SECOND:
            self._interval = step
        while placed in self._recent:
            placed += 1
        self._recent = [*self._recent[-63:], placed]
        if placed > self._latest:
            self._latest, self._arrival = placed, arrival
        return placed


class WallClock:
    """The time of day (ns since 1970) on a stream's time line.

    Chunks never run backwards: what would put one before the end of the last is believed only later. `after`
    is the end of the last chunk before this time line.
    """

    def __init__(self, tolerance: int = TOLERANCE, after: int = 0) -> None:
        self.source: WallSource = "arrival"
        self._tolerance = tolerance
        self._after = after
        self._said: int | None = None
        self._reported: int | None = None
        self._reports = 0
        self._jump: tuple[int, int] | None = None
        self._arrived = 0
        self._used: int | None = None

    def arrived(self, time: int, now: int) -> None:
        """A picture of `time` on the time line arrived at `now`."""
        self._arrived = now - time

    def said(self, time: int, wall: int) -> None:
        """The camera wrote into the picture of `time` that it is of `wall`. The first such picture counts."""
        if self._said is None:
            self._said = wall - time

    def reported(self, time: int, wall: int, reports: int) -> None:
        """The picture of `time` is of `wall` by the camera's `reports`-th sender report."""
        offset = wall - time
        if abs(offset - self._arrived) > self._tolerance:
            return
        if self._reported is None or abs(offset - self._reported) <= DRIFT:
            self._reported, self._jump = offset, None
        elif self._jump is None or abs(offset - self._jump[0]) > DRIFT:
            self._jump = offset, reports
        elif reports > self._jump[1]:
            self._reported, self._jump = offset, None

    def best(self) -> tuple[int, WallSource]:
        """Return the time of day at 0 on the time line, as far as it is known, and what that comes from."""
        if self._said is not None:
            return self._said, "picture"
        return (self._arrived, "arrival") if self._reported is None else (self._reported, "camera")

    def span(self, start: int, end: int) -> tuple[int, int]:
        """Return the times of day of a chunk's `start` and `end`; `source` says then what they come from."""
        used = None if self.source == "arrival" else self._used
        known: list[tuple[int | None, WallSource]] = [(self._said, "picture"), (self._reported, "camera")]
        known += [(used, self.source), (self._arrived, "arrival")]
        for offset, source in known:
            if offset is not None and start + offset >= self._after:
                self._used, self.source = offset, source
                break
        else:
            self._used = self._after - start
        self._after = end + (self._used or 0)
        return start + (self._used or 0), self._after
