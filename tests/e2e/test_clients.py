"""Client programs written for RT-Embed, with the libraries its users have: requests and sseclient."""

import json
from pathlib import Path
from typing import Any

import requests
import sseclient

from tests.e2e.conftest import Stack


def test_upload_embed_read_and_delete(shared_stack: Stack, film: Path) -> None:
    base = f"{shared_stack.url}/v1"
    model = requests.get(f"{base}/models", timeout=30).json()["data"][0]["id"]
    with film.open("rb") as file:
        form = {"purpose": "vision", "media_type": "video", "creation_time": "2024-06-09T18:32:11.123Z"}
        uploaded = requests.post(f"{base}/files", files={"file": file}, data=form, timeout=30).json()
    body = {"id": [uploaded["id"]], "model": model, "chunk_duration": 10, "chunk_overlap_duration": 0}
    answer = requests.post(f"{base}/generate_video_embeddings", json=body, timeout=60).json()
    assert [(c["start_time"], len(c["embeddings"])) for c in answer["chunk_responses"]] == [
        ("2024-06-09T18:32:11.123Z", 768),
        ("2024-06-09T18:32:21.123Z", 768),
        ("2024-06-09T18:32:31.123Z", 768),
    ]
    deleted = requests.delete(f"{base}/files/{uploaded['id']}", timeout=30)
    assert deleted.json()["deleted"]


def test_events_until_done(shared_stack: Stack, film: Path) -> None:
    base = f"{shared_stack.url}/v1"
    body: dict[str, Any] = {
        "id": [shared_stack.upload(film)], "model": "null", "stream": True,
        "chunk_duration": 10, "chunk_overlap_duration": 0,
    }  # fmt: skip
    seen, ended = [], False
    with requests.post(f"{base}/generate_video_embeddings", json=body, stream=True, timeout=60) as answer:
        for event in sseclient.SSEClient(iter(answer)).events():
            if event.data == "[DONE]":
                ended = True
                break
            data = json.loads(event.data)
            if "chunk_responses" in data:
                seen += [(c["start_time"], len(c["embeddings"])) for c in data["chunk_responses"]]
    assert ended
    assert sorted(seen) == [("0.0", 768), ("10.0", 768), ("20.0", 768)]


def test_two_texts(shared_stack: Stack) -> None:
    texts = ["A person walking in a warehouse", "A forklift moving pallets"]
    body = {"text_input": texts, "model": "null"}
    answer = requests.post(f"{shared_stack.url}/v1/generate_text_embeddings", json=body, timeout=30).json()
    assert answer["model"] == "null"
    assert [(d["text_input"], len(d["embeddings"])) for d in answer["data"]] == [(t, 768) for t in texts]


def test_health_and_description(shared_stack: Stack) -> None:
    base = f"{shared_stack.url}/v1"
    assert requests.get(f"{base}/ready?detailed=false", timeout=30).status_code == 200
    detailed = requests.get(f"{base}/ready?detailed=true", timeout=30).json()
    assert detailed["healthy"]
    assert {c["component"].split()[0] for c in detailed["checks"]} == {
        "asset",
        "message",
        "redis",
        "worker",
    }
    assert requests.get(f"{base}/metadata", timeout=30).json() == {"version": "3.2.0"}
    assert requests.get(f"{base}/version", timeout=30).json() == {"release": "3.2.0", "api": "3.1.0"}
    assert requests.get(f"{base}/manifest", timeout=30).json() == {"version": "3.2.0", "model": "null"}
    models = requests.get(f"{base}/models", timeout=30).json()
    assert models["audio_support"] is False
    (model,) = models["data"]
    assert (model["id"], model["object"], model["owned_by"]) == ("null", "model", "tests")
