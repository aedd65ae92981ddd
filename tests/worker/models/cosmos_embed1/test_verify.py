"""These run the miniature's own PyTorch code, in the environment that REFERENCE_PYTHON names."""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from shared.errors import ModelError
from tests.worker.models.cosmos_embed1.conftest import REFERENCE_PYTHON, MakeCheckpoint, Miniature, NumpyModel
from worker.engine.onnx import OnnxEngine
from worker.models.cosmos_embed1.checkpoint import Checkpoint, open_checkpoint
from worker.models.cosmos_embed1.convert import convert, model_info
from worker.models.cosmos_embed1.recipe import CLIP_MEAN, CLIP_STD, IMAGENET_MEAN, IMAGENET_STD, Recipe
from worker.models.cosmos_embed1.verification_samples import SENTENCES, fixed_clips, lowest_cosine
from worker.models.cosmos_embed1.verify import SAME, embed_texts, missing_for_reference, run_reference, verify
from worker.models.directory import ModelDirectory, load_model_directory, write_model_json
from worker.models.tokenizer import TextTokenizer

TOO_NEW = "is installed, and 4.49 to 4.55 are needed"
PACKAGES = {"torch": "2.9.0", "torchvision": "0.24.0", "einops": "0.8.1"}
MISSING = missing_for_reference(REFERENCE_PYTHON)
needs_reference = pytest.mark.skipif(bool(MISSING), reason=f"REFERENCE_PYTHON: {MISSING}")


def converted(
    made: Miniature, folder: Path, recipe: Recipe | None = None
) -> tuple[ModelDirectory, Checkpoint]:
    checkpoint = open_checkpoint(made.path)
    recipe = recipe or Recipe()
    folder.mkdir()
    convert(checkpoint, folder, recipe, "fp32")
    write_model_json(folder, model_info(checkpoint, recipe, "fp32", name="m", source="", revision=""))
    return load_model_directory(folder), checkpoint


def replace_pixels(
    made: Miniature, mean: tuple[float, float, float], std: tuple[float, float, float]
) -> None:
    code = made.path / "modeling_embed1.py"
    text = code.read_text().replace(str(CLIP_MEAN), repr(mean)).replace(str(CLIP_STD), repr(std))
    code.write_text(text)


@needs_reference
def test_a_miniature_agrees_with_its_own_code(miniature: Miniature, tmp_path: Path) -> None:
    evidence = verify(*converted(miniature, tmp_path / "m"), REFERENCE_PYTHON)
    assert evidence.recipe == Recipe()
    assert min(evidence.video, evidence.text) > SAME
    assert evidence.tried == 6  # every way to end, in one run
    assert "its own processor" in evidence.reference.notes


@needs_reference
def test_numpy_and_pytorch_agree(miniature: Miniature, numpy_model: type[NumpyModel], tmp_path: Path) -> None:
    """The two references of these tests were written apart from each other."""
    model, checkpoint = converted(miniature, tmp_path / "m")
    tokenizer = TextTokenizer(model.tokenizer, 24)
    clips = fixed_clips(8, 42)
    reference = run_reference(REFERENCE_PYTHON, checkpoint.path, clips, tokenizer)
    plain = numpy_model(miniature, CLIP_MEAN, CLIP_STD)
    np.testing.assert_allclose(reference.video, np.stack([plain.video(clip) for clip in clips]), atol=2e-6)
    ids, mask = tokenizer(SENTENCES)
    np.testing.assert_allclose(
        reference.text, np.stack([plain.text(*row) for row in zip(ids, mask, strict=True)]), atol=2e-6
    )
    np.testing.assert_allclose(embed_texts(model, tokenizer), reference.text, atol=2e-6)


@needs_reference
@pytest.mark.parametrize(
    "given",
    [
        {"pooling": "first"},
        {"temporal": "before_norm", "pooling": "mean_of_unit"},
    ],
)
def test_another_recipe_is_found(
    make_checkpoint: MakeCheckpoint, tmp_path: Path, given: dict[str, Any]
) -> None:
    made = make_checkpoint(tmp_path / "c", reference=given)
    evidence = verify(*converted(made, tmp_path / "m"), REFERENCE_PYTHON)
    assert evidence.recipe == Recipe(**given)
    assert evidence.video > SAME


