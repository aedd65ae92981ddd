import json
import os
import subprocess
import sys
import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray

from shared.errors import ModelError, SettingsError
from shared.settings import Settings, load
from tests.worker.models.conftest import FakeHub
from tests.worker.models.cosmos_embed1.conftest import REFERENCE_PYTHON, MakeCheckpoint, Miniature
from worker import model_command
from worker.engine.onnx import OnnxEngine
from worker.models.cosmos_embed1.convert import recipe_of
from worker.models.cosmos_embed1.graph import Precision
from worker.models.cosmos_embed1.recipe import Recipe
from worker.models.cosmos_embed1.verification_samples import SENTENCES, fixed_clips
from worker.models.cosmos_embed1.verify import missing_for_reference
from worker.models.directory import ModelDirectory, load_model_directory, write_model_json
from worker.models.prepare import checkpoint_of, obtain, obtain_files, prepare, require_verified
from worker.models.reference_vectors import ReferenceVectors, check_engine, write_reference_vectors
from worker.models.sources import Hubs

MISSING = missing_for_reference(REFERENCE_PYTHON)
needs_reference = pytest.mark.skipif(bool(MISSING), reason=f"REFERENCE_PYTHON: {MISSING}")
NOWHERE = "/nowhere/python"
"""An interpreter that cannot run a checkpoint's own code."""


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def prepared(
    checkpoint: Miniature, cache: Path, precision: Precision = "fp32", python: str = NOWHERE
) -> ModelDirectory:
    return prepare(str(checkpoint.path), cache, precision, Hubs(), python=lambda: python)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))


def test_a_checkpoint_becomes_a_model_once(miniature: Miniature, cache: Path) -> None:
    first = prepared(miniature, cache)
    assert first.info.id == "cosmos-embed1-mini"
    assert first.path.name.startswith("cosmos-embed1-mini-fp32-")
    assert not first.info.verified
    written = first.video.stat().st_mtime_ns
    assert prepared(miniature, cache) == first
    assert first.video.stat().st_mtime_ns == written


def test_each_precision_and_each_checkpoint_has_its_own_folder(
    miniature: Miniature, make_checkpoint: MakeCheckpoint, cache: Path, tmp_path: Path
) -> None:
    one, two = prepared(miniature, cache), prepared(miniature, cache, "fp16")
    other = make_checkpoint(tmp_path / "Cosmos-Embed1-Mini", seed=1)
    three = prepared(other, cache)
    assert len({one.path, two.path, three.path}) == 3
    assert one.info.id == two.info.id == three.info.id


def test_a_changed_checkpoint_is_converted_again(
    make_checkpoint: MakeCheckpoint, cache: Path, tmp_path: Path
) -> None:
    made = make_checkpoint(tmp_path / "c")
    first = prepared(made, cache)
    shard = made.path / "model-00001-of-00003.safetensors"
    os.utime(shard, ns=(1, 1))
    assert prepared(made, cache).path != first.path


def test_what_a_killed_process_left_is_removed(miniature: Miniature, cache: Path) -> None:
    target = prepared(miniature, cache).path
    part = target.with_name(f".{target.name}.part")
    part.mkdir()
    (part / "video.onnx.data").write_bytes(b"half")
    target.rename(target.with_name("gone"))
    assert prepared(miniature, cache).path == target
    assert not part.exists()


def test_a_failed_conversion_leaves_nothing(
    make_checkpoint: MakeCheckpoint, cache: Path, tmp_path: Path
) -> None:
    made = make_checkpoint(tmp_path / "c")
    (made.path / "vocab.txt").write_text("[PAD]\n[UNK]\n")
    with pytest.raises(ModelError, match="vocabulary"):
        prepared(made, cache)
    assert names(cache) == []
    assert not [path for path in cache.iterdir() if path.is_dir()]


def test_workers_that_start_together_convert_once(miniature: Miniature, cache: Path) -> None:
    program = textwrap.dedent(f"""
        from pathlib import Path
        from worker.models.prepare import prepare
        from worker.models.sources import Hubs
        told = set()
        model = prepare({str(miniature.path)!r}, Path({str(cache)!r}), "fp32", Hubs(),
                        python=lambda: {NOWHERE!r}, progress=lambda step, done, total: told.add(step))
        print(model.path, "writing text.onnx in fp32" in told)
    """)
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        for _ in range(4)
    ]
    lines = [worker.communicate()[0].splitlines()[-1].rsplit(" ", 1) for worker in workers]
    assert len({path for path, _ in lines}) == 1
    assert sorted(wrote for _, wrote in lines) == ["False", "False", "False", "True"]


