"""Text embeddings through the whole service."""

import concurrent.futures
import json
import time

import numpy as np
import pytest

from tests.e2e.conftest import Stack
from tests.models.null.inference import text_vector

URL = "/generate_text_embeddings"


def test_vectors_come_back_in_the_order_of_the_texts(shared_stack: Stack) -> None:
    texts = ["a forklift", "a person", "a forklift"]
    before = int(time.time())
    answer = shared_stack.client.post(URL, json={"text_input": texts, "model": "null"}).json()
    assert list(answer) == ["id", "created", "model", "data"]
    assert answer["model"] == "null"
    assert before - 1 <= answer["created"] <= time.time() + 1
    assert [item["text_input"] for item in answer["data"]] == texts
    for text, item in zip(texts, answer["data"], strict=True):
        np.testing.assert_array_equal(np.float32(item["embeddings"]), text_vector(text))


def test_one_text_may_stand_alone(shared_stack: Stack) -> None:
    answer = shared_stack.client.post(URL, json={"text_input": "a cat", "model": "null"}).json()
    assert [item["text_input"] for item in answer["data"]] == ["a cat"]


@pytest.mark.parametrize("texts", ["", []])
def test_nothing_to_embed_is_refused(shared_stack: Stack, texts: object) -> None:
    answer = shared_stack.client.post(URL, json={"text_input": texts, "model": "null"})
    assert (answer.status_code, answer.json()["code"]) == (400, "BadParameters")


def test_another_model_is_refused(shared_stack: Stack) -> None:
    answer = shared_stack.client.post(URL, json={"text_input": "a", "model": "cosmos-embed1-448p"})
    assert (answer.status_code, answer.json()["code"]) == (400, "BadParameters")
    assert "the loaded model is null" in answer.json()["message"]


def test_a_missing_field_is_named(shared_stack: Stack) -> None:
    answer = shared_stack.client.post(URL, json={"text_input": "a"})
    assert answer.status_code == 422
    assert answer.json() == {"code": "InvalidParameters", "message": "('body', 'model'): Field required"}


def test_a_model_that_fails_is_a_text_error(shared_stack: Stack) -> None:
    answer = shared_stack.client.post(URL, json={"text_input": ["fail now"], "model": "null"})
    assert (answer.status_code, answer.json()["code"]) == (500, "TextEmbeddingsError")


def test_many_clients_at_once_each_get_their_own(shared_stack: Stack) -> None:
    def ask(number: int) -> bool:
        text = f"text {number}"
        answer = shared_stack.client.post(URL, json={"text_input": text, "model": "null"}).json()
        return bool(np.array_equal(np.float32(answer["data"][0]["embeddings"]), text_vector(text)))

    with concurrent.futures.ThreadPoolExecutor(16) as clients:
        assert all(clients.map(ask, range(200)))


def test_every_line_of_a_request_carries_its_id(shared_stack: Stack) -> None:
    body = {"text_input": "fail for the log", "model": "null"}
    shared_stack.client.post(URL, json=body, headers={"X-Request-Id": "mine/7"})
    lines = [json.loads(line) for line in shared_stack.logs().splitlines()]
    failures = [line for line in lines if line["event"] == "text embedding failed"]
    assert failures
    assert all(line["request_id"] and line["worker"] and line["process"] == "worker" for line in failures)
    assert "mine/7" in {line["x_request_id"] for line in failures}
