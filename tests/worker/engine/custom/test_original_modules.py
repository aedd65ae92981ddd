"""A folder as RT-Embed's documentation has people write it, unchanged."""

import re
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any, Self

import numpy as np
import pytest

from shared.chunks import SECOND, Chunk
from shared.errors import ModelError
from tests.worker.engine.custom.conftest import ClipsOf, WriteFolder
from worker.engine.custom.load_custom import load_python_model
from worker.media.clip_source import Clip

DOCUMENTED = """
    from concurrent.futures import Future

    from common.chunk_info import ChunkInfo
    from common.logger import logger
    from models.base_vlm_model import BaseVlmModel, InputConfig, VlmGenerationConfig, VlmModelOutput

    class Model(BaseVlmModel):
        def _initialize_model(self, **kwargs):
            logger.info("loading %s", self.model_path)
            self.options, self.events, self.calls = kwargs, [], []

        def generate(self, query, chunks, video_frames, video_frames_times, generation_config, **kwargs):
            assert isinstance(generation_config, VlmGenerationConfig)
            assert all(isinstance(chunk, ChunkInfo) for chunk in chunks)
            self.calls.append((chunks, video_frames, video_frames_times))
            if chunks[0].chunk_type == "text":
                outputs = [VlmModelOutput("", embeddings=[float(len(c.text_input)), 1.0]) for c in chunks]
            else:
                outputs = [VlmModelOutput("", [float(frames.max()), 0.0]) for frames in video_frames]
            future = Future()
            future.set_result(outputs)
            return future

        def can_batch(self, first, second):
            return first.chunk_type == second.chunk_type

        def warmup(self):
            self.events.append("warm")

        def _shutdown_model(self):
            self.events.append("shut down")

        @staticmethod
        def get_model_info(model_path, vlm_model_type):
            return "documented", vlm_model_type, "them"

        @staticmethod
        def get_input_config(model_path, vlm_model_type):
            config = InputConfig()
            config.num_frames, config.width, config.height = 2, 4, 4
            return config
"""


def clip_at(start: int, frames: np.ndarray) -> Clip:
    clip = Clip(Chunk(3, start * SECOND, (start + 2) * SECOND), frames, [start * SECOND], 0.0, 0.0)
    clip.asset, clip.path = "camera-1", "/films/a.mp4"
    return clip


def test_a_folder_of_the_documented_shape_loads_unchanged(folder: WriteFolder, clips_of: ClipsOf) -> None:
    info, engine = load_python_model(folder(DOCUMENTED), "/models/theirs", 4)
    assert (info.id, info.api_type, info.owned_by) == ("documented", "custom", "them")
    assert (info.dimension, info.frames, info.resolution) == (2, 2, 4)
    assert engine.supports_text
    assert engine.model.options == {"async_output": True, "vlm_model_type": "custom"}
    assert engine.model._max_batch_size == 4
    assert engine.embed_video(clips_of([(1, 2, 9), (5, 4, 3)])).tolist() == [[9, 0], [5, 0]]
    assert engine.embed_text(["abc", "d"]).tolist() == [[3, 1], [1, 1]]
    engine.close()
    assert engine.model.events == ["warm", "shut down"]


def test_its_chunks_say_which_part_of_which_video_they_are(folder: WriteFolder, clips_of: ClipsOf) -> None:
    _, engine = load_python_model(folder(DOCUMENTED), "m", 4)
    frames = clips_of([(7, 7, 7)])
    engine.embed_video(frames, [clip_at(6, frames[0])])
    (chunk,), _, times = engine.model.calls[-1]
    assert (chunk.streamId, chunk.chunkIdx, chunk.file) == ("camera-1", 3, "/films/a.mp4")
    assert (chunk.start_pts, chunk.end_pts, chunk.is_first) == (6 * SECOND, 8 * SECOND, False)
    assert chunk.get_timestamp(6.5) == "6.500"
    assert times == [[6.0]]


def test_the_modules_are_there_only_while_it_is_made(folder: WriteFolder) -> None:
    load_python_model(folder(DOCUMENTED), "m", 1)
    for name in ("models", "models.base_vlm_model", "common", "common.chunk_info", "common.logger"):
        assert name not in sys.modules
        with pytest.raises(ImportError):
            __import__(name)


