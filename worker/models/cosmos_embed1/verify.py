"""Compares a conversion with its checkpoint's own modelling code.

The weights alone do not say how the parts are combined, and wrong vectors look like right ones. So the
checkpoint's own code embeds fixed clips and sentences, and the conversion must give the same vectors.
"""

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import structlog
from numpy.typing import NDArray

from shared.errors import ModelError
from worker.children import child_environment
from worker.models.cosmos_embed1.checkpoint import Checkpoint
from worker.models.cosmos_embed1.convert import encode_recipe, recipe_of
from worker.models.cosmos_embed1.environment import missing_in
from worker.models.cosmos_embed1.network import VideoNetwork
from worker.models.cosmos_embed1.recipe import Recipe, pixel_constants, tails
from worker.models.cosmos_embed1.verification_samples import CLIPS, SENTENCES, fixed_clips, lowest_cosine
from worker.models.directory import ModelDirectory
from worker.models.embedding_engine import Clips, Vectors
from worker.models.preparation_progress import Progress, silent
from worker.models.tokenizer import TextTokenizer

log = structlog.get_logger(__name__)

REFERENCE = Path(__file__).with_name("reference.py")
REQUIRED = 0.9999
SAME = 1 - 1e-6
"""At or above this cosine, implementations differ by rounding only, so no other recipe is tried."""
PIXEL_TRIALS = 12
PROOF_KEYS = ("recipe", "cosine_video", "cosine_text", "recipes_compared", "reference")
"""The entry for a verification in `model.json`."""


class CannotCompare(ModelError):
    """The checkpoint's own code did not run, so nothing is known of the conversion."""


class Evidence(msgspec.Struct, frozen=True):
    """A verification's result. `video` and `text` are the lowest cosines to the checkpoint's own code."""

    recipe: Recipe
    video: float
    text: float
    tried: int
    """Number of recipes compared."""
    reference: "Reference"

    def details(self) -> dict[str, str | float | int | bool]:
        """Return what `model.json` says of it."""
        values = (encode_recipe(self.recipe), self.video, self.text, self.tried, self.reference.notes)
        return dict(zip(PROOF_KEYS, values, strict=True))


class Reference(msgspec.Struct, frozen=True):
    """The output of the checkpoint's own code: vectors by clip and by sentence, float32 [n, dimension], and a
    line that says how it was run."""

    video: Vectors
    text: Vectors
    notes: str


def verify(
    model: ModelDirectory, checkpoint: Checkpoint, python: str, progress: Progress = silent
) -> Evidence:
    """Compare an fp32 conversion with the checkpoint's own code, run by the interpreter `python`.

    If its recipe is wrong, tries the others and reports the right one. Raises ModelError if none gives the
    same vectors, CannotCompare if that code fails.
    """
    tokenizer = TextTokenizer(model.tokenizer, checkpoint.config.max_txt_len)
    clips = fixed_clips(checkpoint.config.num_video_frames, checkpoint.config.resolution)
    progress(f"running the checkpoint's own code on {CLIPS} clips and {len(SENTENCES)} sentences", 0, 0)
    reference = run_reference(python, checkpoint.path, clips, tokenizer)
    progress("comparing the texts", 0, 0)
    text = lowest_cosine(embed_texts(model, tokenizer), reference.text)
    if text < REQUIRED:
        raise ModelError(
            f"text vectors have a cosine of {text:.6f} to the checkpoint's own, below {REQUIRED}"
        )
    recipe, video, tried = find_recipe(model, checkpoint, clips, reference.video, progress)
    if video < REQUIRED:
        raise ModelError(
            f"none of {tried} recipes gives the vectors of the checkpoint's own code: the best has a cosine "
            f"of {video:.6f}, below {REQUIRED} ({recipe})"
        )
    return Evidence(recipe, video, text, tried, reference)


