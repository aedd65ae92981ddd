"""The whole service on a real GPU: a file decoded by NVDEC and embedded by TensorRT, and by the CPU."""

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.e2e.conftest import Stack
from tests.worker.models.cosmos_embed1.conftest import Miniature, write_checkpoint

pytestmark = pytest.mark.gpu


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Miniature:
    """A miniature Cosmos-Embed1."""
    return write_checkpoint(tmp_path_factory.mktemp("checkpoint") / "Cosmos-Embed1-Mini")


def vectors(stack: Stack, film: Path) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Of the film's chunks, and of two texts."""
    (model,) = stack.client.get("/models").json()["data"]
    video = stack.client.post(
        "/generate_video_embeddings",
        json={"id": stack.upload(film), "model": model["id"], "chunk_duration": 5},
    )
    assert video.status_code == 200, video.text
    text = stack.client.post(
        "/generate_text_embeddings", json={"text_input": ["a red car", "a cat"], "model": model["id"]}
    )
    assert text.status_code == 200, text.text
    return (
        np.array([chunk["embeddings"] for chunk in video.json()["chunk_responses"]]),
        np.array([item["embeddings"] for item in text.json()["data"]]),
    )


def test_a_gpu_gives_the_vectors_of_the_cpu(
    stack: Stack, checkpoint: Miniature, film: Path, tmp_path: Path
) -> None:
    del stack.environment["MODEL_IMPLEMENTATION_PATH"]
    stack.environment |= {
        "MODEL_PATH": str(checkpoint.path),
        "NGC_MODEL_CACHE": str(tmp_path / "cache"),
        "RTEMBED_ALLOW_UNVERIFIED_MODEL": "true",
    }
    stack.start_gateway()
    found = []
    for backend in ("cpu", "cuda"):
        worker = stack.start_worker(RTEMBED_BACKEND=backend)
        stack.wait_ready(600)
        found.append(vectors(stack, film))
        worker.terminate()
        worker.wait(60)
        stack.workers.remove(worker)
    for on_cpu, on_gpu in zip(*found, strict=True):
        assert on_cpu.shape == on_gpu.shape
        assert (on_cpu * on_gpu).sum(axis=1).min() > 0.99
    assert "decoded by the CPU, not the GPU" not in stack.logs()
