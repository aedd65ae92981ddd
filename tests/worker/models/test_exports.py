"""Exported graphs of random weights, by the names and in the shapes of public exports, served as they are."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace

from shared.errors import ModelError
from worker.engine.onnx import OnnxEngine
from worker.models.directory import ModelDirectory, ModelInfo
from worker.models.exports import read_export
from worker.models.prepare import prepare
from worker.models.sources import Hubs

SIZE, DIMENSION, VOCABULARY, LENGTH = 6, 5, 11, 8
MEAN, STD = [0.5, 0.4, 0.3], [0.2, 0.3, 0.4]
RANDOM = np.random.default_rng(3)
PICTURES = RANDOM.standard_normal((3 * SIZE * SIZE, DIMENSION)).astype(np.float32) / 10
TOKENS = RANDOM.standard_normal((VOCABULARY, DIMENSION)).astype(np.float32)

Feed = tuple[str, int, list[Any]]


def graph(path: Path, feeds: list[Feed], outputs: list[str], nodes: list[Any], opset: int = 18) -> None:
    weights: dict[str, NDArray[Any]] = {
        "pictures": PICTURES,
        "tokens": TOKENS,
        "flat": np.array([-1, PICTURES.shape[0]]),
        "one": np.array([1]),
        "half": np.array([0.5], np.float32),
    }
    inputs = [helper.make_tensor_value_info(*feed) for feed in feeds]
    given = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs]
    stored = [numpy_helper.from_array(values, name) for name, values in weights.items()]
    made = helper.make_graph(nodes, "export", inputs, given, stored)
    imports = [helper.make_opsetid("", opset)]
    onnx.save(helper.make_model(made, opset_imports=imports, ir_version=9), path)


def vision(output: str = "image_embeds", *, source: str = "pixel_values") -> list[Any]:
    return [
        helper.make_node("Reshape", [source, "flat"], ["rows"]),
        helper.make_node("MatMul", ["rows", "pictures"], [output]),
    ]


def texts(ids: str, output: str, mask: str = "", zeros: str = "") -> list[Any]:
    """The sum of the tokens' vectors, of those that the mask leaves."""
    nodes = [helper.make_node("Gather", ["tokens", ids], ["vectors"])]
    summed = "vectors"
    if mask:
        nodes += [
            helper.make_node("Cast", [mask], ["weight"], to=TensorProto.FLOAT),
            helper.make_node("Unsqueeze", ["weight", "minus"], ["weights"]),
            helper.make_node("Mul", ["vectors", "weights"], ["masked"]),
        ]
        last = numpy_helper.from_array(np.array([-1]))
        nodes.insert(0, helper.make_node("Constant", [], ["minus"], value=last))
        summed = "masked"
    if zeros:
        nodes.append(helper.make_node("Gather", ["tokens", zeros], ["types"]))
        nodes.append(helper.make_node("Add", [summed, "types"], ["typed"]))
        summed = "typed"
    return [*nodes, helper.make_node("ReduceSum", [summed, "one"], [output], keepdims=0)]


def tokenizer(folder: Path) -> None:
    words = {f"w{i}": i for i in range(VOCABULARY)}
    made = Tokenizer(WordLevel(words, unk_token="w0"))
    made.pre_tokenizer = Whitespace()
    made.save(str(folder / "tokenizer.json"))


def describe(folder: Path, export: dict[str, Any], **changes: Any) -> None:
    record = {
        "id": "export", "architecture": "exported", "dimension": DIMENSION, "frames": 1, "resolution": SIZE,
        "max_text_tokens": LENGTH, "owned_by": "me", "export": export, **changes,
    }  # fmt: skip
    (folder / "model.json").write_text(json.dumps(record))


def served(folder: Path, tmp_path: Path) -> tuple[ModelDirectory, OnnxEngine]:
    model = prepare(str(folder), tmp_path / "cache", "fp32", Hubs())
    return model, OnnxEngine(model, 1)


def clips(count: int, frames: int) -> NDArray[np.uint8]:
    return np.random.default_rng(1).integers(0, 256, (count, frames, 3, SIZE, SIZE), np.uint8)


def unit(vectors: NDArray[Any]) -> NDArray[Any]:
    return np.asarray(vectors / np.linalg.norm(vectors, axis=-1, keepdims=True))


def pixels(frames: NDArray[np.uint8]) -> NDArray[Any]:
    shape = (3, 1, 1)
    return np.asarray((frames / 255 - np.array(MEAN).reshape(shape)) / np.array(STD).reshape(shape))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "export"
    made.mkdir()
    tokenizer(made)
    return made


