"""Isolates a child process for good, before it reads anything from outside."""

import contextlib
import ctypes
import os
import resource
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from shared.lifecycle.guard import die_with_parent, hide
from worker.isolation import landlock
from worker.isolation.privileges import become_nobody, lower_limit, name_process, silence
from worker.isolation.seccomp import PR_SET_NO_NEW_PRIVS, CannotFilter, Rule, install

SECCOMP = "seccomp"


def enter(name: str, calls: Sequence[Rule], limits: Mapping[int, int], *, niceness: int = 0) -> str:
    """Isolate this process for good and say how. Its open files and sockets keep working.

    From now on only the system calls in `calls` work; it has no file system, no capabilities and no output,
    no other process can inspect it, and it dies with its parent. `limits` are values of resource limits.
    Raises RuntimeError if other threads run, because they would keep what this one gives up.
    """
    parent = os.getppid()
    if sys.platform == "linux" and (threads := len(list(Path("/proc/self/task").iterdir()))) > 1:
        raise RuntimeError(f"{threads} threads run before the process is isolated")
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends Ctrl-C to the whole group
    os.chdir("/")
    silence()
    with contextlib.suppress(OSError):
        os.nice(niceness)
    for limit, value in {resource.RLIMIT_CORE: 0, resource.RLIMIT_FSIZE: 0, **limits}.items():
        lower_limit(limit, value)
    if sys.platform != "linux":
        return "limits"
    name_process(name)
    done = [become_nobody(), "limits"]
    hide()
    die_with_parent(parent)
    ctypes.CDLL(None).prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    if version := landlock.restrict():
        done.append(f"landlock {version}")
    with contextlib.suppress(CannotFilter):
        install(calls)
        done.append(SECCOMP)
    return ", ".join(filter(None, done))
