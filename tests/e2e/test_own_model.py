"""Models of one's own, as deploy/models.md shows them, through the whole service."""

import json
import re
import subprocess
import sys
from pathlib import Path

import av
import numpy as np
import pytest

from tests.e2e.conftest import ROOT, Stack

EXAMPLE = re.compile(r"<!-- example: (\S+) -->\n```python\n(.*?)```", re.DOTALL)


@pytest.fixture(scope="module")
def examples(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The programs of the page, as files."""
    folder = tmp_path_factory.mktemp("examples")
    page = (ROOT / "deploy" / "models.md").read_text()
    for name, text in EXAMPLE.findall(page):
        (folder / name).write_text(text)
    return folder


@pytest.fixture(scope="module")
def quarters(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two seconds of film whose quarters are red, green, blue and grey."""
    picture = np.full((128, 128, 3), 120, np.uint8)
    picture[:64, :64], picture[:64, 64:], picture[64:, :64] = (200, 0, 0), (0, 200, 0), (0, 0, 200)
    path = tmp_path_factory.mktemp("film") / "quarters.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=10)
        stream.width = stream.height = 128
        stream.pix_fmt = "yuv420p"
        for _ in range(20):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))
    return path


def check_colours(stack: Stack, film: Path) -> None:
    stack.start()
    (model,) = stack.client.get("/models").json()["data"]
    assert (model["id"], model["owned_by"]) == ("mean-colours", "me")
    answer = stack.client.post(
        "/generate_video_embeddings", json={"id": stack.upload(film), "model": "mean-colours"}
    )
    assert answer.status_code == 200, answer.text
    (chunk,) = answer.json()["chunk_responses"]
    expected = np.array([200, 0, 0, 0, 200, 0, 0, 0, 200, 120, 120, 120]) / np.sqrt(3 * 200**2 + 3 * 120**2)
    np.testing.assert_allclose(chunk["embeddings"], expected, atol=0.03)
    answer = stack.client.post(
        "/generate_text_embeddings", json={"text_input": "a red door", "model": "mean-colours"}
    )
    assert (answer.status_code, answer.json()["code"]) == (501, "NotImplemented")


def test_a_model_in_python(stack: Stack, examples: Path, quarters: Path) -> None:
    stack.environment["MODEL_IMPLEMENTATION_PATH"] = str(examples)
    stack.environment["MODEL_PATH"] = "/models/colours"
    check_colours(stack, quarters)


def test_a_model_directory(stack: Stack, examples: Path, quarters: Path, tmp_path: Path) -> None:
    folder = tmp_path / "colours"
    subprocess.run([sys.executable, examples / "make_model.py", folder], check=True)
    del stack.environment["MODEL_IMPLEMENTATION_PATH"]
    stack.environment["MODEL_PATH"] = str(folder)
    check_colours(stack, quarters)


def test_a_model_that_cannot_be_loaded_ends_the_worker(stack: Stack, tmp_path: Path) -> None:
    stack.environment["MODEL_IMPLEMENTATION_PATH"] = str(tmp_path / "nothing")
    worker = stack.start_worker()
    assert worker.wait(60) == 4
    last = json.loads(stack.logs().splitlines()[-1])
    assert last["error"] == f"{tmp_path}/nothing has no inference.py"
