"""The engine of a worker with an NVIDIA GPU: a model directory's graphs, built and run by TensorRT.

Import it after `worker.engine.library.provide_tensorrt`.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, cast

import cupy
import cupyx
import numpy as np
import structlog
import tensorrt as trt
from numpy.typing import NDArray

from shared.errors import DeviceLost, EngineError, ModelError, NotSupported
from shared.settings import Settings
from worker.engine.arguments import parse_arguments
from worker.engine.batches import Batches
from worker.engine.build import Log, Tower, text_tower, video_tower
from worker.engine.cache import EngineCache
from worker.engine.elements import batch_within_limit
from worker.engine.gpus import Gpu
from worker.engine.text_runs import text_runs
from worker.media.gpu.cuda_errors import device_errors
from worker.models.directory import ModelDirectory
from worker.models.embedding_engine import Clips, Vectors
from worker.models.preparation_progress import Progress
from worker.models.reference_vectors import check_engine
from worker.models.tokenizer import TextTokenizer

log = structlog.get_logger(__name__)

HIGH_PRIORITY = -5
"""CUDA clamps it to the highest that the GPU knows. A text's kernels go before those of a batch of clips."""
ALIGNMENT = 256
"""Bytes; of every tensor that TensorRT reads or writes."""


def open_engine(
    model: ModelDirectory,
    gpu: Gpu,
    batch_size: int,
    settings: Settings,
    progress: Progress,
    *,
    text_batch_size: int = 0,
) -> "TensorRtEngine":
    """The engine of `model`, built if this host has none; it gives the vectors that are kept with the model.

    Raises ModelError, SettingsError for builder arguments.
    """
    cache = EngineCache(
        model,
        gpu,
        parse_arguments(settings.builder_arguments),
        fallback=settings.model_cache / "engines",
    )
    try:
        engine = TensorRtEngine(model, gpu, batch_size, cache, progress, text_batch_size=text_batch_size)
        progress("warming the engine up", 0, 0)
        engine.warm_up()
        if cosines := check_engine(model, engine):
            log.info("engine checked", video_cosine=cosines[0], text_cosine=cosines[1])
    except (EngineError, DeviceLost) as error:
        raise ModelError(f"the engine of {model.info.id} does not run on {gpu.name}: {error}") from error
    return engine


Array = NDArray[Any] | cupy.ndarray


class TensorRtEngine:
    """The `Engine` of one GPU. `embed_video` takes clips that lie in the GPU's memory as well."""

    def __init__(
        self,
        model: ModelDirectory,
        gpu: Gpu,
        batch_size: int,
        cache: EngineCache,
        progress: Progress,
        *,
        text_batch_size: int = 0,
    ) -> None:
        """Build or load both towers; `text_batch_size` is `batch_size` unless it is given.

        Raises ModelError, EngineError, DeviceLost."""
        self._lost = ""
        self.supports_text = model.text is not None
        self.files: list[str] = []
        """The names of the engines' files."""
        self._info = model.info
        self._name = f"{gpu.name} ({gpu.uuid})"
        self._log = Log()
        self._runtime = trt.Runtime(self._log)
        self._towers: dict[str, _Session] = {}
        with device_errors(self._name):
            clips = self._clips_at_once(model, batch_size)
            self._open(video_tower(model, clips), clips, 0, cache, progress)
            if model.text:
                self._tokenizer = TextTokenizer(model.tokenizer, model.info.max_text_tokens)
                most = text_batch_size or batch_size
                self._open(text_tower(model.info, model.text, most), most, HIGH_PRIORITY, cache, progress)

    def embed_video(self, clips: Clips | cupy.ndarray) -> Vectors:
        """`clips` uint8 [B, frames, 3, resolution, resolution], RGB -> float32 [B, dimension].

        A CuPy array must be complete on the calling thread's current stream; its memory may be reused after
        the call. Raises EngineError, DeviceLost.
        """
        info = self._info
        expected = (info.frames, 3, info.resolution, info.resolution)
        if clips.shape[1:] != expected or clips.dtype != np.uint8:
            raise EngineError(
                f"{info.id} takes uint8 clips of the shape {expected}, not {clips.dtype} {clips.shape[1:]}"
            )
        session = self._session("video")
        return self._checked(self._batches(session, len(clips), lambda i, j: {"videos": clips[i:j]}))

    def embed_text(self, texts: Sequence[str]) -> Vectors:
        """float32 [len(texts), dimension]. Raises EngineError, DeviceLost, or NotSupported without a text
        tower."""
        if not self.supports_text:
            raise NotSupported(f"{self._info.id} embeds no text")
        session = self._session("text")
        rows = self._tokenizer.tokens(texts)
        vectors = np.empty((len(texts), self._info.dimension), np.float32)
        for run in text_runs([len(row) for row in rows], session.batches.limit):
            feed = partial(self._padded, [rows[index] for index in run])
            vectors[run] = self._checked(self._batches(session, len(run), feed))
        return vectors

    def _padded(self, rows: list[list[int]], start: int, end: int) -> dict[str, Array]:
        input_ids, attention_mask = self._tokenizer.padded(rows[start:end])
        return {"input_ids": input_ids, "attention_mask": attention_mask}

    def warm_up(self) -> None:
        """Run the largest batches once, so that their memory is there and their kernels are loaded. Raises
        EngineError if there is no memory for one clip, DeviceLost."""
        info = self._info
        clip = (info.frames, 3, info.resolution, info.resolution)
        text = (info.max_text_tokens,)
        for name, session in self._towers.items():
            zeros = partial(session.zeros, clip if name == "video" else text)
            self._batches(session, session.batches.limit, zeros)

    def close(self) -> None:
        """Release both towers; harmless when called twice."""
        self._towers.clear()

    def _clips_at_once(self, model: ModelDirectory, batch_size: int) -> int:
        info = model.info
        clip = (1, info.frames, 3, info.resolution, info.resolution)
        most = batch_within_limit(model.video, {"videos": clip}, batch_size)
        if most < batch_size:
            log.warning("batch limited by the size of tensors", batch_size=batch_size, clips_at_once=most)
        return most

    def _open(
        self, tower: Tower, batch_size: int, priority: int, cache: EngineCache, progress: Progress
    ) -> None:
        path = cache.obtain(tower, progress)
        engine = self._runtime.deserialize_cuda_engine(path.read_bytes())
        if engine is None:
            raise ModelError(f"TensorRT cannot load {path}: {self._log.errors()}")
        self.files.append(path.name)
        self._towers[tower.name] = _Session(engine, tower, batch_size, self._log, priority=priority)
        log.info("engine loaded", engine=str(path))

    def _session(self, tower: str) -> "_Session":
        if self._lost:
            raise DeviceLost(self._lost)
        try:
            return self._towers[tower]
        except KeyError:
            raise EngineError(f"the engine of {self._info.id} is closed") from None

    def _batches(
        self, session: "_Session", count: int, inputs: Callable[[int, int], Mapping[str, Array]]
    ) -> list[Vectors]:
        """Run `inputs(start, end)` for consecutive parts of 0 to `count`, and remember if the GPU is lost."""

        def run(start: int, end: int) -> Vectors:
            with device_errors(self._name):
                return session.run(inputs(start, end))

        try:
            return session.batches.run(count, run)
        except DeviceLost as error:
            self._lost = str(error)
            raise

    def _checked(self, parts: list[Vectors]) -> Vectors:
        vectors = np.concatenate(parts) if parts else np.empty((0, self._info.dimension), np.float32)
        if not np.isfinite(vectors).all():
            raise EngineError(f"{self._info.id} gave a vector with a value that is not finite")
        return vectors


