"""A seccomp filter that allows the system calls of a list, and no others (seccomp(2))."""

import ctypes
import errno
import os
import struct
from collections.abc import Iterable
from typing import NamedTuple

from worker.isolation.system_calls import NUMBERS, Machine, this_machine

PR_SET_NO_NEW_PRIVS = 38
SYS_SECCOMP = {0xC000003E: 317, 0xC00000B7: 277}
SET_MODE_FILTER, FLAG_TSYNC = 1, 1
ALLOW, KILL = 0x7FFF0000, 0x80000000
LOAD, AND, JUMP_EQUAL, RETURN = 0x20, 0x54, 0x15, 0x06
NUMBER_AT, AUDIT_AT, ARGUMENTS_AT = 0, 4, 16
"""Offsets in struct seccomp_data. Both machines are little-endian: an argument's lower half comes first."""


class Only(NamedTuple):
    """A condition on an argument of a call: its lower 32 bits, masked with `mask`, are in `values`. `whole`:
    its upper 32 bits must be 0 as well."""

    argument: int
    values: tuple[int, ...]
    mask: int = 0xFFFFFFFF
    whole: bool = False


class Rule(NamedTuple):
    """A call that is allowed if every condition holds; otherwise it fails with EPERM."""

    call: str
    conditions: tuple[Only, ...] = ()


def refusing(number: int) -> int:
    """Return the filter action that makes a call fail with an error number."""
    return 0x00050000 | number


class CannotFilter(Exception):
    """The kernel, or the container runtime, allows no filter."""


def install(rules: Iterable[Rule]) -> None:
    """Restrict this process, with all threads, to the calls of `rules` for good. Raises CannotFilter."""
    machine = this_machine()
    if machine is None:
        raise CannotFilter("no table of system calls for this processor")
    _load(assemble(rules, machine), machine)


def leave_out(call: str) -> None:
    """Make a call fail from now on as on a kernel without it. Raises CannotFilter."""
    machine = this_machine()
    if machine is None:
        raise CannotFilter("no table of system calls for this processor")
    code = [*_of_machine(machine), *_returning(NUMBERS[call][machine.column], refusing(errno.ENOSYS))]
    _load(b"".join([*code, _op(RETURN, ALLOW)]), machine)


def _load(program: bytes, machine: Machine) -> None:
    code = ctypes.create_string_buffer(program, len(program))
    header = ctypes.create_string_buffer(struct.pack("HxxxxxxP", len(program) // 8, ctypes.addressof(code)))
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    pointer = ctypes.c_void_p(ctypes.addressof(header))
    if libc.syscall(SYS_SECCOMP[machine.audit], SET_MODE_FILTER, FLAG_TSYNC, pointer) != 0:
        raise CannotFilter(os.strerror(ctypes.get_errno()))


def assemble(rules: Iterable[Rule], machine: Machine) -> bytes:
    """Return the BPF program for a machine. A call in another machine's ABI kills the process.

    clone3 fails with ENOSYS: its flags are in memory, where no filter sees them, and libraries then fall back
    to clone.
    """
    code = [
        *_of_machine(machine),
        *_returning(NUMBERS["clone3"][machine.column], refusing(errno.ENOSYS)),
    ]
    for rule in rules:
        number = NUMBERS[rule.call][machine.column]
        if number is None:
            continue
        block = [op for condition in rule.conditions for op in _check(condition)]
        code += [_op(JUMP_EQUAL, number, 0, len(block) + 1), *block, _op(RETURN, ALLOW)]
    return b"".join([*code, _op(RETURN, refusing(errno.EPERM))])


def _of_machine(machine: Machine) -> list[bytes]:
    """Kill a process that makes a call in another machine's ABI; load the call's number."""
    return [
        _op(LOAD, AUDIT_AT),
        _op(JUMP_EQUAL, machine.audit, 1, 0),
        _op(RETURN, KILL),
        _op(LOAD, NUMBER_AT),
    ]


def _returning(number: int | None, value: int) -> list[bytes]:
    return [] if number is None else [_op(JUMP_EQUAL, number, 0, 1), _op(RETURN, value)]


def _check(condition: Only) -> list[bytes]:
    """Return instructions that continue if the condition holds, and else refuse the call."""
    at = ARGUMENTS_AT + 8 * condition.argument
    code = []
    if condition.whole:
        code += [_op(LOAD, at + 4), _op(JUMP_EQUAL, 0, 1, 0), _op(RETURN, refusing(errno.EPERM))]
    code += [_op(LOAD, at), _op(AND, condition.mask)]
    for left, value in reversed(list(enumerate(reversed(condition.values)))):
        code.append(_op(JUMP_EQUAL, value & 0xFFFFFFFF, left + 1, 0))
    return [*code, _op(RETURN, refusing(errno.EPERM))]


def _op(code: int, value: int, if_true: int = 0, if_false: int = 0) -> bytes:
    return struct.pack("HBBI", code, if_true, if_false, value)
