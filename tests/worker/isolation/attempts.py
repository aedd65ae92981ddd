"""Attempts to leave the sandbox, made from inside, as somebody would who has taken a child process over.

    python -m tests.worker.isolation.attempts decoder|camera USER

A parent that has something to hide becomes USER and forks a child, which enters the sandbox and then makes
system calls, past every library. For each it prints the error number, 0 where the call succeeded.
"""

import ctypes
import json
import os
import platform
import resource
import socket
import struct
import sys
from collections.abc import Iterator

from shared.lifecycle.guard import hide
from worker.isolation.allowed_calls import camera_calls, decoder_calls
from worker.isolation.sandbox import enter

COLUMN = 1 if platform.machine() == "aarch64" else 0
NUMBERS = {
    "accept4": (288, 242),
    "add_key": (248, 217),
    "bind": (49, 200),
    "bpf": (321, 280),
    "chroot": (161, 51),
    "clone": (56, 220),
    "clone3": (435, 435),
    "connect": (42, 203),
    "dup3": (292, 24),
    "execve": (59, 221),
    "execveat": (322, 281),
    "faccessat": (269, 48),
    "fchmod": (91, 52),
    "fchmodat": (268, 53),
    "fchownat": (260, 54),
    "fcntl": (72, 25),
    "ftruncate": (77, 46),
    "getdents64": (217, 61),
    "getppid": (110, 173),
    "io_uring_setup": (425, 425),
    "ioctl": (16, 29),
    "ioprio_set": (251, 30),
    "kcmp": (312, 272),
    "keyctl": (250, 219),
    "kill": (62, 129),
    "linkat": (265, 37),
    "listen": (50, 201),
    "memfd_create": (319, 279),
    "mkdirat": (258, 34),
    "mknodat": (259, 33),
    "mount": (165, 40),
    "mq_open": (240, 180),
    "name_to_handle_at": (303, 264),
    "newfstatat": (262, 79),
    "open_by_handle_at": (304, 265),
    "openat": (257, 56),
    "openat2": (437, 437),
    "perf_event_open": (298, 241),
    "personality": (135, 92),
    "pidfd_getfd": (438, 438),
    "pidfd_open": (434, 434),
    "pidfd_send_signal": (424, 424),
    "pivot_root": (155, 41),
    "prctl": (157, 167),
    "prlimit64": (302, 261),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "ptrace": (101, 117),
    "readlinkat": (267, 78),
    "renameat2": (316, 276),
    "rt_sigqueueinfo": (129, 138),
    "rt_tgsigqueueinfo": (297, 240),
    "sched_setaffinity": (203, 122),
    "seccomp": (317, 277),
    "sendmmsg": (307, 269),
    "sendmsg": (46, 211),
    "sendto": (44, 206),
    "setns": (308, 268),
    "setpriority": (141, 140),
    "setrlimit": (160, 164),
    "setsockopt": (54, 208),
    "setuid": (105, 146),
    "shmget": (29, 194),
    "socket": (41, 198),
    "socketpair": (53, 199),
    "statx": (332, 291),
    "symlinkat": (266, 36),
    "tgkill": (234, 131),
    "tkill": (200, 130),
    "truncate": (76, 45),
    "umount2": (166, 39),
    "unlinkat": (263, 35),
    "unshare": (272, 97),
    "userfaultfd": (323, 282),
    "utimensat": (280, 88),
}
AT_FDCWD, AT_EMPTY_PATH = -100, 0x1000
FORK, VFORK, NEW_USER = 17, 0x4000 | 0x100 | 17, 0x10000000
THREAD = 0x10000 | 0x800 | 0x100
F_SETFL, F_SETOWN, F_SETSIG, F_SETOWN_EX, F_ADD_SEALS = 4, 8, 10, 15, 1033
PTRACE_ATTACH, PTRACE_SEIZE = 16, 0x4206
PR_SET_DUMPABLE, PR_SET_PDEATHSIG, PR_SET_PTRACER = 4, 1, 0x59616D61
TIOCSTI, FIOSETOWN, FIOASYNC = 0x5412, 0x8901, 0x5452
AF_PACKET, AF_VSOCK = 17, 40
FILE, NEW, LINK = b"/tmp/rt-embed-attempt", b"/tmp/rt-embed-new", b"/proc/self/exe"

