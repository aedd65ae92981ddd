"""Samples of GPUs: figures as percentages, five times a second."""

import asyncio

from shared import keys
from shared.redis.connection import Redis
from shared.telemetry import gpu_samples
from shared.telemetry.gpu_samples import Sample
from tests.support import stream_entries, until
from worker.engine.gpu_sampling import sample, sample_gpus
from worker.engine.gpus import Condition, Gpu


class Played:
    """A meter whose figures the test knows."""

    def __init__(self, index: int, condition: Condition) -> None:
        self.gpu = Gpu(index, f"GPU-{index}", "L40S", 48 << 30, (8, 9), "580")
        self._condition = condition

    def read(self) -> Condition:
        return self._condition


async def test_figures_become_percentages(redis: Redis) -> None:
    meters = [
        Played(0, Condition(12, 48, 0.5, 0.123, 60)),
        Played(1, Condition(None, None, None, None, None)),
    ]
    sampling = asyncio.create_task(sample(redis, meters, "h"))
    await until(lambda: _length(redis, 2))
    sampling.cancel()
    await asyncio.gather(sampling, return_exceptions=True)
    entry_id, fields = (await stream_entries(redis, keys.GPU_SAMPLES))[0]
    first, second = gpu_samples.from_fields(entry_id, fields)
    assert (first.usage, first.memory, first.decoder) == (50.0, 25.0, 12.3)
    assert second == Sample(host="h", index=1, name="L40S", time=first.time)


async def _length(redis: Redis, least: int) -> bool:
    return bool(await redis.xlen(keys.GPU_SAMPLES) >= least)


async def test_without_gpus_nothing_is_sampled(redis: Redis) -> None:
    await sample_gpus(redis, [], "h")
    assert not await redis.exists(keys.GPU_SAMPLES)
