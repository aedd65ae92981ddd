"""What the doctor says of a worker's model and backend."""

from pathlib import Path

import msgspec
import pytest

from shared.findings import Finding
from shared.settings import load
from tests.worker.models.cosmos_embed1.conftest import write_checkpoint
from worker.engine.self_check import examine
from worker.models.conse import conse_recipe
from worker.models.directory import ModelInfo, write_model_json

NULL_MODEL = Path(__file__).parents[2] / "models" / "null"


def model_finding(**environment: str) -> Finding:
    _, model = examine(load({"RTEMBED_BACKEND": "cpu", **environment}))
    return model


def test_the_backend() -> None:
    backend, _ = examine(load({"RTEMBED_BACKEND": "cpu", "MODEL_PATH": "demo"}))
    assert (backend.state, backend.found) == ("ok", "not used: RTEMBED_BACKEND=cpu")
    backend, _ = examine(load({"RTEMBED_BACKEND": "cuda", "MODEL_PATH": "demo"}))
    assert (backend.state, backend.advice) == ("wrong", "see deploy/gpu.md, or set RTEMBED_BACKEND=cpu")


def test_the_demonstration_model(monkeypatch: pytest.MonkeyPatch) -> None:
    assert model_finding(MODEL_PATH="demo").state == "ok"
    gone = msgspec.structs.replace(conse_recipe.MINILM, package="no_such_package")
    monkeypatch.setattr("worker.engine.self_check.MINILM", gone)
    finding = model_finding(MODEL_PATH="demo")
    assert finding.state == "wrong"
    assert "pip install 'rt-embed[demo]'" in finding.found


def test_a_model_in_python(tmp_path: Path) -> None:
    found = model_finding(MODEL_PATH="null", MODEL_IMPLEMENTATION_PATH=str(NULL_MODEL))
    assert found.found == f"a Python class in {NULL_MODEL}"
    found = model_finding(MODEL_PATH="null", MODEL_IMPLEMENTATION_PATH=str(tmp_path))
    assert found.found == f"MODEL_IMPLEMENTATION_PATH={tmp_path} holds no inference.py"


def test_a_model_that_is_downloaded_later(tmp_path: Path) -> None:
    found = model_finding(MODEL_PATH="hf:owner/name", NGC_MODEL_CACHE=str(tmp_path))
    assert (found.state, found.advice) == ("warning", "run rt-embed model prepare beforehand")
    (tmp_path / "name").mkdir()
    found = model_finding(MODEL_PATH="hf:owner/name", NGC_MODEL_CACHE=str(tmp_path))
    assert (found.state, found.found) == ("ok", f"downloaded to {tmp_path / 'name'}")
    found = model_finding(MODEL_PATH="ngc:nonsense")
    assert found.state == "wrong"


def test_a_folder(tmp_path: Path) -> None:
    assert "holds no model" in model_finding(MODEL_PATH=str(tmp_path)).found
    write_checkpoint(tmp_path / "checkpoint")
    found = model_finding(MODEL_PATH=str(tmp_path / "checkpoint"))
    assert found.found == f"a checkpoint in {tmp_path / 'checkpoint'}; the first worker converts it"


@pytest.mark.parametrize(("verified", "state"), [(True, "ok"), (False, "wrong")])
def test_a_model_that_was_not_compared(tmp_path: Path, verified: bool, state: str) -> None:
    info: ModelInfo = msgspec.structs.replace(
        conse_recipe.INFO, architecture="cosmos-embed1", verified=verified
    )
    write_model_json(tmp_path, info)
    for name in ("video.onnx", "text.onnx", "tokenizer.json"):
        (tmp_path / name).write_bytes(b"")
    found = model_finding(MODEL_PATH=str(tmp_path))
    assert found.state == state
    if not verified:
        assert found.advice.startswith(f"run rt-embed model verify {tmp_path}")
        allowed = model_finding(MODEL_PATH=str(tmp_path), RTEMBED_ALLOW_UNVERIFIED_MODEL="true")
        assert allowed.state == "ok"