@needs_reference
@pytest.mark.parametrize(
    ("mean", "std"),
    [(IMAGENET_MEAN, IMAGENET_STD), ((0.31, 0.42, 0.53), (0.21, 0.22, 0.23))],
)
def test_other_pixel_constants_are_found(
    make_checkpoint: MakeCheckpoint,
    tmp_path: Path,
    mean: tuple[float, float, float],
    std: tuple[float, float, float],
) -> None:
    """The second pair is known only from the checkpoint's Python files."""
    made = make_checkpoint(tmp_path / "c", reference={"temporal": "before_norm"})
    replace_pixels(made, mean, std)
    evidence = verify(*converted(made, tmp_path / "m"), REFERENCE_PYTHON)
    assert evidence.recipe == Recipe(mean=mean, std=std, temporal="before_norm")
    assert evidence.video > SAME


@needs_reference
@pytest.mark.parametrize("change", ["pooling", "pixels", "text"])
def test_a_model_that_no_recipe_describes_is_refused(
    make_checkpoint: MakeCheckpoint, tmp_path: Path, change: str
) -> None:
    made = make_checkpoint(tmp_path / "c", reference={"pooling": "last"} if change == "pooling" else None)
    code = made.path / "modeling_embed1.py"
    if change == "pixels":  # constants that no literal in the code shows
        code.write_text(code.read_text().replace("(videos - mean) / std", "(videos - 0.37) / 0.31"))
    if change == "text":
        code.write_text(
            code.read_text().replace("self.text_proj(states[:, 0])", "self.text_proj(states.mean(1))")
        )
    what = "text vectors have a cosine of" if change == "text" else "none of 24 recipes gives the vectors"
    with pytest.raises(ModelError, match=rf"{what}.* below 0\.9999"):
        verify(*converted(made, tmp_path / "m"), REFERENCE_PYTHON)


@needs_reference
def test_a_tao_export_has_no_processor(make_checkpoint: MakeCheckpoint, tmp_path: Path) -> None:
    made = make_checkpoint(tmp_path / "c", dtype="F32", stored_grid=3)
    (made.path / "processor_config.json").unlink()
    evidence = verify(*converted(made, tmp_path / "m"), REFERENCE_PYTHON)
    assert min(evidence.video, evidence.text) > SAME
    assert "no processor" in evidence.reference.notes


@needs_reference
def test_the_true_width_of_224p(make_checkpoint: MakeCheckpoint, tmp_path: Path) -> None:
    made = make_checkpoint(
        tmp_path / "c",
        vision_width=1408,
        vision_depth=1,
        vision_hidden=6144,
        stored_grid=16,
        resolution=224,
        text_width=768,
        text_depth=2,
        text_hidden=3072,
        cross_layers=(0,),
        queries=32,
        positions=512,
        dimension=256,
        max_txt_len=128,
    )
    evidence = verify(*converted(made, tmp_path / "m"), REFERENCE_PYTHON)
    assert evidence.recipe == Recipe()
    assert min(evidence.video, evidence.text) > SAME


@needs_reference
def test_code_that_leaves_weights_random_is_no_reference(
    make_checkpoint: MakeCheckpoint, tmp_path: Path
) -> None:
    made = make_checkpoint(tmp_path / "c")
    code = made.path / "modeling_vit.py"
    code.write_text(
        code.read_text().replace("self.blocks = nn", "self.extra = nn.Linear(2, 2)\n        self.blocks = nn")
    )
    with pytest.raises(
        ModelError,
        match=r"not all of the checkpoint.s weights were loaded: visual_encoder\.extra\.bias",
    ):
        verify(*converted(made, tmp_path / "m"), REFERENCE_PYTHON)


