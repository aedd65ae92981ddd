"""The command line for models: `rt-embed model prepare|verify|inspect|list`."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from shared.errors import ModelError
from shared.settings import Settings, load
from shared.telemetry import logs
from worker.engine.backend import choose_backend
from worker.models.cosmos_embed1.checkpoint import open_checkpoint
from worker.models.cosmos_embed1.convert import recipe_of
from worker.models.cosmos_embed1.environment import (
    CPU_INDEX,
    IN_CACHE,
    interpreter,
    make_environment,
    missing_in,
)
from worker.models.cosmos_embed1.known_recipes import BY_DIGEST, HERE, exported
from worker.models.cosmos_embed1.verify import CannotCompare
from worker.models.directory import MODEL_JSON, ModelDirectory, load_model_directory
from worker.models.exports import read_export
from worker.models.locks import host_lock
from worker.models.preparation_progress import folder_size, paced
from worker.models.prepare import checkpoint_of, lock_file, prepare, prove, settle
from worker.models.sources import access_by, find_model

UNVERIFIED = 3
"""Exit code: the model is there, but workers will not serve it without RTEMBED_ALLOW_UNVERIFIED_MODEL."""


app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Prepare and inspect models. Defaults come from the environment, as for a worker.",
)

Folder = Annotated[Path, typer.Argument(help="A model directory.")]
Cache = Annotated[Path | None, typer.Option("--cache", help="Default: the setting NGC_MODEL_CACHE.")]
Python = Annotated[
    str | None,
    typer.Option(
        "--python",
        help="Interpreter, or folder of an environment, that runs the checkpoint's own code. Default: an "
        "environment in the cache, which is made if it is needed.",
    ),
]
Index = Annotated[
    str, typer.Option("--index", help="Where PyTorch's CPU builds are; pip's own index if empty.")
]


@app.command("prepare")
def run_prepare(  # noqa: PLR0917 - the options of a command
    model_path: Annotated[str | None, typer.Argument(help="Default: the setting MODEL_PATH.")] = None,
    precision: Annotated[
        str | None, typer.Option("--precision", help="fp32, fp16 or bf16. Default: what a worker takes here.")
    ] = None,
    cache: Cache = None,
    python: Python = None,
    index: Index = CPU_INDEX,
    export_recipe: Annotated[
        bool,
        typer.Option("--export-recipe", help="Print the entry by which others know the verified recipe."),
    ] = False,
) -> int:
    """Download, convert and verify a model.

    Exit status 3 if it is there but nothing could be compared: workers refuse it.
    """
    settings = _settings()
    folder = cache or settings.model_cache
    model = prepare(
        model_path or settings.model_path,
        folder,
        precision or choose_backend(settings).precision(settings),
        access_by(settings),
        python=lambda: _interpreter(python, folder, index),
        progress=paced(_tell),
    )
    print(summary(model))
    if export_recipe:
        print(_exported_recipe(model))
    if model.info.verified or model.info.architecture != "cosmos-embed1":
        return 0
    print(
        f"NOT VERIFIED. Workers refuse this model until `rt-embed model verify {model.path}` has compared "
        "it, or RTEMBED_ALLOW_UNVERIFIED_MODEL=true is set. `rt-embed model environment FOLDER` makes an "
        "environment for --python.",
        file=sys.stderr,
    )
    return UNVERIFIED


@app.command("verify")
def run_verify(folder: Folder, python: Python = None, index: Index = CPU_INDEX) -> int:
    """Compare a converted model with its checkpoint's own code, even if it was verified before."""
    settings = _settings()
    model = load_model_directory(folder.resolve())
    checkpoint = checkpoint_of(model)
    with host_lock(lock_file(model.path)):
        runs_it = _interpreter(python, settings.model_cache, index)
        print(summary(settle(model, checkpoint, prove(model, checkpoint, runs_it, paced(_tell)))))
    return 0


@app.command("environment")
def run_environment(
    folder: Annotated[Path, typer.Argument(help="Where to make it.")], index: Index = CPU_INDEX
) -> int:
    """Make the Python environment that runs a checkpoint's own code, for --python."""
    _settings()
    print(make_environment(folder.absolute(), index, paced(_tell)))
    return 0


@app.command("inspect")
def run_inspect(folder: Folder) -> int:
    """Print a model directory's record, or the sizes of a checkpoint, as JSON."""
    _settings()
    folder = find_model(folder.resolve())
    if (folder / MODEL_JSON).exists() and read_export(folder):
        facts = json.loads((folder / MODEL_JSON).read_bytes())
    elif (folder / MODEL_JSON).exists():
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


@app.command("list")
def run_list(cache: Cache = None) -> int:
    """Print a line for each model directory in the cache."""
    settings = _settings()
    for model in models_in(cache or settings.model_cache):
        print(summary(model))
    return 0


def _settings() -> Settings:
    settings = load()
    logs.configure(settings)
    return settings


def _interpreter(given: str | None, cache: Path, index: str) -> str:
    """Return the interpreter that runs a checkpoint's own code: the given one; this one, if it can; or that
    of an environment in the cache, made if needed. Raises CannotCompare if it cannot be made."""
    if given:
        return interpreter(given)
    if not missing_in(sys.executable):
        return sys.executable
    try:
        return make_environment(cache.absolute() / IN_CACHE, index, paced(_tell))
    except ModelError as error:
        raise CannotCompare(error.message) from error


def _exported_recipe(model: ModelDirectory) -> str:
    details = model.info.details
    if not model.info.verified or details.get("verification") != HERE:
        raise ModelError(f"{model.path} was not compared here, so there is no recipe to export")
    checkpoint = checkpoint_of(model)
    return exported(checkpoint.path, recipe_of(model), model.info.source, model.info.revision, {**details})


def models_in(cache: Path) -> Iterator[ModelDirectory]:
    """Return every complete model directory in the cache."""
    for record in sorted(cache.glob(f"*/{MODEL_JSON}")):
        if not record.parent.name.startswith("."):
            yield load_model_directory(record.parent)


def summary(model: ModelDirectory) -> str:
    """Return one line about a model: its id, size, verification and path."""
    info = model.info
    state = "verified" if info.verified else "not verified"
    if info.details.get("verification") == BY_DIGEST:
        state = "recipe known by digest"
    size = folder_size(model.path) / 1e9
    return (
        f"{info.id}  {info.precision}  {info.dimension} dimensions  {info.resolution} px  {size:.2f} GB  "
        f"{state}  {model.path}"
    )


def _tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
