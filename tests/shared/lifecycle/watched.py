"""Programs that the tests of the watchdog watch. Each is told a folder, where it leaves what it sees."""

import asyncio
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

from shared.lifecycle.heartbeat import beating, speak
from shared.lifecycle.watchdog import run_watched

PATIENCE = 1.0
SLEEPER = """
import os, time
from shared.lifecycle.guard import die_with_parent
die_with_parent(os.getppid())
print(flush=True)
time.sleep(60)
"""


def note(name: str, text: object = "") -> None:
    """Leave a file; its name is complete once its text is."""
    path = Path(sys.argv[2]) / name
    path.with_suffix(".part").write_text(str(text))
    path.with_suffix(".part").rename(path)


async def serve() -> None:
    """Run for ever, well."""
    async with beating(PATIENCE):
        note("pid", os.getpid())
        await asyncio.Event().wait()


def main() -> int:
    """Do what the first argument says."""
    match sys.argv[1]:
        case "well":
            asyncio.run(serve())
        case "hold-the-lock":
            speak(PATIENCE)
            note("pid", os.getpid())
            re.match(r"(a+)+$", "a" * 64 + "b")  # nothing else of Python runs meanwhile
        case "polite":
            signal.signal(signal.SIGTERM, lambda *_: sys.exit(7))
            asyncio.run(serve())
        case "exit":
            return int(sys.argv[3])
        case "signal":
            os.kill(os.getpid(), int(sys.argv[3]))
        case "orphan":  # what it leaves behind ends under somebody else
            subprocess.run(["sh", "-c", "sleep 0.2 & exec true"], check=True)
            asyncio.run(serve())
        case "decoder":
            child = subprocess.Popen([sys.executable, "-c", SLEEPER], stdout=subprocess.PIPE)
            assert child.stdout is not None
            child.stdout.readline()
            note("child", child.pid)
            asyncio.run(serve())
        case "slow-start":
            time.sleep(2 * PATIENCE)
            asyncio.run(serve())
    return 0


if __name__ == "__main__":
    sys.exit(run_watched("gateway", "tests.shared.lifecycle.watched"))
