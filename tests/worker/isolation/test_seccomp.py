"""The filter's program, run by an interpreter, so that it is tried for every processor on any."""

import errno
import os
import re
import socket
import struct
from collections.abc import Sequence
from pathlib import Path

import pytest

from worker.isolation.allowed_calls import CLONE_THREAD, camera_calls, decoder_calls
from worker.isolation.seccomp import ALLOW, KILL, Only, Rule, assemble, refusing
from worker.isolation.system_calls import MACHINES, NUMBERS, Machine

REFUSED, MISSING = refusing(errno.EPERM), refusing(errno.ENOSYS)
HEADERS = {
    "x86_64": Path("/usr/include/x86_64-linux-gnu/asm/unistd_64.h"),
    "aarch64": Path("/usr/include/asm-generic/unistd.h"),
}


def run(program: bytes, audit: int, number: int, arguments: Sequence[int] = ()) -> int:
    """What the kernel does with a call (classic BPF, as far as filters use it here)."""
    padded = [*arguments, *[0] * (6 - len(arguments))]
    data = struct.pack("<IIQ6Q", number, audit, 0, *(value & (1 << 64) - 1 for value in padded))
    at = accumulator = 0
    while True:
        code, if_true, if_false, value = struct.unpack_from("<HBBI", program, 8 * at)
        at += 1
        match code:
            case 0x20:
                (accumulator,) = struct.unpack_from("<I", data, value)
            case 0x54:
                accumulator &= value
            case 0x15:
                at += if_true if accumulator == value else if_false
            case 0x06:
                return int(value)
            case _:
                raise AssertionError(hex(code))


def program(name: str, rules: Sequence[Rule]) -> tuple[bytes, Machine]:
    machine = MACHINES[name]
    return assemble(rules, machine), machine


def from_headers(name: str) -> dict[str, int]:
    path = HEADERS[name]
    if not path.exists():
        pytest.skip(f"{path} is not here: apt-get install linux-libc-dev")
    found = re.findall(r"^#define __NR(?:3264)?_(\w+)\s+(\d+)", path.read_text(), re.MULTILINE)
    numbers = {call: int(number) for call, number in found}
    if name == "aarch64":  # the names of 64-bit machines, which the header gives by macros
        numbers["newfstatat"] = numbers["fstatat"]
    return numbers


@pytest.mark.parametrize("name", MACHINES)
def test_numbers_are_those_of_the_kernel(name: str) -> None:
    kernel = from_headers(name)
    column = MACHINES[name].column
    for call, numbers in NUMBERS.items():
        assert numbers[column] == kernel.get(call), call


@pytest.mark.parametrize("rules", [decoder_calls(), camera_calls()], ids=["decoder", "camera"])
@pytest.mark.parametrize("name", MACHINES)
def test_only_the_calls_of_the_list_are_allowed(name: str, rules: Sequence[Rule]) -> None:
    """Whatever the arguments: every number that a kernel knows, and some that none does."""
    code, machine = program(name, rules)
    listed = {NUMBERS[rule.call][machine.column] for rule in rules}
    for number in (*range(600), 0x40000000, 0x40000000 | 1, 0xFFFFFFFF):
        found = {run(code, machine.audit, number, [value] * 6) for value in (0, 1, 2, -1, os.getpid())}
        if number == NUMBERS["clone3"][machine.column]:
            assert found == {MISSING}
        elif number not in listed:
            assert found == {REFUSED}, number
        else:
            assert found <= {ALLOW, REFUSED}


@pytest.mark.parametrize("name", MACHINES)
def test_dangerous_calls_are_in_no_list(name: str) -> None:
    kernel = from_headers(name)
    dangerous = {
        *("openat", "openat2", "execve", "execveat", "kill", "tkill", "rt_sigqueueinfo", "ptrace", "bpf"),
        *("process_vm_readv", "process_vm_writev", "io_uring_setup", "io_uring_enter", "unlinkat", "mount"),
        *("pidfd_open", "pidfd_getfd", "pidfd_send_signal", "memfd_create", "unshare", "setns", "keyctl"),
        *("userfaultfd", "perf_event_open", "linkat", "mkdirat", "fchmodat", "newfstatat", "statx", "clone3"),
        *("socket", "socketpair", "connect", "bind", "listen", "accept4", "sendmsg", "sendmmsg"),
    }
    for rules in (decoder_calls(), camera_calls()):
        code, machine = program(name, rules)
        for call in dangerous:
            assert run(code, machine.audit, kernel[call]) != ALLOW, call


