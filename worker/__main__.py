"""`python -m worker`: one worker process."""

import asyncio
import signal
import sys

import structlog
import uvloop

from shared import logs, settings, telemetry
from shared.errors import ModelError, SettingsError
from shared.settings import Settings
from worker.health import HUNG
from worker.service import Service

CANNOT_START = 4
"""Not 3, with which uvicorn says that Redis was away or the port taken."""


async def serve(configuration: Settings) -> int:
    """Run one worker until SIGTERM or SIGINT, or until it is stuck; its exit status."""
    measuring = telemetry.configure(configuration)
    service = Service(configuration, measuring.registry)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, service.stop)
    try:
        await service.run()
    finally:
        await asyncio.to_thread(measuring.close)
    return HUNG if service.watch.problem else 0


def main() -> int:
    """Exit status: 0 after a clean stop, 2 for a bad setting, 4 for a model that cannot be loaded, 5 if the
    worker was stuck."""
    try:
        configuration = settings.load()
    except SettingsError as error:
        print(f"rt-embed worker: {error}", file=sys.stderr)
        return 2
    logs.configure(configuration, process="worker", worker=settings.worker_name(configuration))
    try:
        return uvloop.run(serve(configuration))
    except ExceptionGroup as group:
        if not isinstance(group.exceptions[0], ModelError):
            raise
        structlog.get_logger(__name__).critical("worker cannot start", error=str(group.exceptions[0]))
        return CANNOT_START


if __name__ == "__main__":
    sys.exit(main())
