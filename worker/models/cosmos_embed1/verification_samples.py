"""The clips and sentences used to compare implementations of a model."""

import numpy as np

from shared.errors import ModelError
from worker.models.embedding_engine import Clips, Vectors

CLIPS = 2
SENTENCES = (
    "a red car turns left at a crossing",
    "Two people are unloading boxes from a truck, in the rain.",
    "fire",
    "A forklift drives through a warehouse; a worker steps back just in time, then it leaves by the gate.",
)


def fixed_clips(frames: int, resolution: int) -> Clips:
    """Clips with smooth moving colours and edges, the same everywhere: uint8 [2, frames, 3, R, R]."""
    rng = np.random.Generator(np.random.PCG64(20))
    y, x = np.mgrid[0:resolution, 0:resolution] / resolution
    t = np.arange(frames)[:, None, None, None] / frames
    clips = np.empty((CLIPS, frames, 3, resolution, resolution))
    for clip in clips:
        a, b, c = rng.uniform(2, 9, (3, 1, 3, 1, 1))
        phase = rng.uniform(0, 6, (1, 3, 1, 1))
        disc = (x - 0.5 * t - 0.2) ** 2 + (y - 0.5) ** 2 < 0.04
        clip[:] = 127 + 90 * np.sin(phase + a * x + b * y + c * t) + 40 * disc
    return np.clip(clips, 0, 255).astype(np.uint8)


def lowest_cosine(vectors: Vectors, others: Vectors) -> float:
    """Return the lowest cosine between the rows of two arrays; -1 for vectors that are not finite."""
    a, b = vectors.astype(np.float64), others.astype(np.float64)
    if a.shape != b.shape:
        raise ModelError(f"vectors of the shape {a.shape} cannot be compared with {b.shape}")
    cosines = (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
    return float(cosines.min()) if np.isfinite(cosines).all() else -1.0
