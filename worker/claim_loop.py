"""The jobs of one worker: claim for free slots, work, acknowledge, hand back."""

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress

import msgspec
import structlog

from shared import live_records
from shared.errors import DeviceLost, RtEmbedError
from shared.jobs import Claim, LiveJob, UnreadableJob
from shared.keys import LANES, Lane
from shared.redis.connection import RedisError, single_connection
from shared.redis.ending import end
from shared.redis.failures import OUTAGES, through_outages
from shared.requests import Request, failed, finish, read_request
from shared.settings import Settings
from shared.telemetry import export
from shared.telemetry.instruments import jobs_done
from worker.claims import Claims
from worker.compose import decode_slots
from worker.job_tasks import Tasks
from worker.live.session import CameraBreaksWorkers, SessionMoved
from worker.publish.publisher import Publisher

log = structlog.get_logger(__name__)

TAKE_OVER_INTERVAL = 1.0
LIVE_INTERVAL = 0.2
"""Seconds between checks for live sessions that wait for a worker."""
BALANCE_INTERVAL = 1.0
LOOKS = 10
"""Checks per second of the whole fleet, per lane, for jobs of dead workers and for an even share: the cost of
a check grows with the number of workers and claims. take_live.lua does this for live sessions."""
STAY = 300.0
"""Seconds before a live session that could not be handed over is asked for again."""
RETRY_INTERVAL = 0.5
HEAD_START = 0.002
"""Seconds after a claim before the lane claims more: a text may be done by then."""
HARMLESS = 60.0
"""Seconds that a live session runs here before it stops being blamed for earlier workers' deaths."""
ACKNOWLEDGE_INTERVAL = 0.02
"""Seconds over which acknowledgements are collected, so that they do not delay the next job."""


