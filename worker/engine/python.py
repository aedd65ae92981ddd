"""A model written in Python: `inference.py` in a folder, given by MODEL_IMPLEMENTATION_PATH."""

import hashlib
import importlib.util
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from fractions import Fraction
from pathlib import Path
from types import ModuleType
from typing import Any

import msgspec
import numpy as np
import structlog
from numpy.typing import NDArray

from shared.errors import EngineError, ModelError, NotSupported, RtEmbedError, ServerBusy, Unavailable
from worker.engine.embedding_engine import Clips, Vectors
from worker.models.base import Frames, ModelChunk
from worker.models.directory import ModelInfo
from worker.models.locks import host_lock

log = structlog.get_logger(__name__)

CLASS_NAMES = ("Model", "VlmModel", "CustomModel", "Inference")
MODEL_TYPE = "custom"
NATIVE_SIZE = 448
BUSY_PATIENCE = 60.0  # seconds
VIDEO_CHUNK = ModelChunk("video")


class InputConfig(msgspec.Struct, frozen=True):
    """What `get_input_config` may say."""

    num_frames: int = 8
    use_jpeg_encoding: bool = False
    width: int = 0
    height: int = 0
    embed_dim: int = 0

    @property
    def size(self) -> int:
        """Edge length of the square frames, px. Raises ModelError for a rectangle."""
        if self.width != self.height:
            raise ModelError(
                f"get_input_config wants {self.width}x{self.height} frames; only squares are fed"
            )
        return self.width or NATIVE_SIZE


def load_python_model(
    implementation: Path, model_path: str, max_batch_size: int, *, warm_up: bool = True
) -> tuple[ModelInfo, "PythonEngine"]:
    """Make the model that `implementation`/inference.py defines, and learn what it does not declare.

    The class is the one named Model, VlmModel, CustomModel or Inference, else the first one defined there
    that has a `generate` (see `worker.models.base` for the contract). Raises ModelError.
    """
    install_prerequisites(implementation)
    kind = find_model_class(import_inference(implementation))
    try:
        name, api_type, owner = model_identity(kind, model_path)
        config = input_config(kind, model_path)
        model = kind(model_path, max_batch_size=max_batch_size, async_output=True, vlm_model_type=MODEL_TYPE)
    except RtEmbedError:
        raise
    except Exception as error:
        raise ModelError(f"{kind.__name__} in {implementation} did not start: {error!r}") from error
    engine = PythonEngine(model, config, max_batch_size)
    engine.learn()
    if warm_up:
        engine.warm_up()
    info = ModelInfo(
        id=name,
        architecture="python",
        dimension=engine.dimension,
        frames=config.num_frames,
        resolution=config.size,
        max_text_tokens=0,
        owned_by=owner,
        api_type=api_type,
        source=str(implementation),
    )
    return info, engine


class PythonEngine:
    """Calls the `generate` of a model object. Vectors are passed on as the model gives them."""

    def __init__(self, model: Any, config: InputConfig, max_batch_size: int) -> None:
        self.model = model
        self.config = config
        self.max_batch_size = max_batch_size
        self.dimension: int = getattr(model, "embed_dim", None) or config.embed_dim
        self.supports_text: bool = getattr(model, "supports_text", True)
        self._can_batch: Callable[[ModelChunk, ModelChunk], bool] | None = getattr(model, "can_batch", None)
        self._calling = threading.Lock()

    def embed_video(self, clips: Clips) -> Vectors:
        """uint8 [B, frames, 3, height, width] -> float32 [B, dimension]. Raises EngineError, Unavailable."""
        pictures = clips.transpose(0, 1, 3, 4, 2)
        pictures.flags.writeable = False
        frames = [jpeg_frames(clip) for clip in pictures] if self.config.use_jpeg_encoding else list(pictures)
        return self._embed([VIDEO_CHUNK] * len(clips), frames)

    def embed_text(self, texts: Sequence[str]) -> Vectors:
        """float32 [len(texts), dimension]. Raises EngineError, Unavailable, NotSupported."""
        if not self.supports_text:
            raise NotSupported("the loaded model embeds no text")
        return self._embed([ModelChunk("text", text) for text in texts], [])

    def close(self) -> None:
        """Call the model's `_shutdown_model` where it has one."""
        shut_down = getattr(self.model, "_shutdown_model", None)
        if shut_down:
            shut_down()

    def learn(self) -> None:
        """Find the dimension by a black clip, and whether texts work by a first one, where undeclared."""
        if not self.dimension:
            size = self.config.size
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
        """Call the model's `warmup` where it has one; a failure is logged only."""
        try:
            getattr(self.model, "warmup", lambda: None)()
        except Exception as error:  # the model is not ours
            log.warning("the model's warm-up failed", error=repr(error))

    def _embed(self, chunks: list[ModelChunk], frames: list[Frames]) -> Vectors:
        vectors: list[Vectors] = []
        for start, end in self._batches(chunks):
            outputs = self._generate(chunks[start:end], frames[start:end])
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

    def _generate(self, chunks: list[ModelChunk], frames: list[Frames]) -> Sequence[Any]:
        times: list[list[float]] = [[] for _ in frames]
        try:
            with self._calling:
                self._wait_until_free()
                outputs = self.model.generate("", chunks, frames, times, {})
            if isinstance(outputs, Future):
                outputs = outputs.result()
            outputs = list(outputs)
        except RtEmbedError:
            raise
        except NotImplementedError as error:
            raise NotSupported(f"the loaded model embeds no {chunks[0].chunk_type}") from error
        except Exception as error:
            if type(error).__name__ == "OutOfMemoryError":  # of PyTorch or CuPy, neither of which is imported
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
            vector = np.asarray(output.embeddings, np.float32)
        except (AttributeError, TypeError, ValueError) as error:
            raise EngineError(f"the model's output holds no vector: {error}") from error
        if vector.ndim != 1 or not vector.size or vector.size != (self.dimension or vector.size):
            raise EngineError(f"the model gave a vector of shape {vector.shape}, not ({self.dimension},)")
        if not np.isfinite(vector).all():
            raise EngineError("the model gave a vector that is not finite")
        return vector


