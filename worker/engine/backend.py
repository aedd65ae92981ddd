"""Choose what runs the model, an NVIDIA GPU or the CPU, and say why."""

import ctypes
from importlib.util import find_spec
from pathlib import Path

import msgspec

from shared.errors import ModelError, SettingsError
from shared.settings import Settings
from worker.engine.gpus import SHOWN_BY_DRIVER, Gpu, visible

PACKAGES = ("cupy", "onnx", "PyNvVideoCodec", "pynvml")
"""Packages of the extra [gpu], besides TensorRT."""
DRIVER_LIBRARIES = ("libcuda.so.1", "libnvcuvid.so.1", "libnvidia-encode.so.1")
"""PyNvVideoCodec links the encoder's library too: without it the import fails, even on a GPU that has no
encoder."""
BATCH_SIZES = ((46_000, 16), (16_000, 4), (0, 2))
"""(MiB, batch size): the largest batch above this much GPU memory. RT-Embed takes 64 above 80,000 MiB; beyond
16 a clip of 448 pixels is no cheaper (tests/bench/results/gpu-h200.md), and waits 2 s for its batch instead
of 0.7 s."""
CPU_BATCH_SIZE = 2
"""A larger batch on a CPU is no faster per clip, and its first clip waits for its last."""
TEXT_BATCH_SIZES = {"cpu": 32, "cuda": 64}
"""Largest batch of texts by backend. On a CPU the demo engine embeds 3.5 times as many texts per second in
batches of 32 as one by one (tests/bench/README.md, "Texts")."""
CPU_PRECISION = "fp32"
BUNDLED_IMPLEMENTATION = "cosmos-embed1"
"""The folder name that RT-Embed's own compose file gives MODEL_IMPLEMENTATION_PATH."""


class Backend(msgspec.Struct, frozen=True):
    """`wanted` is RTEMBED_BACKEND, `active` cpu or cuda; `reason` says why no GPU is used, `gpus` lists the
    GPUs in use."""

    wanted: str
    active: str
    reason: str = ""
    gpus: tuple[Gpu, ...] = ()

    @property
    def gpu(self) -> Gpu | None:
        """The GPU that this worker process uses."""
        return self.gpus[0] if self.gpus else None

    def precision(self, settings: Settings) -> str:
        """Return the precision of the model's graphs."""
        return settings.precision if self.gpus else CPU_PRECISION

    def batch_size(self, settings: Settings) -> int:
        """Clips in the largest batch."""
        if settings.batch_size:
            return settings.batch_size
        return batch_size_of(self.gpus[0].memory) if self.gpus else CPU_BATCH_SIZE

    def text_batch_size(self, settings: Settings) -> int:
        """Texts in the largest batch."""
        return settings.text_batch_size or TEXT_BATCH_SIZES[self.active]


def choose_backend(settings: Settings) -> Backend:
    """Return the backend for RTEMBED_BACKEND on this machine. Raises ModelError if GPUs are required but
    unusable, SettingsError if requested GPUs do not exist."""
    if settings.backend == "cpu":
        return Backend("cpu", "cpu", "RTEMBED_BACKEND=cpu")
    try:
        check_model(settings)
        gpus = limited(find_gpus(settings), settings)
        if not implementation(settings):
            check_packages(settings)
    except ModelError as error:
        if settings.backend == "cuda":
            raise ModelError(f"RTEMBED_BACKEND=cuda, but {error.message}") from error
        return Backend(settings.backend, "cpu", error.message)
    return Backend(settings.backend, "cuda", gpus=tuple(gpus))


def find_gpus(settings: Settings) -> list[Gpu]:
    """Return the GPUs that this process may use, at least one, in the order in which they are listed.

    Raises ModelError saying why there is none, SettingsError if a named GPU does not exist.
    """
    try:
        from worker.engine.nvml import list_gpus  # noqa: PLC0415 - nvidia-ml-py is part of [gpu]
    except ImportError as error:
        raise ModelError(f"the extra [gpu] is not installed ({error})") from error
    gpus = list_gpus()
    if not gpus:
        raise ModelError("the NVIDIA driver shows no GPU")
    if settings.nvidia_devices.strip() not in SHOWN_BY_DRIVER:
        gpus = visible(gpus, settings.nvidia_devices, "NVIDIA_VISIBLE_DEVICES")
    return visible(gpus, settings.cuda_devices, "CUDA_VISIBLE_DEVICES")


def implementation(settings: Settings) -> Path | None:
    """Return the folder of a model in Python, or None for a built-in model. RT-Embed's compose file names a
    built-in model by a folder that does not exist."""
    folder = settings.model_implementation
    return None if folder and folder.name == BUNDLED_IMPLEMENTATION and not folder.exists() else folder


def check_model(settings: Settings) -> None:
    """Raise ModelError for a model that only runs on a CPU."""
    if settings.model_path == "demo" and not implementation(settings):
        raise ModelError("the demonstration model (MODEL_PATH=demo) runs on the CPU only")


def limited(gpus: list[Gpu], settings: Settings) -> list[Gpu]:
    """Return the first NUM_GPUS of `gpus`. Raises SettingsError if there are fewer, or too few for one
    process."""
    wanted = settings.gpus or len(gpus)
    if wanted > len(gpus):
        raise SettingsError(f"NUM_GPUS={wanted}, but only {len(gpus)} GPUs can be used here")
    if settings.gpus_per_worker > wanted:
        raise SettingsError(
            f"NUM_GPUS_PER_VLM_PROC={settings.gpus_per_worker}, but only {wanted} GPUs are in use"
        )
    return gpus[:wanted]


def check_packages(settings: Settings) -> None:
    """Raise ModelError if a part of the extra [gpu] is missing or unusable."""
    missing = [name for name in PACKAGES if find_spec(name) is None]
    if missing:
        raise ModelError(f"the extra [gpu] is not installed: {', '.join(missing)} missing")
    from worker.engine.library import provide_tensorrt  # noqa: PLC0415 - slow; only GPUs need it

    provide_tensorrt(settings.tensorrt)
    check_driver()
    import cupy  # noqa: PLC0415 - part of [gpu]

    try:
        cupy.cuda.runtime.getDeviceCount()
    except cupy.cuda.runtime.CUDARuntimeError as error:
        raise ModelError(f"CUDA does not start: {error}") from error


def check_driver() -> None:
    """Raise ModelError if a driver library is missing: without it PyNvVideoCodec may end the process."""
    for library in DRIVER_LIBRARIES:
        try:
            ctypes.CDLL(library)
        except OSError as error:
            raise ModelError(
                f"the driver's {library} cannot be loaded ({error}); in a container, "
                "NVIDIA_DRIVER_CAPABILITIES must include compute and video"
            ) from error


def batch_size_of(memory: int) -> int:
    """Return the largest batch for a GPU with `memory` bytes."""
    mib = memory >> 20
    return next(size for more_than, size in BATCH_SIZES if mib > more_than)
