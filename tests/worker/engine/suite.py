"""What every engine that runs a model directory must do, and a model small enough to calculate by hand."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from shared.errors import EngineError
from worker.models.directory import ModelDirectory, ModelInfo, load_model_directory, write_model_json
from worker.models.embedding_engine import Clips, Engine, Vectors
from worker.models.tokenizer import TextTokenizer, write_tokenizer

WORDS = ["a", "cat", "dog", "sat", "on", "the", "mat", "##s"]
INFO = ModelInfo(
    id="tiny", architecture="test", dimension=3, frames=2, resolution=4, max_text_tokens=16, owned_by="tests"
)
TABLE = np.random.default_rng(1).standard_normal((5 + len(WORDS), INFO.dimension)).astype(np.float32)


class EngineSuite:
    """Subclass it and define the fixture `engine`, over the fixture `tiny_model`."""

    @pytest.fixture
    def tiny_model(self, tmp_path: Path) -> ModelDirectory:
        return write_tiny_model(tmp_path / "tiny")

    def test_video_is_what_the_graph_says(self, engine: Engine) -> None:
        clips = random_clips(3)
        vectors = engine.embed_video(clips)
        assert vectors.dtype == np.float32
        np.testing.assert_allclose(vectors, reference_video(clips), atol=1e-6)

    @pytest.mark.parametrize("count", [1, 2, 7, 40])
    def test_any_number_of_clips(self, engine: Engine, count: int) -> None:
        clips = random_clips(count)
        np.testing.assert_allclose(engine.embed_video(clips), reference_video(clips), atol=1e-6)

    def test_nothing_gives_nothing(self, engine: Engine) -> None:
        assert engine.embed_video(random_clips(0)).shape == (0, INFO.dimension)
        assert engine.embed_text([]).shape == (0, INFO.dimension)

    def test_clips_need_not_be_contiguous(self, engine: Engine) -> None:
        clips = np.moveaxis(np.ascontiguousarray(np.moveaxis(random_clips(2), 2, -1)), -1, 2)
        np.testing.assert_allclose(engine.embed_video(clips), reference_video(clips), atol=1e-6)

    def test_text_is_what_the_graph_says(self, engine: Engine, tiny_model: ModelDirectory) -> None:
        texts = ["a cat", "the dogs sat on the mat", ""]
        vectors = engine.embed_text(texts)
        assert vectors.dtype == np.float32
        np.testing.assert_allclose(vectors, reference_text(tiny_model, texts), atol=1e-6)

    def test_a_text_does_not_depend_on_its_neighbours(self, engine: Engine) -> None:
        texts = [" ".join(["cat", "dog", "mat"][: 1 + i % 3] * (1 + i % 5)) for i in range(70)]
        alone = np.concatenate([engine.embed_text([text]) for text in texts])
        np.testing.assert_allclose(engine.embed_text(texts), alone, atol=1e-6)

    def test_long_text_is_cut(self, engine: Engine) -> None:
        words = "cat " * INFO.max_text_tokens
        np.testing.assert_array_equal(engine.embed_text([words + "dog mat"]), engine.embed_text([words]))

    def test_clips_of_another_size_are_refused(self, engine: Engine) -> None:
        with pytest.raises(EngineError, match="tiny"):
            engine.embed_video(np.zeros((1, 2, 3, 5, 5), np.uint8))

    def test_a_failed_batch_does_not_break_the_next(self, engine: Engine) -> None:
        with pytest.raises(EngineError):
            engine.embed_video(np.zeros((1, 3, 3, 4, 4), np.uint8))
        clips = random_clips(1)
        np.testing.assert_allclose(engine.embed_video(clips), reference_video(clips), atol=1e-6)

    def test_vector_that_is_not_finite_is_an_error(self, engine: Engine) -> None:
        with pytest.raises(EngineError, match="not finite"):
            engine.embed_video(np.zeros((1, 2, 3, 4, 4), np.uint8))  # 0 / 0 when it is normalised

    def test_closed_engine_refuses(self, engine: Engine) -> None:
        engine.close()
        with pytest.raises(EngineError, match="closed"):
            engine.embed_video(random_clips(1))
        with pytest.raises(EngineError, match="closed"):
            engine.embed_text(["cat"])

    def test_closing_twice_is_allowed(self, engine: Engine) -> None:
        engine.close()
        engine.close()


def random_clips(count: int) -> Clips:
    shape = (count, INFO.frames, 3, INFO.resolution, INFO.resolution)
    return np.random.default_rng(count).integers(1, 256, shape, dtype=np.uint8)


def reference_video(clips: Clips) -> Vectors:
    """The mean colour of a clip, at unit length."""
    return unit(clips.astype(np.float32).mean(axis=(1, 3, 4)))


def reference_text(model: ModelDirectory, texts: list[str]) -> Vectors:
    """The mean of the texts' rows of TABLE, at unit length."""
    tokenizer = TextTokenizer(model.tokenizer, model.info.max_text_tokens)
    return unit(np.stack([TABLE[tokenizer([text])[0][0]].mean(axis=0) for text in texts]))