class ClaimLoop:
    """The jobs of one worker, from their claims to their acknowledgements."""

    def __init__(self, settings: Settings, claims: Claims, publisher: Publisher) -> None:
        self._settings = settings
        self._claims = claims
        self._publisher = publisher
        self.running: dict[str, tuple[Claim, asyncio.Task[None]]] = {}
        self.slots: dict[Lane, int] = {
            "text": settings.text_slots,
            "probe": settings.probe_slots,
            # One more than decode at a time, so that a decoder works while a job's last clip is embedded.
            "video": decode_slots(settings) + 1,
            "live": settings.live_slots,
        }
        self._suspects: dict[str, float] = {}
        """Live sessions taken over from dead workers, and when."""
        self._coming: dict[str, asyncio.Task[None]] = {}
        """Live sessions that other workers have been asked to hand over."""
        self._stayed: dict[str, float] = {}
        """Live sessions that could not be handed over, and when."""
        self.workers = 1
        """Number of workers that are alive."""
        self.jobs_done = 0
        self.device_lost = ""
        """Why the GPU is unusable."""
        self._freed = asyncio.Event()
        self._finished: list[Claim] = []
        self._finishing = asyncio.Event()

    async def run(
        self, tasks: Tasks, stopping: asyncio.Event, on_stop: Callable[[], Awaitable[None]]
    ) -> None:
        """Work until `stopping`; then call `on_stop`, hand over live sessions and finish the rest, for up to
        RTEMBED_SHUTDOWN_TIMEOUT seconds."""
        async with asyncio.TaskGroup() as work:
            acknowledging = work.create_task(self._acknowledge())
            claiming = [work.create_task(self._claim(lane, tasks, work)) for lane in LANES if lane != "live"]
            claiming += [work.create_task(part(tasks, work)) for part in (self._claim_live, self._balance)]
            await stopping.wait()
            log.info("stopping", jobs_running=len(self.running))
            await end(claiming)
            await on_stop()
            await self._hand_over_live()
            await self._drain()
            await end([acknowledging])
            with suppress(RedisError):
                await self._acknowledge_finished()

    async def _claim(self, lane: Lane, tasks: Tasks, work: asyncio.TaskGroup) -> None:
        """Keep the lane's free slots filled."""
        reader = single_connection(self._settings)
        look_back = 0.0
        try:
            while True:
                free = await self._free_slots(lane)
                try:
                    claims: list[Claim] = []
                    if time.monotonic() >= look_back:
                        look_back = time.monotonic() + self._shared(TAKE_OVER_INTERVAL)
                        claims = await self._claims.take_over(lane, free)
                    if len(claims) < free:
                        claims += await self._claims.take(reader, lane, free - len(claims))
                except RedisError as error:
                    log.warning("cannot claim jobs", lane=lane, error=str(error))
                    await asyncio.sleep(RETRY_INTERVAL)
                    continue
                for claim in claims:
                    self._start(claim, tasks, work)
                if claims:
                    await asyncio.sleep(HEAD_START)
        finally:
            await reader.aclose()

    def _shared(self, interval: float) -> float:
        """Return the seconds until this worker's next check: `interval`, or longer in a large fleet."""
        return max(interval, self.workers / LOOKS)

    async def _claim_live(self, tasks: Tasks, work: asyncio.TaskGroup) -> None:
        """Take live sessions one at a time, so that they spread over the workers."""
        while True:
            await self._free_slots("live")
            try:
                withheld = self._last_chance if self._on_trial() else 0
                claims = await self._claims.take_live(withheld)
            except RedisError as error:
                log.warning("cannot claim jobs", lane="live", error=str(error))
                claims = []
            for claim in claims:
                if claim.id in self._coming:
                    await end([self._coming[claim.id]])
                self._start(claim, tasks, work)
            if not claims:
                await asyncio.sleep(LIVE_INTERVAL)

    async def _balance(self, tasks: Tasks, work: asyncio.TaskGroup) -> None:
        """Ask other workers for live sessions while they run more than this one."""
        looks, pause = 0, BALANCE_INTERVAL
        async with asyncio.TaskGroup() as moves:
            while True:
                await asyncio.sleep(pause)
                pause = BALANCE_INTERVAL
                if (
                    len(self._coming) >= self._settings.live_moves
                    or self._free("live") <= 0
                    or self._on_trial()
                ):
                    continue
                try:
                    claim = await self._claims.surplus(len(self._coming))
                except RedisError as error:
                    log.warning("cannot look at other workers' live sessions", error=str(error))
                    continue
                looks = looks + 1 if claim else 0
                if not claim or self._stayed_lately(claim):
                    pause = self._shared(BALANCE_INTERVAL)
                elif looks > 1 and claim.id not in self._coming:
                    self._coming[claim.id] = moves.create_task(self._receive(claim, tasks, work))

    def _stayed_lately(self, claim: Claim) -> bool:
        return time.monotonic() - self._stayed.get(claim.id, -STAY) < STAY

    async def _receive(self, claim: Claim, tasks: Tasks, work: asyncio.TaskGroup) -> None:
        """Wait for a session that another worker hands over, and continue it."""
        structlog.contextvars.bind_contextvars(request_id=claim.job.request, job=claim.id)
        received = False
        try:
            received = await tasks.stand_by(claim)
        except (RedisError, RtEmbedError) as error:
            log.warning("live session not received", error=str(error))
        finally:
            del self._coming[claim.id]
            self._freed.set()
        if received:
            self._claims.hold(claim)
            self._start(claim, tasks, work)
        else:
            self._stayed = {i: at for i, at in self._stayed.items() if time.monotonic() - at < STAY}
            self._stayed[claim.id] = time.monotonic()

    @property
    def _last_chance(self) -> int:
        """The last delivery before a job goes to the dead letters."""
        return self._settings.max_deliveries

    def _on_trial(self) -> bool:
        """Return whether a session runs here on its last delivery: if it kills the worker, others get the
        blame."""
        running = (self.running[entry_id][0] for entry_id in self._suspects if entry_id in self.running)
        return any(claim.deliveries >= self._last_chance for claim in running)

    async def forgive(self) -> None:
        """Reset the delivery counts of live sessions that ran well here. Raises RedisError."""
        now = time.monotonic()
        for entry_id, since in list(self._suspects.items()):
            if entry_id not in self.running:
                del self._suspects[entry_id]
            elif now - since > HARMLESS:
                await self._claims.forgive(self.running[entry_id][0])
                del self._suspects[entry_id]

    async def _free_slots(self, lane: Lane) -> int:
        while True:
            if (free := self._free(lane)) > 0:
                return free
            self._freed.clear()
            await self._freed.wait()

    def _free(self, lane: Lane) -> int:
        coming = len(self._coming) if lane == "live" else 0
        return self.slots[lane] - coming - sum(claim.lane == lane for claim, _ in self.running.values())

    def _start(self, claim: Claim, tasks: Tasks, work: asyncio.TaskGroup) -> None:
        if claim.lane == "live" and claim.deliveries > 1:
            self._suspects[claim.id] = time.monotonic()
        task = work.create_task(self._work(claim, tasks), name=f"job {claim.id}")
        self.running[claim.id] = (claim, task)

    async def _work(self, claim: Claim, tasks: Tasks) -> None:
        """Do one job and acknowledge it. While Redis is away or refuses writes, keep it and retry; if the GPU
        is lost or this is cancelled, leave it for another claim."""
        structlog.contextvars.bind_contextvars(request_id=claim.job.request, job=claim.id)
        if claim.x_request_id:
            structlog.contextvars.bind_contextvars(x_request_id=claim.x_request_id)
        done = False
        try:
            with export.continued(claim.traceparent):
                await through_outages(lambda: self._attempt(claim, tasks), "a job")
            done = True
        except RedisError as error:
            log.error("job left for another delivery: redis cannot store its end", error=str(error))
        except SessionMoved:
            pass  # another worker has the claim
        except DeviceLost as error:
            log.error("job left for another worker: the GPU is lost", error=str(error))
            self.device_lost = str(error)
        finally:
            if done:
                self.jobs_done += 1
                self._finished.append(claim)
                self._finishing.set()
            else:
                self._claims.release(claim)
            self.running.pop(claim.id, None)
            self._freed.set()

    async def _attempt(self, claim: Claim, tasks: Tasks) -> None:
        if isinstance(claim.job, UnreadableJob):
            await self._refuse(claim, claim.job)
            return
        if claim.deliveries > self._last_chance:
            await self._give_up(claim, f"{self._last_chance} deliveries: every worker that had it died")
            return
        try:
            await tasks.run(claim)
        except OUTAGES:
            raise
        except (DeviceLost, SessionMoved):
            raise
        except CameraBreaksWorkers as error:
            await self._give_up(claim, str(error))
        except Exception:
            log.exception("job failed unexpectedly")
            await self._publisher.fail(claim.job, failed("An unknown error occurred"))

    async def _refuse(self, claim: Claim, job: UnreadableJob) -> None:
        """Move an unreadable job to the dead letters, and end its request."""
        reason = f"unreadable: {job.reason}"
        log.error("unreadable job moved to the dead letters", lane=job.lane, error=job.reason)
        redis = self._claims.redis
        try:
            request = await read_request(redis, job.request)
        except msgspec.MsgspecError:
            request = Request(id=job.request, lane=job.lane, planned=0)
        if request:
            await finish(redis, self._settings, request, failed(f"a job of this request is {reason}"))
        await self._claims.bury(claim, reason)

    async def _give_up(self, claim: Claim, why: str) -> None:
        """Move a job that killed every worker to the dead letters, and end its request."""
        reason = f"given up after {why}"
        log.error("job moved to the dead letters", lane=claim.lane, deliveries=claim.deliveries, reason=why)
        self._publisher.report(reason, claim.job)
        await self._publisher.fail(claim.job, failed(reason))
        if isinstance(claim.job, LiveJob):
            await live_records.write_end(
                self._claims.redis, self._settings, claim.job, {"detail": reason, "owner": ""}
            )
        await self._claims.bury(claim, reason)

    async def _acknowledge(self) -> None:
        """Acknowledge finished jobs, several at a time. Doing a job again changes nothing."""
        while True:
            await self._finishing.wait()
            await asyncio.sleep(ACKNOWLEDGE_INTERVAL)
            try:
                await self._acknowledge_finished()
            except RedisError as error:
                log.warning("jobs not acknowledged yet", jobs=len(self._finished), error=str(error))
                self._finishing.set()
                await asyncio.sleep(RETRY_INTERVAL)

    async def _acknowledge_finished(self) -> None:
        self._finishing.clear()
        claims = self._finished[:]
        if claims:
            await self._claims.complete(*claims)
        del self._finished[: len(claims)]
        for claim in claims:
            self._claims.release(claim)
        for lane, count in Counter(claim.lane for claim in claims).items():
            jobs_done.add(count, {"lane": lane})

    async def _hand_over_live(self) -> None:
        """Let other workers continue the live sessions at once: a camera does not wait."""
        tasks = [task for claim, task in self.running.values() if claim.lane == "live"]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        with suppress(RedisError):
            if handed_over := await self._claims.hand_back(["live"]):
                log.info("live sessions handed over", sessions=handed_over)

    async def _drain(self) -> None:
        """Give running jobs time to finish, then hand the rest back."""
        tasks = [task for _, task in self.running.values()]
        if tasks:
            await asyncio.wait(tasks, timeout=self._settings.shutdown_timeout)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
