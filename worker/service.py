"""The worker process: claims jobs for its free slots, works on them, keeps its claims alive, stops well."""

import asyncio
import os
import socket
import time
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, aclosing, asynccontextmanager, suppress

import msgspec
import numpy as np
import structlog
from prometheus_client import CollectorRegistry

from shared import fleet
from shared.bus.errorbus import ErrorBus
from shared.errors import DeviceLost
from shared.fleet import HEARTBEAT, Worker
from shared.jobs import Claim
from shared.keys import LANES, Lane
from shared.redis.connection import RedisError, connect, single_connection
from shared.redis.ending import end, uninterrupted
from shared.redis.redis_clock import RedisClock
from shared.requests import failed
from shared.settings import Settings, worker_name
from shared.telemetry import export
from shared.telemetry.fleet_metrics import Figures
from shared.telemetry.instruments import bus_failures, dropped, jobs_done
from worker.batcher import Batcher
from worker.claims import Claims
from worker.compose import Loaded, clips_ahead, decode_slots, live_decoders, load, open_media
from worker.engine.batches import Batches
from worker.engine.device import device_errors
from worker.engine.embedding_engine import Vectors
from worker.engine.gpu_sampling import sample_gpus
from worker.job_tasks import Tasks, stack_clips
from worker.live.session import LiveSessions
from worker.media.clip_source import Clip, Media
from worker.models.preparation_progress import describe, log_progress
from worker.publish.forward import Forwarder
from worker.publish.publisher import Publisher
from worker.watch import HealthPage, Watch
from worker.worker_metrics import WorkerMetrics, measure_gpus

log = structlog.get_logger(__name__)

TAKE_OVER_INTERVAL = 1.0
LIVE_INTERVAL = 0.2
"""Seconds between looks at live sessions that wait for a worker."""
FORGET_INTERVAL = 60.0
RETRY_INTERVAL = 0.5
HEAD_START = 0.002
"""Seconds that claimed jobs get before their lane asks for more: a text may be done by then."""
ACKNOWLEDGE_INTERVAL = 0.02
"""Seconds in which acknowledgements are collected: they need not delay the next job."""


@asynccontextmanager
async def engine_thread(name: str) -> AsyncIterator[ThreadPoolExecutor]:
    """One thread. Its last batch is waited for, whatever happens, while the event loop runs on."""
    thread = ThreadPoolExecutor(1, name)
    try:
        yield thread
    finally:
        await uninterrupted(asyncio.to_thread(thread.shutdown))


def clip_engine(loaded: Loaded) -> Callable[[Sequence[Clip]], Vectors]:
    """What embeds a batch of clips: in smaller ones while the GPU on which they are put together has too
    little memory. Raises EngineError, DeviceLost."""
    batches = Batches(loaded.batch_size)

    def embed(clips: Sequence[Clip]) -> Vectors:
        with device_errors(loaded.runs_on.gpu.name if loaded.runs_on.gpu else "the GPU"):
            return loaded.engine.embed_video(stack_clips(clips, loaded.info.frames))

    return lambda clips: np.concatenate(batches.run(len(clips), lambda i, j: embed(clips[i:j])))


