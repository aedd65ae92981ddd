"""What can be measured: each benchmark's alternative, its quick form, and where it says its figure."""

import ast
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

FOLDER = Path(__file__).parent

Need = Literal["a GPU", "the model", "gigabytes and minutes"]


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """One module of this folder that `scripts/bench NAME` runs.

    `against` is the alternative. Each match of `pattern` in the output is a figure, told by `told`. `quick`
    are the arguments with which it ends within seconds. It is skipped where what it `needs` is missing.
    """

    name: str
    against: str
    pattern: str = ""
    told: str = "{0}"
    quick: str = ""
    needs: tuple[Need, ...] = ()

    @property
    def title(self) -> str:
        """The first line of the module's docstring."""
        text = ast.get_docstring(ast.parse((FOLDER / f"{self.name}.py").read_text())) or ""
        return text.partition("\n\n")[0].replace("\n", " ")


PARTS = (
    "all", "benchmarks", "capacity_fleet", "echo", "handwritten", "http_load", "onnx_in_torch", "queue_peers",
)  # fmt: skip
"""Modules of this folder that others run."""

BENCHMARKS = (
    Benchmark(
        name="texts",
        against="a hand-written server",
        quick="--rounds 1 --seconds 2 --clients 1 32",
        pattern=r"^ +(\d+) .*? (\d+\.\d\d)  ",
        told="{0} clients: {1} of its texts/s",
    ),
    Benchmark(
        name="infinity",
        against="infinity-emb",
        needs=("gigabytes and minutes",),
        pattern=r"^ +(\d+) .*? (\d+\.\d\d)  ",
        told="{0} clients: {1} of its texts/s",
    ),
    Benchmark(
        name="text_cost",
        against="bare Starlette",
        quick="--rounds 1 --seconds 2",
        pattern=r"^median +([\d.]+) +([\d.]+) +([\d.]+) +([\d.]+) +([\d.]+)",
        told="{3} ms a text, bare {4}",
    ),
    Benchmark(
        name="text_roundtrip",
        against="bare Starlette",
        quick="--requests 300",
        pattern=r"^added, .*: ([\d.]+ ms)",
        told="{0} more",
    ),
    Benchmark(
        name="text_under_video",
        against="the same without video",
        quick="--seconds 3",
        pattern=r"p95 under video / idle: ([\d.]+)",
        told="p95 {0} of idle",
    ),
    Benchmark(
        name="engine",
        against="one thread, no video",
        quick="--rounds 1",
        pattern=r"^(1 text|1 clip) +([\d.]+)",
        told="{0} {1} ms",
    ),
    Benchmark(
        name="pipeline",
        against="the slower half alone",
        quick="--seconds 20 --rounds 1 --engines 1",
        pattern=r"^median ([\d.]+)",
        told="{0} of it",
    ),
    Benchmark(
        name="decode",
        against="other readers",
        quick="--seconds 10 --pairs 1 --gops 30",
        pattern=r"^(?!ours  )([A-Za-z][\w, ]*?) +[\d.]+ +[\d.]+ +[\d.]+ +([\d.]+) +\d+ ",
        told="{0} {1} times ours",
    ),
    Benchmark(
        name="decode_slots",
        against="other numbers of slots",
        quick="--seconds 10 --rounds 1 --slots 1 2",
        pattern=r"^(\d+) slots: all done after +([\d.]+) s",
        told="{0} slots: {1} s",
    ),
    Benchmark(
        name="scaling",
        against="PyAV's reformatter",
        quick="--rounds 2",
        pattern=r"^ *(1920x1080) +(448) +[\d.]+ +[\d.]+ +([\d.]+)",
        told="{0} to {1}: {2} times ours",
    ),
    Benchmark(
        name="thumbnails",
        against="the same without",
        quick="--seconds 10 --rounds 1",
        pattern=r"^film-\w+-(\d+)-\d+ +(\d+ s) +[\d.]+ +([-+][\d.]+)",
        told="GOP {0}, {1}: {2} ms",
    ),
    Benchmark(
        name="mutants",
        against="a good file",
        quick="--count 20",
        pattern=r"^processes replaced: (\d+)",
        told="{0} processes replaced",
    ),
    Benchmark(
        name="live_cameras",
        against="the same with bad ones",
        quick="--cameras 20 --seconds 5",
        pattern=r'"chunks": (\d+), "expected": (\d+).*"late_p50": ([\d.]+)',
        told="{0} of {1} chunks, {2} ms late",
    ),
    Benchmark(
        name="live_soak",
        against="chunks expected",
        quick="--cameras 4 --seconds 12 --chunk-duration 3",
        pattern=r'"expected": (\d+), "embedded": (\d+)',
        told="{1} of {0}",
    ),
    Benchmark(
        name="live_share",
        against="a plain decode",
        pattern=r'"stream": "camera: IPPP", "gop": (\d+).*"10 s": ([\d.]+)',
        told="GOP {0}: {1} of it",
    ),
    Benchmark(
        name="queues",
        against="arq, taskiq",
        quick="--quick",
        pattern=r"^rt-embed to (\w+): ([\d.]+)",
        told="{1} times {0}",
    ),
    Benchmark(
        name="publisher",
        against="bare aiokafka",
        quick="--messages 2000 --rounds 1",
        pattern=r"^median ratio ([\d.]+), of processor time ([\d.]+)",
        told="{0} of its rate, {1} of its economy",
    ),
    Benchmark(
        name="redis_calls",
        against="redis-py's pool",
        quick="--calls 100",
        pattern=r"ratio ([\d.]+)",
    ),
    Benchmark(
        name="scale",
        against="one worker",
        quick="--quick",
        pattern=r'"speedup": .*"4": ([\d.]+)',
        told="{0} times at 4",
    ),
    Benchmark(
        name="capacity",
        against="more chunks, workers, cameras",
        quick="--fleet 20,200,1 --seconds 4",
        pattern=r"^ *(\d+) workers +(\d+) cameras.*core +([\d.]+ %)",
        told="{0} workers, {1} cameras: {2}",
    ),
    Benchmark(
        name="knee",
        against="fewer chunks a second",
        quick="--quick",
        pattern=r"^ *(\d+) chunks/s: .*core +([\d.]+ %).*a text p50 ([\d.]+)",
        told="{0}/s: {1}, a text {2} ms",
    ),
    Benchmark(
        name="growth",
        against="half of it",
        quick="--quick",
        pattern=r"^ *(\d+) (files|requests|cameras|hours of film): .*?\(x ([\d.]+)\)",
        told="{0} {1}: x {2}",
    ),
    Benchmark(
        name="memory",
        against="a third of the run",
        quick="--quick",
        pattern=r"^(gateway 2|worker 2) .*slope +([-+][\d.]+ MiB)",
        told="{0} {1}",
    ),
    Benchmark(
        name="decoder_memory",
        against="a third of the run",
        quick="--chunks 3000",
        pattern=r"^([-+][\d.]+ MiB) in use",
        told="{0}",
    ),
    Benchmark(
        name="uploads",
        against="memory before",
        quick="--gigabytes 0.2",
        pattern=r"^(\S+): .*?, ([\d.]+ MiB/s); memory (\d+) MiB before, at most (\d+)",
        told="{0} {1}, {2} to {3} MiB",
    ),
    Benchmark(
        name="search",
        against="exact search",
        quick="--quick --cache-mb 256 --build-mb 256",
        pattern=r"^ +(100) +([\d.]+) +([\d.]+)",
        told="recall {1}, {2} ms at ef_search {0}",
    ),
    Benchmark(
        name="added_cost",
        against="the same without",
        quick="search --rounds 1",
        pattern=r"^(\w+) adds ([-+]\d+) µs to a chunk, ([-+]\d+) µs to a text",
        told="{0}: {1} µs a chunk, {2} µs a text",
    ),
    Benchmark(
        name="contract",
        against="the API's description",
        quick="--max-examples 1",
        pattern=r"^ +(\d+) generated, (\d+) passed",
        told="{1} of {0} requests",
    ),
    Benchmark(
        name="chaos",
        against="every chunk once",
        quick='--trials 1 --kinds one --fault "^(SIGTERM to a worker|cut: services to Redis)"',
        pattern=r"^\| ([^|]+) \| one \| \d+ \| [^|]+ \| (\d+) \| (\d+) \| (\d+) \| ([\d.]+)",
        told="{0}: lost {1}, doubled {2}, failed {3}, {4} s",
    ),
    Benchmark(
        name="gpu_limits",
        against="RT-Embed's figures",
        pattern=r"^(H200|L40S) +(camera, GOP 1 s) +\d+% +[\d.]+/s +[\d.]+/s +(\d+)",
        told="{0}, {1}: {2} streams",
    ),
    Benchmark(name="gpu_decoder", against="one session", needs=("a GPU",), pattern=r"^(speed): "),
    Benchmark(
        name="gpu_throughput",
        against="RT-Embed's figures, the CPU",
        needs=("a GPU",),
        quick="--files 4 --seconds 20",
        pattern=r"([\d.]+) chunks/s",
    ),
    Benchmark(name="gpu_model", against="fp32 in torch", needs=("a GPU", "gigabytes and minutes")),
    Benchmark(name="cosmos_embed1", against="PyTorch", needs=("gigabytes and minutes",)),
)  # fmt: skip
