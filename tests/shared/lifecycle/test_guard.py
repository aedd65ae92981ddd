"""What a process asks of Linux: not to be looked into, and to end with its parent."""

import os
import subprocess
import sys
import textwrap

import pytest

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become others")


def said(code: str) -> str:
    command = [sys.executable, "-c", textwrap.dedent(code)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout


LOOKS = """
import os, sys
from shared.lifecycle.guard import hide
os.setgroups([]); os.setresgid(1234, 1234, 1234); os.setresuid(1234, 1234, 1234)
import ctypes
ctypes.CDLL(None).prctl(4, 1, 0, 0, 0)  # as after the start of a program
if HIDDEN:
    hide()
parent = os.getpid()
if os.fork() == 0:
    ctypes.CDLL(None).prctl(4, 1, 0, 0, 0)
    for path, mode in (("environ", "rb"), ("mem", "r+b"), ("maps", "rb")):
        try:
            with open(f"/proc/{parent}/{path}", mode) as file:
                file.read(0 if path == "mem" else 4096)
            print("open", flush=True)
        except PermissionError:
            print("closed", flush=True)
    os._exit(0)
os.wait()
"""


@as_root
def test_a_hidden_process_cannot_be_looked_into_by_its_own_user() -> None:
    assert said(LOOKS.replace("HIDDEN", "False")).split() == ["open"] * 3
    assert said(LOOKS.replace("HIDDEN", "True")).split() == ["closed"] * 3


@as_root
def test_a_hidden_process_can_look_at_itself() -> None:
    """What libraries read of it: its memory map, its open files, its program."""
    code = """
        import os
        from shared.lifecycle.guard import hide
        os.setgroups([]); os.setresgid(1234, 1234, 1234); os.setresuid(1234, 1234, 1234)
        hide()
        print(bool(open("/proc/self/maps").read()), "0" in os.listdir("/proc/self/fd"),
              bool(os.readlink("/proc/self/exe")), "VmRSS" in open("/proc/self/status").read())
    """
    assert said(code).split() == ["True"] * 4


def test_a_parent_that_has_ended_ends_the_child() -> None:
    code = """
        import os
        from shared.lifecycle.guard import die_with_parent
        die_with_parent(os.getppid() + 1)
        print("lives")
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout) == (1, b"")
