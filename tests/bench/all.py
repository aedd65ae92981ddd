"""Every benchmark that can run on this machine, one after the other, with one table at the end.

    scripts/bench all --quick [--only texts,queues]

In its quick form each takes seconds, and its figure says whether it works and roughly how fast, no more: the
figures of README.md come from longer runs. Without --quick each runs as README.md tells, which takes hours.
Ends with status 1 if one failed. What failed is shown with the last lines that it printed.
"""

import argparse
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.bench.benchmarks import BENCHMARKS, Benchmark, Need

ROOT = Path(__file__).parents[2]
QUICK_LIMIT = 150
"""Seconds that a quick form may take until it counts as hanging."""
GRACE = 15
"""Seconds that it gets to stop its servers then."""
LAST_LINES = 15


@dataclass(frozen=True)
class Row:
    """A line of the table. `figure` also says why a benchmark was skipped or how it failed."""

    name: str
    against: str
    figure: str
    seconds: float | None = None
    failed: bool = False


def has_gpu() -> bool:
    """Whether there is an NVIDIA GPU."""
    return (
        shutil.which("nvidia-smi") is not None
        and not subprocess.run(["nvidia-smi", "-L"], capture_output=True, check=False).returncode
    )


MISSING: dict[Need, Callable[[], bool]] = {
    "a GPU": lambda: not has_gpu(),
    "the model": lambda: True,  # no benchmark can know where its directory is
    "gigabytes and minutes": lambda: True,
}
"""Whether this machine lacks what a benchmark needs. A model's directory and patience are given by hand."""


def run(benchmark: Benchmark, *, quick: bool) -> Row:
    """Run one benchmark and return its line."""
    lacking = [need for need in benchmark.needs if MISSING[need]()]
    if lacking:
        return Row(benchmark.name, benchmark.against, f"skipped: needs {lacking[0]}")
    print(f"{benchmark.name} ...", end=" ", file=sys.stderr, flush=True)
    command = [sys.executable, "-m", f"tests.bench.{benchmark.name}"]
    if quick:
        command += shlex.split(benchmark.quick)
    began = time.monotonic()
    status, output = finished(command, QUICK_LIMIT if quick else None)
    seconds = time.monotonic() - began
    print(f"{seconds:.0f} s", file=sys.stderr, flush=True)
    figure = read_figure(benchmark, output)
    if status != 0 or not figure:
        print("\n".join(output.splitlines()[-LAST_LINES:]), file=sys.stderr, flush=True)
        return Row(benchmark.name, benchmark.against, failure(status, seconds), seconds, failed=True)
    return Row(benchmark.name, benchmark.against, figure, seconds)


def finished(command: Sequence[str], limit: float | None) -> tuple[int | None, str]:
    """Return the exit status, None if the limit has passed, and what the command printed."""
    process = subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace",
        start_new_session=True,
    )  # fmt: skip
    try:
        output, _ = process.communicate(timeout=limit)
        return process.returncode, output
    except subprocess.TimeoutExpired:
        return None, stopped(process)
    except BaseException:
        stopped(process)
        raise


def stopped(process: subprocess.Popen[str]) -> str:
    """Stop a benchmark and return what it printed: first as Ctrl-C does, so that it stops its servers."""
    process.send_signal(signal.SIGINT)
    try:
        return process.communicate(timeout=GRACE)[0]
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        return process.communicate()[0]


def failure(status: int | None, seconds: float) -> str:
    """Say how a benchmark failed."""
    if status is None:
        return f"FAILED: did not end within {seconds:.0f} s"
    return f"FAILED: exit status {status}" if status else "FAILED: printed no figure"


def read_figure(benchmark: Benchmark, output: str) -> str:
    """Return what the benchmark's pattern finds in its output; empty if that is nothing."""
    found = re.finditer(benchmark.pattern, output, re.MULTILINE)
    return "; ".join(benchmark.told.format(*match.groups()) for match in found)


def table(rows: Sequence[Row]) -> str:
    """Return the rows as a Markdown table."""
    head = ("benchmark", "against", "figure", "seconds")
    cells = [head] + [
        (row.name, row.against, row.figure, "" if row.seconds is None else f"{row.seconds:.0f}")
        for row in rows
    ]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = [
        " | ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)) for line in cells
    ]
    lines.insert(1, " | ".join("-" * width for width in widths))
    return "\n".join(f"| {line} |" for line in lines)


def chosen(names: str) -> list[Benchmark]:
    """Return the named benchmarks, or all. Ends the program for a name that is none."""
    wanted = set(filter(None, names.split(",")))
    if unknown := wanted - {benchmark.name for benchmark in BENCHMARKS}:
        raise SystemExit(f"no such benchmark: {', '.join(sorted(unknown))}; scripts/bench lists them")
    return [benchmark for benchmark in BENCHMARKS if not wanted or benchmark.name in wanted]


def main() -> int:
    """Run them, print the table, and return 1 if one failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="each in its quick form: ten minutes in all")
    parser.add_argument("--only", default="", help="names with commas between them")
    parser.add_argument("--list", action="store_true", help="say what there is and run nothing")
    options = parser.parse_args()
    if options.list:
        for benchmark in BENCHMARKS:
            print(f"{benchmark.name:18} {benchmark.title}")
        return 0
    began = time.monotonic()
    rows = [run(benchmark, quick=options.quick) for benchmark in chosen(options.only)]
    failed = sum(row.failed for row in rows)
    print(table(rows))
    print(f"{len(rows)} benchmarks in {time.monotonic() - began:.0f} s, {failed} failed")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
