"""The time that reading one camera may take: many cameras share a process."""

from typing import ClassVar

SHARED, LEAST = 0.5, 0.1
"""Parts of the time: what the cameras of a process share, and what each may take all the same."""
BURST = 0.2
"""Seconds that one camera may take at once."""
TOO_MUCH = (
    "reading it takes more than its share of the processor: it has to wait, and over UDP packets are lost"
)


class ReadingBudget:
    """Fills up by the camera's share of the time that passes, to BURST at most. All times are in seconds."""

    open: ClassVar[set["ReadingBudget"]] = set()
    """Those of the cameras that this process plays."""

    def __init__(self, now: float) -> None:
        self._left = BURST
        self._at = now
        self.open.add(self)

    def spend(self, seconds: float, now: float) -> float:
        """Note time that was taken; return for how long nothing may be read now."""
        share = max(LEAST, SHARED / max(1, len(self.open)))
        self._left = min(BURST, self._left + (now - self._at) * share) - seconds
        self._at = now
        return max(0.0, -self._left / share)

    def close(self) -> None:
        """The camera is no longer played."""
        self.open.discard(self)
