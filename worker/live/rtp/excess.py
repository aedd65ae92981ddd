"""Parts of a camera's stream beyond its bounds: counted, and reported once a minute."""

import time
from collections import Counter
from collections.abc import Callable
from typing import ClassVar, TypeAlias

TELL_INTERVAL = 60.0
"""Seconds between two events about the same thing."""

Note: TypeAlias = Callable[[str], None]
"""Counts something that is too much, and was dropped or held up; the text is a sentence about the kind."""


def ignore(what: str) -> None:
    """Count nothing."""


class Excess:
    """Counts what is too much. `tell` gets the sentence at the first of a kind, and then once a minute."""

    total: ClassVar[int] = 0
    """The count of all cameras that this process has played."""

    def __init__(self, tell: Note) -> None:
        self.counts: Counter[str] = Counter()
        self._tell = tell
        self._next: dict[str, float] = {}

    def note(self, what: str) -> None:
        """Count one more."""
        self.counts[what] += 1
        Excess.total += 1
        now = time.monotonic()
        if now >= self._next.get(what, 0):
            self._next[what] = now + TELL_INTERVAL
            self._tell(f"{what} ({self.counts[what]} so far)")
