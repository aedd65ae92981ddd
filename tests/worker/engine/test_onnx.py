import os
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np
import onnx
import pytest
from onnx import TensorProto

from shared.errors import ModelError, NotSupported
from tests.worker.engine.suite import (
    INFO,
    EngineSuite,
    random_clips,
    reference_video,
    text_graph,
    video_graph,
    write_tiny_model,
)
from worker.engine.onnx import OnnxEngine
from worker.models.directory import ModelDirectory, load_model_directory, write_model_json
from worker.models.embedding_engine import Engine


class TestOnnxEngine(EngineSuite):
    @pytest.fixture(params=[1, 2], ids=["1 thread", "2 threads"])
    def engine(self, tiny_model: ModelDirectory, request: pytest.FixtureRequest) -> Iterator[Engine]:
        engine = OnnxEngine(tiny_model, request.param)
        yield engine
        engine.close()

    def test_supports_text(self, engine: Engine) -> None:
        assert engine.supports_text


def test_model_without_text(tmp_path: Path) -> None:
    engine = OnnxEngine(write_tiny_model(tmp_path / "tiny", text=False), 1)
    assert not engine.supports_text
    with pytest.raises(NotSupported, match="tiny embeds no text"):
        engine.embed_text(["cat"])
    clips = random_clips(1)
    np.testing.assert_allclose(engine.embed_video(clips), reference_video(clips), atol=1e-6)
    engine.close()


@pytest.mark.parametrize(
    ("graph", "message"),
    [
        (video_graph(name="pixels"), r"video\.onnx has the inputs pixels, expected videos"),
        (video_graph(output="vectors"), r"video\.onnx has the outputs vectors, expected video_embeddings"),
        (
            video_graph(type_=TensorProto.FLOAT),
            r"input videos is a tensor\(float\), expected a tensor\(uint8\)",
        ),
        (video_graph(frames=8), r"input videos has the shape \['batch', 8, 3, 4, 4\]"),
        (video_graph(batch=1), r"input videos has the shape \[1, 2, 3, 4, 4\]"),
        (text_graph(), r"has the inputs attention_mask, input_ids, expected videos"),
    ],
)
def test_graph_that_breaks_the_promise_of_model_json(
    tmp_path: Path, graph: onnx.ModelProto, message: str
) -> None:
    model = write_tiny_model(tmp_path / "tiny")
    onnx.save(graph, model.video)
    with pytest.raises(ModelError, match=message):
        OnnxEngine(model, 1)


def test_another_dimension_than_promised(tmp_path: Path) -> None:
    model = write_tiny_model(tmp_path / "tiny")
    write_model_json(model.path, msgspec.structs.replace(INFO, dimension=5))
    with pytest.raises(ModelError, match=r"text\.onnx: output text_embeddings .* expected \(None, 5\)"):
        OnnxEngine(load_model_directory(model.path), 1)


def test_file_that_is_no_graph(tmp_path: Path) -> None:
    model = write_tiny_model(tmp_path / "tiny")
    model.video.write_bytes(b"not a graph")
    with pytest.raises(ModelError, match=r"cannot load .*video\.onnx"):
        OnnxEngine(model, 1)


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere niceness is the process's, not a thread's")
def test_only_the_video_tower_gives_way(tmp_path: Path) -> None:
    model = write_tiny_model(tmp_path / "tiny")
    own = os.getpriority(os.PRIO_PROCESS, 0)
    before = tasks()
    engine = OnnxEngine(model, 3)
    engine.embed_video(random_clips(1))
    engine.embed_text(["cat"])
    niceness = sorted(os.getpriority(os.PRIO_PROCESS, task) for task in tasks() - before)
    # Two helpers of the text tower; the video tower's own thread and its two helpers.
    assert niceness == [own, own, *[max(own, 10)] * 3]
    assert os.getpriority(os.PRIO_PROCESS, threading.get_native_id()) == own
    engine.close()


def tasks() -> set[int]:
    """The ids of this process's threads."""
    return {int(task.name) for task in Path("/proc/self/task").iterdir()}
