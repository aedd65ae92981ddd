"""Cosmos-Embed1 at full size with random weights: conversion, a clip on a CPU, engines, precision, savings.

    python -m tests.bench.cosmos_embed1 weights 448p FOLDER [--dtype BF16]
    python -m tests.bench.cosmos_embed1 convert FOLDER TARGET [--precision fp16]
    python -m tests.bench.cosmos_embed1 clip TARGET
    python -m tests.bench.cosmos_embed1 engines TARGET
    python -m tests.bench.cosmos_embed1 precision FOLDER [--outlier 1000]
    python -m tests.bench.cosmos_embed1 savings TARGET

Each command is a process of its own and ends with its seconds and its peak memory. `engines` needs TensorRT
for RTX, `precision` needs PyTorch.
"""

import argparse
import json
import resource
import shutil
import time
from collections.abc import Iterable, Iterator
from math import isqrt
from pathlib import Path

import ml_dtypes
import msgspec
import numpy as np
from safetensors.numpy import save_file

from tests.worker.models.cosmos_embed1.conftest import (
    CODE,
    TEMPORAL_KEY,
    sizes,
    write_config,
    write_vocabulary,
)
from worker.models.cosmos_embed1.checkpoint import ModelSizes, expected_shapes, open_checkpoint
from worker.models.cosmos_embed1.convert import convert, model_info
from worker.models.cosmos_embed1.network import VideoNetwork
from worker.models.cosmos_embed1.recipe import Recipe
from worker.models.cosmos_embed1.verification_samples import SENTENCES, fixed_clips, lowest_cosine
from worker.models.cosmos_embed1.verify import open_session
from worker.models.directory import load_model_directory, write_model_json
from worker.models.preparation_progress import folder_size
from worker.models.tokenizer import TextTokenizer

VARIANTS = {
    "224p": (224, 256, 257),
    "336p": (336, 768, 257),
    "448p": (448, 768, 257),
    "anomaly": (448, 768, 1025),
}
SHARD = 500_000_000
DTYPES = {"BF16": ml_dtypes.bfloat16, "F32": np.float32}


def main() -> None:
    options = parse()
    start = time.monotonic()
    options.run(options)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    print(f"{options.command}: {time.monotonic() - start:.1f} s, peak memory {peak:.2f} GB")


def parse() -> argparse.Namespace:
    root = argparse.ArgumentParser()
    commands = root.add_subparsers(dest="command", required=True)
    command = commands.add_parser("weights")
    command.add_argument("variant", choices=VARIANTS)
    command.add_argument("folder", type=Path)
    command.add_argument("--dtype", choices=DTYPES, default="BF16")
    command.add_argument("--gain", type=float, default=1.5, help="of the products before softmax and GELU")
    command.set_defaults(run=write_weights)
    command = commands.add_parser("convert")
    command.add_argument("folder", type=Path)
    command.add_argument("target", type=Path)
    command.add_argument("--precision", choices=("fp32", "fp16", "bf16"), default="fp32")
    command.set_defaults(run=run_convert)
    for name, run in (("clip", run_clip), ("engines", run_engines), ("savings", run_savings)):
        command = commands.add_parser(name)
        command.add_argument("target", type=Path)
        command.set_defaults(run=run)
    command = commands.add_parser("precision")
    command.add_argument("folder", type=Path)
    command.add_argument("--outlier", type=float, default=0.0, help="size of a few channels of the residual")
    command.set_defaults(run=run_precision)
    return root.parse_args()


def write_weights(options: argparse.Namespace) -> None:
    """A checkpoint of full size: the real names, shapes, shards and types, with random values; and the code
    of the tests' miniature, which serves any size, for `rt-embed model prepare`."""
    resolution, dimension, rows = VARIANTS[options.variant]
    layout = ModelSizes(1408, 39, 6144, 768, 12, 3072, 32, 30523, 512, dimension, rows, (0, 2, 4, 6, 8, 10))
    shutil.rmtree(options.folder, ignore_errors=True)
    options.folder.mkdir(parents=True)
    shapes = {**expected_shapes(layout), **unused_shapes(layout), TEMPORAL_KEY: (8, 1408)}
    write_shards(options.folder, random_values(shapes, options.gain), DTYPES[options.dtype])
    size = sizes(
        **msgspec.structs.asdict(layout), resolution=resolution, stored_grid=isqrt(rows - 1), max_txt_len=128
    )
    write_config(options.folder, size, {})
    write_vocabulary(options.folder)
    for path in CODE.glob("*.*"):
        shutil.copy(path, options.folder)
    files = [path.stat().st_size for path in options.folder.glob("*.safetensors")]
    print(
        f"{len(shapes)} tensors in {len(files)} files, {sum(files) / 1e9:.2f} GB, "
        f"the largest of {max(files) / 1e9:.2f} GB"
    )


