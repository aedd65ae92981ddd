"""What this service adds to the API, with real media and a real worker; and two gateways as one service."""

import base64
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from tests.e2e.conftest import Stack
from tests.e2e.media import COLOURS, picture
from tests.models.null.inference import text_vector
from tests.support import free_port

EMBEDDINGS = "/embeddings"


def data_url(path: Path, media_type: str) -> str:
    return f"data:{media_type};base64," + base64.b64encode(path.read_bytes()).decode()


def decoded(text: str) -> np.ndarray[Any, Any]:
    return np.frombuffer(base64.b64decode(text), "<f4")


def colours(vector: Any) -> np.ndarray[Any, Any]:
    return np.float32(vector[:24]).reshape(8, 3) * 255


def ask(stack: Stack, **body: object) -> httpx.Response:
    return stack.client.post(EMBEDDINGS, json={"model": "null", **body})


def test_texts_pictures_and_videos_in_one_request(shared_stack: Stack, film: Path, tmp_path: Path) -> None:
    red = picture(tmp_path, COLOURS[0])
    before = shared_stack.client.get("/files?purpose=vision").json()
    inputs = ["a forklift", data_url(red, "image/png"), "a person", data_url(film, "video/mp4")]
    answer = ask(shared_stack, input=inputs).json()
    assert list(answer) == ["object", "data", "model", "usage"]
    assert (answer["object"], answer["model"]) == ("list", "null")
    assert answer["usage"] == {"prompt_tokens": 0, "total_tokens": 0}
    assert [(item["object"], item["index"]) for item in answer["data"]] == [
        ("embedding", index) for index in range(4)
    ]
    vectors = [item["embedding"] for item in answer["data"]]
    np.testing.assert_array_equal(np.float32(vectors[0]), text_vector("a forklift"))
    np.testing.assert_array_equal(np.float32(vectors[2]), text_vector("a person"))
    np.testing.assert_allclose(colours(vectors[1]), [COLOURS[0]] * 8, atol=2)
    expected = [COLOURS[int(i * 25 / 8 / 5)] for i in range(8)]
    np.testing.assert_allclose(colours(vectors[3]), expected, atol=6)
    assert shared_stack.client.get("/files?purpose=vision").json() == before


def test_base64_holds_the_same_numbers(shared_stack: Stack) -> None:
    answer = ask(shared_stack, input="a cat", encoding_format="base64", user="someone", dimensions=768).json()
    np.testing.assert_array_equal(decoded(answer["data"][0]["embedding"]), text_vector("a cat"))


def test_more_texts_than_one_job_takes(shared_stack: Stack) -> None:
    texts = [f"text {number}" for number in range(250)]
    answer = ask(shared_stack, input=texts, encoding_format="base64").json()
    for text, item in zip(texts, answer["data"], strict=True):
        np.testing.assert_array_equal(decoded(item["embedding"]), text_vector(text))


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({"input": []}, 422, "InvalidParameters"),
        ({"input": ""}, 422, "InvalidParameters"),
        ({"input": [""]}, 422, "InvalidParameters"),
        ({"input": [1, 2, 3]}, 422, "InvalidParameters"),
        ({"input": ["x"] * 2049}, 422, "InvalidParameters"),
        ({"input": "x" * 8193}, 422, "InvalidParameters"),
        ({"input": ["data:image/png;base64,AAAA"] * 17}, 422, "InvalidParameters"),
        ({"input": "a", "encoding_format": "int4"}, 422, "InvalidParameters"),
        ({"input": "a", "dimensions": 769}, 400, "BadParameters"),
        ({"input": "a", "dimensions": 0}, 422, "InvalidParameters"),
        ({"input": "a", "model": "other"}, 400, "BadParameters"),
        ({"input": "http://127.0.0.1/a.mp4"}, 422, "InvalidParameters"),
        ({"input": ["a", "data:image/png;base64,AAAA"]}, 400, "FailedRequest"),
        ({"input": ["a", "fail"]}, 500, "TextEmbeddingsError"),
    ],
)
def test_what_is_refused(shared_stack: Stack, body: dict[str, Any], status: int, code: str) -> None:
    answer = ask(shared_stack, **body)
    assert (answer.status_code, answer.json()["code"]) == (status, code)


