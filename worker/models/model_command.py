"""The command line for models: `rt-embed model prepare|verify|inspect|list`."""

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec

from shared.errors import RtEmbedError
from shared.settings import Settings, load
from shared.telemetry import logs
from worker.models.cosmos_embed1.checkpoint import open_checkpoint
from worker.models.directory import MODEL_JSON, ModelDirectory, load_model_directory
from worker.models.locks import host_lock
from worker.models.preparation_progress import folder_size, paced
from worker.models.prepare import checkpoint_of, default_precision, lock_file, prepare, prove, settle
from worker.models.sources import access_by, find_model

FAILED = 1
UNVERIFIED = 3
"""Exit code: the model is there, but workers will not serve it without RTEMBED_ALLOW_UNVERIFIED_MODEL."""


def main(arguments: Sequence[str]) -> int:
    """Run one command; returns the exit code."""
    options = parser().parse_args(arguments)
    try:
        settings = load()
        logs.configure(settings)
        return int(options.run(options, settings))
    except RtEmbedError as error:
        print(f"rt-embed model {options.command}: {error.message}", file=sys.stderr)
        return FAILED


def parser() -> argparse.ArgumentParser:
    """The four commands and their options. Defaults come from the environment, as a worker's do."""
    root = argparse.ArgumentParser(prog="rt-embed model", description="Prepare and look after models.")
    commands = root.add_subparsers(dest="command", required=True, metavar="COMMAND")
    command = commands.add_parser("prepare", help="download, convert and verify a model")
    command.add_argument(
        "model_path", nargs="?", metavar="MODEL_PATH", help="default: the setting MODEL_PATH"
    )
    command.add_argument("--precision", help="fp32, fp16 or bf16; default: what a worker takes here")
    command.add_argument("--cache", type=Path, help="default: the setting NGC_MODEL_CACHE")
    _add_python(command)
    command.set_defaults(run=run_prepare)
    command = commands.add_parser("verify", help="compare a converted model with its checkpoint's own code")
    command.add_argument("folder", type=Path, help="a model directory")
    _add_python(command)
    command.set_defaults(run=run_verify)
    command = commands.add_parser("inspect", help="say what a model directory or a checkpoint is")
    command.add_argument("folder", type=Path)
    command.set_defaults(run=run_inspect)
    command = commands.add_parser("list", help="list the models in the cache")
    command.add_argument("--cache", type=Path, help="default: the setting NGC_MODEL_CACHE")
    command.set_defaults(run=run_list)
    return root


def _add_python(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--python",
        default=sys.executable,
        help="interpreter with torch, transformers 4 and einops that runs the checkpoint's own code; "
        "default: the one that runs this",
    )


def run_prepare(options: argparse.Namespace, settings: Settings) -> int:
    """Print the model directory; UNVERIFIED if nothing could be compared."""
    model = prepare(
        options.model_path or settings.model_path,
        options.cache or settings.model_cache,
        options.precision or default_precision(settings),
        access_by(settings),
        python=options.python,
        progress=paced(_tell),
    )
    print(summary(model))
    if model.info.verified or model.info.architecture != "cosmos-embed1":
        return 0
    print(
        f"NOT VERIFIED. Workers refuse this model until `rt-embed model verify {model.path}` has compared "
        "it, or RTEMBED_ALLOW_UNVERIFIED_MODEL=true is set. `pip install rt-embed[verify]`, or give --python "
        "another interpreter that has torch, transformers 4 and einops.",
        file=sys.stderr,
    )
    return UNVERIFIED


def run_verify(options: argparse.Namespace, _: Settings) -> int:
    """Compare again, whatever an earlier verification said."""
    model = load_model_directory(options.folder.resolve())
    checkpoint = checkpoint_of(model)
    with host_lock(lock_file(model.path)):
        print(summary(settle(model, checkpoint, prove(model, checkpoint, options.python, paced(_tell)))))
    return 0


def run_inspect(options: argparse.Namespace, _: Settings) -> int:
    """Print a model directory's record, or the sizes of a checkpoint, as JSON."""
    folder = find_model(options.folder.resolve())
    if (folder / MODEL_JSON).exists():
        facts = msgspec.to_builtins(load_model_directory(folder).info)
    else:
        checkpoint = open_checkpoint(folder)
        facts = {
            "config": msgspec.to_builtins(checkpoint.config),
            "layout": msgspec.to_builtins(checkpoint.layout),
            "temporal_key": checkpoint.temporal_key,
            "stored": checkpoint.stored_dtype,
            "tensors": len(checkpoint.tensors),
            "bytes": sum(tensor.size for tensor in checkpoint.tensors.values()),
        }
    print(json.dumps({"path": str(folder), **facts}, indent=2))
    return 0


def run_list(options: argparse.Namespace, settings: Settings) -> int:
    """One line for each model directory in the cache."""
    cache: Path = options.cache or settings.model_cache
    for model in models_in(cache):
        print(summary(model))
    return 0


def models_in(cache: Path) -> Iterator[ModelDirectory]:
    """Every whole model directory in the cache."""
    for record in sorted(cache.glob(f"*/{MODEL_JSON}")):
        if not record.parent.name.startswith("."):
            yield load_model_directory(record.parent)


def summary(model: ModelDirectory) -> str:
    """One line: what it is, how large, whether verified, where."""
    info = model.info
    state = "verified" if info.verified else "not verified"
    size = folder_size(model.path) / 1e9
    return (
        f"{info.id}  {info.precision}  {info.dimension} dimensions  {info.resolution} px  {size:.2f} GB  "
        f"{state}  {model.path}"
    )


def _tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
