"""Processor time of a text request in each process, against a bare Starlette application with the same body
and answer.

    scripts/bench text_cost [--clients 64] [--seconds 10] [--rounds 3] [--gateways 2]

The model computes nothing. Processor time says what a request costs, also on a machine that others use.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from urllib.parse import urlsplit

import msgspec
import psutil

from tests.bench.http_load import Load, load
from tests.bench.texts import PATH, TEXT, wait_for_port
from tests.e2e.conftest import Stack
from tests.support import RedisServer, free_port, valkey_binary

PATIENCE = 30
BODY = msgspec.json.encode({"text_input": [TEXT], "model": "null"})


def used(pid: int) -> float:
    """Milliseconds of processor time that all threads of a process have used."""
    threads = Path(f"/proc/{pid}/task").glob("*/schedstat")
    return sum(int(thread.read_text().split()[0]) for thread in threads) / 1e6


def watched(pid: int) -> int:
    """The process that does the work, under the one that watches it."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return int(children[0]) if children else pid


def gateways(pid: int, count: int) -> dict[str, int]:
    """The processes that answer requests, under the one that watches them, once all have started."""
    if count == 1:
        return {"gateway": watched(pid)}
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        leaves = [one.pid for one in psutil.Process(pid).children(recursive=True) if not one.children()]
        if len(leaves) == count:
            return {f"gate {number}": leaf for number, leaf in enumerate(leaves, 1)}
        time.sleep(0.1)
    raise TimeoutError(f"{len(leaves)} of {count} gateways run after {PATIENCE} s")


def cost(port: int, pids: list[int], clients: int, seconds: float) -> tuple[Load, list[float]]:
    """The load, and milliseconds of processor time per request in each process."""
    before = [used(pid) for pid in pids]
    result = load(port, PATH, [BODY], clients, seconds)
    asked = result.rate * seconds
    return result, [(used(pid) - start) / asked for pid, start in zip(pids, before, strict=True)]


def compare(ours: int, theirs: int, processes: dict[str, int], bare: int, args: argparse.Namespace) -> None:
    """Ask both in turn and print the figures."""
    names = [*processes, "all", "bare"]
    print(f"{'round':>5} {'bare/s':>8} {'ours/s':>8} " + " ".join(f"{name:>8}" for name in names))
    rows: list[list[float]] = []
    for number in range(args.rounds + 1):
        floor, (floor_ms,) = cost(theirs, [bare], args.clients, args.seconds)
        result, spent = cost(ours, [*processes.values()], args.clients, args.seconds)
        if number:  # the first round warms up
            rows.append([*spent, sum(spent), floor_ms])
            print(f"{number:>5} {floor.rate:8.0f} {result.rate:8.0f} " + _columns(rows[-1]), flush=True)
    print(f"{'median':>5} {'':8} {'':8} " + _columns([median(column) for column in zip(*rows, strict=True)]))


def _columns(values: list[float]) -> str:
    return " ".join(f"{value:8.3f}" for value in values)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--gateways", type=int, default=1, help="processes that share the gateway's port")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        server = RedisServer(valkey_binary(), Path(folder))
        server.start()
        stack = Stack(Path(folder), server.url)
        stack.environment |= {"LOG_LEVEL": "WARNING", "RTEMBED_GATEWAY_PROCESSES": str(arguments.gateways)}
        port = free_port()
        bare = subprocess.Popen([sys.executable, "-m", "tests.bench.echo", str(port)])
        try:
            stack.start()
            wait_for_port(port)
            assert stack.gateway
            assert server.process
            processes = {
                **gateways(stack.gateway.pid, arguments.gateways),
                "worker": watched(stack.workers[0].pid),
                "redis": server.process.pid,
            }
            print(processes, file=sys.stderr)
            compare(urlsplit(stack.url).port or 0, port, processes, bare.pid, arguments)
        finally:
            bare.kill()
            bare.wait()
            stack.stop()
            server.stop()


if __name__ == "__main__":
    main()
