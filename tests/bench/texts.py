"""Texts a second through the service, against a hand-written server with the same engine, in turns.

    scripts/bench texts [--seconds 10] [--rounds 3] [--mixed] [--null]

With --mixed the texts have 1 to 23 words instead of 9. With --null the model computes nothing, and the
alternative is a bare Starlette application with the same body and answer: what is left is the way through
gateway, Redis and worker.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from statistics import median
from urllib.parse import urlsplit

import httpx
import msgspec

from tests.bench.http_load import Load, load
from tests.e2e.conftest import Stack
from tests.support import RedisServer, free_port, valkey_binary
from worker.models.conse.conse_recipe import cached

PATH = "/v1/generate_text_embeddings"
TEXT = "a person in a red coat walks a dog"  # 11 tokens with [CLS] and [SEP]
WORDS = (
    "a person in a red coat walks a dog past two parked cars while it rains and nobody else is in the street"
)


def mixed() -> list[str]:
    """Texts of all lengths up to that of WORDS, each as often, in an order that mixes them."""
    words = WORDS.split()
    return [" ".join(words[: 1 + 7 * i % len(words)]) for i in range(len(words))]


def alternative(port: int, model: Path | None) -> subprocess.Popen[bytes]:
    module = "tests.bench.handwritten" if model else "tests.bench.echo"
    command = [sys.executable, "-m", module, str(port), *([str(model)] if model else [])]
    return subprocess.Popen(command)


def wait_for_port(port: int) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            httpx.get(f"http://127.0.0.1:{port}/", timeout=1)
            return
        except httpx.HTTPError:
            time.sleep(0.1)
    raise TimeoutError(f"nobody listens on port {port}")


def compare(ours: int, theirs: int, name: str, arguments: argparse.Namespace) -> None:
    texts = mixed() if arguments.mixed else [TEXT]
    bodies = [msgspec.json.encode({"text_input": [text], "model": name}) for text in texts]
    heads = ("alternative, texts/s", "rt-embed, texts/s", "ratio")
    print(f"{'clients':>8} {heads[0]:32} {heads[1]:32} {heads[2]:>6}  p50, p99 of each (ms)")
    for clients in arguments.clients:
        for port in (theirs, ours):
            load(port, PATH, bodies, clients, 1.0)
        ask = partial(load, path=PATH, bodies=bodies, clients=clients, seconds=arguments.seconds)
        rounds: list[tuple[Load, Load]] = [(ask(theirs), ask(ours)) for _ in range(arguments.rounds)]
        other = ", ".join(f"{a.rate:.0f}" for a, _ in rounds)
        mine = ", ".join(f"{b.rate:.0f}" for _, b in rounds)
        ratio = median(b.rate / a.rate for a, b in rounds)
        times = "; ".join(
            f"{median(load.p50 for load in side):.1f}, {median(load.p99 for load in side):.1f}"
            for side in zip(*rounds, strict=True)
        )
        print(f"{clients:>8} {other:32} {mine:32} {ratio:6.2f}  {times}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--mixed", action="store_true", help="texts of 1 to 23 words")
    parser.add_argument("--null", action="store_true", help="a model that computes nothing")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        server = RedisServer(valkey_binary(), Path(folder))
        server.start()
        stack = Stack(Path(folder), server.url)
        stack.environment["LOG_LEVEL"] = "WARNING"
        model, name = None, "null"
        if not arguments.null:
            model, name = cached(Path(folder) / "models").path, "conse-efficientnet-lite0-minilm"
            del stack.environment["MODEL_IMPLEMENTATION_PATH"]
            stack.environment |= {"MODEL_PATH": "demo", "NGC_MODEL_CACHE": str(Path(folder) / "models")}
        port = free_port()
        other = alternative(port, model)
        try:
            stack.start()
            wait_for_port(port)
            compare(urlsplit(stack.url).port or 0, port, name, arguments)
        finally:
            other.kill()
            other.wait()
            stack.stop()
            server.stop()


if __name__ == "__main__":
    main()
