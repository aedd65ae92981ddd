"""The GPU engine on a GPU: the suite that every engine passes, and what only it can do."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from shared.errors import ModelError, NotSupported
from shared.settings import Settings, load
from tests.worker.engine.suite import EngineSuite, random_clips, write_tiny_model
from worker.engine.backend import choose_backend
from worker.engine.batches import graph_shapes
from worker.engine.gpus import Gpu
from worker.engine.onnx import OnnxEngine
from worker.models.directory import ModelDirectory
from worker.models.embedding_engine import Engine
from worker.models.preparation_progress import silent

if TYPE_CHECKING:
    from worker.engine.tensorrt import TensorRtEngine


@pytest.fixture(scope="module")
def gpu() -> Gpu:
    """The first GPU that can be used here."""
    try:
        chosen = choose_backend(load({"RTEMBED_BACKEND": "cuda", "MODEL_PATH": "/tiny"}))
    except ModelError as error:
        pytest.skip(error.message)
    assert chosen.gpu
    return chosen.gpu


def settings(folder: Path) -> Settings:
    return load({"NGC_MODEL_CACHE": str(folder)})


@pytest.mark.gpu
class TestTensorRtEngine(EngineSuite):
    @pytest.fixture
    def engine(self, tiny_model: ModelDirectory, gpu: Gpu, tmp_path: Path) -> Iterator[Engine]:
        from worker.engine.tensorrt import open_engine

        engine = open_engine(tiny_model, gpu, 8, settings(tmp_path), silent)
        yield engine
        engine.close()

    def test_supports_text(self, engine: Engine) -> None:
        assert engine.supports_text

    def test_the_vectors_are_those_of_onnx_runtime(self, engine: Engine, tiny_model: ModelDirectory) -> None:
        reference = OnnxEngine(tiny_model, 1)
        clips, texts = random_clips(11), ["a cat", "the dogs sat on the mat"]
        np.testing.assert_allclose(engine.embed_video(clips), reference.embed_video(clips), atol=1e-5)
        np.testing.assert_allclose(engine.embed_text(texts), reference.embed_text(texts), atol=1e-5)
        reference.close()

    def test_small_batches_of_texts_have_cuda_graphs(
        self, engine: "TensorRtEngine", tiny_model: ModelDirectory, gpu: Gpu
    ) -> None:
        from worker.engine.tensorrt import open_engine

        assert engine.captured == graph_shapes(8, tiny_model.info.max_text_tokens)
        without = load({"NGC_MODEL_CACHE": str(tiny_model.path.parent), "RTEMBED_TEXT_GRAPHS": "false"})
        plain = open_engine(tiny_model, gpu, 8, without, silent)
        assert plain.captured == []
        for texts in (["a cat"], ["the dogs sat on the mat", "mat", "a cat"], ["a cat sat"] * 8, ["a cat"]):
            np.testing.assert_allclose(engine.embed_text(texts), plain.embed_text(texts), atol=1e-5)
        plain.close()

    def test_clips_may_lie_on_the_gpu(self, engine: Engine) -> None:
        import cupy

        clips = random_clips(11)
        found = engine.embed_video(cupy.asarray(clips))  # type: ignore[arg-type] # more than other engines take
        np.testing.assert_array_equal(found, engine.embed_video(clips))


@pytest.mark.gpu
def test_model_without_text(gpu: Gpu, tmp_path: Path) -> None:
    from worker.engine.tensorrt import open_engine

    engine = open_engine(write_tiny_model(tmp_path / "t", text=False), gpu, 2, settings(tmp_path), silent)
    with pytest.raises(NotSupported, match="tiny embeds no text"):
        engine.embed_text(["cat"])
    assert len(engine.files) == 1
    engine.close()