def test_a_folders_own_modules_of_these_names_come_first(folder: WriteFolder, tmp_path: Path) -> None:
    (tmp_path / "common").mkdir()
    (tmp_path / "common" / "__init__.py").write_text("OWN = 1\n")
    (tmp_path / "common" / "mine.py").write_text("DIMENSION = 5\n")
    source = """
        import common
        from common.logger import logger
        from common.mine import DIMENSION
        from models.base_vlm_model import BaseVlmModel

        class Model(BaseVlmModel):
            embed_dim, supports_text = DIMENSION * common.OWN, False
            def generate(self, *arguments, **kwargs): ...
    """
    try:
        assert load_python_model(folder(source), "m", 1)[0].dimension == 5
    finally:
        for name in [name for name in sys.modules if name.partition(".")[0] == "common"]:
            del sys.modules[name]


def test_a_base_class_that_is_not_filled_in_is_named(folder: WriteFolder) -> None:
    source = """
        from models.base_vlm_model import BaseVlmModel

        class Model(BaseVlmModel):
            def warmup(self): ...
    """
    with pytest.raises(ModelError, match=r"Model in .* did not start: TypeError.*abstract method '?generate"):
        load_python_model(folder(source), "m", 1)


class Tensor:
    """What the test sees of a tensor."""

    def __init__(self, values: np.ndarray) -> None:
        assert values.flags.writeable
        self.values = values
        self.steps: list[str] = []

    def __getattr__(self, name: str) -> Callable[[], Self]:
        if name not in ("detach", "float", "cpu"):
            raise AttributeError(name)
        return lambda: self.step(name)

    def step(self, name: str) -> Self:
        self.steps.append(name)
        return self

    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
        assert self.steps == ["detach", "float", "cpu"]
        return self.values.astype(dtype)


TENSORS = """
    import torch
    {base}

    class Model({name}):
        embed_dim, supports_text = 4, False
        def __init__(self, *arguments, **kwargs): ...
        def generate(self, query, chunks, video_frames, *rest, **kwargs):
            self.seen = video_frames[0]
            return [SimpleNamespace(embeddings=torch.from_numpy(torch.ones(4)))]

    from types import SimpleNamespace
"""


@pytest.mark.parametrize(
    ("base", "name", "kind"),
    [
        ("from models.base_vlm_model import BaseVlmModel", "BaseVlmModel", Tensor),
        ("", "object", Tensor),
        ("from worker.models.base import EmbeddingModel", "EmbeddingModel", np.ndarray),
    ],
)
def test_frames_are_tensors_for_a_model_that_imports_pytorch(
    folder: WriteFolder,
    clips_of: ClipsOf,
    monkeypatch: pytest.MonkeyPatch,
    base: str,
    *,
    name: str,
    kind: type,
) -> None:
    torch = ModuleType("torch")
    vars(torch).update(from_numpy=Tensor, ones=np.ones)
    monkeypatch.setitem(sys.modules, "torch", torch)
    _, engine = load_python_model(folder(TENSORS.format(base=base, name=name)), "m", 1)
    assert engine.embed_video(clips_of([(1, 2, 3)])).tolist() == [[1, 1, 1, 1]]
    assert type(engine.model.seen) is kind
    seen: Any = engine.model.seen
    assert (seen.values if kind is Tensor else seen).shape == (2, 4, 4, 3)


def test_frames_are_arrays_without_pytorch(
    folder: WriteFolder, clips_of: ClipsOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    _, engine = load_python_model(folder(DOCUMENTED), "m", 1)
    engine.embed_video(clips_of([(1, 2, 3)]))
    assert type(engine.model.calls[-1][1][0]) is np.ndarray


def test_the_example_of_the_documents(folder: WriteFolder) -> None:
    page = Path("deploy/models.md").read_text()
    (source,) = re.findall(r"<!-- example: written for RT-Embed -->\n```python\n(.*?)```", page, re.DOTALL)
    info, engine = load_python_model(folder(source), "/models/theirs", 4)
    assert (info.id, info.dimension, info.resolution, engine.supports_text) == ("theirs", 3, 224, False)
    clip = np.zeros((1, 8, 3, 224, 224), np.uint8)
    clip[:, :, 1] = 200
    assert engine.embed_video(clip)[0].round(3).tolist() == [0, 1, 0]