def test_code_that_fails_is_quoted(miniature: Miniature, tmp_path: Path) -> None:
    model, checkpoint = converted(miniature, tmp_path / "m")
    script = tmp_path / "python"
    script.write_text("#!/bin/sh\necho 'no module named torch' >&2\nexit 1\n")
    script.chmod(0o755)
    with pytest.raises(ModelError, match="the checkpoint's own code failed: no module named torch"):
        verify(model, checkpoint, str(script))


def test_an_interpreter_that_is_not_there() -> None:
    assert "nowhere/python" in missing_for_reference("/nowhere/python")


@pytest.mark.parametrize(
    ("installed", "reason"),
    [
        ({**PACKAGES, "transformers": "4.51.3"}, ""),
        (
            {**PACKAGES, "transformers": "4.57.1"},
            f"transformers 4.57.1 {TOO_NEW}",
        ),
        (
            {**PACKAGES, "transformers": "5.1.0"},
            f"transformers 5.1.0 {TOO_NEW}",
        ),
        ({"torch": "2.9.0", "transformers": "4.51.3"}, "torchvision is not installed"),
    ],
)
def test_what_an_interpreter_lacks(tmp_path: Path, installed: dict[str, Any], reason: str) -> None:
    for name, version in installed.items():
        info = tmp_path / f"{name}-{version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    script = tmp_path / "python"
    script.write_text(f'#!/bin/sh\nPYTHONPATH={tmp_path} exec {sys.executable} -S "$@"\n')
    script.chmod(0o755)
    assert missing_for_reference(str(script)) == reason


def test_the_clips_are_the_same_everywhere_and_differ_from_each_other() -> None:
    clips = fixed_clips(8, 42)
    assert clips.shape == (2, 8, 3, 42, 42)
    assert clips.dtype == np.uint8
    np.testing.assert_array_equal(clips, fixed_clips(8, 42))
    assert np.abs(clips[0].astype(int) - clips[1]).mean() > 20
    assert np.abs(np.diff(clips[0].astype(int), axis=0)).mean() > 5
    assert clips.std() > 40


def test_lowest_cosine() -> None:
    a = np.array([[1, 0], [0, 2]], np.float32)
    assert lowest_cosine(a, a) == 1
    assert lowest_cosine(a, np.array([[1, 0], [1, 1]], np.float32)) == pytest.approx(0.5**0.5)
    assert lowest_cosine(a, np.array([[1, 0], [np.nan, 1]], np.float32)) == -1
    with pytest.raises(ModelError, match=r"\(2, 2\) cannot be compared with \(2, 3\)"):
        lowest_cosine(a, np.zeros((2, 3), np.float32))


def test_an_engine_gives_what_the_verification_compared(
    miniature: Miniature, numpy_model: type[NumpyModel], tmp_path: Path
) -> None:
    model, _ = converted(miniature, tmp_path / "m")
    engine = OnnxEngine(model, 1)
    plain = numpy_model(miniature, CLIP_MEAN, CLIP_STD)
    expected = np.stack([plain.video(clip) for clip in fixed_clips(8, 42)])
    vectors = engine.embed_video(fixed_clips(8, 42))
    assert lowest_cosine(vectors, expected.astype(np.float32)) > SAME
    engine.close()


def test_a_checkpoints_own_code_sees_no_secret(
    miniature: Miniature, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NGC_API_KEY", "nvapi-secret")
    monkeypatch.setenv("REDIS_PASSWORD", "redis-secret")
    seen, script = tmp_path / "seen", tmp_path / "python"
    script.write_text(f"#!/bin/sh\nenv > {seen}\nexit 1\n")
    script.chmod(0o755)
    model, checkpoint = converted(miniature, tmp_path / "m")
    tokenizer = TextTokenizer(model.tokenizer, checkpoint.config.max_txt_len)
    with pytest.raises(ModelError, match="the checkpoint's own code failed"):
        run_reference(str(script), checkpoint.path, fixed_clips(8, 42), tokenizer)
    assert "PATH=" in seen.read_text()
    assert "secret" not in seen.read_text()
