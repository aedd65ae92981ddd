"""One worker process per GPU, kept running. This process itself needs no GPU and takes no jobs."""

import asyncio
import os
import signal
import sys
from collections.abc import Mapping, Sequence

import structlog

from shared.lifecycle.heartbeat import beating
from shared.lifecycle.supervised import SupervisedProcess
from shared.settings import Settings
from worker.engine.gpus import Gpu

log = structlog.get_logger(__name__)

ALONE = "--alone"
"""The argument that makes a worker one process, regardless of the number of GPUs."""
AGAIN = 60.0
"""Seconds before a worker that could not start is tried again, while others run."""
STARTING_TO_STOP = 10.0
"""Seconds that a worker has to exit, in addition to those for its jobs."""


class Supervisor:
    """Keeps `children` running until `stop` is called, or until none of them can start."""

    def __init__(self, children: Sequence[SupervisedProcess], again: float = AGAIN) -> None:
        self._children = children
        self._again = again
        self._failed: dict[str, int] = {}
        self._over = asyncio.Event()

    def stop(self) -> None:
        """Make `run` stop all of them and return."""
        self._over.set()

    async def run(self) -> int:
        """Run the children. Return 0 after `stop`, or a worker's exit status if none could start."""
        keeping = [asyncio.create_task(self._keep(child), name=child.name) for child in self._children]
        try:
            await self._over.wait()
        finally:
            for task in keeping:
                task.cancel()
            await asyncio.gather(*keeping, return_exceptions=True)
            await asyncio.gather(*(child.stop() for child in self._children))
        return max(self._failed.values()) if len(self._failed) == len(self._children) else 0

    async def _keep(self, child: SupervisedProcess) -> None:
        while True:
            status = await child.run()
            self._failed[child.name] = status
            log.critical("worker process cannot start", child=child.name, status=status)
            if len(self._failed) == len(self._children):
                self._over.set()
            await asyncio.sleep(self._again)
            del self._failed[child.name]


def worker_processes(
    settings: Settings, gpus: Sequence[Gpu], environment: Mapping[str, str], command: Sequence[str]
) -> list[SupervisedProcess]:
    """Return a worker process for each NUM_GPUS_PER_VLM_PROC of `gpus`; leftover GPUs stay unused."""
    size = settings.gpus_per_worker
    groups = [gpus[start : start + size] for start in range(0, len(gpus) - size + 1, size)]
    return [
        SupervisedProcess(
            f"worker on GPU {', '.join(str(gpu.index) for gpu in group)}",
            command,
            {**environment, **own_environment(settings, group, position)},
            patience=settings.shutdown_timeout + STARTING_TO_STOP,
        )
        for position, group in enumerate(groups)
    ]


def own_environment(settings: Settings, gpus: Sequence[Gpu], position: int) -> dict[str, str]:
    """Return the variables that differ between the workers of a host; this is worker `position`."""
    own = {"CUDA_VISIBLE_DEVICES": ",".join(gpu.uuid for gpu in gpus), "NUM_GPUS": str(len(gpus))}
    if settings.worker_name:
        own["RTEMBED_WORKER_NAME"] = f"{settings.worker_name}-gpu{gpus[0].index}"
    if settings.metrics_port:
        own["RTEMBED_METRICS_PORT"] = str(settings.metrics_port + position)
    return own


async def supervise(settings: Settings, gpus: Sequence[Gpu]) -> int:
    """Run the workers of `gpus` until SIGTERM or SIGINT; return the exit status."""
    command = [sys.executable, "-m", "worker", ALONE]
    supervisor = Supervisor(worker_processes(settings, gpus, os.environ, command))
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, supervisor.stop)
    log.info("one worker per GPU", gpus=[f"{gpu.index}: {gpu.name}" for gpu in gpus])
    async with beating(settings.stall_timeout):
        return await supervisor.run()
