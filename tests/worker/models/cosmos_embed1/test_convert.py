import json
import stat
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from shared.errors import ModelError
from tests.worker.models.cosmos_embed1.conftest import MakeCheckpoint, MakeClips, Miniature, NumpyModel
from worker.engine.onnx import OnnxEngine
from worker.models.cosmos_embed1.checkpoint import open_checkpoint
from worker.models.cosmos_embed1.convert import check_precision, convert, model_info, recipe_of
from worker.models.cosmos_embed1.graph import Precision
from worker.models.cosmos_embed1.recipe import CLIP_MEAN, CLIP_STD, Recipe
from worker.models.directory import ModelDirectory, load_model_directory, write_model_json
from worker.models.tokenizer import TextTokenizer


def write_model(
    checkpoint_path: Path, folder: Path, precision: Precision = "fp32", recipe: Recipe | None = None
) -> ModelDirectory:
    recipe = recipe or Recipe()
    folder.mkdir(exist_ok=True)
    checkpoint = open_checkpoint(checkpoint_path)
    convert(checkpoint, folder, recipe, precision)
    write_model_json(folder, model_info(checkpoint, recipe, precision, name="mini", source="s", revision="r"))
    return load_model_directory(folder)


def test_a_conversion_is_a_model_directory_that_an_engine_serves(
    miniature: Miniature, numpy_model: type[NumpyModel], clips: MakeClips, tmp_path: Path
) -> None:
    model = write_model(miniature.path, tmp_path / "model")
    info = model.info
    assert (info.dimension, info.frames, info.resolution, info.max_text_tokens) == (48, 8, 42, 24)
    assert (info.source, info.revision, info.precision, info.verified) == ("s", "r", "fp32", False)
    engine = OnnxEngine(model, 1)
    reference = numpy_model(miniature, CLIP_MEAN, CLIP_STD)
    given = clips(2)
    try:
        vectors = engine.embed_video(given)
        np.testing.assert_allclose(vectors, np.stack([reference.video(clip) for clip in given]), atol=1e-5)
        sentences = ["A dog, outside.", "Ein Fußgänger überquert die Straße " * 5]
        ids, mask = TextTokenizer(model.tokenizer, 24)(sentences)
        assert ids.shape == (2, 24)  # the second is cut
        expected = np.stack([reference.text(*row) for row in zip(ids, mask, strict=True)])
        np.testing.assert_allclose(engine.embed_text(sentences), expected, atol=1e-5)
    finally:
        engine.close()