def unit(vectors: NDArray[np.float32]) -> Vectors:
    scaled: Vectors = (vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)).astype(np.float32)
    return scaled


def write_tiny_model(path: Path, *, text: bool = True) -> ModelDirectory:
    """The mean colour of a clip, and the mean of word vectors, as a model directory."""
    path.mkdir()
    onnx.save(video_graph(), path / "video.onnx")
    if text:
        onnx.save(text_graph(), path / "text.onnx")
        tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
        (path / "vocab.txt").write_text("".join(f"{token}\n" for token in tokens))
        write_tokenizer(path / "vocab.txt", path / "tokenizer.json", vocabulary_sha256=None)
    write_model_json(path, INFO)
    return load_model_directory(path)


def video_graph(
    *,
    name: str = "videos",
    type_: int = TensorProto.UINT8,
    frames: int = INFO.frames,
    output: str = "video_embeddings",
    batch: int | str = "batch",
) -> onnx.ModelProto:
    nodes = [
        helper.make_node("Cast", [name], ["float"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["float", "axes"], ["mean"], keepdims=0),
        helper.make_node("ReduceL2", ["mean", "last"], ["norm"], keepdims=1),
        helper.make_node("Div", ["mean", "norm"], [output]),
    ]
    shape = [batch, frames, 3, INFO.resolution, INFO.resolution]
    return finish(
        nodes,
        [helper.make_tensor_value_info(name, type_, shape)],
        helper.make_tensor_value_info(output, TensorProto.FLOAT, [batch, INFO.dimension]),
        {"axes": np.array([1, 3, 4]), "last": np.array([-1])},
    )


def text_graph() -> onnx.ModelProto:
    nodes = [
        helper.make_node("Gather", ["table", "input_ids"], ["rows"]),
        helper.make_node("Cast", ["attention_mask"], ["mask"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["mask", "last"], ["mask3"]),
        helper.make_node("Mul", ["rows", "mask3"], ["kept"]),
        helper.make_node("ReduceSum", ["kept", "one"], ["sum"], keepdims=0),
        helper.make_node("ReduceL2", ["sum", "last"], ["norm"], keepdims=1),
        helper.make_node("Div", ["sum", "norm"], ["text_embeddings"]),
    ]
    names = ("input_ids", "attention_mask")
    inputs = [helper.make_tensor_value_info(name, TensorProto.INT64, ["batch", "tokens"]) for name in names]
    output = helper.make_tensor_value_info("text_embeddings", TensorProto.FLOAT, ["batch", INFO.dimension])
    return finish(nodes, inputs, output, {"table": TABLE, "last": np.array([-1]), "one": np.array([1])})


def finish(
    nodes: list[onnx.NodeProto],
    inputs: list[onnx.ValueInfoProto],
    output: onnx.ValueInfoProto,
    constants: dict[str, NDArray[np.generic]],
) -> onnx.ModelProto:
    initializers = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "tiny", inputs, [output], initializers)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
