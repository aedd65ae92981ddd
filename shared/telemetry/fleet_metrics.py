"""The fleet's metrics in one place: the counts of each process are added up in Redis and outlive the process.

Every process adds the increments of its counters and histograms, each exactly once, so sums never go back.
Its gauges are stored beside them with a time to live, so those of a dead process vanish.
"""

import math
import secrets
from collections.abc import Iterable, Mapping

import msgspec
from prometheus_client import CollectorRegistry, Metric, generate_latest
from prometheus_client.registry import Collector

from shared import keys
from shared.redis.connection import Redis, script
from shared.telemetry.instruments import EXPOSED, Exposed

GAUGES_TTL = 10
"""Seconds after which a silent process's gauges no longer count."""


class _Key(msgspec.Struct, frozen=True, array_like=True):
    """The name of a sample in Redis."""

    kind: str
    family: str
    sample: str
    labels: tuple[tuple[str, str], ...]


_keys = msgspec.json.Decoder(_Key)


class Figures:
    """What this process has measured, on its way to the fleet's sums; one `publish` at a time."""

    def __init__(self, redis: Redis, registry: CollectorRegistry | None, process: str) -> None:
        self._redis = redis
        self._registry = registry
        self._source = f"{process}-{secrets.token_hex(3)}"
        self._sent: dict[bytes, float] = {}
        self._call = 0
        self._unanswered: list[bytes | str | float] = []

    async def publish(self) -> None:
        """Add what was counted since the last call. Raises RedisError; a later call makes up for it."""
        if self._registry is None:
            return
        if self._unanswered:
            await self._send()
        self._call += 1
        increments, latest, gauges = self._changes(self._registry)
        self._unanswered = [
            self._source, self._call, GAUGES_TTL, len(increments), *_flat(increments),
            len(latest), *_flat(latest), *_flat(gauges),
        ]  # fmt: skip
        await self._send()

    def _changes(self, registry: CollectorRegistry) -> tuple[dict[bytes, float], ...]:
        """Increments of what adds up, latest values that are new, and gauges; by key."""
        increments: dict[bytes, float] = {}
        latest: dict[bytes, float] = {}
        gauges: dict[bytes, float] = {}
        for family in registry.collect():
            exposed = _exposed(family)
            if exposed is None or exposed.whole == "fact":
                continue
            for sample in family.samples:
                labels = tuple(sorted(sample.labels.items()))
                key = msgspec.json.encode(_Key(family.type, family.name, sample.name, labels))
                before = self._sent.get(key)
                if exposed.kind != "gauge" and sample.value != before:
                    increments[key] = sample.value - (before or 0)
                elif exposed.whole == "latest" and sample.value != (before or 0):
                    latest[key] = sample.value
                elif exposed.kind == "gauge" and exposed.whole == "sum":
                    gauges[key] = sample.value
                self._sent[key] = sample.value
        return increments, latest, gauges

    async def _send(self) -> None:
        await script(self._redis, "figures")(
            keys=[keys.METRICS, keys.METRICS_SOURCES, keys.gauges(self._source)], args=self._unanswered
        )
        self._unanswered = []


def _exposed(family: Metric) -> Exposed | None:
    """Return what this process knows of a family; Prometheus's client names counters without `_total`."""
    return EXPOSED.get(family.name) or EXPOSED.get(f"{family.name}_total")


def is_fact(family: Metric) -> bool:
    """Return whether the family describes the fleet and not one process."""
    exposed = _exposed(family)
    return exposed is not None and exposed.whole == "fact"


def _flat(values: Mapping[bytes, float]) -> list[bytes | float]:
    return [part for pair in values.items() for part in pair]


async def read_figures(redis: Redis) -> list[Metric]:
    """Return the sums of what all processes have counted, and of what the living ones measure now."""
    async with redis.pipeline(transaction=False) as pipe:
        pipe.time()
        pipe.zrange(keys.METRICS_SOURCES, 0, -1, withscores=True)
        pipe.hgetall(keys.METRICS)
        (now, _), sources, counted = await pipe.execute()
    async with redis.pipeline(transaction=False) as pipe:
        for source, expires in sources:
            if expires > now:
                pipe.hgetall(keys.gauges(source.decode()))
        gauges = await pipe.execute()
    sums: dict[_Key, float] = {}
    for values in (counted, *gauges):
        for raw, value in values.items():
            if raw != b"call":
                key = _keys.decode(raw)
                sums[key] = sums.get(key, 0) + float(value)
    return _families(sums)


def _families(sums: Mapping[_Key, float]) -> list[Metric]:
    families: dict[str, Metric] = {}
    for key in sorted(sums, key=_order):
        if key.family not in families:
            family = families[key.family] = Metric(key.family, "", key.kind)
            exposed = _exposed(family)
            family.documentation = exposed.description if exposed else ""
        families[key.family].add_sample(key.sample, dict(key.labels), sums[key])
    return list(families.values())


def _order(key: _Key) -> tuple[object, ...]:
    """Families by name; in each, label set by label set, buckets ascending and before the sum."""
    labels = [pair for pair in key.labels if pair[0] != "le"]
    bound = next((float(value) for name, value in key.labels if name == "le"), math.inf)
    return key.family, labels, bound, key.sample


def exposition(families: Iterable[Metric]) -> bytes:
    """Prometheus's text format."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Collected(list(families)))
    return generate_latest(registry)


class _Collected(Collector):
    def __init__(self, families: list[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterable[Metric]:
        return self._families
