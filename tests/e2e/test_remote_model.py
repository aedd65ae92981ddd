"""One service whose model is another service, which takes what a Cosmos-Embed1 NIM takes."""

from pathlib import Path

import numpy as np
import pytest

from tests.e2e.conftest import Stack
from tests.models.null.inference import text_vector
from tests.support import wait_for


@pytest.fixture
def front(stack: Stack, shared_stack: Stack) -> Stack:
    """A service whose workers send what they decode to the shared one."""
    del stack.environment["MODEL_IMPLEMENTATION_PATH"]
    stack.environment |= {
        "REMOTE_EMBED_ENDPOINT": shared_stack.url,
        "REMOTE_EMBED_ENDPOINT_MODEL_NAME": "null",
        "RTEMBED_REMOTE_PATIENCE": "1",
    }
    return stack


def test_two_services_in_a_row_give_the_vectors_of_one(front: Stack, shared_stack: Stack, film: Path) -> None:
    front.start()
    (model,) = front.client.get("/models").json()["data"]
    assert model["id"] == "null"
    body = {"model": "null", "chunk_duration": 10}
    answers = []
    for stack in (front, shared_stack):
        film_id = stack.upload(film)
        answer = stack.client.post("/generate_video_embeddings", json={"id": film_id, **body})
        assert answer.status_code == 200, answer.text
        answers.append(answer.json()["chunk_responses"])
        assert stack.client.delete(f"/files/{film_id}").status_code == 200
    ours, theirs = answers
    assert [chunk["start_time"] for chunk in ours] == [chunk["start_time"] for chunk in theirs]
    for one, other in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(one["embeddings"], other["embeddings"], atol=0.03)  # JPEG files between
    texts = {"text_input": ["a cat", "a dog"], "model": "null"}
    answer = front.client.post("/generate_text_embeddings", json=texts).json()
    for text, item in zip(texts["text_input"], answer["data"], strict=True):
        np.testing.assert_allclose(item["embeddings"], text_vector(text), atol=1e-6)


def test_a_remote_model_that_is_away_is_said_and_waited_for(
    front: Stack, tmp_path: Path, stack: Stack
) -> None:
    front.environment["REMOTE_EMBED_ENDPOINT"] = "http://127.0.0.1:9"
    front.start_gateway()
    worker = front.start_worker()
    wait_for(lambda: "gateway listening" in front.logs())

    def detail() -> str:
        return "".join(
            check["message"]
            for check in front.client.get("/ready?detailed=true").json()["checks"]
            if check["component"].startswith("worker ")
        )

    wait_for(lambda: "waiting for the model" in front.logs())
    wait_for(lambda: "the remote model does not answer" in detail())
    worker.terminate()
    assert worker.wait(20) == 0