Attempt = tuple[str, tuple[object, ...]]


def of_the_parent(parent: int, ours: int, end: int) -> dict[str, Attempt]:
    """Reading, writing and tracing the parent."""
    environ, memory_of = f"/proc/{parent}/environ".encode(), f"/proc/{parent}/mem".encode()
    buffer = ctypes.create_string_buffer(4096)
    return {
        "read the parent's environment": ("openat", (AT_FDCWD, environ, os.O_RDONLY)),
        "write the parent's memory": ("openat", (AT_FDCWD, memory_of, os.O_RDWR)),
        "read the parent's memory by process_vm": ("process_vm_readv", (parent, buffer, 1, buffer, 1, 0)),
        "write the parent's memory by process_vm": ("process_vm_writev", (parent, buffer, 1, buffer, 1, 0)),
        "trace the parent": ("ptrace", (PTRACE_ATTACH, parent, 0, 0)),
        "seize the parent": ("ptrace", (PTRACE_SEIZE, parent, 0, 0)),
        "compare with the parent": ("kcmp", (ours, parent, 0, 0, 0)),
        "take the parent's descriptors": ("pidfd_open", (parent, 0)),
        "take a descriptor": ("pidfd_getfd", (end, 0, 0)),
    }


def of_signals(parent: int, end: int) -> dict[str, Attempt]:
    """Signals to others, by every way that the kernel has."""
    buffer = ctypes.create_string_buffer(4096)
    return {
        "kill the parent": ("kill", (parent, 0)),
        "stop the parent": ("kill", (parent, 19)),
        "kill everyone": ("kill", (-1, 0)),
        "kill a thread of the parent": ("tgkill", (parent, parent, 0)),
        "kill a thread": ("tkill", (parent, 0)),
        "queue a signal": ("rt_sigqueueinfo", (parent, 0, buffer)),
        "queue a signal to a thread": ("rt_tgsigqueueinfo", (parent, parent, 0, buffer)),
        "signal by pidfd": ("pidfd_send_signal", (end, 9, 0, 0)),
        "have the kernel signal (owner)": ("fcntl", (end, F_SETOWN, parent)),
        "have the kernel signal (owner by struct)": ("fcntl", (end, F_SETOWN_EX, buffer)),
        "have the kernel signal (which)": ("fcntl", (end, F_SETSIG, 9)),
        "have the kernel signal (asynchronous)": ("fcntl", (end, F_SETFL, os.O_ASYNC)),
        "have the kernel signal (ioctl)": ("ioctl", (end, FIOSETOWN, buffer)),
        "signal when the parent ends": ("prctl", (PR_SET_PDEATHSIG, 9, 0, 0, 0)),
    }


def of_processes(end: int) -> dict[str, Attempt]:
    """Processes, programs, namespaces and users."""
    buffer = ctypes.create_string_buffer(4096)
    return {
        "fork": ("clone", (FORK, 0, 0, 0, 0)),
        "vfork": ("clone", (VFORK, 0, 0, 0, 0)),
        "fork by clone3": ("clone3", (buffer, 88)),
        "a thread in another namespace": ("clone", (THREAD | NEW_USER, 0, 0, 0, 0)),
        "start a program": ("execve", (b"/bin/true", None, None)),
        "start a program by descriptor": ("execveat", (AT_FDCWD, b"/bin/true", None, None, 0)),
        "a program in memory": ("memfd_create", (b"x", 0)),
        "another user": ("setuid", (0,)),
        "a namespace": ("unshare", (NEW_USER,)),
        "a namespace of another": ("setns", (end, 0)),
        "a new root": ("chroot", (b"/",)),
        "another root": ("pivot_root", (b"/", b"/")),
        "another execution domain": ("personality", (0xFFFFFFFF,)),
        "another filter": ("seccomp", (1, 0, buffer)),
        "be looked into": ("prctl", (PR_SET_DUMPABLE, 1, 0, 0, 0)),
        "be traced by any": ("prctl", (PR_SET_PTRACER, -1, 0, 0, 0)),
    }


