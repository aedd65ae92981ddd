"""Landlock (landlock(7)): no file system, no signals or abstract sockets to other processes."""

import ctypes
import struct

CREATE_RULESET, RESTRICT_SELF = 444, 446
"""System call numbers, the same on all machines."""
VERSION_FLAG = 1
FILE_SYSTEM = {1: 13, 2: 14, 3: 15, 4: 15, 5: 16}
"""Number of file access rights in each ABI version; the last also stands for later versions."""
NETWORK_SINCE, SCOPES_SINCE = 4, 6
BIND_AND_CONNECT, SIGNALS_AND_ABSTRACT_SOCKETS = 0b11, 0b11


def version() -> int:
    """Return the kernel's ABI version, 0 without Landlock."""
    libc = ctypes.CDLL(None, use_errno=True)
    return max(0, int(libc.syscall(CREATE_RULESET, None, ctypes.c_size_t(0), VERSION_FLAG)))


def restrict() -> int:
    """Remove this thread's access to the file system and to TCP for good.

    Open files and connections stay usable. Needs no_new_privs. Returns the ABI version; 0 if the kernel has
    no Landlock and nothing is restricted.
    """
    found = version()
    if not found:
        return 0
    rights = (1 << FILE_SYSTEM[min(found, max(FILE_SYSTEM))]) - 1
    ports = BIND_AND_CONNECT if found >= NETWORK_SINCE else 0
    scopes = SIGNALS_AND_ABSTRACT_SOCKETS if found >= SCOPES_SINCE else 0
    known = 1 + (found >= NETWORK_SINCE) + (found >= SCOPES_SINCE)
    attributes = struct.pack("QQQ", rights, ports, scopes)[: 8 * known]
    libc = ctypes.CDLL(None, use_errno=True)
    ruleset = libc.syscall(CREATE_RULESET, attributes, ctypes.c_size_t(len(attributes)), 0)
    if ruleset < 0:
        return 0
    done = libc.syscall(RESTRICT_SELF, ruleset, 0) == 0
    libc.close(ruleset)
    return found if done else 0