def test_a_picture_passes_the_vision_encoder_once(
    miniature: Miniature, clips: MakeClips, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = OnnxEngine(write_model(miniature.path, tmp_path / "model"), 1)
    moving, still = clips(1), np.repeat(clips(1, frames=1, seed=5), 8, axis=1)
    fed: list[dict[str, Any]] = []
    run = engine._run

    def noting(session: Any, runs: list[dict[str, Any]]) -> Any:
        fed.extend(runs)
        return run(session, runs)

    monkeypatch.setattr(engine, "_run", noting)
    try:
        together = engine.embed_video(np.concatenate([moving, still]))
        assert [feeds["videos"].shape[1] for feeds in fed] == [8, 1]
        engine._one_frame_stills = False
        np.testing.assert_allclose(together, engine.embed_video(np.concatenate([moving, still])), atol=1e-6)
    finally:
        engine.close()


def test_the_record_says_how_it_was_made(miniature: Miniature, tmp_path: Path) -> None:
    recipe = Recipe(temporal="before_norm", mean=(0.1, 0.2, 0.3))
    model = write_model(miniature.path, tmp_path / "model", recipe=recipe)
    assert recipe_of(model) == recipe
    assert model.info.details["checkpoint"] == str(miniature.path)
    assert model.info.details["cross_layers"] == "0,2"
    assert model.info.details["stored"] == "BF16"


def test_a_directory_without_a_recipe(tmp_path: Path, miniature: Miniature) -> None:
    model = write_model(miniature.path, tmp_path / "model")
    write_model_json(
        model.path, type(model.info)(**{**json.loads((model.path / "model.json").read_text()), "details": {}})
    )
    with pytest.raises(ModelError, match="does not say by which recipe"):
        recipe_of(load_model_directory(model.path))


def test_sixteen_bits_halve_the_weights(miniature: Miniature, tmp_path: Path) -> None:
    whole = write_model(miniature.path, tmp_path / "whole")
    for precision in ("fp16", "bf16"):
        half = write_model(miniature.path, tmp_path / precision, precision)
        ratio = (half.path / "video.onnx.data").stat().st_size / (
            whole.path / "video.onnx.data"
        ).stat().st_size
        assert 0.5 <= ratio < 0.53
        assert half.info.precision == precision


def test_the_vocabulary_of_a_tao_export(
    make_checkpoint: MakeCheckpoint, miniature: Miniature, tmp_path: Path
) -> None:
    """TAO writes a tokenizer.json, and neither vocab.txt nor the added token."""
    made = make_checkpoint(tmp_path / "tao", dtype="F32", stored_grid=3)
    model = write_model(miniature.path, tmp_path / "plain")
    (made.path / "vocab.txt").unlink()
    (made.path / "added_tokens.json").unlink()
    plain = json.loads(model.tokenizer.read_text())
    plain["added_tokens"] = [token for token in plain["added_tokens"] if token["content"] != "[DEC]"]
    (made.path / "tokenizer.json").write_text(json.dumps(plain))
    tao = write_model(made.path, tmp_path / "from-tao")
    for text in ("[DEC] a cat", "naïve 日本"):
        assert (
            TextTokenizer(tao.tokenizer, 24)([text])[0].tolist()
            == TextTokenizer(model.tokenizer, 24)([text])[0].tolist()
        )
    assert 30522 in TextTokenizer(tao.tokenizer, 24)(["[DEC] a cat"])[0]


def test_another_vocabulary_is_refused(make_checkpoint: MakeCheckpoint, tmp_path: Path) -> None:
    made = make_checkpoint(tmp_path / "c")
    vocabulary = (made.path / "vocab.txt").read_text().replace("\ndog\n", "\ndogg\n")
    (made.path / "vocab.txt").write_text(vocabulary)
    with pytest.raises(ModelError, match="holds a vocabulary with SHA-256"):
        write_model(made.path, tmp_path / "model")


def test_a_checkpoint_without_vocabulary(make_checkpoint: MakeCheckpoint, tmp_path: Path) -> None:
    made = make_checkpoint(tmp_path / "c")
    (made.path / "vocab.txt").unlink()
    with pytest.raises(ModelError, match=r"has neither vocab\.txt nor tokenizer\.json"):
        write_model(made.path, tmp_path / "model")


def test_progress_counts_every_byte(miniature: Miniature, tmp_path: Path) -> None:
    told = []
    (tmp_path / "m").mkdir()
    convert(
        open_checkpoint(miniature.path), tmp_path / "m", Recipe(), "fp32", lambda *what: told.append(what)
    )
    done = [entry[1] for entry in told]
    assert done == sorted(done)
    assert told[-1][1] == told[-1][2] > 10_000_000
    assert {entry[0] for entry in told} == {"writing video.onnx in fp32", "writing text.onnx in fp32"}


def test_a_full_disk_is_noticed_before(
    miniature: Miniature, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "worker.models.cosmos_embed1.convert.shutil.disk_usage", lambda _: SimpleNamespace(free=10**6)
    )
    with pytest.raises(ModelError, match=r"needs 0\.02 GB and has 0\.00 GB free"):
        convert(open_checkpoint(miniature.path), tmp_path, Recipe(), "fp32")


def test_a_folder_that_cannot_be_written(miniature: Miniature, tmp_path: Path) -> None:
    (tmp_path / "video.onnx.data").mkdir()
    with pytest.raises(ModelError, match="cannot write to"):
        convert(open_checkpoint(miniature.path), tmp_path, Recipe(), "fp32")
    assert stat.S_ISDIR((tmp_path / "video.onnx.data").stat().st_mode)


@pytest.mark.parametrize("name", ["fp32", "fp16", "bf16"])
def test_precisions_that_a_graph_can_have(name: str) -> None:
    assert check_precision(name) == name


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("int8", "int8 needs a calibrated graph and is not possible here: TensorRT 11 takes every type"),
        ("fp8", "fp8 needs a calibrated graph"),
        ("best", "best is a choice among precisions"),
        ("fp64", "fp64 is not one of fp32, fp16, bf16"),
    ],
)
def test_precisions_that_are_refused(name: str, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        check_precision(name)


def test_nothing_else_is_left_in_the_directory(miniature: Miniature, tmp_path: Path) -> None:
    model = write_model(miniature.path, tmp_path / "model")
    assert sorted(path.name for path in model.path.iterdir()) == [
        "model.json",
        "text.onnx",
        "text.onnx.data",
        "tokenizer.json",
        "video.onnx",
        "video.onnx.data",
    ]
