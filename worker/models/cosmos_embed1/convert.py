"""Writes a model directory from a checkpoint."""

import shutil
from functools import partial
from pathlib import Path

import msgspec

from shared.errors import ModelError
from worker.models.cosmos_embed1.checkpoint import Checkpoint
from worker.models.cosmos_embed1.graph import PRECISIONS, Graph, Precision
from worker.models.cosmos_embed1.network import TextNetwork, VideoNetwork
from worker.models.cosmos_embed1.recipe import Recipe
from worker.models.directory import ModelDirectory, ModelInfo
from worker.models.preparation_progress import Progress, silent
from worker.models.tokenizer import write_tokenizer

ARCHITECTURE = "cosmos-embed1"
CONVERTER = "1"
"""Changes whenever the written graphs change. It is part of a converted model's identity."""

REFUSED = {
    "int8": "needs a calibrated graph",
    "fp8": "needs a calibrated graph",
    "best": "is a choice among precisions",
}


def check_precision(name: str) -> Precision:
    """fp32, fp16 or bf16 as COSMOS_EMBED1_TRT_PRECISION names them. Raises ModelError for the others."""
    if name in REFUSED:
        raise ModelError(
            f"COSMOS_EMBED1_TRT_PRECISION={name} {REFUSED[name]} and is not possible here: TensorRT 11 takes "
            "every type from the graph, and the graph is written in fp32, fp16 or bf16"
        )
    for precision in PRECISIONS:
        if name == precision:
            return precision
    raise ModelError(f"COSMOS_EMBED1_TRT_PRECISION={name} is not one of {', '.join(PRECISIONS)}")


def convert(
    checkpoint: Checkpoint, target: Path, recipe: Recipe, precision: Precision, progress: Progress = silent
) -> None:
    """Write `video.onnx`, `text.onnx`, their data and `tokenizer.json` into the folder `target`.

    No more than one tensor is in memory at a time. `model.json` is left to the caller, who knows the
    source. Raises ModelError.
    """
    video = VideoNetwork(checkpoint, precision).build([recipe])
    text = TextNetwork(checkpoint, precision).build(recipe)
    total = video.data_size + text.data_size
    check_space(target, total)
    write_tokenizer(vocabulary_file(checkpoint.path), target / "tokenizer.json", extra_tokens=("[DEC]",))
    for name, graph, before in (("video", video, 0), ("text", text, video.data_size)):
        told = partial(_tell, progress, f"writing {name}.onnx in {precision}", before, total)
        try:
            graph.write_data(target / f"{name}.onnx.data", told)
        except OSError as error:
            raise ModelError(f"cannot write to {target}: {error}") from error
        write_graph(graph, target / f"{name}.onnx", recipe)


def _tell(progress: Progress, step: str, before: int, total: int, done: int) -> None:
    progress(step, before + done, total)


def write_graph(graph: Graph, path: Path, recipe: Recipe) -> None:
    """Write the graph's own file; its weights are in `path` + ".data" already. Raises ModelError."""
    graph.write(path, f"{path.name}.data", {"recipe": encode_recipe(recipe), "stills": "one_frame"})


def write_video_graph(checkpoint: Checkpoint, model: ModelDirectory, recipe: Recipe) -> None:
    """Write a model's video branch with another recipe. Its weights do not depend on the recipe, and stay."""
    precision = check_precision(model.info.precision)
    write_graph(VideoNetwork(checkpoint, precision).build([recipe]), model.video, recipe)


def model_info(
    checkpoint: Checkpoint, recipe: Recipe, precision: Precision, *, name: str, source: str, revision: str
) -> ModelInfo:
    """Return the `model.json` of a conversion, not verified yet."""
    config = checkpoint.config
    return ModelInfo(
        id=name,
        architecture=ARCHITECTURE,
        dimension=config.embed_dim,
        frames=config.num_video_frames,
        resolution=config.resolution,
        max_text_tokens=config.max_txt_len,
        source=source,
        revision=revision,
        precision=precision,
        details={
            "checkpoint": str(checkpoint.path),
            "converter": CONVERTER,
            "recipe": encode_recipe(recipe),
            "stored": checkpoint.stored_dtype,
            "cross_layers": ",".join(map(str, checkpoint.layout.cross_layers)),
            "temporal_key": checkpoint.temporal_key,
        },
    )


def encode_recipe(recipe: Recipe) -> str:
    """Return the recipe as JSON."""
    return msgspec.json.encode(recipe).decode()


def recipe_of(model: ModelDirectory) -> Recipe:
    """Return the recipe by which a model directory was converted. Raises ModelError if it does not say."""
    try:
        return msgspec.json.decode(str(model.info.details["recipe"]), type=Recipe)
    except (KeyError, msgspec.MsgspecError) as error:
        raise ModelError(f"{model.path} does not say by which recipe it was made") from error


def vocabulary_file(path: Path) -> Path:
    """`vocab.txt`, or `tokenizer.json` as TAO's exports have it. Raises ModelError."""
    for name in ("vocab.txt", "tokenizer.json"):
        if (path / name).exists():
            return path / name
    raise ModelError(f"{path} has neither vocab.txt nor tokenizer.json")


def check_space(folder: Path, needed: int) -> None:
    """Raise ModelError if the disk of `folder` lacks `needed` bytes plus a reserve."""
    free = shutil.disk_usage(folder).free
    if free < needed * 1.02:
        raise ModelError(f"{folder} needs {needed / 1e9:.2f} GB and has {free / 1e9:.2f} GB free")
