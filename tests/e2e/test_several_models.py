"""Workers with different models in one service."""

import numpy as np
import pytest
from redis import Redis

from shared import keys
from tests.e2e.conftest import Stack
from tests.models.null.inference import text_vector
from tests.support import wait_for

TEXT = "/generate_text_embeddings"


def ids(stack: Stack) -> list[str]:
    return [model["id"] for model in stack.client.get("/models").json()["data"]]


@pytest.fixture
def two_models(stack: Stack) -> Stack:
    """The model `first`, and then, beside it, `second`."""
    stack.environment["RTEMBED_MODEL_ALIASES"] = "any,newer=second"
    stack.start_gateway()
    for name in ("first", "second"):
        stack.start_worker(MODEL_PATH=name, RTEMBED_WORKER_NAME=name)
        stack.wait_ready()
    return stack


def test_a_request_meets_the_workers_of_its_model(two_models: Stack, redis_url: str) -> None:
    stack = two_models
    wait_for(lambda: sorted(ids(stack)) == ["first", "second"])
    for name, model in (("first", "first"), ("second", "second"), ("newer", "second")):
        answer = stack.client.post(TEXT, json={"text_input": "a cat", "model": name})
        assert answer.json()["model"] == model
        np.testing.assert_allclose(answer.json()["data"][0]["embeddings"], text_vector("a cat"), atol=1e-6)
    unknown = stack.client.post(TEXT, json={"text_input": "a cat", "model": "third"})
    assert unknown.status_code == 400
    assert "third; the loaded model is" in unknown.json()["message"]
    assert stack.client.get("/models/newer").json()["id"] == "second"
    with Redis.from_url(redis_url) as redis:
        assert {key.decode() for key in redis.keys(keys.jobs("text") + "*")} >= {
            keys.jobs("text", "first"),
            keys.jobs("text", "second"),
        }


def test_rolling_to_another_model(two_models: Stack) -> None:
    stack = two_models
    first, _ = stack.workers
    wait_for(lambda: len(ids(stack)) == 2)
    first.terminate()
    assert first.wait(25) == 0
    stack.workers.remove(first)
    wait_for(lambda: ids(stack) == ["second"])
    for name in ("second", "any", "newer"):
        answer = stack.client.post(TEXT, json={"text_input": "a cat", "model": name})
        assert (answer.status_code, answer.json()["model"]) == (200, "second")
    # 503 while the gateway still sees the worker stop.
    wait_for(lambda: stack.client.post(TEXT, json={"text_input": "a", "model": "first"}).status_code == 400)
