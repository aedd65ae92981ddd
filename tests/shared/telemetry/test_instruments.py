"""What processes count, added up in Redis."""

from typing import Any

import pytest
from opentelemetry.exporter.prometheus import PrometheusMetricReader
from opentelemetry.metrics import CallbackOptions
from opentelemetry.sdk.metrics import MeterProvider
from prometheus_client import CollectorRegistry

from shared import keys
from shared.redis.connection import Redis, RedisError
from shared.telemetry.fleet_metrics import Figures, exposition, read_figures
from shared.telemetry.instruments import EXPOSED, Total


class Process:
    """A process that measures, with instruments of its own."""

    def __init__(self, redis: Redis, name: str) -> None:
        self.registry = CollectorRegistry()
        reader = PrometheusMetricReader(scope_info_enabled=False, registry=self.registry)
        self._provider = MeterProvider([reader], shutdown_on_exit=False)
        meter = self._provider.get_meter("test")
        self.claims = meter.create_counter("rtembed_claims_reclaimed_total")
        self.decode = meter.create_histogram(
            "decode_latency_seconds", "s", explicit_bucket_boundaries_advisory=[0.1, 1]
        )
        self.running = meter.create_gauge("rtembed_jobs_running")
        self.latest = meter.create_gauge("e2e_latency_seconds_latest", "s")
        self.workers = meter.create_gauge("rtembed_workers")
        self.figures = Figures(redis, self.registry, name)


async def values(redis: Redis) -> dict[str, float]:
    """Every sample of the fleet, by its name and labels as in the text format."""
    found: dict[str, float] = {}
    for line in exposition(await read_figures(redis)).decode().splitlines():
        if not line.startswith("#"):
            name, _, value = line.rpartition(" ")
            found[name] = float(value)
    return found


async def test_counters_and_histograms_add_up(redis: Redis) -> None:
    one, two = Process(redis, "one"), Process(redis, "two")
    one.claims.add(2, {"lane": "text"})
    two.claims.add(3, {"lane": "text"})
    one.decode.record(0.05)
    two.decode.record(0.5)
    for process in (one, two, one, two):
        await process.figures.publish()
    one.claims.add(1, {"lane": "video"})
    await one.figures.publish()
    found = await values(redis)
    assert found['rtembed_claims_reclaimed_total{lane="text"}'] == 5
    assert found['rtembed_claims_reclaimed_total{lane="video"}'] == 1
    buckets = [found[f'decode_latency_seconds_bucket{{le="{le}"}}'] for le in ("0.1", "1", "+Inf")]
    assert buckets == [1, 2, 2]
    assert found["decode_latency_seconds_sum"] == pytest.approx(0.55)


async def test_gauges_are_those_of_the_living_and_the_last_value_is_the_newest(redis: Redis) -> None:
    one, two = Process(redis, "one"), Process(redis, "two")
    for process, jobs, latency in ((one, 2, 0.5), (two, 5, 0.25)):
        process.running.set(jobs)
        process.latest.set(latency)
        process.workers.set(7)
        await process.figures.publish()
    await one.figures.publish()
    found = await values(redis)
    assert found["rtembed_jobs_running"] == 7
    assert found["e2e_latency_seconds_latest_seconds"] == 0.25
    assert "rtembed_workers" not in found, "a fact of the fleet is not one process's to add"

    sources: Any = await redis.zrange(keys.METRICS_SOURCES, 0, -1)
    source = sources[0]
    await redis.zadd(keys.METRICS_SOURCES, {source: 1})
    assert (await values(redis))["rtembed_jobs_running"] in (2, 5)


async def test_an_answer_that_is_lost_counts_once(redis: Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    process = Process(redis, "one")
    process.claims.add(1)
    send = Figures._send

    async def lose_the_answer(figures: Figures) -> None:
        unanswered = figures._unanswered
        await send(figures)
        figures._unanswered = unanswered
        raise RedisError("gone")

    monkeypatch.setattr(Figures, "_send", lose_the_answer)
    with pytest.raises(RedisError):
        await process.figures.publish()
    monkeypatch.setattr(Figures, "_send", send)
    process.claims.add(1)
    await process.figures.publish()
    assert (await values(redis))["rtembed_claims_reclaimed_total"] == 2


async def test_what_redis_never_saw_is_made_up_for(redis: Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    process = Process(redis, "one")
    process.claims.add(1)
    send = Figures._send

    async def away(_: Figures) -> None:
        raise RedisError("gone")

    monkeypatch.setattr(Figures, "_send", away)
    for _ in range(2):
        with pytest.raises(RedisError):
            await process.figures.publish()
        process.claims.add(1)
    monkeypatch.setattr(Figures, "_send", send)
    await process.figures.publish()
    assert (await values(redis))["rtembed_claims_reclaimed_total"] == 3


async def test_families_of_a_newer_replica_are_shown(redis: Redis) -> None:
    field = '["counter","new","new_total",[["a","b"]]]'
    await redis.hset(keys.METRICS, field, "3")
    assert await values(redis) == {'new_total{a="b"}': 3}


async def test_everything_is_bounded_or_expires(redis: Redis) -> None:
    process = Process(redis, "one")
    process.running.set(1)
    await process.figures.publish()
    sources: Any = await redis.zrange(keys.METRICS_SOURCES, 0, -1)
    (source,) = sources
    assert 0 < await redis.ttl(keys.gauges(source.decode())) <= 10
    await redis.zadd(keys.METRICS_SOURCES, {"long gone": 1})
    await process.figures.publish()
    assert await redis.zrange(keys.METRICS_SOURCES, 0, -1) == [source]


def test_names_are_ours_or_those_of_rt_embed() -> None:
    theirs: Any = [name for name in EXPOSED if not name.startswith("rtembed_")]
    assert len(theirs) == 28
    for name, exposed in EXPOSED.items():
        assert name.endswith("_total") == (exposed.kind == "counter"), name
        assert exposed.description


def test_totals_of_labels_are_what_was_added_to_each() -> None:
    total = Total("rtembed_test_total", "", "For this test")
    total.add(0, {"lane": "text"})
    total.add(2, {"lane": "video", "state": "done"})
    total.add(3, {"state": "done", "lane": "video"})
    total.add(1.5)
    found = [(seen.value, dict(seen.attributes or {})) for seen in total.observe(CallbackOptions())]
    assert found == [(0, {"lane": "text"}), (5, {"lane": "video", "state": "done"}), (1.5, {})]
