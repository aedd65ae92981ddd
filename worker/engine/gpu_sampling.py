"""Samples GPU load for request profiles."""

import asyncio
from collections.abc import Sequence
from typing import Protocol

import structlog

from shared.redis.connection import Redis, RedisError
from shared.telemetry.gpu_samples import INTERVAL, Sample, publish
from worker.engine.gpus import Condition, Gpu

log = structlog.get_logger(__name__)


class Meter(Protocol):
    """Reads the condition of one GPU."""

    gpu: Gpu

    def read(self) -> Condition:
        """Read the current condition. Blocks."""


async def sample_gpus(redis: Redis, gpus: Sequence[Gpu], host: str) -> None:
    """Publish the condition of the GPUs, five times a second, until cancelled."""
    if gpus:
        from worker.engine.nvml import GpuMeter  # noqa: PLC0415 - nvidia-ml-py is part of [gpu]

        await sample(redis, [GpuMeter(gpu) for gpu in gpus], host)


async def sample(redis: Redis, meters: Sequence[Meter], host: str) -> None:
    """Publish the meters' readings, five times a second, until cancelled."""
    while True:
        began = asyncio.get_running_loop().time()
        conditions = await asyncio.to_thread(lambda: [meter.read() for meter in meters])
        samples = [_sample(meter.gpu, seen, host) for meter, seen in zip(meters, conditions, strict=True)]
        try:
            await publish(redis, samples)
        except RedisError as error:
            log.warning("GPU samples lost: redis is away", error=str(error))
        await asyncio.sleep(max(0.0, began + INTERVAL - asyncio.get_running_loop().time()))


def _sample(gpu: Gpu, seen: Condition, host: str) -> Sample:
    memory = (
        seen.memory_used / seen.memory_total if seen.memory_used is not None and seen.memory_total else None
    )
    return Sample(
        host=host,
        index=gpu.index,
        name=gpu.name,
        usage=_percent(seen.utilization),
        memory=_percent(memory),
        decoder=_percent(seen.decoder_utilization),
    )


def _percent(share: float | None) -> float | None:
    return None if share is None else round(share * 100, 1)
