"""What the clients ask of triggers: questions that the service compares each new chunk with."""

from collections.abc import Iterator, Mapping
from typing import Any

import httpx
import msgspec

from rt_embed.calls import Call, Flow, Retries, answered
from rt_embed.following import DONE, EventLines
from rt_embed.types import MatchedChunk, SavedTrigger

TRIGGERS_PATH = "/v1/triggers"


class _Triggers(msgspec.Struct):
    triggers: list[SavedTrigger]


def add_trigger(body: Mapping[str, Any], retries: Retries) -> Flow[SavedTrigger]:
    """Create a trigger; return it. It is not sent again after a lost answer, which would make it twice."""
    answer = yield from answered(Call("POST", TRIGGERS_PATH, json=dict(body), repeatable=False), retries)
    return msgspec.json.decode(answer.content, type=SavedTrigger)


def list_triggers(retries: Retries) -> Flow[list[SavedTrigger]]:
    """Return every trigger, the oldest first."""
    answer = yield from answered(Call("GET", TRIGGERS_PATH), retries)
    return msgspec.json.decode(answer.content, type=_Triggers).triggers


def find_trigger(trigger_id: str, retries: Retries) -> Flow[SavedTrigger]:
    """Return one trigger."""
    answer = yield from answered(Call("GET", f"{TRIGGERS_PATH}/{trigger_id}"), retries)
    return msgspec.json.decode(answer.content, type=SavedTrigger)


class Matches:
    """The matches of one trigger, read over as many connections as it takes, until it is deleted."""

    def __init__(self, trigger_id: str, last: int, retries: Retries) -> None:
        self.ended = False
        self._path = f"{TRIGGERS_PATH}/{trigger_id}/events"
        self._last = last
        self._retries = retries
        self._failures = 0
        self._lines = EventLines()

    def open(self) -> Flow[httpx.Response]:
        """Return an open answer: the matches after the last one that was seen."""
        self._lines.restart()
        headers = {"Accept": "text/event-stream"}
        if self._lines.last_id:
            headers["Last-Event-ID"] = self._lines.last_id
        call = Call("GET", self._path, params={"last": self._last}, headers=headers, stream=True)
        return (yield from answered(call, self._retries))

    def feed(self, line: str) -> Iterator[MatchedChunk]:
        """Take one line of the answer; yield the match that it completes."""
        data = self._lines.feed(line)
        if data is None:
            return
        self._failures = 0
        if data == DONE:
            self.ended = True
        else:
            yield msgspec.json.decode(data, type=MatchedChunk)

    def lost(self, _: httpx.TransportError | None) -> Flow[None]:
        """Wait before the next connection."""
        self._failures += 1
        yield self._retries.pause(self._failures)
