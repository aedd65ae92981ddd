"""This gateway's metrics, published to the fleet, and the fleet's, collected for `/v1/metrics`."""

import asyncio
import time
from contextlib import suppress
from typing import Any

import structlog
from prometheus_client import CollectorRegistry, Metric

from gateway.fleet_view import FleetView
from shared import keys
from shared.fleet import read_lanes
from shared.keys import GROUP
from shared.records import added_ms
from shared.redis.connection import Redis, RedisError
from shared.search.indexer_records import group_lag, read_indexers
from shared.telemetry import instruments
from shared.telemetry.fleet_metrics import Figures, exposition, is_fact, read_figures

log = structlog.get_logger(__name__)

INTERVAL = 2.0
PATIENCE = 3.5
"""Seconds that a page waits for Redis: more than until it counts as away, less than scrapers wait."""
STATES = ("starting", "ready", "stopping", "unhealthy")
SWITCHED_OFF = b"# telemetry is switched off by OTEL_TRACES_EXPORTER\n"


class MetricsPublisher:
    """Publishes this gateway's metrics, and collects those of the fleet."""

    def __init__(self, redis: Redis, view: FleetView, registry: CollectorRegistry | None) -> None:
        self._redis = redis
        self._view = view
        self._registry = registry
        self._figures = Figures(redis, registry, "gateway")
        self._fleet: list[Metric] = []
        self._ended: dict[tuple[str, str], int] = {}
        self._one_at_a_time = asyncio.Lock()
        self._started = time.monotonic()

    async def run(self) -> None:
        """Publish and refresh until cancelled."""
        try:
            while self._registry is not None:
                await self._refresh()
                await asyncio.sleep(INTERVAL)
        finally:
            with suppress(RedisError):
                await self._figures.publish()

    async def page(self) -> bytes:
        """Return the fleet's metrics as they are now, or were before Redis stood still, in Prometheus's text
        format."""
        if self._registry is None:
            return SWITCHED_OFF
        try:
            async with asyncio.timeout(PATIENCE):
                await self._refresh()
        except TimeoutError:  # scrapers do not wait, and would take this gateway for one that is away
            if self._view.redis_problem:
                instruments.redis_up.set(0)
        known = {family.name for family in self._fleet}
        own = [f for f in self._registry.collect() if is_fact(f) or f.name not in known]
        return exposition([*own, *self._fleet])

    async def _refresh(self) -> None:
        instruments.uptime.set(time.monotonic() - self._started)
        async with self._one_at_a_time:
            try:
                began = time.monotonic()
                await self._redis.ping()
                instruments.redis_round_trip.record(time.monotonic() - began)
                await self._figures.publish()
                self._fleet = await read_figures(self._redis)
                await self._count_requests()
                await self._measure_queues()
                await self._look_at_indexers()
                instruments.redis_up.set(1)
            except RedisError as error:
                instruments.redis_up.set(0)
                log.warning("metrics of the fleet are not up to date: redis is away", error=str(error))
        self._measure_workers()
        instruments.average_chunk_latency.set(_mean(self._fleet, "chunk_latency_seconds"))
        instruments.average_live_chunk_latency.set(_mean(self._fleet, "live_stream_chunk_latency_seconds"))

    async def _count_requests(self) -> None:
        counts: Any = await self._redis.hgetall(keys.REQUEST_COUNTS)
        processed = 0
        for field, count in counts.items():
            lane, _, state = field.decode().partition(":")
            ended = int(count)
            instruments.requests_ended.add(
                max(0, ended - self._ended.get((lane, state), 0)), {"lane": lane, "state": state}
            )
            self._ended[lane, state] = ended
            processed += ended if lane == "video" else 0
        instruments.files_processed.set(processed)
        seconds, _ = await self._redis.time()
        for lane, gauge in (("video", instruments.files_pending), ("live", instruments.live_streams)):
            await self._redis.zremrangebyscore(keys.running(lane), "-inf", seconds)
            gauge.set(await self._redis.zcard(keys.running(lane)))

    async def _measure_queues(self) -> None:
        for at in await read_lanes(self._redis):
            length = await self._redis.xlen(at.stream)
            groups: Any = await self._redis.xinfo_groups(at.stream) if length else []
            group = next((g for g in groups if g["name"] == GROUP.encode()), None)
            running = group["pending"] if group else 0
            labels = {"lane": at.lane, "model": at.model}
            instruments.lane_jobs.set(running, {**labels, "state": "running"})
            instruments.lane_jobs.set(max(0, length - running), {**labels, "state": "waiting"})
            after = group["last-delivered-id"].decode() if group else "0-0"
            instruments.lane_oldest.set(await self._age(at.stream, f"({after}"), labels)
        instruments.dead_jobs.set(await self._redis.xlen(keys.JOBS_DEAD))
        instruments.outbox_messages.set(await self._redis.xlen(keys.OUTBOX))
        instruments.outbox_oldest.set(await self._age(keys.OUTBOX, "-"))

    async def _look_at_indexers(self) -> None:
        found = await read_indexers(self._redis)
        instruments.indexers.set(len(found))
        lag = group_lag(found)
        instruments.index_lag.set(lag.messages or 0)
        instruments.index_lag_seconds.set(lag.seconds or 0.0)

    async def _age(self, stream: str, first: str) -> float:
        """Return the seconds since the first entry from `first` on was added; 0 if there is none."""
        entries: Any = await self._redis.xrange(stream, min=first, count=1)
        if not entries:
            return 0.0
        seconds, microseconds = await self._redis.time()
        added = added_ms(entries[0][0]) / 1000
        return max(0.0, float(seconds + microseconds / 1e6 - added))

    def _measure_workers(self) -> None:
        found = [w.state if w.healthy else "unhealthy" for w in self._view.fleet.workers]
        for state in STATES:
            instruments.workers.set(found.count(state), {"state": state})
        for model in self._view.models:
            instruments.model_verified.set(int(model.verified), {"model": model.id})


def _mean(families: list[Metric], name: str) -> float:
    """Return the mean of a histogram's observations; 0 without any."""
    totals = {"sum": 0.0, "count": 0.0}
    for family in families:
        if family.name == name:
            for sample in family.samples:
                kind = sample.name.rpartition("_")[2]
                if kind in totals:
                    totals[kind] += sample.value
    return totals["sum"] / totals["count"] if totals["count"] else 0.0