class _Session:
    """One tower on the GPU: an execution context with a stream and memory of its own. All its memory is
    CuPy's."""

    def __init__(
        self, engine: trt.ICudaEngine, tower: Tower, batch_size: int, log: Log, *, priority: int
    ) -> None:
        self.batches = Batches(batch_size)
        self._tower = tower
        self._log = log
        context = engine.create_execution_context(trt.ExecutionContextAllocationStrategy.USER_MANAGED)
        if context is None:
            raise ModelError(f"TensorRT makes no context for the {tower.name} engine: {log.errors()}")
        self._engine = engine  # must outlive the context
        self._context = context
        self._stream = cupy.cuda.Stream(non_blocking=True, priority=priority)
        self._vectors = cast("Vectors", cupyx.empty_pinned((batch_size, tower.output.shape[1]), np.float32))
        self._scratch: cupy.cuda.MemoryPointer | None = None
        self._scratch_size = 0

    def run(self, inputs: Mapping[str, Array]) -> Vectors:
        """One batch. Raises EngineError, or what CuPy raises."""
        produced = cupy.cuda.get_current_stream().record()
        with self._stream:
            self._stream.wait_event(produced)
            arrays = {name: _on_gpu(array) for name, array in inputs.items()}
            count = len(next(iter(arrays.values())))
            output = cupy.empty((count, self._tower.output.shape[1]), np.float32)
            self._bind(arrays, output)
            if not self._context.execute_async_v3(self._stream.ptr):
                self._stream.synchronize()  # raises what CUDA knows of it
                raise EngineError(
                    f"TensorRT does not run the {self._tower.name} engine: {self._log.errors()}"
                )
            output.get(stream=self._stream, out=self._vectors[:count], blocking=False)
            self._stream.synchronize()
        return self._vectors[:count].copy()

    def zeros(self, item: tuple[int, ...], start: int, end: int) -> dict[str, Array]:
        """A batch from `start` to `end` of items of the shape `item`."""
        dtypes = {"UINT8": np.uint8, "INT64": np.int64}
        return {t.name: np.zeros((end - start, *item), dtypes[t.dtype]) for t in self._tower.inputs}

    def _bind(self, inputs: Mapping[str, cupy.ndarray], output: cupy.ndarray) -> None:
        context = self._context
        for name, array in inputs.items():
            if not context.set_input_shape(name, array.shape):
                raise EngineError(f"the {self._tower.name} engine takes no {name} of the shape {array.shape}")
            context.set_tensor_address(name, array.data.ptr)
        context.set_tensor_address(self._tower.output.name, output.data.ptr)
        scratch = self._enough(context.update_device_memory_size_for_shapes())
        context.set_device_memory(scratch.ptr, self._scratch_size)

    def _enough(self, size: int) -> cupy.cuda.MemoryPointer:
        """Scratch memory of at least `size` bytes; the largest so far is kept."""
        if self._scratch is None or size > self._scratch_size:
            self._scratch, self._scratch_size = None, 0
            self._scratch = cupy.cuda.alloc(max(size, 1))
            self._scratch_size = size
        return self._scratch


def _on_gpu(array: Array) -> cupy.ndarray:
    """Return the array in one piece in the GPU's memory, without a copy if it is there already."""
    found = cupy.ascontiguousarray(cupy.asarray(array))  # CuPy's takes no array of numpy's
    return found if found.data.ptr % ALIGNMENT == 0 else found.copy()