def test_a_clip_export_of_two_towers_in_one_graph(folder: Path, tmp_path: Path) -> None:
    """CLIP by Optimum: one graph takes pictures and texts, and gives both embeddings and logits of both."""
    int64 = ["batch", "length"]
    feeds: list[Feed] = [
        ("input_ids", TensorProto.INT64, int64),
        ("pixel_values", TensorProto.FLOAT, ["pictures", 3, SIZE, SIZE]),
        ("attention_mask", TensorProto.INT64, int64),
    ]
    nodes = [
        *vision(),
        *texts("input_ids", "text_embeds", "attention_mask"),
        helper.make_node("Transpose", ["text_embeds"], ["across"]),
        helper.make_node("MatMul", ["image_embeds", "across"], ["logits_per_image"]),
    ]
    graph(folder / "model.onnx", feeds, ["logits_per_image", "text_embeds", "image_embeds"], nodes)
    video = {"file": "model.onnx", "output": "image_embeds", "mean": MEAN, "std": STD}
    text = {"file": "model.onnx", "output": "text_embeds", "pad_id": 4}
    describe(folder, {"video": video, "text": text, "normalize": True}, frames=4)
    model, engine = served(folder, tmp_path)
    given = clips(2, 4)
    single = unit(pixels(given).reshape(2, 4, -1) @ PICTURES)
    np.testing.assert_allclose(engine.embed_video(given), unit(single.mean(axis=1)), atol=1e-5)
    expected = unit(np.stack([TOKENS[[1, 2]].sum(axis=0), TOKENS[[3]].sum(axis=0)]))
    np.testing.assert_allclose(engine.embed_text(["w1 w2", "w3"]), expected, atol=1e-5)
    assert not {"model.onnx"} & {path.name for path in model.path.iterdir()}
    engine.close()
    before = {path: path.stat().st_mtime_ns for path in model.path.iterdir()}
    again, engine = served(folder, tmp_path)
    assert {path: path.stat().st_mtime_ns for path in again.path.iterdir()} == before
    engine.close()


def test_a_siglip_export_pads_every_text_and_has_no_mask(folder: Path, tmp_path: Path) -> None:
    """SigLIP: two graphs, ids filled up to a fixed length, no attention mask, int32 ids."""
    graph(
        folder / "vision_model.onnx", [("pixel_values", TensorProto.FLOAT, ["batch", 3, SIZE, SIZE])],
        ["pooler_output"], vision("pooler_output"),
    )  # fmt: skip
    graph(
        folder / "text_model.onnx", [("input_ids", TensorProto.INT32, ["batch", LENGTH])],
        ["pooler_output"], texts("input_ids", "pooler_output"),
    )  # fmt: skip
    video = {"file": "vision_model.onnx", "output": "pooler_output", "mean": MEAN, "std": STD}
    text = {
        "file": "text_model.onnx", "output": "pooler_output", "mask": "", "pad_id": 1, "pad_to": LENGTH,
        "type": "int32",
    }  # fmt: skip
    describe(folder, {"video": video, "text": text})
    _, engine = served(folder, tmp_path)
    given = clips(3, 1)
    np.testing.assert_allclose(engine.embed_video(given), pixels(given).reshape(3, -1) @ PICTURES, atol=1e-5)
    rows = [[2, 3, 4] + [1] * 5, [5] + [1] * 7]
    expected = np.stack([TOKENS[row].sum(axis=0) for row in rows])
    np.testing.assert_allclose(engine.embed_text(["w2 w3 w4", "w5"]), expected, atol=1e-5)
    engine.close()


def test_an_xclip_export_takes_clips(folder: Path, tmp_path: Path) -> None:
    """X-CLIP: [B, T, 3, H, W], and token types that are zeros."""
    shape = ["batch", 2, 3, SIZE, SIZE]
    nodes = [
        helper.make_node("ReduceMean", ["pixel_values", "one"], ["means"], keepdims=0),
        *vision("video_embeds", source="means"),
    ]
    graph(folder / "video_model.onnx", [("pixel_values", TensorProto.FLOAT, shape)], ["video_embeds"], nodes)
    names = ("input_ids", "attention_mask", "token_type_ids")
    graph(
        folder / "text_model.onnx", [(name, TensorProto.INT64, ["batch", "length"]) for name in names],
        ["text_embeds"], texts("input_ids", "text_embeds", "attention_mask", "token_type_ids"),
    )  # fmt: skip
    video = {"file": "video_model.onnx", "output": "video_embeds", "layout": "BTCHW"}
    text = {"file": "text_model.onnx", "output": "text_embeds", "zeros": ["token_type_ids"]}
    describe(folder, {"video": video, "text": text}, frames=2)
    _, engine = served(folder, tmp_path)
    given = clips(2, 2)
    expected = (given / 255).mean(axis=1).reshape(2, -1) @ PICTURES
    np.testing.assert_allclose(engine.embed_video(given), expected, atol=1e-5)
    np.testing.assert_allclose(
        engine.embed_text(["w2 w7"]), [TOKENS[[2, 7]].sum(axis=0) + 2 * TOKENS[0]], atol=1e-5
    )
    engine.close()


