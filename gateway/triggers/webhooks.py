"""Events of triggers sent to their webhooks: at least once, in order for each trigger, by any one gateway.

A gateway takes a trigger for LEASE seconds and notes each event that it has delivered, so that another one
goes on after a gateway that died. An event that fails is tried again after a growing pause, and is given up
after ATTEMPTS.
"""

import asyncio
import hashlib
import hmac
from typing import NamedTuple

import msgspec
import structlog

from gateway.intake.http_source import HttpNetwork, HttpSource
from gateway.search.search_index import SearchIndex
from gateway.triggers.shown_matches import trigger_event
from gateway.triggers.trigger_records import Match
from gateway.triggers.trigger_store import TriggerStore
from shared.bus.errorbus import ErrorBus
from shared.errors import InvalidParameters, SealedSecret, Unavailable, WebhookFailed
from shared.secret_box import seal, unseal
from shared.settings import Settings
from shared.telemetry import instruments

log = structlog.get_logger(__name__)

LOOK_INTERVAL = 1.0
AWAY_INTERVAL = 5.0
TIMEOUT = 10.0
"""Seconds for an attempt, from the look-up of the host to the status of the answer."""
LEASE = 60
AT_ONCE = 8
"""Webhooks that one gateway calls at the same time."""
BURST = 4
"""Events that are delivered before others get a turn; their attempts fit into a lease."""
ATTEMPTS = 8
FIRST_PAUSE, LONGEST_PAUSE = 1.0, 120.0
LONGEST_ERROR = 300
SIGNATURE = "X-RTEmbed-Signature"

_TAKE = """
    UPDATE triggers SET due = now() + make_interval(secs => %s) WHERE key IN (
        SELECT key FROM triggers AS waiting
        WHERE delivery <> '' AND due <= now()
            AND EXISTS (SELECT FROM matches WHERE trigger = waiting.key AND matches.key > delivered)
        ORDER BY due LIMIT %s FOR NO KEY UPDATE SKIP LOCKED)
    RETURNING id, name, webhook, delivery, sealed, delivered, attempts"""
_DELIVERED = "UPDATE triggers SET delivered = %s, attempts = 0, error = '' WHERE id = %s"
_RELEASE = "UPDATE triggers SET due = now() WHERE id = %s"
_FAILED = """
    UPDATE triggers SET attempts = %s, error = %s, due = now() + make_interval(secs => %s) WHERE id = %s"""
_GIVEN_UP = """
    UPDATE triggers SET delivered = %s, attempts = 0, error = %s, given_up = given_up + 1, due = now()
    WHERE id = %s"""


class WebhookTarget(msgspec.Struct, frozen=True):
    """Where events go, and the key of their signature; empty for none."""

    url: str
    secret: str = ""

    def __repr__(self) -> str:
        return "WebhookTarget(...)"


class WaitingTrigger(NamedTuple):
    """A trigger with events that are not delivered yet."""

    id: str
    name: str
    webhook: str
    delivery: str
    sealed: bool
    delivered: int
    attempts: int


def signature(body: bytes, secret: str) -> str:
    """Return the value of the header that proves where an event comes from."""
    return f"sha256={hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()}"