def test_a_model_directory_is_taken_as_it_is(miniature: Miniature, cache: Path, tmp_path: Path) -> None:
    model = prepared(miniature, cache)
    assert prepare(str(model.path), tmp_path / "other", "fp16", Hubs()) == model
    assert not (tmp_path / "other").exists()


def test_precisions_are_refused_before_anything_is_fetched(cache: Path) -> None:
    with pytest.raises(ModelError, match="COSMOS_EMBED1_TRT_PRECISION=int8 needs a calibrated graph"):
        prepare("hf:nvidia/Cosmos-Embed1-448p", cache, "int8", Hubs(hf_endpoint="http://127.0.0.1:1"))


@needs_reference
def test_preparing_ends_verified(miniature: Miniature, cache: Path) -> None:
    model = prepared(miniature, cache, python=REFERENCE_PYTHON)
    assert model.info.verified
    details = model.info.details
    assert float(details["cosine_video"]) > 0.999999
    assert float(details["cosine_text"]) > 0.999999
    assert "transformers 4." in str(details["reference"])
    engine = OnnxEngine(model, 1)
    try:
        assert min(check_engine(model, engine) or [0]) > 0.999999
    finally:
        engine.close()
    # The other precisions take over what was found, without running the code again.
    half = prepared(miniature, cache, "fp16")
    assert half.info.verified
    assert half.info.details == details
    assert (half.path / "reference.json").read_bytes() == (model.path / "reference.json").read_bytes()


@needs_reference
def test_a_recipe_that_is_found_is_what_is_served(
    make_checkpoint: MakeCheckpoint, cache: Path, tmp_path: Path
) -> None:
    made = make_checkpoint(tmp_path / "c", reference={"temporal": "before_norm", "pooling": "mean_of_unit"})
    half = prepared(made, cache, "fp16", REFERENCE_PYTHON)
    whole = prepared(made, cache)
    for model, least in ((half, 0.9999), (whole, 0.999999)):
        assert model.info.verified
        assert recipe_of(model) == Recipe(temporal="before_norm", pooling="mean_of_unit")
        engine = OnnxEngine(model, 1)
        assert min(check_engine(model, engine) or [0]) > least
        engine.close()
    assert not (half.path / "fp32").exists()


@needs_reference
def test_an_unverified_model_is_verified_when_that_becomes_possible(
    miniature: Miniature, cache: Path
) -> None:
    assert not prepared(miniature, cache).info.verified
    assert prepared(miniature, cache, python=REFERENCE_PYTHON).info.verified


@needs_reference
def test_a_model_that_cannot_be_verified_stays_unverified(
    make_checkpoint: MakeCheckpoint, cache: Path, tmp_path: Path
) -> None:
    made = make_checkpoint(tmp_path / "c", reference={"pooling": "last"})
    with pytest.raises(ModelError, match="none of 24 recipes"):
        prepared(made, cache, python=REFERENCE_PYTHON)
    assert not prepared(made, cache).info.verified


def test_code_that_does_not_run_leaves_the_model_unverified(
    make_checkpoint: MakeCheckpoint, cache: Path, tmp_path: Path
) -> None:
    """It may be served by who allows that; a model whose vectors were compared and differ may not."""
    made = make_checkpoint(tmp_path / "c")
    for path in made.path.glob("*.py"):
        path.unlink()
    assert not prepared(made, cache, python=REFERENCE_PYTHON).info.verified


def test_workers_refuse_what_nobody_compared(miniature: Miniature, cache: Path) -> None:
    model = prepared(miniature, cache)
    with pytest.raises(
        ModelError, match=r"not verified: .*rt-embed model prepare.*ALLOW_UNVERIFIED_MODEL=true"
    ):
        require_verified(model, allow=False)
    require_verified(model, allow=True)
    write_model_json(model.path, msgspec.structs.replace(model.info, verified=True))
    require_verified(load_model_directory(model.path), allow=False)
    # A model that was made as it is, and not converted from somebody's checkpoint, needs no such proof.
    write_model_json(model.path, msgspec.structs.replace(model.info, architecture="conse"))
    require_verified(load_model_directory(model.path), allow=False)


