"""A gateway process from its settings to its exit status, or several that share one port."""

import asyncio
import os
import signal
import socket
import sys

import structlog
import uvicorn

from gateway.access.http_server import server_config
from gateway.app import create_app
from gateway.context import require_packages
from shared import settings
from shared.errors import SettingsError
from shared.lifecycle.heartbeat import beating
from shared.lifecycle.supervised import SupervisedProcess
from shared.settings import Settings
from shared.telemetry import export, logs

log = structlog.get_logger(__name__)

SHARING = "--sharing"
"""The argument, with a number, of a gateway that shares its port with others."""
STARTING_TO_STOP = 10.0
"""Seconds that a gateway has to end, beyond those for its requests."""
PORT_TAKEN = 3


def main() -> int:
    """Exit status: 0 after a clean stop, 2 for a bad setting, 3 for a port that is taken."""
    try:
        configuration = settings.load()
        require_packages(configuration)
    except SettingsError as error:
        print(f"rt-embed gateway: {error}", file=sys.stderr)
        return 2
    number = sys.argv[sys.argv.index(SHARING) + 1] if SHARING in sys.argv else ""
    logs.configure(configuration, process=f"gateway-{number}" if number else "gateway")
    if configuration.gateway_processes > 1 and not number:
        return asyncio.run(share_port(configuration))
    app = create_app(configuration, export.configure(configuration))
    server = uvicorn.Server(server_config(app, configuration))
    server.run(sockets=[shared_socket(configuration.host, configuration.port)] if number else None)
    return 0 if server.started else PORT_TAKEN


async def share_port(configuration: Settings) -> int:
    """Run RTEMBED_GATEWAY_PROCESSES gateways on one port, and start again those that end. Linux gives each
    new connection to one of them. The exit status."""
    try:
        reserved = shared_socket(configuration.host, configuration.port)
    except OSError as error:
        log.critical(
            "gateway cannot start", host=configuration.host, port=configuration.port, error=str(error)
        )
        return PORT_TAKEN
    port = reserved.getsockname()[1]
    environment = {**os.environ, "BACKEND_PORT": str(port)}
    patience = configuration.shutdown_timeout + STARTING_TO_STOP
    gateways = [
        SupervisedProcess(
            f"gateway {number}",
            [sys.executable, "-m", "gateway", SHARING, str(number)],
            environment,
            patience,
        )
        for number in range(1, configuration.gateway_processes + 1)
    ]
    stopping = asyncio.Event()
    for name in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(name, stopping.set)
    log.info("gateways share a port", port=port, processes=len(gateways))
    running = [asyncio.create_task(gateway.run(), name=gateway.name) for gateway in gateways]
    waiting = asyncio.create_task(stopping.wait())
    try:
        async with beating(configuration.stall_timeout):
            done, _ = await asyncio.wait([*running, waiting], return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in (*running, waiting):
            task.cancel()
        await asyncio.gather(*running, waiting, return_exceptions=True)
        await asyncio.gather(*(gateway.stop() for gateway in gateways))
        reserved.close()
    failed = [task.result() for task in done if task in running]
    return failed[0] if failed else 0


def shared_socket(host: str, port: int) -> socket.socket:
    """Return a socket that is bound to an address which other processes may bind, too. Raises OSError."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    made = socket.socket(family, socket.SOCK_STREAM)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    try:
        made.bind((host, port))
    except OSError:
        made.close()
        raise
    return made
