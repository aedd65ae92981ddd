"""When a live session goes to a worker that has more room: at the end of a chunk, where its first one begins.

The other worker plays the camera, too, from before that moment on, so that nothing is missed.
"""

import time
from typing import Literal

from shared.chunks import SECOND
from shared.live_records import Move
from worker.live.chunker import Cut

LEAD = 6 * SECOND
"""Time for the other worker to reach the camera and learn its clock."""


class Departure:
    """What the owner of a session knows of its move."""

    def __init__(self, duration: int) -> None:
        """`duration` of a chunk in ns."""
        self.move: Move | None = None
        self._duration = duration
        self._last: Cut | None = None
        self._arrived = 0
        self._declined = ""

    def taken(self, cut: Cut) -> None:
        """Note the latest chunk of the camera."""
        self._last, self._arrived = cut, time.monotonic_ns()

    def asked(self, token: str) -> None:
        """Note which move is asked for, if any, and choose its moment."""
        if token != (self.move.token if self.move else ""):
            self.move = None
        if token and token != self._declined and self.move is None and self._last:
            self.move = Move(token, self._boundary(self._last))

    def _boundary(self, last: Cut) -> int:
        """Return the first end of a chunk that is not too soon, ns since 1970 on the stream's clock."""
        soonest = last.wall_end + time.monotonic_ns() - self._arrived + LEAD
        return last.wall_start - (last.wall_start - soonest) // self._duration * self._duration

    def due(self, cut: Cut) -> Literal["later", "now", "missed"]:
        """Return whether the session goes now that this chunk is done."""
        if self.move is None:
            return "later"
        ahead = self.move.at - cut.wall_start
        if ahead > self._duration * 3 // 2:
            return "later"
        return "now" if ahead > self._duration // 2 else "missed"

    def decline(self) -> None:
        """Stay; the same move is not planned again."""
        if self.move:
            self._declined, self.move = self.move.token, None
