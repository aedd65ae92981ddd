"""The events of one trigger, as they come or from where a client stopped reading."""

import asyncio
import re
from collections.abc import AsyncGenerator
from typing import TYPE_CHECKING

import structlog

from gateway.results.sse import DONE, event
from gateway.triggers.shown_matches import trigger_event
from shared.errors import InvalidParameters, Unavailable

if TYPE_CHECKING:
    from gateway.triggers.trigger_store import TriggerStore

log = structlog.get_logger(__name__)

LOOK_INTERVAL = 1.0
PAGE = 100
_EVENT_ID = re.compile(r"[0-9]{1,18}")


def read_event_id(text: str) -> int:
    """Return the key in a `Last-Event-ID`. Raises InvalidParameters."""
    if not _EVENT_ID.fullmatch(text):
        raise InvalidParameters("('header', 'last-event-id'): Must be the id of an event")
    return int(text)


async def trigger_events(store: "TriggerStore", trigger: str, after: int) -> AsyncGenerator[bytes, None]:
    """Yield an event for each match after that with the key `after`, and `[DONE]` when the trigger is gone.

    While the index is away it waits.
    """
    while True:
        try:
            matches = await store.matches_after(trigger, after, PAGE)
        except Unavailable as error:
            log.warning("events of a trigger wait for the index", trigger=trigger, error=error.message)
            matches = []
        if matches is None:
            yield event(DONE)
            return
        for match in matches:
            after = match.key
            yield event(trigger_event(match), str(match.key))
        if len(matches) < PAGE:
            await asyncio.sleep(LOOK_INTERVAL)
