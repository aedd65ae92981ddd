"""Drops what a child process does not need: its user, its capabilities, its output."""

import contextlib
import ctypes
import os
import resource
import struct
from pathlib import Path

PR_SET_NAME = 15
CAPABILITY_VERSION = 0x20080522
NOBODY = 65534
CAP_KILL, CAP_SETGID, CAP_SETUID = 5, 6, 7
TO_CHANGE_USER = 1 << CAP_KILL | 1 << CAP_SETGID | 1 << CAP_SETUID
"""What a root process needs to become another user; its parent has the same and can still kill it."""


def name_process(name: str) -> None:
    """Set the name of this process in `ps` and `top`; at most 15 bytes."""
    ctypes.CDLL(None).prctl(PR_SET_NAME, name.encode()[:15], 0, 0, 0)


def silence() -> None:
    """Redirect standard output and error to /dev/null: nothing that the process prints can look like a line
    of the worker's log, or reach its terminal."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for descriptor in (1, 2):
        os.dup2(nowhere, descriptor)
    os.close(nowhere)


def become_nobody() -> str:
    """Drop root, if possible, and every capability; return what was dropped."""
    done = []
    if os.geteuid() == 0 and _effective() & TO_CHANGE_USER == TO_CHANGE_USER:
        with contextlib.suppress(OSError):  # no such user in a small user namespace
            os.setgroups([])
            os.setresgid(NOBODY, NOBODY, NOBODY)
            os.setresuid(NOBODY, NOBODY, NOBODY)
            done.append("user nobody")
    header = ctypes.create_string_buffer(struct.pack("Ii", CAPABILITY_VERSION, 0))
    nothing = ctypes.create_string_buffer(bytes(24))
    if ctypes.CDLL(None, use_errno=True).capset(header, nothing) == 0:
        done.append("no capabilities")
    return ", ".join(done)


def _effective() -> int:
    """Return this process' effective capabilities."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("CapEff:"):
            return int(line.split()[1], 16)
    return 0


def lower_limit(limit: int, value: int) -> None:
    """Lower a resource limit to `value`; leave a lower one."""
    _, hard = resource.getrlimit(limit)
    ceiling = value if hard == resource.RLIM_INFINITY else min(value, hard)
    resource.setrlimit(limit, (ceiling, ceiling))