@pytest.mark.parametrize("token_ids", [[1169, 3290], [[1169, 3290], [64]]])
def test_token_ids_are_refused_with_what_to_do(shared_stack: Stack, token_ids: list[Any]) -> None:
    answer = ask(shared_stack, input=token_ids)
    assert (answer.status_code, answer.json()["code"]) == (422, "InvalidParameters")
    assert "not token ids" in answer.json()["message"]
    assert "check_embedding_ctx_length=False" in answer.json()["message"]


def test_base64_on_the_native_endpoints(shared_stack: Stack, film: Path) -> None:
    film_id = shared_stack.upload(film)
    client = shared_stack.client
    request = {"model": "null", "id": film_id, "chunk_duration": 10}
    plain = client.post("/generate_video_embeddings", json=request).json()["chunk_responses"]
    request["encoding_format"] = "base64"
    coded = client.post("/generate_video_embeddings", json=request).json()["chunk_responses"]
    for one, other in zip(plain, coded, strict=True):
        np.testing.assert_array_equal(np.float32(one["embeddings"]), decoded(other["embeddings"]))
    events = client.post("/generate_video_embeddings", json={**request, "stream": True}).text
    assert f'"embeddings":"{coded[0]["embeddings"]}"' in events
    texts = {"text_input": "a cat", "model": "null", "encoding_format": "base64"}
    answer = client.post("/generate_text_embeddings", json=texts).json()
    np.testing.assert_array_equal(decoded(answer["data"][0]["embeddings"]), text_vector("a cat"))
    assert client.delete(f"/files/{film_id}").status_code == 200


def test_shortened_and_packed_vectors(shared_stack: Stack, film: Path) -> None:
    whole = text_vector("a cat")
    short = ask(shared_stack, input="a cat", dimensions=256).json()["data"][0]["embedding"]
    np.testing.assert_allclose(short, whole[:256] / np.linalg.norm(whole[:256]), atol=1e-6)
    client = shared_stack.client
    texts = {"text_input": "a cat", "model": "null", "encoding_format": "binary", "dimensions": 64}
    (packed,) = [
        one["embeddings"] for one in client.post("/generate_text_embeddings", json=texts).json()["data"]
    ]
    assert packed == (np.packbits(whole[:64] > 0).astype(int) - 128).tolist()
    film_id = shared_stack.upload(film)
    video = {
        "model": "null",
        "id": film_id,
        "encoding_format": "int8",
        "dimensions": 12,
        "chunk_duration": 20,
    }
    chunks = client.post("/generate_video_embeddings", json=video).json()["chunk_responses"]
    events = client.post("/generate_video_embeddings", json={**video, "stream": True}).text
    for chunk in chunks:
        assert (len(chunk["embeddings"]), max(map(abs, chunk["embeddings"]))) == (12, 127)
        assert f'"embeddings":{json.dumps(chunk["embeddings"], separators=(",", ":"))}' in events
    refused = client.post("/generate_video_embeddings", json={**video, "dimensions": 769})
    assert (refused.status_code, refused.json()["code"]) == (400, "BadParameters")
    assert client.delete(f"/files/{film_id}").status_code == 200


