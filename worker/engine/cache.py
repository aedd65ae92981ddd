"""Engines on disk: built once per host, then shared by its workers."""

import hashlib
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import onnx
import structlog
import tensorrt as trt
from onnx.external_data_helper import uses_external_data

from shared.errors import ModelError
from worker.engine.arguments import BuilderArguments
from worker.engine.build import LIBRARY, Built, Tower, build
from worker.engine.gpus import Gpu
from worker.models.directory import ModelDirectory
from worker.models.locks import host_lock
from worker.models.preparation_progress import Progress

log = structlog.get_logger(__name__)

LAYOUT = 1
"""Changes when engines are built in another way, so that old files are ignored."""
VERSION = f"{LIBRARY}-{trt.__version__}"


class EngineCache:
    """The engines of one model for one kind of GPU."""

    def __init__(self, model: ModelDirectory, gpu: Gpu, arguments: BuilderArguments, fallback: Path) -> None:
        """Keep engines beside the model, or in `fallback` if its folder is read-only."""
        self._model = model
        self._gpu = gpu
        self._arguments = arguments
        self._folder = model.path if os.access(model.path, os.W_OK) else fallback

    def path(self, tower: Tower) -> Path:
        """Return the path of the tower's engine. The name holds tower, GPU, TensorRT version, precision,
        largest batch, and a hash of what the engine is built from."""
        batch = max(shapes[-1][0] for shapes in tower.profile.values())
        name = "_".join(
            (
                tower.name,
                plain(self._gpu.name),
                self._gpu.sm.lower(),
                VERSION,
                self._model.info.precision,
                str(batch),
                self._mark(tower),
            )
        )
        return self._folder / f"{name}.engine"

    def obtain(self, tower: Tower, progress: Progress) -> Path:
        """Return the engine's file; build it if it is missing, while other processes of this host wait.

        Raises ModelError.
        """
        path = self.path(tower)
        if path.exists():
            return path
        waiting = f"waiting for another process to build the {tower.name} engine"
        with host_lock(path.with_name(f".{path.name}.lock"), lambda: progress(waiting, 0, 0)):
            if not path.exists():
                self._build(tower, path, progress)
        return path

    def _build(self, tower: Tower, path: Path, progress: Progress) -> None:
        step = f"building the {tower.name} engine for {self._gpu.name}"
        progress(step, 0, 0)
        timing = path.with_name(f"timing_{plain(self._gpu.name)}_{VERSION}.cache")
        built = build(
            tower,
            self._arguments,
            sm=self._gpu.sm if LIBRARY == "tensorrt_rtx" else None,
            timing_cache=timing.read_bytes() if timing.exists() else b"",
            # In tenths: each step is a log line.
            advance=lambda share: progress(f"{step}: {int(share * 10) * 10} %", 0, 0),
        )
        self._write(built, path, timing)
        log.info("engine built", engine=str(path), bytes=path.stat().st_size)

    def _write(self, built: Built, path: Path, timing: Path) -> None:
        try:
            with appearing(path) as part:
                part.write_bytes(built.engine)
            if built.timing_cache is not None:
                with appearing(timing) as part:
                    part.write_bytes(built.timing_cache)
        except OSError as error:
            raise ModelError(f"cannot write the engine {path}: {error}") from error

    def _mark(self, tower: Tower) -> str:
        digest = hashlib.sha256(f"{LAYOUT} {sorted(tower.profile.items())} ".encode())
        digest.update(msgspec.json.encode(self._arguments))
        digest.update(graph_mark(tower.graph))
        return digest.hexdigest()[:8]


def graph_mark(path: Path) -> bytes:
    """Return a digest of the graph, and of the size and time of the files that hold its external weights.
    Raises ModelError."""
    try:
        graph = onnx.load(path, load_external_data=False).graph
    except Exception as error:  # of protobuf, onnx and the file system
        raise ModelError(f"cannot load {path}: {error}") from error
    digest = hashlib.sha256(path.read_bytes())
    for file in sorted(external_files(graph)):
        stat = (path.parent / file).stat()
        digest.update(f"{file} {stat.st_size} {stat.st_mtime_ns}\n".encode())
    return digest.digest()


def external_files(graph: onnx.GraphProto) -> set[str]:
    """Return the files that hold a graph's external weights, relative to its folder."""
    return {
        entry.value
        for tensor in graph.initializer
        if uses_external_data(tensor)
        for entry in tensor.external_data
        if entry.key == "location"
    }


def plain(name: str) -> str:
    """Return a GPU's name as part of a file name: "NVIDIA L40S" becomes NVIDIA-L40S."""
    return re.sub(r"[^A-Za-z0-9.]+", "-", name).strip("-") or "unknown"


@contextmanager
def appearing(path: Path) -> Iterator[Path]:
    """Yield a temporary file that is renamed to `path` once it is complete."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        yield part
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
