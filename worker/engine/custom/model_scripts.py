"""Runs the operator's scripts before a model in Python loads."""

import hashlib
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections import deque
from contextlib import suppress
from pathlib import Path

import structlog

from shared.errors import ModelError
from worker.models.locks import host_lock

log = structlog.get_logger(__name__)

LONGEST_LINE = 1000
"""Bytes of a log line; a longer line is logged in pieces."""
LAST_LINES = 20
"""Lines that an error shows."""


def install_prerequisites(implementation: Path, timeout: float) -> None:
    """Run the folder's `install_prerequisites.sh`, if there is one, in one process of the host at a time.

    Raises ModelError if it fails or takes more than `timeout` seconds.
    """
    script = (implementation / "install_prerequisites.sh").resolve()
    if not script.exists():
        return
    # Not beside the script: the folder may be read-only.
    mark = hashlib.sha256(str(script).encode()).hexdigest()[:16]
    with host_lock(Path(tempfile.gettempdir(), f"rt-embed-prerequisites-{mark}.lock")):
        run_script(["bash", str(script)], timeout, implementation)


def run_repository_script(
    script: Path, model_path: str, repository: Path, max_batch_size: int, timeout: float
) -> None:
    """Run MODEL_REPOSITORY_SCRIPT_PATH once before the model loads. Raises ModelError if it fails or takes
    more than `timeout` seconds."""
    arguments = ["--model_path", model_path, "--triton_repo_path", str(repository)]
    run_script([sys.executable, str(script), *arguments, "--max_batch_size", str(max_batch_size)], timeout)


def run_script(command: list[str], timeout: float, folder: Path | None = None) -> None:
    """Run a command and log its output line by line.

    Raises ModelError with its last lines if it fails. After `timeout` seconds the command and every process
    that it started are killed.
    """
    name = Path(command[1]).name
    log.info("script started", script=name, command=command)
    with subprocess.Popen(  # noqa: S603 - the operator's own script
        command,
        cwd=folder,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    ) as process:
        late = threading.Event()
        timer = threading.Timer(timeout, _kill, (process, late))
        timer.start()
        try:
            last = _relay(process, name)
        except BaseException:
            _kill(process, late)
            raise
        finally:
            timer.cancel()
    end = "".join(f"\n  {line}" for line in last)
    if late.is_set():
        raise ModelError(f"{command[1]} was stopped: it had not ended after {timeout:g} s. It printed:{end}")
    if process.returncode:
        raise ModelError(f"{command[1]} ended with code {process.returncode}. It printed:{end}")
    log.info("script ended", script=name)


def _relay(process: subprocess.Popen[bytes], name: str) -> list[str]:
    """Log the script's output until it ends; return the last lines."""
    last: deque[str] = deque(maxlen=LAST_LINES)
    assert process.stdout  # noqa: S101 - stdout is a pipe
    while data := process.stdout.readline(LONGEST_LINE):
        line = data.decode(errors="replace").rstrip()
        if line:
            log.info("script", script=name, line=line)
            last.append(line)
    process.wait()
    return list(last)


def _kill(process: subprocess.Popen[bytes], late: threading.Event) -> None:
    late.set()
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