def test_thumbnails_in_answers_events_and_answers_fetched_later(
    shared_stack: Stack, film: Path, tmp_path: Path
) -> None:
    """Each shows its chunk's colour; the vectors are the same; who does not ask is told of none."""
    film_id, client, url = shared_stack.upload(film), shared_stack.client, "/generate_video_embeddings"
    body = {"model": "null", "id": film_id, "chunk_duration": 5, "encoding_format": "base64"}
    plain = client.post(url, json=body).json()["chunk_responses"]
    body |= {"thumbnails": True}
    asked = {"Prefer": "respond-async", "Idempotency-Key": "thumbnails-of-a-film"}
    where = client.post(url, json=body, headers=asked).headers["Location"].removeprefix("/v1")
    streamed = client.post(url, json={**body, "stream": True}).text
    events = [line.removeprefix("data: ") for line in streamed.splitlines() if line.startswith("data: {")]
    later = client.get(f"{where}/results")
    while later.status_code == 202:
        later = client.get(f"{where}/results")
    for chunks in (
        client.post(url, json=body).json()["chunk_responses"],
        sorted((json.loads(e)["chunk_responses"][0] for e in events), key=lambda c: float(c["start_time"])),
        later.json()["chunk_responses"],
    ):
        assert [chunk["embeddings"] for chunk in chunks] == [chunk["embeddings"] for chunk in plain]
        for chunk, colour in zip(chunks, COLOURS, strict=True):
            image = Image.open(io.BytesIO(base64.b64decode(chunk["thumbnail"])))
            assert (image.format, image.size) == ("JPEG", (160, 90))
            np.testing.assert_allclose(np.asarray(image).mean(axis=(0, 1)), colour, atol=6)
    assert not any("thumbnail" in chunk for chunk in plain)
    red = {"model": "null", "id": shared_stack.upload(picture(tmp_path, COLOURS[0]), "image")}
    (chunk,) = client.post(url, json={**red, "thumbnails": True}).json()["chunk_responses"]
    assert Image.open(io.BytesIO(base64.b64decode(chunk["thumbnail"]))).size == (64, 48)
    assert client.delete(f"/files/{film_id}").status_code == 200


def test_a_large_data_url_costs_no_body_limit(shared_stack: Stack, film: Path, tmp_path: Path) -> None:
    """The film, padded to 20 MiB by a box that players skip (`free`): the body is beyond its own limit."""
    padding = 20 << 20
    padded = tmp_path / "padded.mp4"
    padded.write_bytes(film.read_bytes() + padding.to_bytes(4, "big") + b"free" + bytes(padding - 8))
    request = {
        "id": "123e4567-e89b-12d3-a456-426614174000", "model": "null", "chunk_duration": 5,
        "url": data_url(padded, "video/mp4"),
    }  # fmt: skip
    answer = shared_stack.client.post("/generate_video_embeddings", json=request)
    assert answer.status_code == 200, answer.text
    assert len(answer.json()["chunk_responses"]) == 5


# Two gateways -----------------------------------------------------------------------------------------


@pytest.fixture
def two(shared_stack: Stack) -> Iterator[tuple[httpx.Client, httpx.Client]]:
    """Clients of two gateways on one Redis and one folder."""
    port = free_port()
    gateway = shared_stack._spawn("gateway", BACKEND_PORT=str(port))
    with httpx.Client(base_url=f"http://127.0.0.1:{port}/v1", timeout=60) as other:
        transport = httpx.HTTPTransport(retries=20)
        with httpx.Client(base_url=other.base_url, timeout=60, transport=transport) as waiting:
            while waiting.get("/ready").status_code != 200:
                pass
        yield shared_stack.client, other
    gateway.terminate()
    gateway.wait(25)


def test_upload_on_one_embed_on_the_other_delete_on_the_first(
    two: tuple[httpx.Client, httpx.Client], shared_stack: Stack, film: Path
) -> None:
    one, other = two
    film_id = shared_stack.upload(film)
    assert other.get(f"/files/{film_id}/content").content == film.read_bytes()
    body = {"id": film_id, "model": "null", "chunk_duration": 5}
    assert len(other.post("/generate_video_embeddings", json=body).json()["chunk_responses"]) == 5
    later = other.post("/generate_video_embeddings", json=body, headers={"Prefer": "respond-async"})
    where = later.headers["location"].removeprefix("/v1")
    while (answer := one.get(f"{where}/results")).status_code == 202:
        pass
    assert len(answer.json()["chunk_responses"]) == 5
    assert one.delete(f"/files/{film_id}").json()["deleted"]
    for client in two:
        assert client.get(f"/files/{film_id}").json()["code"] == "BadParameter"
        assert client.post("/generate_video_embeddings", json=body).json()["code"] == "BadParameter"
