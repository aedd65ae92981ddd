"""Matches of triggers, as clients see them."""

import msgspec

from gateway.api.trigger_schemas import TriggerEvent
from gateway.search.shown_hits import index_hit
from gateway.triggers.trigger_records import Match
from shared.chunks import SECOND
from shared.timestamps import format_timestamp

MILLISECOND = SECOND // 1000


def trigger_event(match: Match) -> TriggerEvent:
    """Return the match as an event."""
    return TriggerEvent(
        **msgspec.structs.asdict(index_hit(match.hit)),
        id=str(match.key),
        trigger=match.trigger,
        trigger_name=match.trigger_name,
        matched_at=format_timestamp(match.at * MILLISECOND),
    )