@pytest.mark.parametrize("name", MACHINES)
def test_calls_of_another_machine_end_the_process(name: str) -> None:
    code, machine = program(name, decoder_calls())
    others = {0x40000003, 0xC000003E, 0xC00000B7, 0x40000028} - {machine.audit}  # i386, x86-64, arm64, arm
    assert {run(code, audit, number) for audit in others for number in range(300)} == {KILL}


@pytest.mark.parametrize("name", MACHINES)
@pytest.mark.parametrize(
    ("call", "arguments", "allowed"),
    [
        ("clone", [0x3D0F00], True),  # what pthread_create asks for
        ("clone", [0x1200011], False),  # fork
        ("clone", [0x4111], False),  # vfork
        ("clone", [0x3D0F00 | 0x10000000], False),  # a thread in a user namespace of its own
        ("clone", [CLONE_THREAD], True),
        ("tgkill", [os.getpid()], True),
        ("tgkill", [os.getppid()], False),
        ("prctl", [15], True),
        ("prctl", [4, 1], False),
        ("fcntl", [3, 1030], True),
        ("fcntl", [3, 8, 1], False),  # F_SETOWN
        ("fcntl", [3, 10, 9], False),  # F_SETSIG
        ("fcntl", [3, 4, 0x2000], False),  # F_SETFL, O_ASYNC
        ("prlimit64", [0, 7, 0, 1], True),
        ("prlimit64", [0, 7, 1 << 40, 1], False),
        ("prlimit64", [1, 7, 0, 1], False),
        ("sendto", [3, 1, 1, 0, 0, 0], True),
        ("sendto", [3, 1, 1, 0, 1 << 40, 16], False),
    ],
)
def test_arguments_decide(name: str, call: str, arguments: list[int], allowed: bool) -> None:
    code, machine = program(name, decoder_calls())
    number = NUMBERS[call][machine.column]
    assert number is not None
    assert run(code, machine.audit, number, arguments) == (ALLOW if allowed else REFUSED)


@pytest.mark.parametrize("name", MACHINES)
@pytest.mark.parametrize(
    ("level", "option", "allowed"),
    [
        (socket.SOL_SOCKET, socket.SO_REUSEADDR, True),
        (socket.IPPROTO_TCP, socket.TCP_NODELAY, True),
        (socket.SOL_SOCKET, 50, False),  # SO_ATTACH_BPF
        (socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, False),
        (socket.IPPROTO_TCP, 31, False),  # TCP_ULP
    ],
)
def test_cameras_set_two_options_of_sockets(name: str, level: int, option: int, allowed: bool) -> None:
    code, machine = program(name, camera_calls())
    number = NUMBERS["setsockopt"][machine.column]
    assert number is not None
    assert run(code, machine.audit, number, [3, level, option]) == (ALLOW if allowed else REFUSED)


def test_a_condition_looks_at_what_the_kernel_looks_at() -> None:
    """Upper halves of an int do not hide anything; those of a pointer count."""
    code, machine = program("x86_64", [Rule("shutdown", (Only(0, (5, 7)),))])
    number = NUMBERS["shutdown"][0] or 0
    assert run(code, machine.audit, number, [5]) == ALLOW
    assert run(code, machine.audit, number, [7 | 1 << 40]) == ALLOW
    assert run(code, machine.audit, number, [6]) == REFUSED
    code, machine = program("x86_64", [Rule("shutdown", (Only(0, (0,), whole=True),))])
    assert run(code, machine.audit, number, [0]) == ALLOW
    assert run(code, machine.audit, number, [1 << 40]) == REFUSED
