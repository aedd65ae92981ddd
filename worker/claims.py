"""Claims on jobs: claim as many as there are free slots, renew, release, take over from dead workers.

A claim is a pending entry in the lane's consumer group under this worker's name. The worker acknowledges and
deletes it only after its results are stored.
"""

import random
import secrets
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import structlog

from shared import jobs, keys
from shared.jobs import Claim, Job, LiveJob, TextJob, VideoJob
from shared.keys import GROUP, Lane
from shared.records import pairs
from shared.redis.connection import Redis, script
from shared.redis.consumer_group import ConsumerGroup
from shared.redis.multiplexed import Argument
from shared.telemetry.instruments import claims_reclaimed

log = structlog.get_logger(__name__)

DEAD_LETTERS_KEPT = 10_000
FORGET_CONSUMER_MS = 600_000
HANDED_BACK_AT_ONCE = 2000
SURPLUS_SEEN = 1000
LIVE_PATIENCE_MS = 1000
"""How long a waiting live session is left to workers that run fewer of them."""
ASKED_BY = (b"traceparent", b"x_request_id")
"""Fields of a job's entry that name its parent span and its HTTP request."""


Delivered = tuple[bytes, int, Mapping[bytes, bytes]]
"""The id of an entry, its delivery count, and its fields."""


