"""Vectors that any engine for a verified model should give, kept with the model."""

from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from shared.errors import ModelError
from worker.models.cosmos_embed1.verification_samples import SENTENCES, fixed_clips, lowest_cosine
from worker.models.directory import ModelDirectory
from worker.models.embedding_engine import Engine, Vectors

if TYPE_CHECKING:
    from worker.models.cosmos_embed1.verify import Reference

FILE = "reference.json"
TOLERATED = {"fp32": 0.9999, "fp16": 0.999, "bf16": 0.99}
"""The lowest cosine that an engine in that precision may have."""


class ReferenceVectors(msgspec.Struct, frozen=True):
    """What the checkpoint's own code gives for the fixed clips and sentences, in fp32."""

    video: list[list[float]]
    text: list[list[float]]

    @classmethod
    def of(cls, reference: "Reference") -> "ReferenceVectors":
        """From the arrays of a verification."""
        return cls(reference.video.tolist(), reference.text.tolist())


def write_reference_vectors(folder: Path, vectors: ReferenceVectors) -> None:
    """Keep them in a model directory."""
    (folder / FILE).write_bytes(msgspec.json.encode(vectors))


def read_reference_vectors(folder: Path) -> ReferenceVectors | None:
    """Those of a model directory; None for a model that was not verified. Raises ModelError."""
    try:
        return msgspec.json.decode((folder / FILE).read_bytes(), type=ReferenceVectors)
    except FileNotFoundError:
        return None
    except msgspec.MsgspecError as error:
        raise ModelError(f"{folder / FILE} is damaged: {error}") from error


def check_engine(model: ModelDirectory, engine: Engine) -> tuple[float, float] | None:
    """The lowest cosines of the engine's video and text vectors to those kept with the model; None where
    none are kept. Meant for engines that were built for a device, where a kernel may round or overflow.

    Raises ModelError if a cosine is below what the model's precision explains, EngineError if the engine
    fails.
    """
    kept = read_reference_vectors(model.path)
    if not kept:
        return None
    clips = fixed_clips(model.info.frames, model.info.resolution)
    video = lowest_cosine(engine.embed_video(clips), _array(kept.video))
    text = lowest_cosine(engine.embed_text(SENTENCES), _array(kept.text))
    required = TOLERATED[model.info.precision]
    if min(video, text) < required:
        raise ModelError(
            f"the engine of {model.info.id} in {model.info.precision} does not give the model's vectors: "
            f"cosine {video:.6f} for video and {text:.6f} for text, at least {required} is expected. Another "
            "COSMOS_EMBED1_TRT_PRECISION may help"
        )
    return video, text


def _array(vectors: list[list[float]]) -> Vectors:
    return np.array(vectors, np.float32)
