"""Creates a worker's parts from settings: its model, its engine, its media reader."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Literal

import msgspec
import structlog

from shared.errors import DeviceLost, EngineError, ModelError, RtEmbedError
from shared.fleet import ServedModel
from shared.lifecycle.cores import cores
from shared.settings import Settings
from shared.telemetry.redaction import redact
from worker.engine.backend import CPU_PRECISION, Backend, choose_backend, implementation
from worker.engine.custom.inference_module import inference_file
from worker.engine.custom.load_custom import load_python_model
from worker.engine.custom.model_scripts import run_repository_script
from worker.engine.remote_engine import FRAMES, RESOLUTION, RemoteEngine
from worker.media.decoder.limits import MediaLimits
from worker.media.decoder_pool import DecoderPool
from worker.media.fetching import Buckets
from worker.media.gpu.cuda_errors import device_errors
from worker.media.gpu.gpu_media import Device, GpuMedia, open_device
from worker.models.directory import ModelInfo
from worker.models.embedding_engine import Engine
from worker.models.preparation_progress import Progress
from worker.models.prepare import obtain, obtain_files

log = structlog.get_logger(__name__)

LEAST_CLIPS_AHEAD, MOST_CLIPS_AHEAD = 4, 16
"""Clips per job; a clip of 448 pixels takes 5 MB of shared memory."""
CLIPS_SHARE = 16
"""The share of a GPU's memory that clips may take."""
MODEL_REPOSITORY = Path("/tmp/triton_model_repo")  # noqa: S108 - what RT-Embed passes to such scripts


class Loaded(msgspec.Struct, frozen=True):
    """A model and the engine that runs it."""

    info: ModelInfo
    engine: Engine
    backend: str
    """cpu, cuda, python (the model itself chooses where it runs), or remote."""
    batch_size: int
    """Clips in the largest batch."""
    model: ServedModel
    runs_on: Backend = Backend("cpu", "cpu")
    engine_files: tuple[str, ...] = ()
    text_batch_size: int = 1
    """Texts in the largest batch."""
    at_once: int = 1
    """How many batches of clips, and how many of texts, the engine runs at a time."""

    def told(self) -> dict[str, str]:
        """Return where the model runs, for the log and the worker's record."""
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
    """Find the model and make its engine. Blocks, for minutes at a first start; `progress` gets updates.

    Raises ModelError saying what to do.
    """
    runs_on = choose_backend(settings)
    batch_size = runs_on.batch_size(settings)
    files: tuple[str, ...] = ()
    if endpoint := settings.remote_endpoint:
        return remote_model(settings, endpoint)
    if own := implementation(settings):
        info, engine = own_model(settings, own, batch_size, progress)
        backend = "python"
    else:
        info, engine, files = built_in_model(settings, runs_on, batch_size, progress)
        backend = runs_on.active
    model = served(info, engine)
    # A model in Python gets only one batch size.
    texts = batch_size if backend == "python" else runs_on.text_batch_size(settings)
    loaded = Loaded(info, engine, backend, batch_size, model, runs_on, files, texts)
    log.info(
        "model loaded",
        model=info.id,
        batch_size=batch_size,
        verification=verification_of(info) or "none",
        **loaded.told(),
    )
    return loaded


def remote_model(settings: Settings, endpoint: str) -> Loaded:
    """Connect to the model behind REMOTE_EMBED_ENDPOINT; clips are decoded on the CPU.

    Raises ModelError, and Unavailable while the endpoint is away.
    """
    engine = RemoteEngine(
        endpoint,
        settings.remote_model,
        settings.remote_api_key,
        timeout=settings.remote_timeout,
        patience=settings.remote_patience,
        connections=2 * settings.remote_calls,  # as many for texts as for clips
    )
    try:
        engine.learn()
    except RtEmbedError:
        engine.close()
        raise
    info = ModelInfo(
        id=settings.remote_model,
        architecture="remote",
        dimension=engine.dimension,
        frames=FRAMES,
        resolution=RESOLUTION,
        max_text_tokens=0,
        owned_by=settings.remote_model.rpartition("/")[0] or "custom",
        source=redact(endpoint),
    )
    model = served(info, engine)
    runs_on = Backend(settings.backend, "cpu", "the model is remote")
    loaded = Loaded(
        info,
        engine,
        "remote",
        1,
        model,
        runs_on,
        text_batch_size=settings.remote_batch_size,
        at_once=settings.remote_calls,
    )
    log.info("remote model found", model=info.id, endpoint=info.source, dimension=info.dimension)
    return loaded


def served(info: ModelInfo, engine: Engine) -> ServedModel:
    """Return what clients see of a loaded model."""
    return ServedModel(
        id=info.id,
        owned_by=info.owned_by,
        api_type=info.api_type,
        dimension=info.dimension,
        frames=info.frames,
        supports_text=engine.supports_text,
        verified=info.verified,
        verification=verification_of(info),
        created=int(time.time()),
    )


def verification_of(info: ModelInfo) -> Literal["", "here", "digest"]:
    """Return how a converted checkpoint was verified; empty for other models and unverified ones."""
    told = info.details.get("verification", "here" if info.verified and "recipe" in info.details else "")
    return "digest" if told == "digest" else "here" if told == "here" else ""


