from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from shared.chunks import Chunk
from shared.errors import DeviceLost, DeviceMemoryShort, EngineError
from tests.support import served_model
from worker.compose import Loaded
from worker.media.clip_source import Clip
from worker.media.gpu.cuda_errors import device_errors
from worker.models.directory import ModelInfo
from worker.models.embedding_engine import Clips, Vectors
from worker.service import clip_engine


class OutOfMemoryError(MemoryError):
    """As CuPy's pool raises it."""


class CUDARuntimeError(RuntimeError):
    """As CuPy raises it."""

    def __init__(self, status: int) -> None:
        super().__init__(f"status {status}")
        self.status = status


@pytest.mark.parametrize(
    ("raised", "kind", "message"),
    [
        (OutOfMemoryError("512 bytes"), DeviceMemoryShort, "the GPU has no memory left: 512 bytes"),
        (CUDARuntimeError(2), DeviceMemoryShort, "the GPU has no memory left: status 2"),
        (CUDARuntimeError(901), EngineError, "the GPU captures no CUDA graph of it: status 901"),
        (CUDARuntimeError(700), DeviceLost, "the GPU is lost to this process: status 700"),
        (EngineError("a batch"), EngineError, "a batch"),
        (ValueError("ours"), ValueError, "ours"),
    ],
)
def test_what_an_error_of_cuda_means(raised: Exception, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind) as caught, device_errors("the GPU"):
        raise raised
    assert type(caught.value) is kind
    assert str(caught.value) == message
    assert caught.value is raised or caught.value.__cause__ is raised


def test_a_lost_gpu_answers_no_request() -> None:
    assert not issubclass(DeviceLost, EngineError)


class Short:
    """An engine on a GPU with memory for two clips at a time."""

    supports_text = False

    def __init__(self) -> None:
        self.batches: list[int] = []

    def embed_video(self, clips: Clips) -> Vectors:
        if len(clips) > 2:
            raise OutOfMemoryError(f"{clips.nbytes} bytes")
        self.batches.append(len(clips))
        return clips[:, 0, 0, 0, :2].astype(np.float32)

    def embed_text(self, texts: Sequence[str]) -> Vectors:
        raise NotImplementedError

    def close(self) -> None:
        pass


def test_clips_are_put_together_in_smaller_batches_while_memory_is_short() -> None:
    info = ModelInfo(id="m", architecture="t", dimension=2, frames=4, resolution=2, max_text_tokens=0)
    model: Any = served_model(dimension=2, frames=4, supports_text=False)
    engine = Short()
    embed = clip_engine(Loaded(info, engine, "test", 8, model))
    clips = [
        Clip(Chunk(i, 0, 1), np.full((1 + i % 4, 3, 2, 2), i, np.uint8), [0] * (1 + i % 4), 0, 0)
        for i in range(7)
    ]
    assert embed(clips)[:, 0].tolist() == list(range(7))
    assert engine.batches == [1] * 7  # 7 and 3 were too many