def environment(miniature: Miniature, cache: Path, **more: str) -> Settings:
    return load({"MODEL_PATH": str(miniature.path), "NGC_MODEL_CACHE": str(cache), **more})


def test_what_a_worker_asks_for(miniature: Miniature, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worker.models.prepare.missing_for_reference", lambda python: "not here")
    with pytest.raises(ModelError, match="not verified"):
        obtain(environment(miniature, cache), "fp32")
    model = obtain(environment(miniature, cache, RTEMBED_ALLOW_UNVERIFIED_MODEL="true"), "fp32")
    assert model.info.precision == "fp32"
    with pytest.raises(ModelError, match="fp8 needs a calibrated graph"):
        obtain(environment(miniature, cache, COSMOS_EMBED1_TRT_PRECISION="fp8"), "fp32")
    with pytest.raises(SettingsError, match="COSMOS_EMBED1_TRT_PRECISION='int4'"):
        environment(miniature, cache, COSMOS_EMBED1_TRT_PRECISION="int4")


def test_what_a_model_in_python_gets(hub: FakeHub, tmp_path: Path) -> None:
    hub.files = {"anything.bin": b"weights"}
    settings = {"NGC_MODEL_CACHE": str(tmp_path), "HF_ENDPOINT": hub.url}
    folder = obtain_files(load({**settings, "MODEL_PATH": f"git:{hub.url}/a/b"}))
    assert folder == str(tmp_path / "b")
    assert (tmp_path / "b" / "anything.bin").read_bytes() == b"weights"
    # What is on this machine, or means something to the model alone, is passed on as it is.
    assert obtain_files(load({**settings, "MODEL_PATH": "/models/mine"})) == "/models/mine"


class FixedEngine:
    """An engine that gives the same vectors whatever it sees."""

    supports_text = True

    def __init__(self, video: list[list[float]], text: list[list[float]]) -> None:
        self.video, self.text = np.array(video, np.float32), np.array(text, np.float32)

    def embed_video(self, clips: NDArray[Any]) -> NDArray[np.float32]:
        np.testing.assert_array_equal(clips, fixed_clips(8, 42))
        return self.video

    def embed_text(self, texts: Sequence[str]) -> NDArray[np.float32]:
        assert tuple(texts) == SENTENCES
        return self.text

    def close(self) -> None:
        pass


@pytest.mark.parametrize(
    ("precision", "off", "fits"),
    [
        ("fp32", 0.0, True),
        ("fp32", 0.05, False),
        ("fp16", 0.02, True),
        ("fp16", 0.1, False),
        ("bf16", 0.1, True),
    ],
)
def test_an_engine_must_give_the_models_vectors(
    miniature: Miniature, cache: Path, precision: Precision, off: float, fits: bool
) -> None:
    model = prepared(miniature, cache, precision)
    video, text = [[1.0, 0.0], [0.0, 1.0]], [[1.0, 0.0]] * 4
    write_reference_vectors(model.path, ReferenceVectors(video, text))
    turned = [[1.0, off], [off, 1.0]]
    engine = FixedEngine(turned, text)
    if fits:
        assert check_engine(model, engine) == pytest.approx((1 / (1 + off**2) ** 0.5, 1))
    else:
        with pytest.raises(
            ModelError, match=rf"in {precision} does not give the model's vectors: cosine 0\.99"
        ):
            check_engine(model, engine)


def test_an_engine_that_overflows_is_refused(miniature: Miniature, cache: Path) -> None:
    model = prepared(miniature, cache, "fp16")
    write_reference_vectors(model.path, ReferenceVectors([[1.0, 0.0]] * 2, [[1.0, 0.0]] * 4))
    with pytest.raises(ModelError, match=r"cosine -1\.0+ for video"):
        check_engine(model, FixedEngine([[np.nan, 0.0], [1.0, 0.0]], [[1.0, 0.0]] * 4))


def test_an_unverified_model_has_no_vectors_to_compare(miniature: Miniature, cache: Path) -> None:
    assert check_engine(prepared(miniature, cache), FixedEngine([], [])) is None


def test_damaged_reference_vectors(miniature: Miniature, cache: Path) -> None:
    model = prepared(miniature, cache)
    (model.path / "reference.json").write_text("[]")
    with pytest.raises(ModelError, match=r"reference\.json is damaged"):
        check_engine(model, FixedEngine([], []))


FAILED = 1

RunModel = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, cache: Path, miniature: Miniature) -> RunModel:
    """run(*arguments) -> (exit code, standard output, standard error) of `rt-embed model`."""
    monkeypatch.setenv("NGC_MODEL_CACHE", str(cache))
    monkeypatch.setenv("MODEL_PATH", str(miniature.path))

    def call(*arguments: object) -> tuple[int, str, str]:
        command = [str(Path(sys.executable).with_name("rt-embed")), "model", *map(str, arguments)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=100)
        return done.returncode, done.stdout, done.stderr

    return call


