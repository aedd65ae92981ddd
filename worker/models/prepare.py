"""From MODEL_PATH to a model directory that a worker may serve."""

import hashlib
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import msgspec
import structlog

from shared.errors import ModelError
from shared.settings import Settings
from worker.models.cosmos_embed1.checkpoint import Checkpoint, open_checkpoint, weight_files
from worker.models.cosmos_embed1.convert import (
    ARCHITECTURE,
    CONVERTER,
    check_precision,
    convert,
    encode_recipe,
    model_info,
    recipe_of,
    write_video_graph,
)
from worker.models.cosmos_embed1.graph import Precision
from worker.models.cosmos_embed1.known_recipes import BY_DIGEST, HERE, KnownRecipe, known_recipe
from worker.models.cosmos_embed1.recipe import Recipe
from worker.models.cosmos_embed1.verify import PROOF_KEYS, CannotCompare, missing_for_reference, verify
from worker.models.directory import (
    MODEL_JSON,
    ModelDirectory,
    load_model_directory,
    write_model_json,
)
from worker.models.exports import adapt, read_export
from worker.models.locks import host_lock
from worker.models.preparation_progress import Progress, silent
from worker.models.reference_vectors import (
    ReferenceVectors,
    read_reference_vectors,
    write_reference_vectors,
)
from worker.models.sources import Hubs, ModelFiles, access_by, fetch, find_model, parse_model_path

log = structlog.get_logger(__name__)


def obtain(settings: Settings, precision: str, progress: Progress = silent) -> ModelDirectory:
    """Return the model that MODEL_PATH names, for a worker to serve. Blocks, for minutes at a first start.

    `precision` is `settings.precision` for a GPU and fp32 for a CPU. Raises ModelError saying what to do.
    """
    check_precision(settings.precision)  # a CPU must not silently ignore an impossible setting
    model = prepare(
        settings.model_path, settings.model_cache, precision, access_by(settings), progress=progress
    )
    require_verified(model, allow=settings.allow_unverified_model)
    return model


def obtain_files(settings: Settings, progress: Progress = silent) -> str:
    """Return the folder that a model in Python gets as its `model_path`: what MODEL_PATH names, unchanged,
    and downloaded if it is not on this machine. Raises ModelError."""
    source = parse_model_path(settings.model_path, access_by(settings))
    if isinstance(source, Path):
        return settings.model_path
    return str(fetch(source, settings.model_cache, progress).path)


def prepare(
    model_path: str,
    cache: Path,
    precision: str,
    access: Hubs,
    *,
    python: Callable[[], str] = lambda: sys.executable,
    progress: Progress = silent,
) -> ModelDirectory:
    """Fetch, convert and verify what MODEL_PATH names; skip what is done already.

    `precision` is one of COSMOS_EMBED1_TRT_PRECISION; a model directory has its own. `python` returns an
    interpreter for a checkpoint's own code, and is called only if that code must run; without one the
    result stays unverified. Raises ModelError saying what to do.
    """
    chosen = check_precision(precision)
    if model_path == "demo":
        return demonstration_model(cache)
    fetched = fetch(parse_model_path(model_path, access), cache, progress)
    folder = find_model(fetched.path)
    if (folder / MODEL_JSON).exists():
        export = read_export(folder)
        return adapt(folder, export, cache, progress) if export else load_model_directory(folder)
    checkpoint = open_checkpoint(folder)
    mark = fingerprint(checkpoint)
    target = cache / f"{fetched.name.lower()}-{chosen}-{mark}"
    step = f"waiting for another process to convert {fetched.name}"
    with host_lock(lock_file(target), lambda: progress(step, 0, 0)):
        model = finished(target) or build(fetched, checkpoint, target, chosen, progress)
        if model.info.verified:
            return model
        return verified(model, checkpoint, proof_in_cache(cache, mark), python, progress)


def demonstration_model(cache: Path) -> ModelDirectory:
    """Return the model of MODEL_PATH=demo. Raises ModelError if its packages are not installed."""
    from worker.models.conse import conse_recipe  # noqa: PLC0415 - only this model needs it

    return conse_recipe.cached(cache)


def build(
    fetched: ModelFiles, checkpoint: Checkpoint, target: Path, precision: Precision, progress: Progress
) -> ModelDirectory:
    """Convert with the most likely recipe into the new folder `target`, which appears when it is complete."""
    part = target.with_name(f".{target.name}.part")
    shutil.rmtree(part, ignore_errors=True)  # left by a process that was killed
    part.mkdir(parents=True)
    name, recipe = fetched.name.lower(), Recipe()
    try:
        convert(checkpoint, part, recipe, precision, progress)
        info = model_info(
            checkpoint, recipe, precision, name=name, source=fetched.source, revision=fetched.revision
        )
        write_model_json(part, info)
        part.replace(target)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return load_model_directory(target)


class Proof(msgspec.Struct, frozen=True):
    """The result of running a checkpoint's own code: the recipe that agrees with it, and how well."""

    recipe: Recipe
    details: dict[str, str | float | int | bool]
    vectors: ReferenceVectors


