"""The worker process: a model, engines, decoders, and the loop that claims jobs for them."""

import asyncio
import os
import socket
import time
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, aclosing, asynccontextmanager, suppress

import numpy as np
import structlog
from prometheus_client import CollectorRegistry

from shared.bus.errorbus import ErrorBus
from shared.errors import Unavailable
from shared.fleet import Worker
from shared.lifecycle.garbage import settle
from shared.redis.connection import RedisError, connect
from shared.redis.ending import end, uninterrupted
from shared.redis.redis_clock import RedisClock
from shared.settings import Settings, worker_name
from shared.telemetry.fleet_metrics import Figures
from shared.telemetry.health_page import HealthPage
from shared.telemetry.instruments import bus_failures, dropped
from shared.telemetry.start_summary import log_start
from worker.batcher import Batcher
from worker.claim_loop import ClaimLoop
from worker.claims import Claims
from worker.compose import Loaded, clips_ahead, live_decoders, load, open_media
from worker.engine.batches import Batches
from worker.engine.custom.python_engine import PythonEngine
from worker.engine.gpu_sampling import sample_gpus
from worker.engine.remote_engine import RemoteEngine
from worker.job_tasks import Tasks, stack_clips
from worker.live.session import LiveSessions
from worker.media.clip_source import Clip, Media
from worker.media.gpu.cuda_errors import device_errors
from worker.models.embedding_engine import Engine, Vectors
from worker.models.preparation_progress import describe, log_progress
from worker.publish.forward import Forwarder
from worker.publish.publisher import Publisher
from worker.signs_of_life import SignsOfLife
from worker.watch import Watch
from worker.worker_metrics import WorkerMetrics, measure_gpus

log = structlog.get_logger(__name__)

RETRY_INTERVAL = 0.5
LOAD_INTERVAL = 5.0
"""Seconds before an unavailable model is tried again."""


@asynccontextmanager
async def engine_threads(name: str, count: int) -> AsyncIterator[ThreadPoolExecutor]:
    """Yield an executor of `count` threads. Wait for their last batches without blocking the loop."""
    threads = ThreadPoolExecutor(count, name)
    try:
        yield threads
    finally:
        await uninterrupted(asyncio.to_thread(threads.shutdown))


