"""Records of workers and of the models they run: written by workers, read by gateways and operators."""

import time
from collections.abc import Mapping
from typing import Any, Literal

import msgspec

from shared import keys
from shared.keys import Lane
from shared.records import RecordCodec
from shared.redis.connection import Redis, script

HEARTBEAT = 2.0
"""Seconds between two heartbeats."""
RECORD_TTL = 8
"""Seconds after which a silent worker is no longer counted."""
MODELS_KEPT = 100
"""Largest number of models that are remembered."""


class ServedModel(msgspec.Struct, frozen=True, kw_only=True):
    """What clients learn about a loaded model. `created` is the second at which it was loaded."""

    id: str
    owned_by: str
    api_type: str
    dimension: int
    frames: int
    supports_text: bool
    verified: bool
    created: int
    verification: Literal["", "here", "digest"] = ""
    """How a converted checkpoint was verified: `here`, by a comparison on the machine that converted it, or
    by `digest`, its code being known."""


UNABLE = "unable to start: "
"""How the detail of a worker begins that ended at its start."""


class Worker(msgspec.Struct, frozen=True, kw_only=True):
    """One worker's record. `detail` says what it does while it starts, or why it is unhealthy."""

    name: str
    state: Literal["starting", "ready", "stopping"]
    detail: str = ""
    backend: str = ""
    """What runs the model: cpu, cuda, or python for a model in Python."""
    backend_wanted: str = ""
    backend_reason: str = ""
    """Why no GPU is used; empty where one is."""
    gpu: str = ""
    driver: str = ""
    engine: str = ""
    """The files of the engines that were built for the GPU."""
    batch_size: int = 0
    """Clips or texts in the largest batch."""
    host: str = ""
    pid: int = 0
    metrics_port: int = 0
    """Port of /metrics, /live and /ready; 0 if they are off."""
    started: int = 0
    healthy: bool = True
    model: ServedModel | None = None
    jobs_running: int = 0
    jobs_done: int = 0

    @property
    def gave_up(self) -> bool:
        """Whether it could not start and only its record is left."""
        return self.detail.startswith(UNABLE)


_workers: RecordCodec[Worker] = RecordCodec(Worker)


class Fleet(msgspec.Struct, frozen=True, kw_only=True):
    """All living workers, and the last known model, which outlives them."""

    workers: list[Worker] = []
    model: ServedModel | None = None

    @property
    def ready(self) -> bool:
        return any(w.state == "ready" and w.healthy for w in self.workers)

    @property
    def models(self) -> list[ServedModel]:
        """The models that ready workers serve, those that were loaded first before others."""
        served: dict[str, ServedModel] = {}
        for worker in self.workers:
            if worker.model and worker.state == "ready" and worker.healthy:
                first = served.setdefault(worker.model.id, worker.model)
                if worker.model.created < first.created:
                    served[first.id] = worker.model
        return sorted(served.values(), key=lambda model: (model.created, model.id))


async def announce(redis: Redis, worker: Worker, ttl: int = RECORD_TTL) -> int:
    """Write the worker's record, which expires after `ttl` seconds; return how many workers are alive."""
    alive: int = await script(redis, "heartbeat")(
        keys=[keys.WORKERS, keys.worker(worker.name)],
        args=[worker.name, ttl, *_workers.fields(worker)],
    )
    if worker.model and worker.state == "ready":
        await redis.set(keys.MODEL, msgspec.json.encode(worker.model))
        await redis.zadd(keys.MODELS, {worker.model.id: int(time.time())})
        await redis.zremrangebyrank(keys.MODELS, 0, -1 - MODELS_KEPT)
    return alive


class ModelLane(msgspec.Struct, frozen=True):
    """One lane of one model; `model` is empty for probes. `stream` is its key."""

    lane: Lane
    model: str
    stream: str


async def read_lanes(redis: Redis) -> list[ModelLane]:
    """Return the lanes of all models that workers have announced, whether or not one serves them now."""
    names: list[Any] = await redis.zrange(keys.MODELS, 0, -1)
    models = sorted(name.decode() for name in names)
    return [
        ModelLane(lane, model, keys.jobs(lane, model))
        for lane in keys.LANES
        for model in ([""] if lane == "probe" else models)
    ]


async def withdraw(redis: Redis, name: str) -> None:
    """Remove the worker's record."""
    async with redis.pipeline() as pipe:
        pipe.zrem(keys.WORKERS, name)
        pipe.delete(keys.worker(name))
        await pipe.execute()


async def read_fleet(redis: Redis) -> Fleet:
    """Return the living workers, sorted by name, and the models."""
    names: list[Any] = sorted(await redis.zrange(keys.WORKERS, 0, -1))
    async with redis.pipeline(transaction=False) as pipe:
        pipe.get(keys.MODEL)
        for name in names:
            pipe.hgetall(keys.worker(name.decode()))
        model, *records = await pipe.execute()
    return Fleet(
        workers=[worker for record in records if (worker := _worker(record))],
        model=_model(model),
    )


def _model(record: bytes | None) -> ServedModel | None:
    try:
        return msgspec.json.decode(record or b"null", type=ServedModel | None)
    except msgspec.MsgspecError:
        return None


def _worker(record: Mapping[bytes, bytes]) -> Worker | None:
    """Return the worker of a record, or None if it cannot be read or has expired."""
    try:
        return _workers.read(record)
    except msgspec.MsgspecError:
        return None
