"""Parts of a service: each is a process, with what that has started, to be killed, frozen, started again."""

import contextlib
import signal
import subprocess
import sys
from pathlib import Path
from typing import IO

import psutil

from tests.support import RedisServer

ROOT = Path(__file__).parents[2]
STOP_WITHIN = 30.0


class Part:
    """A process and all that it has started."""

    def __init__(self, name: str, command: list[str], environment: dict[str, str] | None, log: Path) -> None:
        self.name = name
        self.environment = environment
        self._command = command
        self._log = log
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start, or start again."""
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(
                self._command, cwd=ROOT, env=self.environment, stdin=subprocess.DEVNULL, stderr=log
            )

    def tree(self) -> list[psutil.Process]:
        """The process and its descendants; the decoders of a worker are among them."""
        with contextlib.suppress(psutil.NoSuchProcess):
            if self.process:
                first = psutil.Process(self.process.pid)
                return [first, *first.children(recursive=True)]
        return []

    def _send(self, number: int) -> None:
        for process in self.tree():
            with contextlib.suppress(psutil.NoSuchProcess):
                process.send_signal(number)

    def kill(self) -> None:
        """Send SIGKILL to all."""
        self._send(signal.SIGKILL)
        self.wait()

    def freeze(self) -> None:
        """Send SIGSTOP to all."""
        self._send(signal.SIGSTOP)

    def thaw(self) -> None:
        """Send SIGCONT to all."""
        self._send(signal.SIGCONT)

    def terminate(self) -> None:
        """Ask the process to end, as an orchestrator does."""
        if self.process:
            self.process.terminate()

    def wait(self) -> None:
        """Wait for the end; what does not end in time is killed."""
        if self.process:
            try:
                self.process.wait(STOP_WITHIN)
            except subprocess.TimeoutExpired:
                self._send(signal.SIGKILL)
                self.process.wait()
            self.process = None


class ServicePart(Part):
    """A gateway or a worker."""

    def __init__(self, name: str, module: str, environment: dict[str, str], log: Path) -> None:
        super().__init__(name, [sys.executable, "-m", module], environment, log)


class RedisPart(Part):
    """A Redis, Valkey or Sentinel."""

    def __init__(self, name: str, server: RedisServer, environment: dict[str, str] | None = None) -> None:
        super().__init__(name, server.command, environment, Path("/dev/null"))
        self.server = server

    def start(self) -> None:
        """Start and wait until it answers."""
        self.server.start(self.environment)
        self.process = self.server.process


class ToldPart(Part):
    """A process that obeys lines on its standard input, and answers each with a line."""

    def __init__(self, name: str, module: str, log: Path) -> None:
        super().__init__(name, [sys.executable, "-m", module], None, log)

    def start(self) -> None:
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(
                self._command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log
            )

    def wait(self) -> None:
        process = self.process
        super().wait()
        for pipe in (process.stdin, process.stdout) if process else ():
            if pipe:
                pipe.close()

    def tell(self, *words: str | float) -> str:
        """Send one line; return the answer. Raises RuntimeError if the process has ended."""
        process = self.process
        assert process
        _send_line(process.stdin, " ".join(map(str, words)))
        answer = process.stdout.readline() if process.stdout else b""
        if not answer:
            raise RuntimeError(f"{self.name} has ended")
        return answer.decode().strip()


def _send_line(pipe: IO[bytes] | None, line: str) -> None:
    assert pipe
    pipe.write(line.encode() + b"\n")
    pipe.flush()