def write_shards(folder: Path, tensors: Iterable[tuple[str, np.ndarray]], dtype: type) -> None:
    """Files of at most SHARD bytes and their index."""
    part: dict[str, np.ndarray] = {}
    index: dict[str, str] = {}
    number = 0
    for key, values in tensors:
        array: np.ndarray = values.astype(dtype)
        if sum(other.nbytes for other in part.values()) + array.nbytes > SHARD:
            save_file(part, folder / f"model-{number:05d}.safetensors")
            part, number = {}, number + 1
        part[key] = array
        index[key] = f"model-{number:05d}.safetensors"
    save_file(part, folder / f"model-{number:05d}.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": index}))


def unused_shapes(layout: ModelSizes) -> dict[str, tuple[int, ...]]:
    head = "qformer.cls.predictions"
    return {
        f"{head}.bias": (layout.vocabulary,),
        f"{head}.transform.dense.weight": (768, 768),
        f"{head}.transform.dense.bias": (768,),
        f"{head}.transform.LayerNorm.weight": (768,),
        f"{head}.transform.LayerNorm.bias": (768,),
        f"{head}.decoder.weight": (layout.vocabulary, 768),
        f"{head}.decoder.bias": (layout.vocabulary,),
        "itm_head.weight": (2, 768),
        "itm_head.bias": (2,),
        "logit_scale": (),
        "logit_bias": (),
    }


def random_values(shapes: dict[str, tuple[int, ...]], gain: float) -> Iterator[tuple[str, np.ndarray]]:
    """Values of the sizes that trained transformers have: norms that weigh their channels differently,
    products that keep the variance or, before the softmax and the GELU, raise it by `gain`."""
    rng = np.random.default_rng(1)
    raised = ("attn.qkv", "self.query", "self.key", "mlp.fc1", "intermediate")
    for key in sorted(shapes):
        values = rng.standard_normal(shapes[key], dtype=np.float32)
        if "norm" in key.lower() or key.startswith("ln_"):
            values = np.exp(0.3 * values) if key.endswith("weight") else 0.3 * values
        elif key.endswith("bias"):
            values *= 0.1
        elif key.endswith("patch_embed.proj.weight"):
            values *= 588**-0.5
        elif values.ndim == 2 and key.endswith("weight") and "embeddings" not in key:
            values *= (gain if any(name in key for name in raised) else 1.0) * values.shape[1] ** -0.5
        else:
            values *= 0.3
        yield key, values


def run_convert(options: argparse.Namespace) -> None:
    """What `rt-embed model prepare` does after the download, without the verification."""
    shutil.rmtree(options.target, ignore_errors=True)
    options.target.mkdir(parents=True)
    checkpoint = open_checkpoint(options.folder)
    convert(checkpoint, options.target, Recipe(), options.precision)
    info = model_info(checkpoint, Recipe(), options.precision, name="random", source="", revision="")
    write_model_json(options.target, info)
    largest = max(path.stat().st_size for path in options.folder.glob("*.safetensors"))
    print(
        f"{folder_size(options.target) / 1e9:.2f} GB written; the largest file read has "
        f"{largest / 1e9:.2f} GB"
    )


def run_clip(options: argparse.Namespace) -> None:
    """One clip and one text in ONNX Runtime."""
    model = load_model_directory(options.target)
    start = time.monotonic()
    session = open_session(model.video)
    print(f"session opened in {time.monotonic() - start:.1f} s")
    clips = fixed_clips(8, model.info.resolution)[:1]
    for name, given in (("clip", clips), ("clip, again", clips), ("picture", clips[:, :1])):
        start = time.monotonic()
        (vectors,) = session.run(None, {"videos": given})
        print(f"{name}: {time.monotonic() - start:.2f} s, length {np.linalg.norm(vectors):.6f}")


