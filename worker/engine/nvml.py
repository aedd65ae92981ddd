"""What the NVIDIA driver reports about GPUs through NVML. Nothing here needs CUDA."""

from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

import pynvml
import structlog

from shared.errors import ModelError
from worker.engine.gpus import Condition, Gpu

log = structlog.get_logger(__name__)

FATAL_XIDS = {
    48: "double-bit ECC error",
    64: "row remapping failed",
    79: "the GPU has fallen off the bus",
    95: "uncontained ECC error",
    119: "the GPU's system processor does not answer",
    120: "error of the GPU's system processor",
}
"""Driver errors (NVIDIA, "XID Errors") after which a GPU must be reset. Most others are caused by one
program, which gets a CUDA error."""

T = TypeVar("T")


def list_gpus() -> list[Gpu]:
    """Return every GPU that the driver shows and that answers. Raises ModelError without a driver."""
    try:
        pynvml.nvmlInit()
        driver = pynvml.nvmlSystemGetDriverVersion()
        count = pynvml.nvmlDeviceGetCount()
    except pynvml.NVMLError as error:
        raise ModelError(f"the NVIDIA driver does not answer: {error}") from error
    return [gpu for index in range(count) for gpu in _found(index, driver)]


def _found(index: int, driver: str) -> list[Gpu]:
    """Return the GPU, or its instances under MIG. Returns nothing for a lost GPU: the others still work."""
    try:
        handle = pynvml.nvmlDeviceGetHandleByIndex(index)
        instances = _instances(handle)
        if instances is None:
            return [_describe(handle, index, driver)]
        capability = pynvml.nvmlDeviceGetCudaComputeCapability(handle)
        return [_describe_instance(handle, index, driver, number, capability) for number, handle in instances]
    except pynvml.NVMLError as error:
        log.error("GPU does not answer", gpu=index, error=str(error))
        return []


def _instances(handle: "pynvml._Device") -> "list[tuple[int, pynvml._Device]] | None":
    """Return the MIG instances of a GPU by number; None if MIG is off or unsupported."""
    try:
        current, _ = pynvml.nvmlDeviceGetMigMode(handle)
    except (pynvml.NVMLError_NotSupported, pynvml.NVMLError_FunctionNotFound):  # this GPU, or an old driver
        return None
    if not current:
        return None
    found = []
    for number in range(pynvml.nvmlDeviceGetMaxMigDeviceCount(handle)):
        try:
            found.append((number, pynvml.nvmlDeviceGetMigDeviceHandleByIndex(handle, number)))
        except pynvml.NVMLError_NotFound:
            continue
    return found


def _describe_instance(
    handle: "pynvml._Device", index: int, driver: str, number: int, capability: tuple[int, int]
) -> Gpu:
    return Gpu(
        index=index,
        uuid=pynvml.nvmlDeviceGetUUID(handle),
        name=pynvml.nvmlDeviceGetName(handle),
        memory=pynvml.nvmlDeviceGetMemoryInfo(handle).total,
        capability=capability,
        driver=driver,
        instance=number,
    )


def _describe(handle: "pynvml._Device", index: int, driver: str) -> Gpu:
    return Gpu(
        index=index,
        uuid=pynvml.nvmlDeviceGetUUID(handle),
        name=pynvml.nvmlDeviceGetName(handle),
        memory=pynvml.nvmlDeviceGetMemoryInfo(handle).total,
        capability=pynvml.nvmlDeviceGetCudaComputeCapability(handle),
        driver=driver,
    )


class GpuMeter:
    """Reads the condition of one GPU. `trouble` says why it is unusable; empty while it works."""

    def __init__(self, gpu: Gpu) -> None:
        """Raises ModelError if the GPU has gone."""
        self.gpu = gpu
        self.trouble = ""
        try:
            pynvml.nvmlInit()
            self._handle = pynvml.nvmlDeviceGetHandleByUUID(gpu.uuid)
            whole = pynvml.nvmlDeviceGetHandleByIndex(gpu.index)  # an instance reports no events of its own
            self._events = pynvml.nvmlEventSetCreate()
        except pynvml.NVMLError as error:
            raise ModelError(f"{gpu.name} ({gpu.uuid}) cannot be reached: {error}") from error
        # A lost GPU without such events is still noticed by its answers.
        with suppress(pynvml.NVMLError):
            pynvml.nvmlDeviceRegisterEvents(whole, pynvml.nvmlEventTypeXidCriticalError, self._events)

    def read(self) -> Condition:
        """Read the GPU's condition and the driver's events. Blocks for milliseconds; never raises."""
        memory = self._ask(pynvml.nvmlDeviceGetMemoryInfo)
        rates = self._ask(pynvml.nvmlDeviceGetUtilizationRates)
        decoder = self._ask(pynvml.nvmlDeviceGetDecoderUtilization)
        self._read_reports()
        return Condition(
            memory_used=memory.used if memory else None,
            memory_total=memory.total if memory else None,
            utilization=rates.gpu / 100 if rates else None,
            decoder_utilization=decoder[0] / 100 if decoder else None,
            temperature=self._ask(pynvml.nvmlDeviceGetTemperature, pynvml.NVML_TEMPERATURE_GPU),
        )

    def _ask(self, question: Callable[..., T], *more: object) -> T | None:
        try:
            return question(self._handle, *more)
        except (pynvml.NVMLError_GpuIsLost, pynvml.NVMLError_ResetRequired) as error:
            self._lost(str(error))
        except pynvml.NVMLError:  # not every GPU supports every query
            pass
        return None

    def _read_reports(self) -> None:
        try:
            while True:
                report = pynvml.nvmlEventSetWait_v2(self._events, 0)
                if meaning := FATAL_XIDS.get(report.eventData):
                    self._lost(f"XID {report.eventData}, {meaning}")
        except pynvml.NVMLError:  # a timeout: there is no other event
            pass

    def _lost(self, reason: str) -> None:
        self.trouble = self.trouble or f"{self.gpu.name} ({self.gpu.uuid}) is lost: {reason}"
