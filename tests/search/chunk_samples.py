"""Messages as a worker makes them, for the tests of the index."""

import numpy as np

from shared.assets import Asset
from shared.chunks import SECOND
from shared.fleet import ServedModel
from shared.jobs import VideoJob
from shared.results import Result
from tests.support import served_model
from worker.publish.messages import build_message

MODEL = served_model(id="tiny", dimension=8, created=1700000000)


def unit_vectors(count: int, dimension: int = 8, seed: int = 1) -> np.ndarray:
    """Random directions, float32 [count, dimension]."""
    vectors = np.random.default_rng(seed).standard_normal((count, dimension)).astype(np.float32)
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True))


def film(number: int = 0, **fields: object) -> Asset:
    """An uploaded film as its record says."""
    values: dict[str, object] = {
        "id": f"00000000-0000-0000-0000-{number:012d}",
        "path": f"/assets/{number}/film{number}.mp4",
        "directory": f"/assets/{number}",
        "filename": f"film{number}.mp4",
        "created": 1_700_000_000,
        **fields,
    }
    return Asset(**values)  # type: ignore[arg-type]


def chunk_message(
    asset: Asset, number: int, vector: np.ndarray, request: str = "request", model: ServedModel = MODEL
) -> bytes:
    """The message of the chunk of 10 s with this number."""
    result = Result(
        chunk=number,
        start=number * 10 * SECOND,
        end=(number + 1) * 10 * SECOND,
        vector=vector.astype("<f4").tobytes(),
    )
    job = VideoJob(request=request, assets=[asset], chunks=[], model=model.id)
    return build_message(model, job, result)
