"""Reference vectors of a verified model, kept with the model to check its engines."""

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
"""The lowest cosine allowed for an engine in each precision."""


class ReferenceVectors(msgspec.Struct, frozen=True):
    """The vectors of the checkpoint's own code for the fixed clips and sentences, in fp32."""

    video: list[list[float]]
    text: list[list[float]]

    @classmethod
    def of(cls, reference: "Reference") -> "ReferenceVectors":
        """Create them from a verification's arrays."""
        return cls(reference.video.tolist(), reference.text.tolist())


def write_reference_vectors(folder: Path, vectors: ReferenceVectors) -> None:
    """Write them into a model directory."""
    (folder / FILE).write_bytes(msgspec.json.encode(vectors))


def read_reference_vectors(folder: Path) -> ReferenceVectors | None:
    """Read those of a model directory; None if the model was not verified. Raises ModelError."""
    try:
        return msgspec.json.decode((folder / FILE).read_bytes(), type=ReferenceVectors)
    except FileNotFoundError:
        return None
    except msgspec.MsgspecError as error:
        raise ModelError(f"{folder / FILE} is damaged: {error}") from error


def check_engine(model: ModelDirectory, engine: Engine) -> tuple[float, float] | None:
    """Return the lowest cosines of the engine's video and text vectors to the model's reference vectors; None
    if it has none. Meant for engines built for a device, where a kernel may round or overflow.

    Raises ModelError if a cosine is lower than the model's precision explains, EngineError if the engine
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
