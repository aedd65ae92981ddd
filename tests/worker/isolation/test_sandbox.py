"""What a child process may not do any more, tried from inside, as root and as an unprivileged user."""

import errno
import json
import os
import platform
import resource
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import psutil
import pytest

from tests.worker.isolation.attempts import calls
from worker.isolation import landlock
from worker.isolation.system_calls import this_machine

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or this_machine() is None, reason="no seccomp filter for this machine"
)

ENTER = """
import ctypes, mmap, os, resource, socket, sys, threading, time
from tests.worker.isolation.attempts import sandboxed
said = os.dup(1)
def say(*words):
    os.write(said, (" ".join(map(str, words)) + "\\n").encode())
say(sandboxed("decoder"))
"""
ATTEMPTS = [name for name, _ in calls(0, 0, 0, 0)]
USERS = [0, 1234] if os.geteuid() == 0 else [0]


def isolated(code: str, *arguments: str, before: str = "") -> subprocess.CompletedProcess[str]:
    """Run code in a process that has entered the sandbox."""
    command = [sys.executable, "-c", before + ENTER + textwrap.dedent(code), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize(
    "user", USERS, ids=["root" if os.geteuid() == 0 else "this user", "user 1234"][: len(USERS)]
)
@pytest.mark.parametrize("kind", ["decoder", "camera"])
def test_no_attempt_to_leave_the_sandbox_succeeds(kind: str, user: int) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.worker.isolation.attempts", kind, str(user)],
        capture_output=True, text=True, timeout=60, check=True,
        env={**os.environ, "AWS_SECRET_ACCESS_KEY": "the parent's"},
    )  # fmt: skip
    found = json.loads(done.stdout)
    assert {"no capabilities", "limits", "seccomp"} <= set(found["isolation"].split(", "))
    assert found["what was open"] == "still connected"
    refused = {name for name in ATTEMPTS if found[name] in (errno.EPERM, errno.ENOSYS)}
    assert set(ATTEMPTS) == refused


def test_the_isolation_is_told() -> None:
    told = isolated("").stdout.strip().split(", ")
    assert "limits" in told
    assert told[-1] == "seccomp"
    assert ("user nobody" in told) == (os.geteuid() == 0)
    assert any(part.startswith("landlock") for part in told) == (landlock.version() > 0)


@pytest.mark.skipif(platform.machine() != "x86_64", reason="the old way into the kernel is x86's")
def test_another_way_into_the_kernel_ends_the_process() -> None:
    """`int 0x80` has other numbers for the same calls: 20 is getpid there, and writev to the filter."""
    done = isolated("""
        code = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
        code.write(b"\\xb8\\x14\\x00\\x00\\x00\\xcd\\x80\\xc3")
        say(ctypes.CFUNCTYPE(ctypes.c_long)(ctypes.addressof(ctypes.c_char.from_buffer(code)))())
    """)
    assert done.returncode in (-signal.SIGSYS, -signal.SIGSEGV)  # SIGSEGV: the kernel has no such way
    assert len(done.stdout.splitlines()) == 1


@pytest.mark.skipif(platform.machine() != "x86_64", reason="x32 is x86's")
def test_the_numbers_of_x32_are_no_way_round() -> None:
    done = isolated("""
        libc = ctypes.CDLL(None, use_errno=True)
        say(libc.syscall(ctypes.c_long(0x40000000 | 39)), ctypes.get_errno())  # getpid
    """)
    assert done.stdout.split()[-2:] == ["-1", str(errno.EPERM)]


def test_what_a_child_process_needs_goes_on_working() -> None:
    """Threads, memory, time, open files and sockets."""
    before = "opened = __import__('os').open(__import__('os').__file__, 0)\n"
    done = isolated(
        """
        data = bytearray(64 << 20)
        threads = [threading.Thread(target=time.sleep, args=(0.01,)) for _ in range(8)]
        [t.start() for t in threads], [t.join() for t in threads]
        mmap.mmap(-1, 1 << 20).close()
        limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        say(len(os.pread(opened, 4, 0)), limit, threading.active_count())
        """,
        before=before,
    )
    assert done.stdout.split()[-3:] == ["4", "32", "1"], done.stdout


def test_memory_is_bounded() -> None:
    done = isolated("""
        try:
            bytearray(1 << 30)
        except MemoryError:
            say('refused')
    """)
    assert done.stdout.endswith("refused\n")


def test_nothing_is_printed_any_more() -> None:
    done = isolated("""
        print("a line of somebody's log", flush=True)
        print("a line of somebody's log", file=sys.stderr, flush=True)
        say("end")
    """)
    assert done.stdout.splitlines()[1:] == ["end"]
    assert done.stderr == ""


def test_threads_that_run_already_prevent_it() -> None:
    before = "import threading, time\nthreading.Thread(target=time.sleep, args=(5,), daemon=True).start()\n"
    done = isolated("", before=before)
    assert done.returncode == 1
    assert "2 threads run before the process is isolated" in done.stderr


def test_it_is_polite_and_dies_with_its_parent_even_when_stopped() -> None:
    """The grandchild must not outlive the child that started it, whatever either is doing."""
    code = ENTER + "say(os.getpid()); __import__('time').sleep(60)"
    starter = "import subprocess, sys; subprocess.run([sys.executable, '-c', sys.argv[1]])"
    parent = subprocess.Popen([sys.executable, "-c", starter, code], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    parent.stdout.readline()
    pid = int(parent.stdout.readline())
    assert psutil.Process(pid).nice() >= min(19, os.nice(0) + 5)
    os.kill(pid, signal.SIGSTOP)
    parent.send_signal(signal.SIGSTOP)
    os.kill(parent.pid, signal.SIGKILL)
    parent.wait()
    parent.stdout.close()
    deadline = time.monotonic() + 20
    while psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < deadline, "it lives on"
        time.sleep(0.02)


def test_limits_are_never_raised() -> None:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    done = isolated("say(*resource.getrlimit(resource.RLIMIT_NOFILE))")
    assert done.stdout.split()[-2:] == [str(min(32, hard))] * 2
    assert Path("/proc/self/limits").exists()
