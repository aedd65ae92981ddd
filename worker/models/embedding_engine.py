"""The interface between the worker and whatever runs the model."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Vectors = NDArray[np.float32]
Clips = NDArray[np.uint8]


class Engine(Protocol):
    """Turns clips and texts into unit vectors. Calls block; each of the two methods is called from one
    thread at a time, and the two may run at the same time."""

    supports_text: bool

    def embed_video(self, clips: Clips) -> Vectors:
        """Embed `clips`, uint8 [B, frames, 3, resolution, resolution] RGB -> float32 [B, dimension].

        Raises EngineError, or DeviceLost when this process can no longer use the GPU.
        """

    def embed_text(self, texts: Sequence[str]) -> Vectors:
        """Return float32 [len(texts), dimension]. Raises EngineError, DeviceLost, or NotSupported without a
        text tower."""

    def close(self) -> None:
        """Release what the engine holds."""
