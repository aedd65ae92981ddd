"""A campaign: faults in an order that a seed gives, one after the other, while clients ask without a pause.

After each fault everything that was accepted must end well; how long that takes is measured.
"""

import random
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tests.chaos.account import Account, Losses
from tests.chaos.clients import Client, EventClient, JsonClient, LaterClient, UploadClient, reference
from tests.chaos.faults import Fault, Make
from tests.chaos.site import TOPIC, WAITING, Site
from tests.e2e.media import colour_film

FILM_SECONDS = 20
CALM = (0.3, 1.5)
"""Seconds between two faults, at least and at most."""
PATIENCE = 60.0
"""Seconds after a fault in which every request must have ended and every message must have come."""
CLIENTS: tuple[type[Client], ...] = (EventClient, LaterClient, JsonClient, UploadClient)


@dataclass
class Trial:
    """One fault and what came of it. `recovery` is None if some request had no end."""

    kind: str
    fault: str
    victim: str = ""
    held: float = 0.0
    recovery: float | None = None
    requests: int = 0
    chunks: int = 0
    refusals: int = 0
    losses: Losses = field(default_factory=Losses)
    excused: bool = False
    """Whether nothing was promised: see `Fault.may_lose`."""

    @property
    def wrong(self) -> list[str]:
        """What broke a promise or might have."""
        hang = ["something has no end"] if self.recovery is None else []
        return [*self.losses.lost, *self.losses.doubled, *self.losses.failed, *hang]


class Campaign:
    """Runs faults on a running site. Every choice comes from the seed."""

    def __init__(self, site: Site, film: Path, seed: int) -> None:
        self._site = site
        self._name = site.kind + (WAITING if site.waiting else "")
        self._rng = random.Random(f"{seed} {site.kind}")
        self._account = Account(site.broker.tell("servers"), TOPIC, reference(site.urls[0], film))
        assert len(self._account.expected) == FILM_SECONDS
        self._clients = [kind(site.urls, film, self._account, n) for n, kind in enumerate(CLIENTS)]
        self._settled: set[str] = set()

    def start(self) -> None:
        """Let the clients begin; return when each has had an answer."""
        for client in self._clients:
            client.start()
        self._wait(lambda: sum(work.ended is not None for work in self._account.works()) >= len(CLIENTS))

    def shuffled(self, faults: Sequence[Make]) -> Iterator[Make]:
        """Yield faults for ever, each as often as any other."""
        while True:
            yield from self._rng.sample(faults, len(faults))

    def run(self, fault: Fault) -> Trial:
        """Do a fault, undo it, and wait until everything is as before."""
        excused = fault.may_lose and not (self._site.waiting and fault.waiting_helps)
        trial = Trial(self._name, fault.name, excused=excused)
        refused = self._account.refusals
        time.sleep(self._rng.uniform(*CALM))
        began = time.monotonic()
        fault.do(self._site, self._rng)
        done = time.monotonic()
        time.sleep(self._rng.uniform(*fault.hold))
        undoing = time.monotonic()
        fault.undo(self._site)
        undone = time.monotonic()
        trial.victim, trial.held = fault.victim, round(undone - done, 2)
        trial.recovery = self._recovery(undoing if fault.outage else began, undone)
        self._settle(trial)
        trial.refusals = self._account.refusals - refused
        self._site.wait_ready()
        return trial

    def _recovery(self, since: float, undone: float) -> float | None:
        """Wait until what had been accepted has ended; return the seconds from `since` until then and until a
        request accepted later has ended."""

        def over() -> bool:
            works = self._account.works()
            return all(w.ended for w in works if w.accepted <= undone) and any(
                w.ended for w in works if w.accepted > undone
            )

        if not self._wait(over):
            return None
        works = [work for work in self._account.works() if work.ended]
        before = [work.ended or 0 for work in works if work.accepted <= since <= (work.ended or 0)]
        later = min(work.ended or 0 for work in works if work.accepted > since)
        return round(max(later, *before, since) - since, 2)

    def _settle(self, trial: Trial) -> None:
        """Judge the requests that have ended and were not judged before; abandon what hangs."""
        hanging = (
            [work for work in self._account.works() if work.ended is None] if trial.recovery is None else []
        )
        for work in hanging:
            work.error, work.ended = "hangs", time.monotonic()
        due = [w for w in self._account.works() if w.ended and w.request not in self._settled]
        self._settled |= {work.request for work in due}
        self._account.await_messages(due, PATIENCE)
        trial.losses = self._account.losses(due)
        trial.requests, trial.chunks = len(due), sum(len(work.chunks) for work in due)

    def _wait(self, condition: Callable[[], bool]) -> bool:
        deadline = time.monotonic() + PATIENCE
        while not condition():
            for client in self._clients:
                if client.crash:
                    raise client.crash
            if time.monotonic() > deadline:
                return False
            time.sleep(0.01)
        return True

    def close(self) -> None:
        """End the clients and the consumer."""
        for client in self._clients:
            client.stop()
        for client in self._clients:
            client.join(PATIENCE)
        self._account.close()


@contextmanager
def campaign(folder: Path, kind: str, seed: int, **environment: str) -> Iterator[tuple[Site, Campaign]]:
    """A campaign on a site of its own with these settings, with clients at work."""
    folder.mkdir(parents=True)
    site = Site(folder / "site", kind, **environment)
    try:
        site.start()
        running = Campaign(site, colour_film(folder / "film.mp4", FILM_SECONDS, per_scene=1), seed)
        try:
            running.start()
            yield site, running
        finally:
            running.close()
    finally:
        site.stop()


def line(trial: Trial) -> dict[str, Any]:
    """The trial as one line of a record: numbers, and the first few things that went wrong."""
    losses = trial.losses
    counts = {name: len(getattr(losses, name)) for name in ("lost", "doubled", "failed")}
    return {**asdict(trial) | {"losses": counts | {"repeated": losses.repeated}}, "wrong": trial.wrong[:5]}