def test_prepare_says_what_it_made_and_that_it_is_not_verified(run: RunModel, cache: Path) -> None:
    code, out, err = run("prepare", "--python", NOWHERE, "--precision", "fp32")
    assert code == model_command.UNVERIFIED
    assert out.splitlines()[-1].startswith(
        "cosmos-embed1-mini  fp32  48 dimensions  42 px  0.02 GB  not verified"
    )
    assert "writing video.onnx in fp32: 0.00 of 0.02 GB (0 %)" in err
    assert "NOT VERIFIED" in err
    assert "rt-embed model environment FOLDER" in err


@needs_reference
def test_prepare_and_verify(run: RunModel, cache: Path) -> None:
    code, out, _ = run("prepare", "--python", REFERENCE_PYTHON, "--export-recipe")
    assert code == 0
    assert "  verified  " in out
    folder = out.splitlines()[0].split()[-1]
    entry = json.loads(out.partition("\n")[2])
    assert entry["files"].keys() == {"modeling_embed1.py", "modeling_vit.py"}
    assert entry["recipe"]["pooling"] == "mean"
    assert entry["cosine_video"] > 0.999999
    record = json.loads((cache / folder / "model.json").read_text())
    (cache / folder / "model.json").write_text(json.dumps({**record, "verified": False}))
    code, out, _ = run("verify", folder, "--python", REFERENCE_PYTHON)
    assert code == 0
    assert "  verified  " in out


def test_verify_without_the_extra(run: RunModel) -> None:
    _, out, _ = run("prepare", "--python", NOWHERE)
    code, _, err = run("verify", out.split()[-1], "--python", NOWHERE)
    assert code == FAILED
    assert f"{NOWHERE} cannot run the checkpoint's own code: [Errno 2]" in err


def test_list(run: RunModel, cache: Path) -> None:
    assert run("list") == (0, "", "")
    run("prepare", "--python", NOWHERE, "--precision", "fp32")
    run("prepare", "--python", NOWHERE, "--precision", "bf16")
    code, out, _ = run("list")
    assert code == 0
    assert [line.split()[:2] for line in out.splitlines()] == [
        ["cosmos-embed1-mini", "bf16"],
        ["cosmos-embed1-mini", "fp32"],
    ]


def test_inspect(run: RunModel, miniature: Miniature) -> None:
    _, out, _ = run("prepare", "--python", NOWHERE)
    code, text, _ = run("inspect", out.split()[-1])
    assert code == 0
    assert json.loads(text)["details"]["temporal_key"] == "temporal_encoding.temporal_table_xyz"
    code, text, _ = run("inspect", miniature.path)
    facts = json.loads(text)
    assert facts["layout"]["vision_width"] == 176
    assert facts["stored"] == "BF16"
    assert facts["tensors"] == 160


def test_errors_are_lines_and_not_traces(run: RunModel, tmp_path: Path) -> None:
    code, out, err = run("prepare", tmp_path / "nowhere")
    assert (code, out) == (FAILED, "")
    assert err.startswith(f"rt-embed model prepare: MODEL_PATH={tmp_path}/nowhere is not a folder")
    code, _, err = run("inspect", tmp_path)
    assert code == FAILED
    assert "holds no model" in err


def test_a_model_of_another_kind_has_no_checkpoint(miniature: Miniature, cache: Path) -> None:
    model = prepared(miniature, cache)
    write_model_json(model.path, msgspec.structs.replace(model.info, architecture="conse"))
    with pytest.raises(ModelError, match="was not converted from a Cosmos-Embed1 checkpoint"):
        checkpoint_of(load_model_directory(model.path))
