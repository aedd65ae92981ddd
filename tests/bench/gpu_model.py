"""Cosmos-Embed1 at full size with random weights, on this machine's GPU, by torch: what TensorRT must beat.

python -m tests.bench.gpu_model make FOLDER     converts checkpoints of the real sizes
python -m tests.bench.gpu_model check FOLDER [--json FILE]      fp16 against fp32, milliseconds by batch
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "gpu" / "standin"))
from onnx_torch import OnnxTorch

VARIANTS = {"224p": (224, 256), "336p": (336, 768), "448p": (448, 768)}
"""Resolution and dimension. The anomaly variant has the shapes of 448p."""
SIZES: dict[str, Any] = {
    "vision_width": 1408, "vision_depth": 39, "vision_hidden": 6144, "stored_grid": 16, "text_width": 768,
    "text_depth": 12, "text_hidden": 3072, "cross_layers": (0, 2, 4, 6, 8, 10), "queries": 32,
    "vocabulary": 30523, "positions": 512, "max_txt_len": 128, "frames": 8,
}  # fmt: skip
BATCHES = {"video": (1, 2, 4, 8, 16, 32, 64), "text": (1, 8, 32, 64)}


def random_weights(dimension: int, device: str) -> dict[str, torch.Tensor]:
    """As those of the tests' miniature, but made on the GPU."""
    from tests.worker.models.cosmos_embed1 import conftest

    class Generator:
        def __init__(self, seed: int) -> None:
            torch.manual_seed(seed)

        def standard_normal(self, shape: tuple[int, ...]) -> torch.Tensor:
            return torch.randn(shape, device=device, dtype=torch.bfloat16)

    numpy: Any = SimpleNamespace(
        random=SimpleNamespace(default_rng=Generator), array=torch.tensor, arange=torch.arange
    )
    module: Any = conftest
    kept, module.np = module.np, numpy
    try:
        return conftest.random_weights(conftest.sizes(**SIZES, resolution=224, dimension=dimension))
    finally:
        module.np = kept


def make(folder: Path, device: str) -> None:
    from safetensors.torch import save_file

    from tests.worker.models.cosmos_embed1 import conftest
    from worker.models.cosmos_embed1.checkpoint import open_checkpoint
    from worker.models.cosmos_embed1.convert import convert, model_info
    from worker.models.cosmos_embed1.recipe import Recipe
    from worker.models.directory import write_model_json

    folder.mkdir(parents=True, exist_ok=True)
    weights = {name: value.contiguous().cpu() for name, value in random_weights(768, device).items()}
    head = {
        name: weights.pop(name) for name in list(weights) if name.startswith(("vision_proj", "text_proj"))
    }
    save_file(weights, folder / "body.safetensors")
    for name, (resolution, dimension) in VARIANTS.items():
        began = time.perf_counter()
        path, out = folder / f"Cosmos-Embed1-{name}", folder / f"fp16-{name}"
        for made in (path, out):
            made.mkdir(exist_ok=True)
        if not (path / "body.safetensors").exists():
            os.link(folder / "body.safetensors", path / "body.safetensors")
        save_file({k: v[:dimension].contiguous() for k, v in head.items()}, path / "head.safetensors")
        conftest.write_vocabulary(path)
        conftest.write_config(path, conftest.sizes(**SIZES, resolution=resolution, dimension=dimension), {})
        checkpoint = open_checkpoint(path)
        convert(checkpoint, out, Recipe(), "fp16")
        info = model_info(
            checkpoint, Recipe(), "fp16", name=f"Cosmos-Embed1-{name}", source="random", revision=""
        )
        write_model_json(out, info)
        print(f"{name}: converted in {time.perf_counter() - began:.0f} s", flush=True)


def timed(call: Callable[[], object], least: float = 1.0) -> float:
    """Seconds of one call, the GPU's work included."""
    call()
    torch.cuda.synchronize()
    began, calls = time.perf_counter(), 0
    while time.perf_counter() - began < least:
        call()
        torch.cuda.synchronize()
        calls += 1
    return (time.perf_counter() - began) / calls


def cosines(graph: Path, feeds: dict[str, torch.Tensor]) -> dict[str, float]:
    """The smallest cosine with the same graph in fp32: node by node, and with fused attention."""
    device = next(iter(feeds.values())).device.type
    options: dict[str, dict[str, Any]] = {
        "fp32": {"fused": False, "force": torch.float32}, "literal": {"fused": False}, "fused": {}
    }  # fmt: skip
    vectors = {
        name: OnnxTorch(graph, device, **given)(feeds).float().cpu() for name, given in options.items()
    }
    reference = vectors.pop("fp32")
    return {name: round(float((found * reference).sum(1).min()), 6) for name, found in vectors.items()}


def speeds(graph: OnnxTorch, tower: str, feeds: dict[str, torch.Tensor]) -> dict[int, Any]:
    """Milliseconds for each item, and GiB at the most, by batch."""
    found: dict[int, Any] = {}
    for batch in BATCHES[tower]:
        many = {k: v[:1].repeat(batch, *[1] * (v.dim() - 1)) for k, v in feeds.items()}
        torch.cuda.reset_peak_memory_stats()
        try:
            took = timed(lambda many=many: graph(many))  # type: ignore[misc]
        except torch.cuda.OutOfMemoryError:
            found[batch] = "out of memory"
            break
        memory = torch.cuda.max_memory_allocated() / 2**30
        found[batch] = {"ms each": round(1000 * took / batch, 2), "GiB": round(memory, 1)}
    return found


def check(folder: Path, device: str) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for name, (resolution, _) in VARIANTS.items():
        torch.manual_seed(1)
        shape = (2, 8, 3, resolution, resolution)
        mask = torch.ones((2, 128), dtype=torch.int64, device=device)
        mask[1, 40:] = 0
        towers = {
            "video": {"videos": torch.randint(0, 256, shape, dtype=torch.uint8, device=device)},
            "text": {
                "input_ids": torch.randint(1000, 30000, (2, 128), device=device),
                "attention_mask": mask,
            },
        }
        for tower, feeds in towers.items():
            graph = folder / f"fp16-{name}" / f"{tower}.onnx"
            row: dict[str, Any] = {"cosine with fp32": cosines(graph, feeds)}
            if device == "cuda":
                row["by batch"] = speeds(OnnxTorch(graph, device), tower, feeds)
            result[f"{name} {tower}"] = row
            print(f"{name} {tower}: {json.dumps(row)}", flush=True)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("action", choices=["make", "check"])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if arguments.action == "make":
        make(arguments.folder, device)
        return
    found = check(arguments.folder, device)
    if arguments.json:
        arguments.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