def install_prerequisites(implementation: Path) -> None:
    """Run `install_prerequisites.sh` of the folder where there is one, one process of the host at a time.

    Raises ModelError if it fails.
    """
    script = (implementation / "install_prerequisites.sh").resolve()
    if not script.exists():
        return
    # Not beside the script: the folder may be read-only.
    mark = hashlib.sha256(str(script).encode()).hexdigest()[:16]
    with host_lock(Path(tempfile.gettempdir(), f"rt-embed-prerequisites-{mark}.lock")):
        _run(["bash", str(script)], implementation)


def run_repository_script(script: Path, model_path: str, repository: Path, max_batch_size: int) -> None:
    """Run MODEL_REPOSITORY_SCRIPT_PATH once before the model loads. Raises ModelError if it fails."""
    arguments = ["--model_path", model_path, "--triton_repo_path", str(repository)]
    _run([sys.executable, str(script), *arguments, "--max_batch_size", str(max_batch_size)])


def _run(command: list[str], folder: Path | None = None) -> None:
    log.info("running", command=command)
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)  # noqa: S603 - the operator's own script
    if done.returncode:
        end = (done.stderr or done.stdout).strip()[-2000:]
        raise ModelError(f"{command[1]} ended with code {done.returncode}: {end}")


def inference_file(implementation: Path) -> Path:
    """The module of a folder that brings a model. Raises ModelError if there is none."""
    path = implementation / "inference.py"
    if not path.exists():
        raise ModelError(f"{implementation} has no inference.py")
    return path


def import_inference(implementation: Path) -> ModuleType:
    """Import `inference.py`; modules beside it are importable. Raises ModelError."""
    path = inference_file(implementation)
    folder = str(implementation.resolve())
    if folder not in sys.path:
        sys.path.insert(0, folder)
    spec = importlib.util.spec_from_file_location("inference", path)
    if spec is None or spec.loader is None:
        raise ModelError(f"{path} is not a Python module")
    module = importlib.util.module_from_spec(spec)
    sys.modules["inference"] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise ModelError(f"{path} cannot be imported: {error!r}") from error
    return module


def find_model_class(module: ModuleType) -> Any:
    """The class that `load_python_model` describes. Raises ModelError if there is none."""
    named = (getattr(module, name, None) for name in CLASS_NAMES)
    defined = (
        value
        for value in vars(module).values()
        if isinstance(value, type) and value.__module__ == module.__name__
    )
    for candidate in (*named, *defined):
        if isinstance(candidate, type) and callable(getattr(candidate, "generate", None)):
            return candidate
    raise ModelError(f"{module.__file__} defines no class with a generate method")


def model_identity(kind: Any, model_path: str) -> tuple[str, str, str]:
    """(id, api_type, owner) from `get_model_info`, or (folder name, "internal", "custom") where it fails."""
    try:
        name, api_type, owner = kind.get_model_info(model_path, MODEL_TYPE)
    except Exception as error:  # the model is not ours, and the contract names this fallback
        log.info("get_model_info gave nothing", reason=repr(error))
        return Path(model_path).name or kind.__name__, "internal", "custom"
    return str(name), str(api_type), str(owner)


def input_config(kind: Any, model_path: str) -> InputConfig:
    """`get_input_config` as a mapping or an object, with the contract's defaults. Raises ModelError."""
    if not hasattr(kind, "get_input_config"):
        return InputConfig()
    given = kind.get_input_config(model_path, MODEL_TYPE)
    fields = {
        name: given.get(name) if isinstance(given, Mapping) else getattr(given, name, None)
        for name in InputConfig.__struct_fields__
    }
    known = {name: value for name, value in fields.items() if value is not None}
    try:
        config = msgspec.convert(known, InputConfig)
    except msgspec.ValidationError as error:
        raise ModelError(f"get_input_config of {kind.__name__} is not valid: {error}") from error
    if config.num_frames < 1 or config.size < 1:
        raise ModelError(f"get_input_config of {kind.__name__} is not valid: {known}")
    return config


def jpeg_frames(clip: NDArray[np.uint8]) -> list[bytes]:
    """uint8 [frames, height, width, 3] RGB -> one JPEG file per frame."""
    return [encode_jpeg(frame) for frame in clip]


def encode_jpeg(picture: NDArray[np.uint8]) -> bytes:
    """uint8 [height, width, 3] RGB -> a JPEG file, chroma at full size."""
    import av  # noqa: PLC0415 - only models that ask for JPEG need it

    encoder = av.CodecContext.create("mjpeg", "w")
    encoder.height, encoder.width = picture.shape[:2]
    encoder.pix_fmt = "yuvj444p"
    encoder.time_base = Fraction(1)
    encoder.options = {"qmin": "2", "qmax": "2"}
    frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
    return b"".join(bytes(packet) for packet in [*encoder.encode(frame), *encoder.encode(None)])
