"""The time line of a live stream: never back, never far ahead, whatever the camera's clock does."""

from shared.chunks import SECOND

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
        """The place on the time line of a picture that arrived at `arrival` (ns, monotonic).

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