def of_files(memory: int, end: int) -> dict[str, Attempt]:
    """Files, by name and by descriptor."""
    buffer = ctypes.create_string_buffer(4096)
    return {
        "read a file": ("openat", (AT_FDCWD, b"/etc/passwd", os.O_RDONLY)),
        "read a file by openat2": ("openat2", (AT_FDCWD, b"/etc/passwd", buffer, 24)),
        "make a file": ("openat", (AT_FDCWD, NEW, os.O_CREAT | os.O_WRONLY, 0o600)),
        "a file without a name": ("openat", (AT_FDCWD, b"/tmp", os.O_TMPFILE | os.O_RDWR, 0o600)),
        "remove a file": ("unlinkat", (AT_FDCWD, FILE, 0)),
        "move a file": ("renameat2", (AT_FDCWD, FILE, AT_FDCWD, NEW, 0)),
        "link a file": ("linkat", (AT_FDCWD, FILE, AT_FDCWD, NEW, 0)),
        "link to a file": ("symlinkat", (FILE, AT_FDCWD, NEW)),
        "make a folder": ("mkdirat", (AT_FDCWD, NEW, 0o700)),
        "make a device": ("mknodat", (AT_FDCWD, NEW, 0o10600, 0)),
        "cut a file": ("truncate", (FILE, 0)),
        "cut the shared memory": ("ftruncate", (memory, 0)),
        "seal the shared memory": ("fcntl", (memory, F_ADD_SEALS, 4)),
        "rights of a file": ("fchmodat", (AT_FDCWD, FILE, 0o777)),
        "rights of an open file": ("fchmod", (memory, 0o777)),
        "owner of a file": ("fchownat", (AT_FDCWD, FILE, 0, 0, 0)),
        "times of a file": ("utimensat", (AT_FDCWD, FILE, None, 0)),
        "look for a file": ("faccessat", (AT_FDCWD, b"/etc/passwd", 0)),
        "look at a file": ("newfstatat", (AT_FDCWD, b"/etc/passwd", buffer, 0)),
        "look at a file as at an open one": (
            "newfstatat",
            (AT_FDCWD, b"/etc/passwd", buffer, AT_EMPTY_PATH),
        ),
        "look at a file by statx": ("statx", (AT_FDCWD, b"/etc/passwd", 0, 0xFFF, buffer)),
        "read a link": ("readlinkat", (AT_FDCWD, LINK, buffer, 4096)),
        "list a folder": ("getdents64", (end, buffer, 4096)),
        "a handle of a file": ("name_to_handle_at", (AT_FDCWD, b"/etc/passwd", buffer, buffer, 0)),
        "a file by handle": ("open_by_handle_at", (AT_FDCWD, buffer, 0)),
        "mount": ("mount", (b"x", b"/tmp", b"tmpfs", 0, 0)),
        "unmount": ("umount2", (b"/tmp", 0)),
    }


def of_the_kernel(end: int) -> dict[str, Attempt]:
    """The kernel's other doors."""
    buffer = ctypes.create_string_buffer(4096)
    return {
        "io_uring": ("io_uring_setup", (8, buffer)),
        "bpf": ("bpf", (5, buffer, 128)),
        "performance counters": ("perf_event_open", (buffer, 0, -1, -1, 0)),
        "page faults": ("userfaultfd", (1,)),
        "keys": ("add_key", (b"user", b"x", b"y", 1, -3)),
        "key rings": ("keyctl", (0, -3, 0)),
        "shared memory of System V": ("shmget", (0, 4096, 0o1600)),
        "message queues": ("mq_open", (b"x", os.O_CREAT | os.O_RDWR, 0o600, 0)),
        "type into a terminal": ("ioctl", (end, TIOCSTI, buffer)),
    }


def of_shares(parent: int) -> dict[str, Attempt]:
    """Others' share of the machine."""
    buffer = ctypes.create_string_buffer(4096)
    return {
        "the parent's limits": ("prlimit64", (parent, 7, buffer, 0)),
        "the parent's limits, read": ("prlimit64", (parent, 7, 0, buffer)),
        "our limits": ("prlimit64", (0, 7, buffer, 0)),
        "our limits by setrlimit": ("setrlimit", (7, buffer)),
        "the parent's cores": ("sched_setaffinity", (parent, 8, buffer)),
        "the parent's priority": ("setpriority", (0, parent, 19)),
        "the parent's input and output": ("ioprio_set", (1, parent, 0)),
    }


