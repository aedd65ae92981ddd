"""From settings to what a worker works with: its model, its engine, its media reader."""

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import structlog

from shared.fleet import Model
from shared.settings import Settings
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

CPU_PRECISION = "fp32"
CPU_BATCH_SIZE = 2
"""On a CPU a larger batch is no faster per clip, and its first clip waits for its last."""
MOST_CLIPS_AHEAD = 16
"""Per job; a clip of 448 pixels is 5 MB of shared memory."""
MODEL_REPOSITORY = Path("/tmp/triton_model_repo")  # noqa: S108 - what RT-Embed passes to such scripts
BUNDLED_IMPLEMENTATION = "cosmos-embed1"
"""The folder name that RT-Embed's own compose file gives MODEL_IMPLEMENTATION_PATH; here it is built in."""


class Loaded(msgspec.Struct, frozen=True):
    """A model and the engine that runs it."""

    info: ModelInfo
    engine: Engine
    backend: str
    batch_size: int
    model: Model


def load(settings: Settings, progress: Progress) -> Loaded:
    """Find the model and make its engine. Blocks, for minutes at a first start; `progress` hears how far
    it is.

    Raises ModelError saying what to do.
    """
    batch_size = settings.batch_size or CPU_BATCH_SIZE
    implementation = settings.model_implementation
    if implementation and implementation.name == BUNDLED_IMPLEMENTATION and not implementation.exists():
        log.info("MODEL_IMPLEMENTATION_PATH names the built-in model", path=str(implementation))
        implementation = None
    engine: Engine
    if implementation:
        info, engine = own_model(settings, implementation, batch_size, progress)
        backend = "python"
    else:
        directory = (
            conse.cached(settings.model_cache)
            if settings.model_path == "demo"
            else obtain(settings, CPU_PRECISION, progress)
        )
        info, engine = directory.info, OnnxEngine(directory, settings.engine_threads or cores())
        backend = "cpu"
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
    log.info("model loaded", model=info.id, backend=backend, batch_size=batch_size)
    return Loaded(info, engine, backend, batch_size, model)


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
