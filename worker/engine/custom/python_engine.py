"""The engine of a model in Python."""

import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from typing import Any

import numpy as np
import structlog
from numpy.typing import NDArray

from shared.chunks import SECOND
from shared.errors import EngineError, ModelError, NotSupported, RtEmbedError, ServerBusy, Unavailable
from worker.engine.custom.inference_module import size_of
from worker.engine.custom.jpeg import jpeg_frames
from worker.engine.custom.original_modules import BaseVlmModel, VlmGenerationConfig
from worker.media.clip_source import Clip
from worker.models.base import EmbeddingModel, InputConfig, ModelChunk
from worker.models.embedding_engine import Clips, Vectors

log = structlog.get_logger(__name__)

BUSY_PATIENCE = 60.0  # seconds


class PythonEngine:
    """Calls the `generate` of a model object. Vectors are passed on unchanged."""

    def __init__(self, model: Any, config: InputConfig, max_batch_size: int) -> None:
        self.model = model
        self.config = config
        self.max_batch_size = max_batch_size
        self.dimension: int = getattr(model, "embed_dim", None) or config.embed_dim
        self.supports_text: bool = getattr(model, "supports_text", True)
        self._can_batch: Callable[[ModelChunk, ModelChunk], bool] | None = getattr(model, "can_batch", None)
        self._tensor: Callable[[NDArray[np.uint8]], Any] | None = None
        if wants_tensors(model):
            self._tensor = sys.modules["torch"].from_numpy
        theirs = isinstance(model, BaseVlmModel)
        self._generation: object = VlmGenerationConfig() if theirs else {}
        self._calling = threading.Lock()

    def embed_video(self, clips: Clips, described: Sequence[Clip] = ()) -> Vectors:
        """Embed uint8 [B, frames, 3, height, width] -> float32 [B, dimension]. `described` says which part
        of which video each clip is. Raises EngineError, Unavailable."""
        chunks = [chunk_of(clip) for clip in described] or [ModelChunk() for _ in clips]
        times = [[time / SECOND for time in clip.times] for clip in described] or [[] for _ in clips]
        return self._embed(chunks, [self._frames(clip) for clip in clips.transpose(0, 1, 3, 4, 2)], times)

    def _frames(self, clip: NDArray[np.uint8]) -> Any:
        """Return one clip, uint8 [frames, height, width, 3], in the form that the model expects."""
        if self.config.use_jpeg_encoding:
            return jpeg_frames(clip)
        if self._tensor:
            return self._tensor(clip.copy())  # a copy: PyTorch has no read-only tensors
        clip.flags.writeable = False
        return clip

    def embed_text(self, texts: Sequence[str]) -> Vectors:
        """Return float32 [len(texts), dimension]. Raises EngineError, Unavailable, NotSupported."""
        if not self.supports_text:
            raise NotSupported("the loaded model embeds no text")
        return self._embed([ModelChunk("text", text) for text in texts], [], [])

    def close(self) -> None:
        """Call the model's `_shutdown_model`, if it has one."""
        shut_down = getattr(self.model, "_shutdown_model", None)
        if shut_down:
            shut_down()

    def learn(self) -> None:
        """Embed a black clip to find the dimension, and a text to see if texts work, unless declared."""
        if not self.dimension:
            size = size_of(self.config)
            clip = np.zeros((1, self.config.num_frames, 3, size, size), np.uint8)
            try:
                self.dimension = self.embed_video(clip).shape[1]
            except RtEmbedError as error:
                raise ModelError(f"the model failed on a black clip: {error}") from error
        if not hasattr(self.model, "supports_text"):
            try:
                self.embed_text(["a first text"])
            except RtEmbedError as error:
                self.supports_text = False
                log.warning("the model embeds no text", reason=str(error.__cause__ or error))

    def warm_up(self) -> None:
        """Call the model's `warmup`, if it has one; a failure is only logged."""
        try:
            getattr(self.model, "warmup", lambda: None)()
        except Exception as error:  # foreign code
            log.warning("the model's warm-up failed", error=repr(error))

    def _embed(self, chunks: list[ModelChunk], frames: list[Any], times: list[list[float]]) -> Vectors:
        vectors: list[Vectors] = []
        for start, end in self._batches(chunks):
            outputs = self._generate(chunks[start:end], frames[start:end], times[start:end])
            vectors += [self._vector(output) for output in outputs]
        return np.stack(vectors) if vectors else np.empty((0, self.dimension), np.float32)

    def _batches(self, chunks: list[ModelChunk]) -> Iterator[tuple[int, int]]:
        start = 0
        while start < len(chunks):
            end = start + 1
            limit = min(len(chunks), start + self.max_batch_size) if self._can_batch else end
            while end < limit and self._can_batch and self._can_batch(chunks[start], chunks[end]):
                end += 1
            yield start, end
            start = end

    def _generate(
        self, chunks: list[ModelChunk], frames: list[Any], times: list[list[float]]
    ) -> Sequence[Any]:
        try:
            with self._calling:
                self._wait_until_free()
                outputs = self.model.generate("", chunks, frames, times, self._generation)
            if isinstance(outputs, Future):
                outputs = outputs.result()
            outputs = list(outputs)
        except RtEmbedError:
            raise
        except NotImplementedError as error:
            raise NotSupported(f"the loaded model embeds no {chunks[0].chunk_type}") from error
        except Exception as error:
            if type(error).__name__ == "OutOfMemoryError":  # PyTorch's or CuPy's; neither is imported here
                raise Unavailable(f"CUDA out of memory while embedding {len(chunks)} chunks") from error
            log.exception("the model failed", chunks=len(chunks))
            raise EngineError("An unknown error occurred") from error
        if len(outputs) < len(chunks):
            raise EngineError(
                f"No response generated for this chunk ({len(outputs)} outputs for {len(chunks)} chunks)"
            )
        return outputs[: len(chunks)]

    def _wait_until_free(self) -> None:
        can_enqueue = getattr(self.model, "can_enqueue_requests", None)
        if can_enqueue is None:
            return
        deadline = time.monotonic() + BUSY_PATIENCE
        while not can_enqueue():
            if time.monotonic() > deadline:
                raise ServerBusy(f"the model took no request for {BUSY_PATIENCE:g} s")
            time.sleep(0.005)

    def _vector(self, output: Any) -> Vectors:
        try:
            values = output.embeddings
            if hasattr(values, "detach"):  # a PyTorch tensor, perhaps on a GPU or in 16 bits
                values = values.detach().float().cpu()
            vector = np.asarray(values, np.float32)
        except (AttributeError, TypeError, ValueError) as error:
            raise EngineError(f"the model's output holds no vector: {error}") from error
        if vector.ndim != 1 or not vector.size or vector.size != (self.dimension or vector.size):
            raise EngineError(f"the model gave a vector of shape {vector.shape}, not ({self.dimension},)")
        if not np.isfinite(vector).all():
            raise EngineError("the model gave a vector that is not finite")
        return vector


def wants_tensors(model: object) -> bool:
    """Return whether the model gets PyTorch tensors, as RT-Embed gives them: not if it uses our base class,
    and not if its module has not imported PyTorch."""
    return "torch" in sys.modules and not isinstance(model, EmbeddingModel)


def chunk_of(clip: Clip) -> ModelChunk:
    """Return what a model learns about a clip."""
    chunk = clip.chunk
    return ModelChunk(
        streamId=clip.asset,
        chunkIdx=chunk.index,
        file=clip.path,
        start_pts=chunk.start,
        end_pts=chunk.end,
        is_first=chunk.index == 0,
    )
