"""The system calls that child processes need after their set-up, and no others.

A call is listed because a library makes it: Python, glibc, FFmpeg, libuv. None opens a file, starts a
program, creates a process, or names another process.
"""

import os
import socket

from worker.isolation.seccomp import Only, Rule

F_DUPFD, F_GETFD, F_SETFD, F_GETFL, F_DUPFD_CLOEXEC = 0, 1, 2, 3, 1030
FIONBIO = 0x5421
PR_SET_NAME = 15
CLONE_THREAD = 0x0001_0000
CLONE_NEW = 0x7E02_0080
"""Namespaces: mount, cgroup, UTS, IPC, user, PID, network, time."""


def _threads() -> tuple[Rule, ...]:
    """Return what every Python program calls: threads, memory, time, and the process' own signals."""
    plain = (
        *("futex", "sched_yield", "clock_gettime", "clock_nanosleep", "nanosleep", "gettimeofday", "time"),
        *("mmap", "munmap", "mprotect", "mremap", "madvise", "brk"),
        *("rt_sigprocmask", "rt_sigaction", "rt_sigreturn", "sigaltstack", "restart_syscall"),
        *("set_robust_list", "rseq", "sched_getaffinity", "getcpu", "gettid", "getpid", "getrandom"),
        *("exit", "exit_group", "clock_getres", "getrusage", "sysinfo"),
    )
    return (
        *map(Rule, plain),
        Rule("clone", (Only(0, (CLONE_THREAD,), mask=CLONE_THREAD | CLONE_NEW),)),
        Rule("tgkill", (Only(0, (os.getpid(),)),)),
        Rule("prctl", (Only(0, (PR_SET_NAME,)),)),
        Rule("prlimit64", (Only(0, (0, os.getpid())), Only(2, (0,), whole=True))),
        # Not F_SETOWN and F_SETSIG: they have the kernel send signals to other processes.
        Rule("fcntl", (Only(1, (F_DUPFD, F_GETFD, F_SETFD, F_GETFL, F_DUPFD_CLOEXEC)),)),
    )


def _streams() -> tuple[Rule, ...]:
    """Return calls that read open files and use connected sockets, without naming a destination."""
    return (
        *map(Rule, ("read", "pread64", "write", "writev", "close", "fstat", "poll", "ppoll")),
        *map(Rule, ("recvfrom", "recvmsg")),
        Rule("sendto", (Only(4, (0,), whole=True),)),
    )


def decoder_calls() -> tuple[Rule, ...]:
    """Return the calls that a decoder process needs."""
    return _streams() + _threads()


def camera_calls() -> tuple[Rule, ...]:
    """Return the calls that a camera process needs: those of a decoder, and waiting for sockets. None
    creates or connects a socket."""
    plain = ("recvmmsg", "shutdown", "getsockopt", "getsockname", "getpeername")
    return (
        *map(Rule, (*plain, "epoll_wait", "epoll_pwait", "epoll_ctl")),
        Rule(
            "setsockopt",
            (
                Only(1, (socket.SOL_SOCKET, socket.IPPROTO_TCP)),
                Only(2, (socket.SO_REUSEADDR, socket.TCP_NODELAY)),
            ),
        ),
        Rule("ioctl", (Only(1, (FIONBIO,)),)),
        *_streams(),
        *_threads(),
    )