def prove(model: ModelDirectory, checkpoint: Checkpoint, python: str, progress: Progress = silent) -> Proof:
    """Compare a conversion, or the fp32 version of a 16-bit one, with the checkpoint's own code.

    Raises ModelError if no recipe gives the same vectors, CannotCompare if that code cannot be run.
    """
    if missing := missing_for_reference(python):
        raise CannotCompare(f"{python} cannot run the checkpoint's own code: {missing}")
    if model.info.precision == "fp32":
        evidence = verify(model, checkpoint, python, progress)
    else:
        twin = model.path / "fp32"
        twin.mkdir(exist_ok=True)
        try:
            convert(checkpoint, twin, Recipe(), "fp32", progress)
            evidence = verify(ModelDirectory(twin, model.info), checkpoint, python, progress)
        finally:
            shutil.rmtree(twin)
    return Proof(evidence.recipe, evidence.details(), ReferenceVectors.of(evidence.reference))


def proof_in_cache(cache: Path, mark: str) -> Proof | None:
    """Return the proof for a conversion of the same checkpoint in another precision."""
    for record in cache.glob(f"*-{mark}/{MODEL_JSON}"):
        model = load_model_directory(record.parent)
        vectors = read_reference_vectors(model.path)
        if model.info.verified and vectors and model.info.details.get("verification", HERE) == HERE:
            details = {key: model.info.details[key] for key in PROOF_KEYS if key in model.info.details}
            return Proof(recipe_of(model), details, vectors)
    return None


def verified(
    model: ModelDirectory,
    checkpoint: Checkpoint,
    proof: Proof | None,
    python: Callable[[], str],
    progress: Progress,
) -> ModelDirectory:
    """Verify a conversion by a `proof`, by a known recipe, or else by comparing it."""
    if not proof and (known := known_recipe(checkpoint.path)):
        return settle_by_digest(model, checkpoint, known)
    try:
        return settle(model, checkpoint, proof or prove(model, checkpoint, python(), progress))
    except CannotCompare as error:
        log.warning("the model cannot be verified here", reason=error.message)
        return model


def settle(model: ModelDirectory, checkpoint: Checkpoint, proof: Proof) -> ModelDirectory:
    """Rebuild a conversion with the verified recipe, and mark it as verified."""
    if proof.recipe != recipe_of(model):
        write_video_graph(checkpoint, model, proof.recipe)
    write_reference_vectors(model.path, proof.vectors)
    details = {**model.info.details, **proof.details, "verification": HERE}
    write_model_json(model.path, msgspec.structs.replace(model.info, verified=True, details=details))
    return load_model_directory(model.path)


def settle_by_digest(model: ModelDirectory, checkpoint: Checkpoint, known: KnownRecipe) -> ModelDirectory:
    """Mark a conversion as verified because a checkpoint with the same code has been verified."""
    if known.recipe != recipe_of(model):
        write_video_graph(checkpoint, model, known.recipe)
    log.info("recipe known by digest", model=model.info.id, verified_with=known.source, by=known.reference)
    details = {
        **model.info.details,
        "recipe": encode_recipe(known.recipe),
        "verification": BY_DIGEST,
        "verified_with": f"{known.source}@{known.revision}",
        "reference": known.reference,
    }
    write_model_json(model.path, msgspec.structs.replace(model.info, verified=True, details=details))
    return load_model_directory(model.path)


def finished(target: Path) -> ModelDirectory | None:
    """Return an earlier conversion, if it is complete."""
    return load_model_directory(target) if (target / MODEL_JSON).exists() else None


def lock_file(target: Path) -> Path:
    """Return the lock file for changes to a model directory of the cache."""
    return target.with_name(f".{target.name}.lock")


def checkpoint_of(model: ModelDirectory) -> Checkpoint:
    """Return the checkpoint from which a model directory was converted. Raises ModelError."""
    path = model.info.details.get("checkpoint")
    if model.info.architecture != ARCHITECTURE or not path:
        raise ModelError(f"{model.path} was not converted from a Cosmos-Embed1 checkpoint")
    return open_checkpoint(Path(str(path)))


def require_verified(model: ModelDirectory, *, allow: bool) -> None:
    """Raise ModelError for a converted checkpoint whose vectors were not compared, unless `allow`."""
    info = model.info
    if info.architecture != ARCHITECTURE or info.verified:
        return
    if not allow:
        raise ModelError(
            f"{info.id} is not verified: its vectors were not compared with those of the checkpoint's own "
            "code. Run `rt-embed model prepare`, or set RTEMBED_ALLOW_UNVERIFIED_MODEL=true to serve it all "
            "the same"
        )
    log.warning("serving a model that is not verified: its vectors may be wrong", model=info.id)


def fingerprint(checkpoint: Checkpoint) -> str:
    """Return eight hexadecimal digits that change with the configuration, any file of the weights, and the
    converter."""
    digest = hashlib.sha256(CONVERTER.encode())
    digest.update((checkpoint.path / "config.json").read_bytes())
    for file in weight_files(checkpoint.path):
        stat = file.stat()
        digest.update(f"{file.name} {stat.st_size} {stat.st_mtime_ns}\n".encode())
    return digest.hexdigest()[:8]
