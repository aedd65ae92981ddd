"""Landlock by itself, without the filter of system calls in front of it."""

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from worker.isolation import landlock

pytestmark = pytest.mark.skipif(not landlock.version(), reason="this kernel has no Landlock")

RESTRICT = """
import ctypes, os, socket, sys
from worker.isolation import landlock
opened = open(sys.argv[1])
listener = socket.create_server(("127.0.0.1", 0))
ctypes.CDLL(None).prctl(38, 1, 0, 0, 0)
version = landlock.restrict()
def tried(what):
    try:
        what()
        return "done"
    except OSError as error:
        return type(error).__name__
"""


def restricted(code: str, *arguments: str) -> list[str]:
    program = RESTRICT + textwrap.dedent(code)
    command = [sys.executable, "-c", program, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    return done.stdout.split()


def test_no_file_can_be_opened_and_open_ones_stay(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("hello")
    code = """
        print(opened.read(), tried(lambda: open(sys.argv[1])), tried(lambda: os.listdir("/")))
        print(tried(lambda: os.unlink(sys.argv[1])), tried(lambda: os.mkdir(sys.argv[1] + "d")))
    """
    assert restricted(code, str(path)) == ["hello", *["PermissionError"] * 4]
    assert path.exists()


@pytest.mark.skipif(landlock.version() < landlock.NETWORK_SINCE, reason="this kernel's restricts no network")
def test_nothing_is_connected_to(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.touch()
    code = "print(tried(lambda: socket.socket().connect(listener.getsockname())))"
    assert restricted(code, str(path)) == ["PermissionError"]


@pytest.mark.skipif(landlock.version() < landlock.SCOPES_SINCE, reason="this kernel's restricts no signals")
def test_no_signal_reaches_another_process(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.touch()
    code = "print(tried(lambda: os.kill(os.getppid(), 0)), tried(lambda: os.kill(os.getpid(), 0)))"
    assert restricted(code, str(path)) == ["PermissionError", "done"]