class Service:
    """One worker process: `run` serves until `stop` is called."""

    def __init__(self, settings: Settings, registry: CollectorRegistry | None = None) -> None:
        self.settings = settings
        self.registry = registry
        self.redis = connect(settings)
        self.claims = Claims(self.redis, worker_name(settings), settings.claim_timeout)
        self.errors = ErrorBus(self.redis, settings)
        self.publisher = Publisher(self.redis, settings, self.errors)
        self.forwarder = Forwarder(self.redis, settings, self.claims.consumer, self.errors)
        self.clock = RedisClock()
        self.measured = WorkerMetrics(Figures(self.redis, registry, self.claims.consumer))
        self.measured.follow_publisher(self.publisher)
        sent = self.forwarder.counts
        self.measured.follow(lambda: sent.refused, dropped, cause="message_refused")
        self.measured.follow(lambda: sent.failures, bus_failures)
        self.watch = Watch(self._give_up, settings.shutdown_timeout)
        self.record = Worker(
            name=self.claims.consumer,
            state="starting",
            detail="loading the model",
            host=socket.gethostname(),
            pid=os.getpid(),
            started=int(time.time()),
        )
        self.running: dict[str, tuple[Claim, asyncio.Task[None]]] = {}
        self.slots: dict[Lane, int] = {
            "text": settings.text_slots,
            "probe": settings.probe_slots,
            # One more than decodes, so that a decoder works while the last clip of a job is embedded.
            "video": decode_slots(settings) + 1,
            "live": settings.live_slots,
        }
        self._tell = log_progress()
        self.stopping = asyncio.Event()
        self.freed = asyncio.Event()
        self.finished: list[Claim] = []
        self.finishing = asyncio.Event()
        self.jobs_done = 0
        self.device_lost = ""
        """Why the GPU is of no more use."""

    def stop(self) -> None:
        """Claim nothing more; `run` returns when what is held is finished or handed back."""
        self.stopping.set()

    def _give_up(self) -> None:
        """Stop because of the watch's problem, which operators are told."""
        self.errors.emit(f"Worker {self.record.name} ends: {self.watch.problem}", "critical")
        self.stop()

    async def run(self) -> None:
        """Load the model and serve. Raises what prevents the start, or what broke the worker."""
        async with asyncio.TaskGroup() as owned, self._health_page():
            kept = (self._keep_alive(), self.watch.run(), self.errors.run(), self.forwarder.run())
            keepers = [owned.create_task(keeping) for keeping in kept]
            try:
                loaded = await self._load()
                try:
                    await self._serve(loaded)
                finally:
                    await asyncio.to_thread(loaded.engine.close)
            finally:
                await end(keepers)
        with suppress(RedisError):
            await self.measured.publish([])
            await fleet.withdraw(self.redis, self.record.name)
        await self.redis.aclose()

    async def _load(self) -> Loaded:
        try:
            return await asyncio.to_thread(load, self.settings, self._progress)
        except Exception as error:
            self.errors.emit(f"Failed to initialize Inference pipeline: {error}", "critical")
            raise

    async def _serve(self, loaded: Loaded) -> None:
        async with engine_thread("text-engine") as text_thread, engine_thread("video-engine") as video_thread:
            engine, info = loaded.engine, loaded.info
            texts = Batcher(engine.embed_text, loaded.batch_size, text_thread, "text")
            clips = Batcher(clip_engine(loaded), loaded.batch_size, video_thread, "video")
            self.watch.look_after("the text engine", lambda: texts.began, self.settings.engine_timeout)
            self.watch.look_after("the video engine", lambda: clips.began, self.settings.engine_timeout)
            self.watch.ask(lambda: self.device_lost)
            async with (
                asyncio.TaskGroup() as owned,
                AsyncExitStack() as held,
                open_media(self.settings, loaded) as media,
            ):
                measuring = measure_gpus(loaded.runs_on.gpus, self.record.host, self.watch)
                sampled = loaded.runs_on.gpus if self.settings.profiling else ()
                sampling = sample_gpus(self.redis, sampled, self.record.host)
                works = (texts.run(), clips.run(), measuring, sampling)
                background = [owned.create_task(work) for work in works]
                self.measured.follow_decoders(media)
                self.watch.ask(lambda: media.trouble)
                sessions = await asyncio.to_thread(self._live, loaded, clips)
                self.watch.ask(lambda: sessions.decoders.trouble)
                live = await held.enter_async_context(aclosing(sessions))
                tasks = self._tasks(loaded, media, texts, clips, live)
                self.publisher.model = loaded.model
                self._change(state="ready", detail="", model=loaded.model, **loaded.told())
                self._change(batch_size=loaded.batch_size)
                await self._first_contact()
                log.info("worker ready", model=info.id, backend=loaded.backend, slots=self.slots)
                await self._work_until_stopped(tasks)
                for task in background:
                    task.cancel()

    def _live(self, loaded: Loaded, clips: Batcher[Clip]) -> LiveSessions:
        return LiveSessions(
            redis=self.redis,
            settings=self.settings,
            model=loaded.info,
            decoders=live_decoders(self.settings, loaded),
            clips=clips,
            publisher=self.publisher,
            owner=self.claims.consumer,
            errors=self.errors,
        )

    def _tasks(
        self, loaded: Loaded, media: Media, texts: Batcher[str], clips: Batcher[Clip], live: LiveSessions
    ) -> Tasks:
        return Tasks(
            live=live,
            media=media,
            model=loaded.info,
            texts=texts,
            clips=clips,
            publisher=self.publisher,
            clock=self.clock,
            clips_ahead=clips_ahead(loaded.batch_size),
        )

    async def _first_contact(self) -> None:
        """Wait for Redis, make the lanes, and announce that this worker is ready."""
        while True:
            try:
                await self.claims.create_groups()
                await self._beat()
                return
            except RedisError as error:
                log.warning("waiting for redis", error=str(error))
                await asyncio.sleep(RETRY_INTERVAL)

    # Claiming -----------------------------------------------------------------------------------------

    async def _work_until_stopped(self, tasks: Tasks) -> None:
        async with asyncio.TaskGroup() as work:
            acknowledging = work.create_task(self._acknowledge())
            claiming = [work.create_task(self._claim(lane, tasks, work)) for lane in LANES if lane != "live"]
            claiming.append(work.create_task(self._claim_live(tasks, work)))
            await self.stopping.wait()
            log.info("stopping", jobs_running=len(self.running))
            await end(claiming)
            self._change(state="stopping")
            with suppress(RedisError):
                await self._beat()
            await self._hand_over_live()
            await self._drain()
            await end([acknowledging])
            with suppress(RedisError):
                await self._acknowledge_finished()
                # What broke this worker may break the next: such deliveries must count.
                handed_back = 0 if self.watch.problem else await self.claims.hand_back()
                log.info("stopped", jobs_done=self.jobs_done, jobs_handed_back=handed_back)

    async def _claim(self, lane: Lane, tasks: Tasks, work: asyncio.TaskGroup) -> None:
        """Fill the lane's free slots, for ever."""
        reader = single_connection(self.settings)
        look_back = 0.0
        try:
            while True:
                free = await self._free_slots(lane)
                try:
                    claims: list[Claim] = []
                    if time.monotonic() >= look_back:
                        look_back = time.monotonic() + TAKE_OVER_INTERVAL
                        claims = await self.claims.take_over(lane, free)
                    if len(claims) < free:
                        claims += await self.claims.take(reader, lane, free - len(claims))
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

    async def _claim_live(self, tasks: Tasks, work: asyncio.TaskGroup) -> None:
        """Take live sessions one by one, so that they spread over the workers."""
        while True:
            await self._free_slots("live")
            try:
                claims = await self.claims.take_live()
            except RedisError as error:
                log.warning("cannot claim jobs", lane="live", error=str(error))
                claims = []
            for claim in claims:
                self._start(claim, tasks, work)
            if not claims:
                await asyncio.sleep(LIVE_INTERVAL)

    async def _hand_over_live(self) -> None:
        """Let other workers go on with the live sessions at once: a camera does not wait."""
        tasks = [task for claim, task in self.running.values() if claim.lane == "live"]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        with suppress(RedisError):
            if handed_over := await self.claims.hand_back(["live"]):
                log.info("live sessions handed over", sessions=handed_over)

    async def _free_slots(self, lane: Lane) -> int:
        while True:
            free = self.slots[lane] - sum(claim.lane == lane for claim, _ in self.running.values())
            if free > 0:
                return free
            self.freed.clear()
            await self.freed.wait()

    def _start(self, claim: Claim, tasks: Tasks, work: asyncio.TaskGroup) -> None:
        task = work.create_task(self._work(claim, tasks), name=f"job {claim.id}")
        self.running[claim.id] = (claim, task)

    async def _work(self, claim: Claim, tasks: Tasks) -> None:
        """Do one job and acknowledge it; without Redis or the GPU, or when cancelled, leave it to be claimed
        again."""
        structlog.contextvars.bind_contextvars(request_id=claim.job.request, job=claim.id)
        done = False
        try:
            with export.continued(claim.traceparent):
                await self._attempt(claim, tasks)
            done = True
        except RedisError as error:
            log.error("job left for another delivery: redis is away", error=str(error))
        except DeviceLost as error:
            log.error("job left for another worker: the GPU is lost", error=str(error))
            self.device_lost = str(error)
        finally:
            if done:
                self.jobs_done += 1
                jobs_done.add(1, {"lane": claim.lane})
                self.finished.append(claim)
                self.finishing.set()
            else:
                self.claims.release(claim)
            self.running.pop(claim.id, None)
            self.freed.set()

    async def _acknowledge(self) -> None:
        """Acknowledge finished jobs, several at a time. A job that is done again changes nothing."""
        while True:
            await self.finishing.wait()
            await asyncio.sleep(ACKNOWLEDGE_INTERVAL)
            try:
                await self._acknowledge_finished()
            except RedisError as error:
                log.warning("jobs not acknowledged yet", jobs=len(self.finished), error=str(error))
                self.finishing.set()
                await asyncio.sleep(RETRY_INTERVAL)

    async def _acknowledge_finished(self) -> None:
        self.finishing.clear()
        claims = self.finished[:]
        if claims:
            await self.claims.complete(*claims)
        del self.finished[: len(claims)]
        for claim in claims:
            self.claims.release(claim)

    async def _attempt(self, claim: Claim, tasks: Tasks) -> None:
        if claim.deliveries > self.settings.max_deliveries and claim.lane != "live":
            reason = (
                f"given up after {self.settings.max_deliveries} deliveries: every worker that had it died"
            )
            log.error("job moved to the dead letters", deliveries=claim.deliveries)
            await self.publisher.fail(claim.job, failed(reason))
            await self.claims.bury(claim, reason)
            return
        try:
            await tasks.run(claim)
        except (RedisError, DeviceLost):
            raise
        except Exception:
            log.exception("job failed unexpectedly")
            await self.publisher.fail(claim.job, failed("An unknown error occurred"))

    # Staying alive ------------------------------------------------------------------------------------

    async def _keep_alive(self) -> None:
        interval = min(HEARTBEAT, self.settings.claim_timeout / 3)
        forget = time.monotonic() + FORGET_INTERVAL
        while True:
            try:
                await self._beat()
                await self.measured.publish(claim.lane for claim, _ in self.running.values())
                if time.monotonic() > forget:
                    forget = time.monotonic() + FORGET_INTERVAL
                    await self.claims.forget_consumers()
            except RedisError as error:
                log.warning("no heartbeat: redis is away", error=str(error))
            await asyncio.sleep(interval)

    async def _beat(self) -> None:
        """Announce this worker, renew its claims, drop what is lost or not wanted any more."""
        await self.clock.measure(self.redis)
        self._change(jobs_running=len(self.running), jobs_done=self.jobs_done)
        if self.watch.problem:
            self._change(healthy=False, detail=self.watch.problem)
        await fleet.announce(self.redis, self.record)
        for _, entry_id in await self.claims.renew():
            if entry_id in self.running:
                claim, task = self.running[entry_id]
                log.warning("claim lost to another worker", request_id=claim.job.request, job=entry_id)
                task.cancel()
        for claim, task in list(self.running.values()):
            if claim.lane == "video" and await self.publisher.state(claim.job) != "running":
                log.info("job dropped, its request has ended", request_id=claim.job.request, job=claim.id)
                task.cancel()
                await self.claims.complete(claim)

    @asynccontextmanager
    async def _health_page(self) -> AsyncIterator[None]:
        """Serve /metrics, /live and /ready, if a port is set."""
        if self.settings.metrics_port is None:
            yield
            return
        page = HealthPage(self.registry, lambda: self.watch.problem, self._not_ready)
        port, close = page.serve(self.settings.host, self.settings.metrics_port)
        self._change(metrics_port=port)
        log.info("health page", port=port)
        try:
            yield
        finally:
            await asyncio.to_thread(close)

    def _not_ready(self) -> str:
        """Why this worker takes no jobs; empty when it does."""
        record = self.record
        ready = record.state == "ready" and record.healthy
        return "" if ready else f"{record.state}: {record.detail}".rstrip(": ")

    def _progress(self, step: str, done: int, total: int) -> None:
        """What the worker does before it is ready, for /v1/startup and the log."""
        self._change(detail=describe(step, done, total))
        self._tell(step, done, total)

    def _change(self, **changes: object) -> None:
        self.record = msgspec.structs.replace(self.record, **changes)

    async def _drain(self) -> None:
        """Give what is running time to finish, then hand the rest back."""
        tasks = [task for _, task in self.running.values()]
        if tasks:
            await asyncio.wait(tasks, timeout=self.settings.shutdown_timeout)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