def run_engines(options: argparse.Namespace) -> None:
    """Engines for GPUs that are not here, with their sizes and times."""
    import tensorrt_rtx_bindings as trt

    model = load_model_directory(options.target)
    size = model.info.resolution
    video = {"videos": [(batch, 8, 3, size, size) for batch in (1, 2, 4)]}
    text = {name: [(1, 1), (4, 128), (4, 256)] for name in ("input_ids", "attention_mask")}
    assert model.text
    for capability in ("SM89", "SM120"):
        for path, profile in ((model.video, video), (model.text, text)):
            log = trt.Logger(trt.Logger.WARNING)
            builder = trt.Builder(log)
            network = builder.create_network(0)
            parser = trt.OnnxParser(network, log)
            start = time.monotonic()
            if not parser.parse_from_file(str(path)):
                raise SystemExit([str(parser.get_error(i)) for i in range(parser.num_errors)])
            parsed = time.monotonic()
            config = builder.create_builder_config()
            config.num_compute_capabilities = 1
            config.set_compute_capability(getattr(trt.ComputeCapability, capability), 0)
            optimization = builder.create_optimization_profile()
            for name, shapes in profile.items():
                optimization.set_shape(name, *shapes)
            config.add_optimization_profile(optimization)
            engine = builder.build_serialized_network(network, config)
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
            print(
                f"{path.name} for {capability}: parsed in {parsed - start:.1f} s, built in "
                f"{time.monotonic() - parsed:.1f} s, {engine.nbytes / 1e9:.2f} GB, peak memory {peak:.2f} GB",
                flush=True,
            )
            del engine, network, parser, builder


def run_precision(options: argparse.Namespace) -> None:
    """The graphs in fp16 and bf16 against fp32, run with exactly their types; and what they would be with
    every type in 16 bits, as a model is that is simply cast."""
    from tests.bench.onnx_in_torch import TorchGraph

    checkpoint = open_checkpoint(options.folder)
    clips = fixed_clips(8, checkpoint.config.resolution)[:1]
    change = outliers(options.outlier)
    expected = None
    for precision in ("fp32", "fp16", "bf16"):
        for everything in (False, True) if precision != "fp32" else (False,):
            graph = TorchGraph(
                VideoNetwork(checkpoint, precision).build([Recipe()]), change=change, everything=everything
            )
            vectors = graph.run({"videos": clips})["video_embeddings"]
            expected = vectors if expected is None else expected
            name = f"everything in {precision}" if everything else f"the graph in {precision}"
            seen = ", ".join(f"{kind} {value:.4g}" for kind, value in sorted(graph.largest.items()))
            print(f"{name}: cosine {lowest_cosine(vectors, expected):.7f}; largest {seen}", flush=True)


def outliers(size: float):  # type: ignore[no-untyped-def]
    """Makes a few channels of the residual that large from block 4 on, as trained encoders do."""

    def change(name: str, values: np.ndarray) -> np.ndarray:
        if size and name == "visual_encoder.blocks.4.mlp.fc2.bias":
            values = values.copy()
            values[[100, 500, 900]] = (size, -size / 2, size / 4)
        return values

    return change


def run_savings(options: argparse.Namespace) -> None:
    """What the graph saves, against the same graph made to do the work, in turns."""
    model = load_model_directory(options.target)
    assert model.text
    clips = fixed_clips(8, model.info.resolution)[:1]
    video, text = open_session(model.video), open_session(model.text)
    stills = {"picture as one frame": clips[:, :1], "picture as eight": np.repeat(clips[:, :1], 8, axis=1)}
    turns({name: lambda given=given: video.run(None, {"videos": given}) for name, given in stills.items()}, 2)
    ids, mask = TextTokenizer(model.tokenizer, 128)([SENTENCES[0]])
    texts = {"text at its length": (ids, mask), "text padded to 128": padded(ids, mask)}
    turns(
        {
            name: lambda given=given: text.run(None, {"input_ids": given[0], "attention_mask": given[1]})
            for name, given in texts.items()
        },
        10,
    )


def padded(ids: np.ndarray, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    width = ((0, 0), (0, 128 - ids.shape[1]))
    return np.pad(ids, width), np.pad(mask, width)


def turns(runs, rounds: int) -> None:  # type: ignore[no-untyped-def]
    """Medians over rounds in which the alternatives take turns."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            start = time.monotonic()
            run()
            times[name].append(time.monotonic() - start)
    for name, seconds in times.items():
        print(f"{name}: median {1000 * np.median(seconds):.0f} ms of {rounds}")


if __name__ == "__main__":
    main()