class Claims:
    """The claims of one worker process, under a consumer name that no other process has ever had."""

    def __init__(self, redis: Redis, worker: str, timeout: float, model: str = "") -> None:
        self.redis = redis
        self.consumer = f"{worker}-{secrets.token_hex(3)}"
        self.timeout_ms = int(timeout * 1000)
        self.held: dict[Lane, set[str]] = {lane: set() for lane in keys.LANES}
        self.serve(model)

    def serve(self, model: str) -> None:
        """Claim the jobs of this model, and probes."""
        self._model = model
        self._groups = {
            lane: ConsumerGroup(self.redis, self._stream(lane), GROUP, self.consumer) for lane in keys.LANES
        }

    def _model_of(self, lane: Lane) -> str:
        return "" if lane == "probe" else self._model

    def _stream(self, lane: Lane) -> str:
        return keys.jobs(lane, self._model_of(lane))

    async def create_groups(self) -> None:
        """Create missing consumer groups of the lanes; they deliver jobs that already wait, too."""
        for group in self._groups.values():
            await group.create()

    async def take(self, reader: Redis, lane: Lane, count: int) -> list[Claim]:
        """Wait up to BLOCK_MS for new jobs and claim at most `count`, over the connection `reader`."""
        entries = await self._groups[lane].read(reader, count)
        return self._claims(lane, [(entry_id, 1, fields) for entry_id, fields in entries])

    async def take_over(self, lane: Lane, count: int) -> list[Claim]:
        """Claim at most `count` jobs whose worker has been silent for the claim timeout."""
        arguments: list[Argument] = [self.timeout_ms, count, *self.held[lane]]
        claims = self._claims(lane, await self._claim_by("reclaim", lane, arguments))
        claims_reclaimed.add(len(claims))
        for claim in claims:
            log.warning(
                "job taken over from another worker",
                request_id=claim.job.request,
                job=claim.id,
                lane=lane,
                deliveries=claim.deliveries,
            )
        return claims

    async def take_live(self, withheld: int = 0) -> list[Claim]:
        """Claim a new or orphaned live session if no other worker runs fewer than this one. Skip a session
        for which this would be delivery number `withheld`."""
        bounds: list[Argument] = [self.timeout_ms, LIVE_PATIENCE_MS, withheld]
        arguments = [*bounds, *self.held["live"]]
        return self._claims("live", await self._claim_by("take_live", "live", arguments))

    async def surplus(self, coming: int) -> Claim | None:
        """Return a session of the busiest worker, as if claimed, if that worker runs at least two more than
        this one with the `coming` ones. Sessions that killed earlier workers are excluded."""
        stream = self._stream("live")
        running = {
            consumer["name"].decode(): consumer["pending"]
            for consumer in await self.redis.xinfo_consumers(stream, GROUP)
            if consumer["idle"] < self.timeout_ms
        }
        most = max(running, key=lambda name: int(running[name]), default=self.consumer)
        if running.get(most, 0) - running.get(self.consumer, 0) - 2 * coming < 2:
            return None
        pending: Any = await self.redis.xpending_range(
            stream, GROUP, "-", "+", SURPLUS_SEEN, consumername=most
        )
        ids = [entry["message_id"] for entry in pending if entry["times_delivered"] == 1]
        found: Any = await self.redis.xrange(stream, *[random.choice(ids)] * 2) if ids else []
        for entry_id, fields in found:
            claim = _claim("live", entry_id, 1, fields)
            if isinstance(claim.job, LiveJob):
                return claim
        return None

    def hold(self, claim: Claim) -> None:
        """Renew the claim from now on."""
        self.held[claim.lane].add(claim.id)

    async def _claim_by(self, name: str, lane: Lane, arguments: Sequence[Argument]) -> list[Delivered]:
        found = await self._groups[lane].claim(name, arguments)
        return [(entry_id, deliveries, pairs(fields)) for entry_id, deliveries, fields in found]

    def _claims(self, lane: Lane, entries: Iterable[Delivered]) -> list[Claim]:
        claims = []
        for raw_id, deliveries, fields in entries:
            claims.append(_claim(lane, raw_id, deliveries, fields))
            self.hold(claims[-1])
        return claims

    async def renew(self) -> list[tuple[Lane, str]]:
        """Renew this worker's claims; return those that it has lost to another worker."""
        lost: list[tuple[Lane, str]] = []
        for lane, ids in self.held.items():
            if ids:
                answer = await script(self.redis, "renew")(
                    keys=[self._stream(lane)], args=[GROUP, self.consumer, *ids]
                )
                lost += [(lane, entry_id.decode()) for entry_id in answer]
        return lost

    async def complete(self, *claims: Claim) -> None:
        """Acknowledge jobs whose results are stored, and delete them from their lanes.

        A job stays if a failover has lost its results: once it is released here, it is delivered again
        after the claim timeout.
        """
        for lane in {claim.lane for claim in claims}:
            stream, arguments = [self._stream(lane)], list[Argument]()
            for claim in claims:
                if claim.lane == lane:
                    chunks = _chunks(claim.job)
                    stream += [keys.request(claim.job.request), keys.done(claim.job.request)]
                    arguments += [claim.id, len(chunks), *chunks]
            left: Any = await script(self.redis, "complete")(keys=stream, args=[GROUP, *arguments])
            if left:
                log.warning("jobs are done again: a failover has lost their results", lane=lane, jobs=left)

    async def hand_back(self, lanes: Iterable[Lane] = keys.LANES) -> int:
        """Release all pending jobs of this worker in `lanes` to any worker at once; return their number.

        These deliveries do not count. Includes jobs that were delivered but never reached this process.
        """
        count = 0
        for lane in lanes:
            pending: Any = await self.redis.xpending_range(
                self._stream(lane), GROUP, "-", "+", HANDED_BACK_AT_ONCE, consumername=self.consumer
            )
            ids = [entry["message_id"] for entry in pending]
            if ids:
                await script(self.redis, "hand_back").durably(
                    keys=[self._stream(lane), keys.PULSE], args=[GROUP, self.consumer, *ids]
                )
            count += len(ids)
        return count

    async def forgive(self, *claims: Claim) -> None:
        """Reset the delivery counts of live sessions that this worker holds to 1."""
        ids = [claim.id for claim in claims]
        await script(self.redis, "forgive")(keys=[self._stream("live")], args=[GROUP, self.consumer, *ids])

    async def bury(self, claim: Claim, error: str) -> None:
        """Move the job to the dead letters, with its last error."""
        fields = jobs.to_fields(claim.job, claim.traceparent, claim.x_request_id)
        reason = (
            "lane",
            claim.lane,
            "model",
            claim.job.model,
            "deliveries",
            claim.deliveries,
            "error",
            error,
        )
        await script(self.redis, "bury")(
            keys=[self._stream(claim.lane), keys.JOBS_DEAD],
            args=[GROUP, claim.id, DEAD_LETTERS_KEPT, *fields, *reason],
        )

    def release(self, claim: Claim) -> None:
        """Stop renewing the claim."""
        self.held[claim.lane].discard(claim.id)

    async def forget_consumers(self) -> None:
        """Delete consumers of ended processes that hold no claims."""
        for lane in keys.LANES:
            for consumer in await self.redis.xinfo_consumers(self._stream(lane), GROUP):
                gone = consumer["idle"] > FORGET_CONSUMER_MS and not consumer["pending"]
                if gone and consumer["name"] != self.consumer.encode():
                    await self.redis.xgroup_delconsumer(self._stream(lane), GROUP, consumer["name"])


def _chunks(job: Job) -> Sequence[int]:
    """Return the chunks that must be stored before the job is done."""
    match job:
        case VideoJob():
            return [chunk.index for chunk in job.chunks]
        case TextJob():
            return range(len(job.texts))
        case _:
            return ()


def _claim(lane: Lane, entry_id: bytes, deliveries: int, fields: Mapping[bytes, bytes]) -> Claim:
    asked_by = (fields.get(name, b"").decode(errors="replace") for name in ASKED_BY)
    return Claim(lane, entry_id.decode(), jobs.read_job(lane, fields), deliveries, *asked_by)