def find_recipe(
    model: ModelDirectory, checkpoint: Checkpoint, clips: Clips, wanted: Vectors, progress: Progress
) -> tuple[Recipe, float, int]:
    """Return the recipe whose vectors are nearest to `wanted`, its lowest cosine, and how many were
    compared."""
    best, nearest, tried = recipe_of(model), -1.0, 0
    for i, recipe in enumerate(candidates(checkpoint, best)):
        progress(f"comparing the videos, pixel constants {i + 1}", 0, 0)
        ways = tails(recipe)
        for way, vectors in zip(ways, embed_ways(model, checkpoint, ways, clips), strict=True):
            cosine = lowest_cosine(vectors, wanted)
            tried += 1
            if cosine > nearest:
                best, nearest = way, cosine
        if nearest >= SAME:
            break
    return best, nearest, tried


def candidates(checkpoint: Checkpoint, first: Recipe) -> Iterator[Recipe]:
    """Return `first`, then a limited number of variants with other pixel constants."""
    yield first
    others = (pair for pair in pixel_constants(checkpoint.path) if pair != first.pixels)
    for mean, std in islice(others, PIXEL_TRIALS - 1):
        yield msgspec.structs.replace(first, mean=mean, std=std)


def embed_ways(
    model: ModelDirectory, checkpoint: Checkpoint, ways: list[Recipe], clips: Clips
) -> list[Vectors]:
    """Vectors of the clips by several recipes with the same vision encoder, which runs once for all."""
    probe = model.path / "probe.onnx"
    graph = VideoNetwork(checkpoint, "fp32").build(ways)
    graph.write(probe, f"{model.video.name}.data", {})
    try:
        session = open_session(probe)
        runs = [session.run(None, {"videos": clips[i : i + 1]}) for i in range(len(clips))]
    finally:
        probe.unlink()
    return [np.concatenate(vectors) for vectors in zip(*runs, strict=True)]


def embed_texts(model: ModelDirectory, tokenizer: TextTokenizer) -> Vectors:
    """Vectors of the fixed sentences, each at its own length."""
    session = open_session(model.path / "text.onnx")
    vectors = []
    for sentence in SENTENCES:
        ids, mask = tokenizer([sentence])
        vectors.append(session.run(None, {"input_ids": ids, "attention_mask": mask})[0])
    return np.concatenate(vectors)


def open_session(path: Path) -> Any:
    """Return an onnxruntime.InferenceSession on the CPU."""
    import onnxruntime as ort  # noqa: PLC0415 - a GPU worker, which verifies nothing, may lack it

    options = ort.SessionOptions()
    options.log_severity_level = 3
    return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def run_reference(python: str, checkpoint: Path, clips: Clips, tokenizer: TextTokenizer) -> Reference:
    """Vectors by the checkpoint's own code, in a process of its own. Raises CannotCompare."""
    ids, mask = tokenizer(SENTENCES)
    with tempfile.TemporaryDirectory() as folder:
        inputs, outputs = Path(folder, "inputs.npz"), Path(folder, "outputs.npz")
        np.savez(inputs, clips=clips, sentences=np.array(SENTENCES), input_ids=ids, attention_mask=mask)
        command = [python, str(REFERENCE), str(checkpoint), str(inputs), str(outputs)]
        # The checkpoint's code is foreign: it gets no key, token or password of ours.
        done = subprocess.run(  # noqa: S603 - our own program
            command, env=child_environment(), capture_output=True, text=True, check=False
        )
        if done.returncode:
            log.debug("the checkpoint's own code failed", output=done.stderr)
            last = done.stderr.strip().rpartition("\n")[2]
            raise CannotCompare(f"the checkpoint's own code failed: {last}")
        results: dict[str, NDArray[np.generic]] = dict(np.load(outputs))
    return Reference(
        results["video"].astype(np.float32),
        results["text"].astype(np.float32),
        str(results["notes"]),
    )


def missing_for_reference(python: str = sys.executable) -> str:
    """Return why the interpreter cannot run a checkpoint's own code; empty if it can."""
    return missing_in(python) if find_spec("onnxruntime") else "ONNX Runtime is not installed"
