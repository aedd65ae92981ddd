"""The engine of a worker with an NVIDIA GPU: TensorRT builds and runs a model directory's graphs.

Import it after `worker.engine.library.provide_tensorrt`.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from itertools import cycle, islice

import cupy
import numpy as np
import structlog
import tensorrt as trt
from numpy.typing import NDArray

from shared.errors import DeviceLost, EngineError, ModelError, NotSupported
from shared.settings import Settings
from shared.telemetry.instruments import text_graphs
from worker.engine.arguments import parse_arguments
from worker.engine.batches import Shape, graph_shapes, text_runs
from worker.engine.build import LIBRARY, Log, Tower, text_tower, video_tower
from worker.engine.cache import EngineCache
from worker.engine.elements import batch_within_limit
from worker.engine.gpus import Gpu
from worker.engine.tower_session import Array, TowerSession
from worker.media.gpu.cuda_errors import device_errors
from worker.models.directory import ModelDirectory
from worker.models.embedding_engine import Clips, Vectors
from worker.models.preparation_progress import Progress
from worker.models.reference_vectors import check_engine
from worker.models.tokenizer import TextTokenizer

log = structlog.get_logger(__name__)

HIGH_PRIORITY = -5
"""CUDA clamps it to the GPU's highest priority. Kernels of texts run before those of clips."""
SAMPLE = ("a", "man", "in", "a", "red", "coat", "walks", "past", "the", "parked", "cars", "at", "night")
"""Words of the sample texts that compare CUDA graphs with plain runs."""


def open_engine(
    model: ModelDirectory,
    gpu: Gpu,
    batch_size: int,
    settings: Settings,
    progress: Progress,
    *,
    text_batch_size: int = 0,
) -> "TensorRtEngine":
    """Open the engine of `model`; build it if this host has none. Check it against the model's kept vectors.

    Raises ModelError, or SettingsError for bad builder arguments.
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
        if settings.text_graphs:
            engine.capture_graphs()
        if cosines := check_engine(model, engine):
            log.info("engine checked", video_cosine=cosines[0], text_cosine=cosines[1])
    except (EngineError, DeviceLost) as error:
        raise ModelError(f"the engine of {model.info.id} does not run on {gpu.name}: {error}") from error
    return engine


class TensorRtEngine:
    """The `Engine` of one GPU. `embed_video` also takes clips in the GPU's memory."""

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
        """Build or load both towers; `text_batch_size` defaults to `batch_size`.

        Raises ModelError, EngineError, DeviceLost."""
        self._lost = ""
        self.supports_text = model.text is not None
        self.files: list[str] = []
        """The names of the engines' files."""
        self._info = model.info
        self._name = f"{gpu.name} ({gpu.uuid})"
        self._log = Log()
        self._runtime = trt.Runtime(self._log)
        self._towers: dict[str, TowerSession] = {}
        with device_errors(self._name):
            clips = self._clips_at_once(model, batch_size)
            self._open(video_tower(model, clips), clips, 0, cache, progress)
            if model.text:
                self._tokenizer = TextTokenizer(model.tokenizer, model.info.max_text_tokens)
                most = text_batch_size or batch_size
                self._open(text_tower(model.info, model.text, most), most, HIGH_PRIORITY, cache, progress)

    def embed_video(self, clips: Clips | cupy.ndarray) -> Vectors:
        """Embed `clips`, uint8 [B, frames, 3, resolution, resolution] RGB -> float32 [B, dimension].

        A CuPy array must be ready on the calling thread's current stream; its memory may be reused after
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
        """Return float32 [len(texts), dimension]. Raises EngineError, DeviceLost, or NotSupported without a
        text tower."""
        if not self.supports_text:
            raise NotSupported(f"{self._info.id} embeds no text")
        session = self._session("text")
        rows = self._tokenizer.tokens(texts)
        vectors = np.empty((len(texts), self._info.dimension), np.float32)
        for run in text_runs([len(row) for row in rows], session.batches.limit):
            feed = partial(self._padded, [rows[index] for index in run])
            vectors[run] = self._checked(self._batches(session, len(run), feed))
        return vectors

    def _padded(self, rows: list[list[int]], start: int, end: int) -> dict[str, NDArray[np.int64]]:
        input_ids, attention_mask = self._tokenizer.padded(rows[start:end])
        return {"input_ids": input_ids, "attention_mask": attention_mask}

    def warm_up(self) -> None:
        """Run the largest batches once, to allocate memory and load kernels. Raises EngineError if one clip
        does not fit into memory, DeviceLost."""
        info = self._info
        clip = (info.frames, 3, info.resolution, info.resolution)
        text = (info.max_text_tokens,)
        for name, session in self._towers.items():
            zeros = partial(session.zeros, clip if name == "video" else text)
            self._batches(session, session.batches.limit, zeros)

    @property
    def captured(self) -> list[Shape]:
        """Return the batches of texts that have a CUDA graph."""
        return list(self._towers["text"].graphs) if "text" in self._towers else []

    def capture_graphs(self) -> None:
        """Capture CUDA graphs of small batches of texts (`graph_shapes`). A batch runs without a graph if the
        capture fails or gives other vectors than a plain run. Raises DeviceLost.

        TensorRT for RTX gets none: it compiles kernels at run time, which a capture does not allow.
        """
        if not self.supports_text or LIBRARY != "tensorrt":
            return
        session = self._session("text")
        failed: dict[Shape, str] = {}
        for shape in graph_shapes(session.batches.limit, self._info.max_text_tokens):
            try:
                with device_errors(self._name):
                    session.capture(shape, self._sample(*shape))
            except EngineError as error:
                failed[shape] = error.message
            except DeviceLost as error:
                advice = "RTEMBED_TEXT_GRAPHS=false starts without them"
                raise DeviceLost(f"{error}, while CUDA graphs were captured; {advice}") from error
        text_graphs.add(len(session.graphs), {"outcome": "captured"})
        text_graphs.add(len(failed), {"outcome": "failed"})
        log.info("CUDA graphs captured", batches=_shown(session.graphs))
        if failed:
            reason = next(iter(failed.values()))
            log.warning("batches of texts run without a CUDA graph", batches=_shown(failed), error=reason)

    def _sample(self, texts: int, tokens: int) -> Mapping[str, NDArray[np.int64]]:
        """Return a batch of exactly this shape, with texts that differ in words and length."""
        words = [" ".join(islice(cycle(SAMPLE), i, i + tokens)) for i in range(texts)]
        rows = self._tokenizer.tokens(words)
        return self._padded([row[: tokens - i % tokens] for i, row in enumerate(rows)], 0, texts)

    def close(self) -> None:
        """Release both towers. May be called twice."""
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
        self._towers[tower.name] = TowerSession(engine, tower, batch_size, self._log, priority=priority)
        log.info("engine loaded", engine=str(path))

    def _session(self, tower: str) -> TowerSession:
        if self._lost:
            raise DeviceLost(self._lost)
        try:
            return self._towers[tower]
        except KeyError:
            raise EngineError(f"the engine of {self._info.id} is closed") from None

    def _batches(
        self, session: TowerSession, count: int, inputs: Callable[[int, int], Mapping[str, Array]]
    ) -> list[Vectors]:
        """Run `inputs(start, end)` for consecutive parts of 0 to `count`; remember if the GPU is lost."""

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


def _shown(shapes: Iterable[Shape]) -> str:
    return ", ".join(f"{texts}x{tokens}" for texts, tokens in shapes)