def built_in_model(
    settings: Settings, runs_on: Backend, batch_size: int, progress: Progress
) -> tuple[ModelInfo, Engine, tuple[str, ...]]:
    """Return the model directory that MODEL_PATH names, its engine, and the names of its built files. Raises
    ModelError."""
    if not runs_on.gpu:
        return *cpu_model(settings, progress), ()
    from worker.engine.tensorrt import open_engine  # noqa: PLC0415 - needs the extra [gpu]

    model = obtain(settings, settings.precision, progress)
    engine = open_engine(
        model, runs_on.gpu, batch_size, settings, progress, text_batch_size=runs_on.text_batch_size(settings)
    )
    return model.info, engine, tuple(engine.files)


def cpu_model(settings: Settings, progress: Progress) -> tuple[ModelInfo, Engine]:
    """Load the model directory that MODEL_PATH names into ONNX Runtime. Raises ModelError."""
    try:
        from worker.engine.onnx import OnnxEngine  # noqa: PLC0415 - a worker with a GPU may lack it
        from worker.models.conse import conse_recipe as conse  # noqa: PLC0415 - likewise
    except ImportError as error:
        raise ModelError(f"no GPU is used, and the extra [worker] is not installed ({error})") from error
    if settings.model_path == "demo":
        model = conse.cached(settings.model_cache)
    else:
        model = obtain(settings, CPU_PRECISION, progress)
    return model.info, OnnxEngine(model, settings.engine_threads or cores())


def own_model(
    settings: Settings, implementation: Path, batch_size: int, progress: Progress
) -> tuple[ModelInfo, Engine]:
    """Load the model of `implementation` with the files that MODEL_PATH names, after the script that
    prepares them. Raises ModelError."""
    inference_file(implementation)  # fails before anything is downloaded
    model_path = obtain_files(settings, progress)
    if script := settings.model_repository_script:
        run_repository_script(script, model_path, MODEL_REPOSITORY, batch_size, settings.script_timeout)
    return load_python_model(
        implementation,
        model_path,
        batch_size,
        warm_up=not settings.skip_warmup,
        patience=settings.script_timeout,
    )


def decode_slots(settings: Settings) -> int:
    """Return how many files this worker decodes at a time."""
    return settings.decode_slots or cores()


def media_limits(settings: Settings) -> MediaLimits:
    """Return the limits on media."""
    return MediaLimits(
        pixels=settings.max_frame_pixels,
        image_pixels=settings.max_image_pixels,
        duration=settings.max_duration,
        memory=settings.decoder_memory_mb << 20,
        seconds=settings.decode_timeout,
        probe_seconds=settings.probe_seconds,
    )


def decoding_gpu(settings: Settings, loaded: Loaded, clips: int, **options: bool) -> Device:
    """Open the worker's GPU as a decoder, with memory for `clips` clips. Raises ModelError."""
    info = loaded.info
    try:
        with device_errors("the GPU"):
            return open_device(
                clips,
                info.frames,
                info.resolution,
                **options,
                reuse=not settings.decoder_reuse_disabled,
                software_av1=settings.software_av1,
            )
    except (EngineError, DeviceLost) as error:
        raise ModelError(f"the GPU cannot decode: {error}") from error


def live_decoders(settings: Settings, loaded: Loaded) -> DecoderPool:
    """Return the decoders of cameras: their own, because a camera cannot wait for files. Each starts when it
    is first needed. Blocks while a GPU is prepared."""
    slots, limits = decode_slots(settings), media_limits(settings)
    if loaded.backend != "cuda":
        return DecoderPool(slots, limits=limits, niceness=0)
    clips = max(1, min(settings.live_slots, 4 * loaded.batch_size))  # each session has one at a time
    device = decoding_gpu(settings, loaded, clips, low_latency=True)
    return GpuMedia(device, slots, ahead=1, limits=limits, niceness=0)


@asynccontextmanager
async def open_media(settings: Settings, loaded: Loaded) -> AsyncIterator[DecoderPool]:
    """Yield the media reader of this worker, with its decoders running."""
    options: dict[str, Any] = {
        "limits": media_limits(settings),
        "probers": settings.probe_slots,
        "attempts": settings.decode_attempts,
        "sparse": settings.sparse_decoding,
        "reuse": not settings.decoder_reuse_disabled,
        "ahead": min(clips_ahead(loaded.batch_size), MOST_CLIPS_AHEAD),
        "buckets": Buckets(settings),
    }
    slots, gpu = decode_slots(settings), loaded.runs_on.gpu
    if loaded.backend == "cuda" and gpu:
        info, ahead = loaded.info, options["ahead"]
        slots = files_on_gpu(info, gpu.memory, slots, ahead, loaded.batch_size)
        clips = slots * ahead + 2 * loaded.batch_size  # a file's last clips may still wait for the engine
        device = await asyncio.to_thread(decoding_gpu, settings, loaded, clips)
        pool: DecoderPool = GpuMedia(device, slots, **options)
    else:
        pool = DecoderPool(slots, **options)
    await pool.start()
    try:
        yield pool
    finally:
        await pool.close()


def clips_ahead(batch_size: int) -> int:
    """Return how many clips of a job may be decoded ahead of the engine: two batches, and enough for the
    decoder to continue while a small batch is embedded."""
    return max(LEAST_CLIPS_AHEAD, 2 * batch_size)


def files_on_gpu(info: ModelInfo, memory: int, files: int, ahead: int, batch_size: int) -> int:
    """Return how many of `files` can be decoded at a time if their clips and two batches take no more than a
    sixteenth of the GPU's `memory` bytes; at least one."""
    clip = info.frames * 3 * info.resolution**2
    return max(1, min(files, (memory // CLIPS_SHARE // clip - 2 * batch_size) // ahead))
