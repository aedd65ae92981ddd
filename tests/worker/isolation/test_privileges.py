"""What a process gives up, one by one."""

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become others")


def said(code: str) -> str:
    command = [sys.executable, "-c", textwrap.dedent(code)]
    environment = {**os.environ, "SECRET": "hunter2"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True, env=environment)
    return done.stdout


BECOME = """
    import json, os
    from worker.isolation.privileges import become_nobody
    done = become_nobody()
    lines = open("/proc/self/status").read().splitlines()
    status = dict(line.split(":\\t", 1) for line in lines if ":\\t" in line)
    print(json.dumps([done, status["Uid"].split(), status["Gid"].split(), status["Groups"].split(),
                      [int(status[name], 16) for name in ("CapInh", "CapPrm", "CapEff", "CapAmb")]]))
"""


@as_root
def test_root_becomes_nobody_without_capabilities() -> None:
    assert json.loads(said(BECOME)) == [
        "user nobody, no capabilities", ["65534"] * 4, ["65534"] * 4, [], [0] * 4
    ]  # fmt: skip


def test_others_keep_their_user_and_no_capabilities() -> None:
    change = "import os; os.setgroups([]); os.setresgid(1234, 1234, 1234); os.setresuid(1234, 1234, 1234)"
    code = BECOME.replace("done =", "exec(os.environ['CHANGE'])\n    done =") if os.geteuid() == 0 else BECOME
    os.environ["CHANGE"] = change
    try:
        done, uids, *_, capabilities = json.loads(said(code))
    finally:
        del os.environ["CHANGE"]
    assert done == "no capabilities"
    assert uids == [str(1234 if os.geteuid() == 0 else os.geteuid())] * 4
    assert capabilities == [0] * 4


@as_root
def test_root_that_could_not_end_nobody_stays_root() -> None:
    """Without CAP_KILL a worker could not end its decoders if they were somebody else."""
    without_kill = """
    import ctypes, struct
    from worker.isolation.privileges import _effective
    low, high = _effective() & 0xFFFFFFFF & ~(1 << 5), _effective() >> 32
    header, data = struct.pack("Ii", 0x20080522, 0), struct.pack("6I", low, low, 0, high, high, 0)
    assert ctypes.CDLL(None).capset(*map(ctypes.create_string_buffer, (header, data))) == 0
"""
    found = json.loads(said(BECOME.replace("    done =", without_kill + "    done =")))
    assert found[0] == "no capabilities"
    assert found[1] == ["0"] * 4


def test_the_name_is_shown() -> None:
    code = """
        from worker.isolation.privileges import name_process
        name_process("rt-embed-decoder-with-a-long-name")
        print(open("/proc/self/comm").read())
    """
    assert said(code).strip() == "rt-embed-decode"
    assert Path("/proc/self/comm").exists()
