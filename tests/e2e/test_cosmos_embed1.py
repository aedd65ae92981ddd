"""A miniature Cosmos-Embed1, from its checkpoint to vectors through the whole service."""

import json
from pathlib import Path

import numpy as np
import pytest

from tests.e2e.conftest import Stack
from tests.worker.models.cosmos_embed1.conftest import Miniature, NumpyModel, write_checkpoint
from worker.models.cosmos_embed1.recipe import CLIP_MEAN, CLIP_STD
from worker.models.tokenizer import TextTokenizer


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Miniature:
    """A checkpoint folder and its weights. It has no code, so that nobody can verify it here."""
    made = write_checkpoint(tmp_path_factory.mktemp("checkpoint") / "Cosmos-Embed1-Mini")
    for path in made.path.glob("*.py"):
        path.unlink()
    return made


@pytest.fixture
def cosmos(stack: Stack, checkpoint: Miniature, tmp_path: Path) -> Stack:
    """A service that is to convert the checkpoint and serve it."""
    del stack.environment["MODEL_IMPLEMENTATION_PATH"]
    stack.environment["MODEL_PATH"] = str(checkpoint.path)
    stack.environment["NGC_MODEL_CACHE"] = str(tmp_path / "cache")
    return stack


def test_a_checkpoint_is_converted_and_served(
    cosmos: Stack, checkpoint: Miniature, film: Path, tmp_path: Path
) -> None:
    cosmos.environment["RTEMBED_ALLOW_UNVERIFIED_MODEL"] = "true"
    cosmos.start()
    (model,) = cosmos.client.get("/models").json()["data"]
    assert (model["id"], model["owned_by"]) == ("cosmos-embed1-mini", "nvidia")
    assert cosmos.client.get("/models/cosmos-embed1-mini").json()["verified"] is False
    assert 'rtembed_model_verified{model="cosmos-embed1-mini"} 0' in cosmos.client.get("/metrics").text
    answer = cosmos.client.post(
        "/generate_text_embeddings", json={"text_input": ["a red car", "a cat"], "model": model["id"]}
    )
    assert answer.status_code == 200, answer.text
    given = np.array([item["embeddings"] for item in answer.json()["data"]], np.float32)
    (folder,) = (tmp_path / "cache").glob("cosmos-embed1-mini-fp32-*")
    ids, mask = TextTokenizer(folder / "tokenizer.json", 24)(["a red car", "a cat"])
    plain = NumpyModel(checkpoint, CLIP_MEAN, CLIP_STD)
    expected = np.stack([plain.text(*row) for row in zip(ids, mask, strict=True)])
    np.testing.assert_allclose(given, expected, atol=1e-5)
    answer = cosmos.client.post(
        "/generate_video_embeddings",
        json={"id": cosmos.upload(film), "model": model["id"], "chunk_duration": 5},
    )
    assert answer.status_code == 200, answer.text
    chunks = answer.json()["chunk_responses"]
    assert [len(chunk["embeddings"]) for chunk in chunks] == [48] * 5
    vectors = np.array([chunk["embeddings"] for chunk in chunks])
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    # Every five seconds of the film have a colour of their own.
    assert (vectors @ vectors.T)[np.triu_indices(5, 1)].max() < 0.9999
    assert "serving a model that is not verified" in cosmos.logs()


def test_a_model_that_nobody_compared_is_refused(cosmos: Stack) -> None:
    worker = cosmos.start_worker()
    assert worker.wait(100) == 4
    last = json.loads(cosmos.logs().splitlines()[-1])
    assert last["event"] == "worker cannot start"
    assert "cosmos-embed1-mini is not verified" in last["error"]
    assert "RTEMBED_ALLOW_UNVERIFIED_MODEL=true" in last["error"]
