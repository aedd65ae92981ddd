"""What CUDA's errors mean to a worker. CuPy need not be installed."""

from collections.abc import Iterator
from contextlib import contextmanager

from shared.errors import DeviceLost, DeviceMemoryShort

CUDA_ERRORS = {"CUDARuntimeError", "CUDADriverError"}
"""CuPy's names for what the runtime and the driver report."""
OUT_OF_MEMORY = 2
"""Of cudaError and of CUresult. CuPy's pool has an error of its own; this one is of pinned memory."""


@contextmanager
def device_errors(device: str) -> Iterator[None]:
    """Turns CuPy's errors into DeviceMemoryShort, or else into DeviceLost: after any other error of CUDA
    nothing in the process can be relied on. Other exceptions pass."""
    try:
        yield
    except Exception as error:
        kind = type(error).__name__
        of_cuda = kind in CUDA_ERRORS
        if kind == "OutOfMemoryError" or (of_cuda and getattr(error, "status", None) == OUT_OF_MEMORY):
            raise DeviceMemoryShort(f"{device} has no memory left: {error}") from error
        if of_cuda:
            raise DeviceLost(f"{device} is lost to this process: {error}") from error
        raise
