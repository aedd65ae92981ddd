"""Log lines that repeat during an outage: the first is written at once, then one a minute with a count."""

import logging
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping

INTERVAL = 60.0
MOST_KINDS = 500
NAMED = ("request_id", "job")
"""A line about one request or job is never left out."""


class Seldom(logging.Filter):
    """Lets a warning or error pass once a minute; the next one that passes carries `repeated`, the number
    that were left out. Lines are the same if they have the same logger and event."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._clock = clock
        self._last: OrderedDict[tuple[str, str], list[float]] = OrderedDict()

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether the line is written."""
        event = record.msg if isinstance(record.msg, Mapping) else {"event": record.msg}
        if record.levelno < logging.WARNING or any(name in event for name in NAMED):
            return True
        key = (record.name, str(event.get("event"))[:200])
        now = self._clock()
        entry = self._last.get(key)
        if entry is None or now - entry[0] >= INTERVAL:
            left_out = int(entry[1]) if entry else 0
            self._last[key] = [now, 0]
            self._last.move_to_end(key)
            if len(self._last) > MOST_KINDS:
                self._last.popitem(last=False)
            if left_out:
                _add(record, left_out)
            return True
        entry[1] += 1
        return False


def _add(record: logging.LogRecord, left_out: int) -> None:
    if isinstance(record.msg, Mapping):
        record.msg = {**record.msg, "repeated": left_out}
    else:
        record.repeated = left_out