def of_sockets(end: int) -> dict[str, Attempt]:
    """Sockets."""
    destination = struct.pack("HH4s8x", socket.AF_INET, 0x5000, bytes([127, 0, 0, 1]))
    membership = bytes([239, 1, 2, 3, 0, 0, 0, 0])
    return {
        "a TCP socket": ("socket", (socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_CLOEXEC, 0)),
        "a UDP socket": ("socket", (socket.AF_INET6, socket.SOCK_DGRAM, 0)),
        "a pair of sockets": ("socketpair", (socket.AF_UNIX, socket.SOCK_STREAM, 0, destination)),
        "connect": ("connect", (end, destination, 16)),
        "bind": ("bind", (end, destination, 16)),
        "join a group": ("setsockopt", (end, socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, membership, 8)),
        "send to an address": ("sendto", (end, b"x", 1, 0, destination, 16)),
        "send a message": ("sendmsg", (end, ctypes.create_string_buffer(56), 0)),
        "send messages": ("sendmmsg", (end, ctypes.create_string_buffer(64), 1, 0)),
        "a Unix socket": ("socket", (socket.AF_UNIX, socket.SOCK_STREAM, 0)),
        "a netlink socket": ("socket", (socket.AF_NETLINK, socket.SOCK_RAW, 0)),
        "a raw socket": ("socket", (socket.AF_INET, socket.SOCK_RAW, 1)),
        "a packet socket": ("socket", (AF_PACKET, socket.SOCK_RAW, 0)),
        "a socket to the host": ("socket", (AF_VSOCK, socket.SOCK_STREAM, 0)),
        "listen": ("listen", (end, 1)),
        "accept": ("accept4", (end, 0, 0, 0)),
    }


def calls(parent: int, ours: int, memory: int, end: int) -> Iterator[tuple[str, Attempt]]:
    """System calls by what they would do. `memory` and `end` are open: shared memory and a socket."""
    for attempts in (
        of_the_parent(parent, ours, end),
        of_signals(parent, end),
        of_processes(end),
        of_files(memory, end),
        of_the_kernel(end),
        of_shares(parent),
        of_sockets(end),
    ):
        yield from attempts.items()


def sandboxed(kind: str) -> str:
    """Enter the sandbox of a decoder or camera process."""
    own = decoder_calls() if kind == "decoder" else camera_calls()
    limits = {resource.RLIMIT_AS: 1 << 30, resource.RLIMIT_NOFILE: 32}
    return enter("rt-embed-test", own, limits, niceness=5)


def attempt(kind: str, said: int) -> None:
    """Make every attempt, and write what came of it to `said`."""
    parent = os.getppid()
    end, other = socket.socketpair()
    memory = os.memfd_create("rt-embed-test", os.MFD_ALLOW_SEALING)
    libc = ctypes.CDLL(None, use_errno=True)
    found: dict[str, object] = {"isolation": sandboxed(kind)}
    for name, (number, arguments) in calls(parent, os.getpid(), memory, end.fileno()):
        wide = [ctypes.c_long(a) if isinstance(a, int) else a for a in arguments]
        ctypes.set_errno(0)
        result = libc.syscall(NUMBERS[number][COLUMN], *wide)
        found[name] = ctypes.get_errno() if result < 0 else 0
    other.send(b"still connected")
    found["what was open"] = end.recv(20).decode()
    os.write(said, json.dumps(found).encode())


def main() -> None:
    """Become the user, hide, fork, and end as the child does."""
    kind, user = sys.argv[1], int(sys.argv[2])
    said = os.dup(1)
    if user:
        os.setgroups([])
        os.setresgid(user, user, user)
        os.setresuid(user, user, user)
    hide()
    child = os.fork()
    if child == 0:
        try:
            attempt(kind, said)
        except BaseException as error:  # standard error leads nowhere by now
            os.write(said, repr(error).encode())
        os._exit(0)
    _, status = os.waitpid(child, 0)
    sys.exit(os.waitstatus_to_exitcode(status))


if __name__ == "__main__":
    main()
