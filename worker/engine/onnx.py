"""The CPU engine: ONNX Runtime runs a model directory's graphs."""

import os
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from shared.errors import EngineError, ModelError, NotSupported
from worker.engine.batches import text_runs
from worker.models.directory import ModelDirectory, ModelInfo
from worker.models.embedding_engine import Clips, Vectors
from worker.models.tokenizer import TextTokenizer

VIDEO_NICENESS = 10
CLIPS_PER_RUN = 1  # a CPU gains nothing from more (tests/bench/engine.py)
TEXTS_PER_RUN = 32
CALL_COST = 10
"""The cost of one call, in tokens: 2.2 ms, at 0.22 ms a token."""
STILLS = ("stills", "one_frame")
"""Metadata of a video graph that accepts one frame for a clip whose frames are all the same."""

Feeds = Mapping[str, NDArray[np.generic]]


class GraphValue(msgspec.Struct, frozen=True):
    """A required input or output of a graph. None in `shape` is a dynamic dimension."""

    name: str
    type: str
    shape: tuple[int | None, ...]


class OnnxEngine:
    """The `Engine` of a machine without a GPU. Apart from rounding, vectors do not depend on batching."""

    def __init__(self, directory: ModelDirectory, threads: int) -> None:
        """Load both graphs; each may use `threads` cores. Raises ModelError."""
        info = directory.info
        self.supports_text = directory.text is not None
        self._info = info
        self._sessions: dict[str, ort.InferenceSession] = {}
        if directory.text:
            self._tokenizer = TextTokenizer(directory.tokenizer, info.max_text_tokens)
            self._sessions["text"] = _open_session(directory.text, threads, *_text_tensors(info))
        # ONNX Runtime's threads inherit the niceness of the thread that opens the session, so a thread
        # of lower priority opens the video tower: texts run first.
        self._video_thread = ThreadPoolExecutor(1, "video-engine", _lower_priority)
        opening = self._video_thread.submit(_open_session, directory.video, threads, *_video_tensors(info))
        try:
            self._sessions["video"] = opening.result()
        except ModelError:
            self._video_thread.shutdown()
            raise
        metadata = self._sessions["video"].get_modelmeta().custom_metadata_map
        self._one_frame_stills = metadata.get(STILLS[0]) == STILLS[1]

    def embed_video(self, clips: Clips) -> Vectors:
        """Embed `clips`, uint8 [B, frames, 3, resolution, resolution] RGB -> float32 [B, dimension].

        Raises EngineError.
        """
        session = self._session("video")
        parts = [clips[i : i + CLIPS_PER_RUN] for i in range(0, len(clips), CLIPS_PER_RUN)]
        if self._one_frame_stills:
            parts = [part[:, :1] if is_still(part) else part for part in parts]
        runs: list[Feeds] = [{"videos": part} for part in parts]
        return self._video_thread.submit(self._run, session, runs).result()

    def embed_text(self, texts: Sequence[str]) -> Vectors:
        """Return float32 [len(texts), dimension]. Raises EngineError, NotSupported without a text tower."""
        if not self.supports_text:
            raise NotSupported(f"{self._info.id} embeds no text")
        session = self._session("text")
        tokens = self._tokenizer.tokens(texts)
        order = text_runs([len(row) for row in tokens], TEXTS_PER_RUN, call_cost=CALL_COST)
        runs: list[Feeds] = []
        for run in order:
            input_ids, attention_mask = self._tokenizer.padded([tokens[index] for index in run])
            runs.append({"input_ids": input_ids, "attention_mask": attention_mask})
        vectors = np.empty((len(texts), self._info.dimension), np.float32)
        vectors[[index for run in order for index in run]] = self._run(session, runs)
        return vectors

    def close(self) -> None:
        """Wait for a running batch, then release the graphs."""
        self._video_thread.shutdown()
        self._sessions.clear()

    def _session(self, tower: str) -> ort.InferenceSession:
        try:
            return self._sessions[tower]
        except KeyError:
            raise EngineError(f"the engine of {self._info.id} is closed") from None

    def _run(self, session: ort.InferenceSession, runs: Sequence[Feeds]) -> Vectors:
        try:
            parts = [session.run(None, run)[0] for run in runs]
        except Exception as error:  # ONNX Runtime's exceptions have no common base
            raise EngineError(f"{self._info.id}: {error}") from error
        vectors: Vectors = np.concatenate(parts) if parts else np.empty((0, self._info.dimension), np.float32)
        if not np.isfinite(vectors).all():
            raise EngineError(f"{self._info.id} gave a vector with a value that is not finite")
        return vectors


def is_still(clips: Clips) -> bool:
    """Return whether every frame of every clip equals the clip's first, as for a picture."""
    return bool((clips[:, 1:] == clips[:, :1]).all())


def _video_tensors(info: ModelInfo) -> tuple[list[GraphValue], GraphValue]:
    clip = (None, info.frames, 3, info.resolution, info.resolution)
    return (
        [GraphValue("videos", "tensor(uint8)", clip)],
        GraphValue("video_embeddings", "tensor(float)", (None, info.dimension)),
    )


def _text_tensors(info: ModelInfo) -> tuple[list[GraphValue], GraphValue]:
    return (
        [GraphValue(name, "tensor(int64)", (None, None)) for name in ("input_ids", "attention_mask")],
        GraphValue("text_embeddings", "tensor(float)", (None, info.dimension)),
    )


def _open_session(
    path: Path, threads: int, inputs: Sequence[GraphValue], output: GraphValue
) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    # Otherwise threads spin while they wait for the next operator, on the cores that decoding needs.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime's exceptions have no common base
        raise ModelError(f"cannot load {path}: {error}") from error
    _check_tensors(path, "input", session.get_inputs(), inputs)
    _check_tensors(path, "output", session.get_outputs(), [output])
    return session


def _check_tensors(path: Path, role: str, found: Sequence[ort.NodeArg], wanted: Sequence[GraphValue]) -> None:
    names = {arg.name for arg in found}
    if names != {tensor.name for tensor in wanted}:
        expected = ", ".join(tensor.name for tensor in wanted)
        raise ModelError(f"{path} has the {role}s {', '.join(sorted(names))}, expected {expected}")
    by_name = {arg.name: arg for arg in found}
    for tensor in wanted:
        arg = by_name[tensor.name]
        if arg.type != tensor.type:
            raise ModelError(f"{path}: {role} {arg.name} is a {arg.type}, expected a {tensor.type}")
        if not _fits(arg.shape, tensor.shape):
            raise ModelError(f"{path}: {role} {arg.name} has the shape {arg.shape}, expected {tensor.shape}")


def _fits(found: Sequence[int | str | None], wanted: Sequence[int | None]) -> bool:
    """Return whether the shapes match. A dynamic dimension must be dynamic; a fixed one may be left dynamic,
    because many exporters do not know the shape of an output."""
    if len(found) != len(wanted):
        return False
    for size, expected in zip(found, wanted, strict=True):
        if isinstance(size, int) and size != expected:
            return False
    return True


def _lower_priority() -> None:
    """Lower the calling thread's priority. Linux only: elsewhere niceness belongs to the whole process."""
    if sys.platform == "linux":
        os.setpriority(os.PRIO_PROCESS, 0, max(VIDEO_NICENESS, os.getpriority(os.PRIO_PROCESS, 0)))
