"""What a decoder process may not do, tried in processes that are isolated in the same way."""

import os
import platform
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import psutil
import pytest

ENTER = """
import os, socket, sys
from worker.media.decoder.sandbox import enter
print(enter(1 << 30, 32, 5), flush=True)
"""

needs_seccomp = pytest.mark.skipif(
    platform.machine() not in ("x86_64", "aarch64"), reason="no seccomp filter for this machine"
)


def isolated(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run code in a process that has entered the sandbox."""
    command = [sys.executable, "-c", ENTER + textwrap.dedent(code), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


@needs_seccomp
@pytest.mark.parametrize(
    "call",
    [
        "socket.socket(socket.AF_INET, socket.SOCK_STREAM)",
        "socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)",
        "socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)",
        "os.execv('/bin/true', ['true'])",
        "os.posix_spawn('/bin/true', ['true'], {})",
    ],
)
def test_no_connection_and_no_program(call: str) -> None:
    done = isolated(f"""
        try:
            {call}
        except PermissionError:
            print('refused')
    """)
    assert done.stdout.split("\n")[:2] == ["limits, seccomp", "refused"], done.stderr


@needs_seccomp
def test_connections_made_before_are_kept() -> None:
    code = "a, b = __import__('socket').socketpair()\n" + ENTER + "a.send(b'still here'); print(b.recv(10))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert "still here" in done.stdout, done.stderr


def test_memory_is_bounded() -> None:
    done = isolated("""
        try:
            bytearray(1 << 30)
        except MemoryError:
            print('refused')
    """)
    assert "refused" in done.stdout


def test_files_can_be_read_and_not_written(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("hello")
    done = isolated(
        """
        path = sys.argv[1]
        print(open(path).read())
        try:
            with open(path + '.new', 'w') as file:
                file.write('x')
        except OSError:
            print('refused')
        try:
            [open(path) for _ in range(40)]
            files = [open(path) for _ in range(40)]
        except OSError:
            print('enough')
        """,
        str(path),
    )
    assert done.stdout.split()[-3:] == ["hello", "refused", "enough"]


def test_it_is_polite_and_dies_with_its_parent(tmp_path: Path) -> None:
    """The grandchild must not outlive the child that started it, even when that one is killed."""
    code = ENTER + "print(os.getpid(), os.nice(0), flush=True); import time; time.sleep(60)"
    parent = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import subprocess, sys; subprocess.run([sys.executable, '-c', sys.argv[1]])",
            code,
        ],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert parent.stdout is not None
    parent.stdout.readline()
    pid, niceness = map(int, parent.stdout.readline().split())
    assert niceness >= min(19, os.nice(0) + 5)
    os.kill(parent.pid, signal.SIGKILL)
    parent.wait()
    parent.stdout.close()
    deadline = time.monotonic() + 20
    while psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < deadline, "it lives on"
        time.sleep(0.02)
