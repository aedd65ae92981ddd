"""The processor time that reading one camera may take: many cameras share a process."""

SHARE = 0.25
"""Part of a core's time that one camera may take."""
BURST = 0.1
"""Seconds of it at once."""
TOO_MUCH = (
    f"reading the camera takes more than {SHARE:.0%} of a core: it has to wait, and over UDP packets are lost"
)


class ReadingBudget:
    """Fills up by SHARE of the time that passes, to BURST at most. All times are in seconds."""

    def __init__(self, now: float) -> None:
        self._left = BURST
        self._at = now

    def spend(self, seconds: float, now: float) -> float:
        """Note processor time that was taken; return for how long nothing may be read now."""
        self._left = min(BURST, self._left + (now - self._at) * SHARE) - seconds
        self._at = now
        return max(0.0, -self._left / SHARE)