class Webhooks:
    """Delivers what waits, while `run` runs."""

    def __init__(
        self, index: SearchIndex, settings: Settings, errors: ErrorBus, network: HttpNetwork
    ) -> None:
        self._index = index
        self._store = TriggerStore(index)
        self._settings = settings
        self._errors = errors
        self._http = HttpSource(settings, network)

    async def check(self, url: str) -> None:
        """Raise InvalidParameters if the service must not connect to the URL's host."""
        await self._http.resolve(url)

    def packed(self, url: str, secret: str) -> str:
        """Return where events go, as the database keeps it: encrypted if a secret key is set."""
        text = msgspec.json.encode(WebhookTarget(url, secret)).decode()
        return seal(text, self._settings.secret_keys) if self._settings.secret_keys else text

    async def run(self) -> None:
        """Deliver until cancelled."""
        while True:
            try:
                found = await self.deliver()
            except Unavailable:
                found = 0
                await asyncio.sleep(AWAY_INTERVAL)
            if not found:
                await asyncio.sleep(LOOK_INTERVAL)

    async def deliver(self) -> int:
        """Deliver some of what waits; return how many events were tried. Raises Unavailable."""
        async with self._index.connected() as connection:
            rows = await (await connection.execute(_TAKE, [LEASE, AT_ONCE])).fetchall()
        waiting = [WaitingTrigger(*row) for row in rows]
        done = await asyncio.gather(*map(self._deliver_to, waiting), return_exceptions=True)
        for failure in done:
            if isinstance(failure, BaseException) and not isinstance(failure, Unavailable):
                raise failure
        return sum(tried for tried in done if isinstance(tried, int))

    async def _deliver_to(self, trigger: WaitingTrigger) -> int:
        """Deliver the next events, until one fails; return how many were tried. Raises Unavailable."""
        matches = await self._store.matches_after(trigger.id, trigger.delivered, BURST)
        attempts = trigger.attempts
        for tried, match in enumerate(matches or (), 1):
            try:
                await self._send(trigger, match)
            except (WebhookFailed, InvalidParameters, SealedSecret) as error:
                await self._fail(trigger, match, attempts + 1, error.message[:LONGEST_ERROR])
                return tried
            attempts = 0
            instruments.webhooks.add(1, {"outcome": "delivered"})
            await self._note(_DELIVERED, match.key, trigger.id)
        await self._note(_RELEASE, trigger.id)
        return len(matches or ())

    async def _send(self, trigger: WaitingTrigger, match: Match) -> None:
        """Raises WebhookFailed, InvalidParameters, SealedSecret."""
        delivery = self._opened(trigger)
        body = msgspec.json.encode(trigger_event(match))
        headers = {"Content-Type": "application/json", "X-RTEmbed-Event": str(match.key)}
        if delivery.secret:
            headers[SIGNATURE] = signature(body, delivery.secret)
        status = await self._http.post(delivery.url, body, headers, TIMEOUT)
        if not 200 <= status < 300:
            redirect = "; redirects are not followed" if 300 <= status < 400 else ""
            raise WebhookFailed(f"it answered with status {status}{redirect}")

    def _opened(self, trigger: WaitingTrigger) -> WebhookTarget:
        text = trigger.delivery
        if trigger.sealed:
            try:
                text = unseal(text, self._settings.secret_keys)
            except SealedSecret as error:
                raise SealedSecret(
                    "its URL was encrypted with another RTEMBED_SECRET_KEY than this gateway has"
                ) from error
        return msgspec.json.decode(text, type=WebhookTarget)

    async def _fail(self, trigger: WaitingTrigger, match: Match, attempts: int, reason: str) -> None:
        about = {"trigger": trigger.id, "match": match.key, "host": trigger.webhook, "error": reason}
        if attempts < ATTEMPTS:
            pause = min(FIRST_PAUSE * 2.0 ** (attempts - 1), LONGEST_PAUSE)
            log.warning("webhook failed, trying again", attempts=attempts, seconds=pause, **about)
            instruments.webhooks.add(1, {"outcome": "failed"})
            await self._note(_FAILED, attempts, reason, pause, trigger.id)
            return
        log.error("webhook failed, event given up", attempts=attempts, **about)
        instruments.webhooks.add(1, {"outcome": "given_up"})
        self._errors.emit(
            f"Event {match.key} of the trigger {trigger.name!r} was not delivered to {trigger.webhook} in "
            f"{attempts} attempts: {reason}",
            stream_id=match.hit.asset,
        )
        await self._note(_GIVEN_UP, match.key, reason, trigger.id)

    async def _note(self, statement: str, *values: object) -> None:
        async with self._index.connected() as connection:
            await connection.execute(statement, list(values))