@pytest.mark.parametrize("opset", [13, 17])
@pytest.mark.parametrize(
    ("layout", "order"), [("BHWC", (0, 2, 3, 1)), ("BTHWC", (0, 1, 3, 4, 2)), ("BCTHW", (0, 2, 1, 3, 4))]
)
def test_every_layout_and_older_opsets(
    folder: Path, tmp_path: Path, layout: str, order: tuple[int, ...], *, opset: int
) -> None:
    frames = 1
    given = clips(2, frames)
    array = given[:, 0] if "T" not in layout else given
    shape = ["batch", *array.transpose(order).shape[1:]]
    graph(folder / "m.onnx", [("x", TensorProto.UINT8, shape)], ["y"], [
        helper.make_node("Cast", ["x"], ["floats"], to=TensorProto.FLOAT), *vision("y", source="floats"),
    ], opset)  # fmt: skip
    video = {"file": "m.onnx", "input": "x", "output": "y", "layout": layout, "type": "uint8"}
    describe(folder, {"video": video, "normalize": True}, frames=frames)
    _, engine = served(folder, tmp_path)
    expected = unit(array.transpose(order).reshape(2, -1) @ PICTURES)
    np.testing.assert_allclose(engine.embed_video(given), expected, atol=1e-5)
    engine.close()


def test_frames_that_are_not_square_and_names_that_engines_use(folder: Path, tmp_path: Path) -> None:
    """A graph whose own tensors are called as an engine's, and whose pictures are half as high as wide."""
    rows = np.arange(3 * 3 * SIZE)
    weights = PICTURES[: rows.size].copy()
    nodes = [
        helper.make_node("Constant", [], ["w"], value=numpy_helper.from_array(weights)),
        helper.make_node("Constant", [], ["shape"], value=numpy_helper.from_array(np.array([-1, rows.size]))),
        helper.make_node("Reshape", ["videos", "shape"], ["flattened"]),
        helper.make_node("MatMul", ["flattened", "w"], ["video_embeddings"]),
    ]
    feeds: list[Feed] = [("videos", TensorProto.FLOAT, ["batch", 3, 3, SIZE])]
    graph(folder / "m.onnx", feeds, ["video_embeddings"], nodes)
    video = {"file": "m.onnx", "input": "videos", "output": "video_embeddings", "height": 3}
    describe(folder, {"video": video})
    _, engine = served(folder, tmp_path)
    given = np.full((1, 1, 3, SIZE, SIZE), 200, np.uint8)
    expected = np.full((1, rows.size), 200 / 255) @ weights
    np.testing.assert_allclose(engine.embed_video(given), expected, atol=1e-4)
    engine.close()


def test_large_weights_beside_the_graph(folder: Path, tmp_path: Path) -> None:
    graph(folder / "m.onnx", [("pixel_values", TensorProto.FLOAT, ["b", 3, SIZE, SIZE])], ["y"], vision("y"))
    model = onnx.load(str(folder / "m.onnx"))
    onnx.save(
        model, str(folder / "m.onnx"), save_as_external_data=True, location="m.data", size_threshold=100
    )
    describe(folder, {"video": {"file": "m.onnx", "output": "y"}})
    directory, engine = served(folder, tmp_path)
    given = clips(1, 1)
    expected = (given / 255).reshape(1, -1) @ PICTURES
    np.testing.assert_allclose(engine.embed_video(given), expected, atol=1e-5)
    assert (directory.path / "m.data").stat().st_size == (folder / "m.data").stat().st_size
    engine.close()


Change = Callable[[dict[str, Any]], object]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda r: r["export"]["video"].update(output="z"), r"m\.onnx has the outputs y, not z"),
        (lambda r: r["export"]["video"].update(input="z"), r"m\.onnx has the inputs pixel_values, not z"),
        (lambda r: r["export"]["video"].update(file="z.onnx"), r"cannot load .*z\.onnx"),
        (lambda r: r["export"]["video"].update(layout="CBHW"), r"model\.json is not valid.*layout"),
        (lambda r: r["export"].update(normalise=True), r"unknown field `normalise`"),
        (lambda r: r.update(frames=65), "frames is 65; 1 to 64 are possible"),
    ],
)
def test_descriptions_that_do_not_fit(folder: Path, tmp_path: Path, change: Change, message: str) -> None:
    graph(folder / "m.onnx", [("pixel_values", TensorProto.FLOAT, ["b", 3, SIZE, SIZE])], ["y"], vision("y"))
    describe(folder, {"video": {"file": "m.onnx", "output": "y"}})
    record = json.loads((folder / "model.json").read_text())
    change(record)
    (folder / "model.json").write_text(json.dumps(record))
    with pytest.raises(ModelError, match=message):
        prepare(str(folder), tmp_path / "cache", "fp32", Hubs())
    left = [path.name for path in (tmp_path / "cache").glob("*")] if (tmp_path / "cache").exists() else []
    assert not [name for name in left if not name.endswith(".lock")]


def test_the_recipes_of_the_documents_are_valid(tmp_path: Path) -> None:
    page = Path("deploy/models.md").read_text()
    recipes = [text for text in re.findall(r"```json\n(.*?)```", page, re.DOTALL) if '"export"' in text]
    assert len(recipes) == 3
    for text in recipes:
        (tmp_path / "model.json").write_text(text)
        export = read_export(tmp_path)
        assert export is not None
        assert export.normalize
        assert msgspec.json.decode(text, type=ModelInfo).frames == 8
