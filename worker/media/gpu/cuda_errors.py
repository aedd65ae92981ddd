"""Maps CUDA errors to the worker's. Works without CuPy."""

from collections.abc import Iterator
from contextlib import contextmanager

from shared.errors import DeviceLost, DeviceMemoryShort, EngineError

CUDA_ERRORS = {"CUDARuntimeError", "CUDADriverError"}
"""CuPy's names for what the runtime and the driver report."""
OUT_OF_MEMORY = 2
"""Of cudaError and of CUresult. CuPy's pool has an error of its own; this one is of pinned memory."""
OF_CAPTURE = range(900, 909)
"""Of cudaError and of CUresult: work that cannot be captured as a CUDA graph. Nothing else is harmed."""


@contextmanager
def device_errors(device: str) -> Iterator[None]:
    """Turns CuPy's errors into DeviceMemoryShort, EngineError (of a capture), or else into DeviceLost: after
    any other error of CUDA nothing in the process can be relied on. Other exceptions pass."""
    try:
        yield
    except Exception as error:
        kind = type(error).__name__
        of_cuda = kind in CUDA_ERRORS
        status = getattr(error, "status", None)
        if kind == "OutOfMemoryError" or (of_cuda and status == OUT_OF_MEMORY):
            raise DeviceMemoryShort(f"{device} has no memory left: {error}") from error
        if of_cuda and status in OF_CAPTURE:
            raise EngineError(f"{device} captures no CUDA graph of it: {error}") from error
        if of_cuda:
            raise DeviceLost(f"{device} is lost to this process: {error}") from error
        raise
