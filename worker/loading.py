"""From settings to what a worker works with: its model, its engine, its media reader."""

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import structlog

from shared.fleet import Model
from shared.settings import Settings
from worker.backend import Backend, choose_backend, implementation
from worker.cores import cores
from worker.engine.base import Engine
from worker.engine.onnx import OnnxEngine
from worker.engine.python import inference_file, load_python_model, run_repository_script
from worker.media.fetching import Buckets
from worker.media.limits import MediaLimits
from worker.media.pool import DecoderPool
from worker.models.conse import recipe as conse
from worker.models.directory import ModelInfo
from worker.models.prepare import obtain, obtain_files
from worker.models.progress import Progress

log = structlog.get_logger(__name__)

MOST_CLIPS_AHEAD = 16
"""Per job; a clip of 448 pixels is 5 MB of shared memory."""
MODEL_REPOSITORY = Path("/tmp/triton_model_repo")  # noqa: S108 - what RT-Embed passes to such scripts


class Loaded(msgspec.Struct, frozen=True):
    """A model and the engine that runs it."""

    info: ModelInfo
    engine: Engine
    backend: str
    """cpu, cuda, or python: a model in Python chooses by itself where it runs."""
    batch_size: int
    model: Model
    runs_on: Backend = Backend("cpu", "cpu")
    engine_files: tuple[str, ...] = ()

    def told(self) -> dict[str, str]:
        """What the log and the worker's record say of where the model runs."""
        gpu = self.runs_on.gpu
        return {
            "backend": self.backend,
            "backend_wanted": self.runs_on.wanted,
            "backend_reason": self.runs_on.reason,
            "gpu": gpu.name if gpu else "",
            "driver": gpu.driver if gpu else "",
            "engine": ", ".join(self.engine_files),
        }


def load(settings: Settings, progress: Progress) -> Loaded:
    """Find the model and make its engine. Blocks, for minutes at a first start; `progress` hears how far
    it is.

    Raises ModelError saying what to do.
    """
    runs_on = choose_backend(settings)
    batch_size = runs_on.batch_size(settings)
    files: tuple[str, ...] = ()
    if own := implementation(settings):
        info, engine = own_model(settings, own, batch_size, progress)
        backend = "python"
    else:
        info, engine, files = built_in_model(settings, runs_on, batch_size, progress)
        backend = runs_on.active
    model = Model(
        id=info.id,
        owned_by=info.owned_by,
        api_type=info.api_type,
        dimension=info.dimension,
        frames=info.frames,
        supports_text=engine.supports_text,
        verified=info.verified,
        created=int(time.time()),
    )
    loaded = Loaded(info, engine, backend, batch_size, model, runs_on, files)
    log.info("model loaded", model=info.id, batch_size=batch_size, **loaded.told())
    return loaded


def built_in_model(
    settings: Settings, runs_on: Backend, batch_size: int, progress: Progress
) -> tuple[ModelInfo, Engine, tuple[str, ...]]:
    """The model directory that MODEL_PATH names, its engine, and the names of the files that were built for
    it. Raises ModelError."""
    if settings.model_path == "demo":
        model = conse.cached(settings.model_cache)
    else:
        model = obtain(settings, runs_on.precision(settings), progress)
    if not runs_on.gpu:
        return model.info, OnnxEngine(model, settings.engine_threads or cores()), ()
    from worker.engine.tensorrt import open_engine  # noqa: PLC0415 - needs the extra [gpu]

    engine = open_engine(model, runs_on.gpu, batch_size, settings, progress)
    return model.info, engine, tuple(engine.files)


def own_model(
    settings: Settings, implementation: Path, batch_size: int, progress: Progress
) -> tuple[ModelInfo, Engine]:
    """The model that `implementation` brings, with the files that MODEL_PATH names, after the script that
    prepares them. Raises ModelError."""
    inference_file(implementation)  # said before anything is downloaded
    model_path = obtain_files(settings, progress)
    if script := settings.model_repository_script:
        run_repository_script(script, model_path, MODEL_REPOSITORY, batch_size)
    return load_python_model(implementation, model_path, batch_size, warm_up=not settings.skip_warmup)


def decode_slots(settings: Settings) -> int:
    """How many files this worker decodes at a time."""
    return settings.decode_slots or cores()


def media_limits(settings: Settings) -> MediaLimits:
    """What media may cost."""
    return MediaLimits(
        pixels=settings.max_frame_pixels,
        image_pixels=settings.max_image_pixels,
        duration=settings.max_duration,
        memory=settings.decoder_memory_mb << 20,
        seconds=settings.decode_timeout,
    )


def live_decoders(settings: Settings) -> DecoderPool:
    """The decoders of cameras: others than those of files, for which a camera cannot wait. Each is started
    when it is first needed."""
    return DecoderPool(decode_slots(settings), limits=media_limits(settings), niceness=0)


@asynccontextmanager
async def open_media(settings: Settings, batch_size: int) -> AsyncIterator[DecoderPool]:
    """The media reader of this worker, with its decoders running."""
    pool = DecoderPool(
        decode_slots(settings),
        limits=media_limits(settings),
        attempts=settings.decode_attempts,
        sparse=settings.sparse_decoding,
        reuse=not settings.decoder_reuse_disabled,
        ahead=min(2 * batch_size, MOST_CLIPS_AHEAD),
        buckets=Buckets(settings),
    )
    await pool.start()
    try:
        yield pool
    finally:
        await pool.close()
