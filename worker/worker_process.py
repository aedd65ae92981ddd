"""Starts a worker process from its settings: one worker, or a supervisor of one worker per GPU."""

import asyncio
import signal
import sys

import structlog
import uvloop

from shared import settings
from shared.errors import ModelError, RtEmbedError, SettingsError
from shared.lifecycle.watchdog import STUCK
from shared.settings import Settings
from shared.telemetry import export, logs
from worker.engine.backend import choose_backend
from worker.engine.gpus import Gpu
from worker.service import Service
from worker.supervisor import ALONE, supervise

BAD_SETTING = 2
CANNOT_START = 4
"""Not 3: uvicorn uses it when Redis is away or the port is taken."""


async def serve(configuration: Settings) -> int:
    """Run one worker until SIGTERM or SIGINT, or until it is stuck; return its exit status."""
    measuring = export.configure(configuration)
    service = Service(configuration, measuring.registry)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, service.stop)
    try:
        await service.run()
    finally:
        await asyncio.to_thread(measuring.close)
    return STUCK if service.watch.problem else 0


def gpus_to_share_out(configuration: Settings) -> tuple[Gpu, ...]:
    """Return the GPUs that get worker processes; none if this process is the only worker."""
    if ALONE in sys.argv:
        return ()
    try:
        return choose_backend(configuration).gpus
    except RtEmbedError:
        return ()  # the worker finds the same error, and reports it


def first_of(group: ExceptionGroup[Exception]) -> Exception:
    """Return the first error of a group, or of the groups in it."""
    first = group.exceptions[0]
    return first_of(first) if isinstance(first, ExceptionGroup) else first


def main() -> int:
    """Run the worker. Return 0 after a clean stop, 2 for a bad setting, 4 for a model that cannot be
    loaded, 5 if the worker was stuck or lost its GPU."""
    try:
        configuration = settings.load()
    except SettingsError as error:
        print(f"rt-embed worker: {error}", file=sys.stderr)
        return BAD_SETTING
    logs.configure(configuration, process="worker", worker=settings.worker_name(configuration))
    if gpus := gpus_to_share_out(configuration):
        return asyncio.run(supervise(configuration, gpus))
    try:
        return uvloop.run(serve(configuration))
    except ExceptionGroup as group:
        reason = first_of(group)
        if not isinstance(reason, ModelError | SettingsError):
            raise
        structlog.get_logger(__name__).critical("worker cannot start", error=str(reason))
        return BAD_SETTING if isinstance(reason, SettingsError) else CANNOT_START