def clip_engine(loaded: Loaded) -> Callable[[Sequence[Clip]], Vectors]:
    """Return a function that embeds a batch of clips, in smaller parts while the GPU has too little memory to
    stack them. It raises EngineError, DeviceLost."""
    batches = Batches(loaded.batch_size)

    def embed(clips: Sequence[Clip]) -> Vectors:
        with device_errors(loaded.runs_on.gpu.name if loaded.runs_on.gpu else "the GPU"):
            stacked = stack_clips(clips, loaded.info.frames)
            if isinstance(loaded.engine, PythonEngine):
                return loaded.engine.embed_video(stacked, clips)
            return loaded.engine.embed_video(stacked)

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
        self.metrics = self._metrics()
        self.watch = Watch(self._give_up, settings.shutdown_timeout, settings.stall_timeout)
        self.jobs = ClaimLoop(settings, self.claims, self.publisher)
        self.alive = self._signs_of_life()
        self._tell = log_progress()
        self._stopping = asyncio.Event()
        self._unable = ""

    def _metrics(self) -> WorkerMetrics:
        metrics = WorkerMetrics(Figures(self.redis, self.registry, self.claims.consumer))
        metrics.follow_publisher(self.publisher)
        sent = self.forwarder.counts
        metrics.follow(lambda: sent.refused, dropped, cause="message_refused")
        metrics.follow(lambda: sent.failures, bus_failures)
        return metrics

    def _signs_of_life(self) -> SignsOfLife:
        record = Worker(
            name=self.claims.consumer,
            state="starting",
            detail="loading the model",
            host=socket.gethostname(),
            pid=os.getpid(),
            started=int(time.time()),
        )
        return SignsOfLife(
            self.redis,
            self.settings,
            record=record,
            claims=self.claims,
            jobs=self.jobs,
            publisher=self.publisher,
            clock=self.clock,
            metrics=self.metrics,
            watch=self.watch,
        )

    def stop(self) -> None:
        """Claim nothing more; `run` returns when held jobs are finished or handed back."""
        self._stopping.set()

    def _give_up(self) -> None:
        """Stop because of the watch's problem, and report it to operators."""
        self.errors.emit(f"Worker {self.alive.record.name} ends: {self.watch.problem}", "critical")
        self.stop()

    async def run(self) -> None:
        """Load the model and serve. Raises the error that prevents the start, or that broke the worker."""
        async with asyncio.TaskGroup() as owned, self._health_page():
            kept = (self.alive.run(), self.watch.run(), self.errors.run(), self.forwarder.run())
            keepers = [owned.create_task(keeping) for keeping in kept]
            try:
                await log_start(self.settings, self.redis)
                if loaded := await self._load():
                    try:
                        await self._serve(loaded)
                    finally:
                        await asyncio.to_thread(loaded.engine.close)
            finally:
                await end(keepers)
                if self._unable:
                    with suppress(RedisError):
                        await self.alive.cannot_start(self._unable)
        with suppress(RedisError):
            await self.alive.withdraw()
        await self.redis.aclose()

    async def _load(self) -> Loaded | None:
        """Load the model; wait for a remote one that is unavailable. None if the worker is stopped."""
        while not self._stopping.is_set():
            try:
                return await asyncio.to_thread(load, self.settings, self._progress)
            except Unavailable as error:
                log.warning("waiting for the model", reason=error.message)
                self.alive.change(detail=f"waiting for the model: {error.message}")
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._stopping.wait(), LOAD_INTERVAL)
            except Exception as error:
                self.errors.emit(f"Failed to initialize Inference pipeline: {error}", "critical")
                self._unable = str(error)
                raise
        return None

    async def _serve(self, loaded: Loaded) -> None:
        count = loaded.at_once
        async with (
            engine_threads("text-engine", count) as text_threads,
            engine_threads("video-engine", count) as video_threads,
        ):
            engine, info = loaded.engine, loaded.info
            texts = Batcher(engine.embed_text, loaded.text_batch_size, text_threads, "text", at_once=count)
            clips = Batcher(clip_engine(loaded), loaded.batch_size, video_threads, "video", at_once=count)
            self.watch.look_after("the text engine", lambda: texts.began, self.settings.engine_timeout)
            self.watch.look_after("the video engine", lambda: clips.began, self.settings.engine_timeout)
            self.watch.ask(lambda: self.jobs.device_lost)
            async with (
                asyncio.TaskGroup() as owned,
                AsyncExitStack() as held,
                open_media(self.settings, loaded) as media,
            ):
                measuring = measure_gpus(loaded.runs_on.gpus, self.alive.record.host, self.watch)
                sampled = loaded.runs_on.gpus if self.settings.profiling else ()
                sampling = sample_gpus(self.redis, sampled, self.alive.record.host)
                works = (texts.run(), clips.run(), measuring, sampling, self._follow(engine))
                background = [owned.create_task(work) for work in works]
                self.metrics.follow_decoders(media)
                self.watch.ask(lambda: media.trouble)
                sessions = await asyncio.to_thread(self._live, loaded, clips)
                self.watch.ask(lambda: sessions.decoders.trouble)
                live = await held.enter_async_context(aclosing(sessions))
                tasks = self._tasks(loaded, media, texts, clips, live)
                self.publisher.model = loaded.model
                self.claims.serve(info.id)
                self.alive.change(state="ready", detail="", model=loaded.model, **loaded.told())
                self.alive.change(batch_size=loaded.batch_size)
                self.watch.loaded()  # before this worker announces that it is ready
                await self._first_contact()
                settle()
                log.info("worker ready", model=info.id, backend=loaded.backend, slots=self.jobs.slots)
                await self._work(tasks)
                for task in background:
                    task.cancel()

    async def _follow(self, engine: Engine) -> None:
        """Report while a remote model is unavailable, and notice when it is back."""
        if not isinstance(engine, RemoteEngine):
            return
        self.alive.ask(lambda: engine.trouble)
        while True:
            await asyncio.sleep(LOAD_INTERVAL)
            if engine.trouble:
                await asyncio.to_thread(engine.ping)

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
        """Wait for Redis, create the lanes, and announce that this worker is ready."""
        while True:
            try:
                await self.claims.create_groups()
                await self.alive.beat()
                return
            except RedisError as error:
                log.warning("waiting for redis", error=str(error))
                await asyncio.sleep(RETRY_INTERVAL)

    async def _work(self, tasks: Tasks) -> None:
        async def tell() -> None:
            self.alive.change(state="stopping")
            with suppress(RedisError):
                await self.alive.beat()

        await self.jobs.run(tasks, self._stopping, tell)
        with suppress(RedisError):
            # A job that broke this worker may break the next: its deliveries must count.
            handed_back = 0 if self.watch.problem else await self.claims.hand_back()
            log.info("stopped", jobs_done=self.jobs.jobs_done, jobs_handed_back=handed_back)

    @asynccontextmanager
    async def _health_page(self) -> AsyncIterator[None]:
        """Serve /metrics, /live and /ready, if a port is set."""
        if self.settings.metrics_port is None:
            yield
            return
        page = HealthPage(self.registry, lambda: self.watch.problem, self._not_ready)
        port, close = page.serve(self.settings.host, self.settings.metrics_port)
        self.alive.change(metrics_port=port)
        log.info("health page", port=port)
        try:
            yield
        finally:
            await asyncio.to_thread(close)

    def _not_ready(self) -> str:
        """Return why this worker takes no jobs; empty when it does."""
        record = self.alive.record
        ready = record.state == "ready" and record.healthy
        return "" if ready else f"{record.state}: {record.detail}".rstrip(": ")

    def _progress(self, step: str, done: int, total: int) -> None:
        """Report what the worker does before it is ready, for /v1/startup and the log."""
        self.alive.change(detail=describe(step, done, total))
        self._tell(step, done, total)
