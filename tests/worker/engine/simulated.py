"""A GPU, CuPy and TensorRT as far as the GPU engine uses them, for machines that have none of it: memory is
numpy's under invented addresses, and engines are run by ONNX Runtime.

It refuses what the real ones refuse: addresses that are not aligned or not memory, shapes outside the
profile, too little scratch memory. Its names and arguments are those of the stubs in `typings/`.
"""

from enum import Enum
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import onnxruntime as ort

ALIGNMENT = 512  # CuPy's
SCRATCH_PER_ITEM = 3000


class OutOfMemoryError(MemoryError):
    pass


class CUDARuntimeError(RuntimeError):
    def __init__(self, status: int) -> None:
        super().__init__(f"error {status} of CUDA")
        self.status = status


class CUDADriverError(CUDARuntimeError):
    pass


class Device:
    """What the test may turn: `room`, the largest allocation; `error`, which CUDA reports from now on;
    `does`, whether TensorRT does what it is asked."""

    def __init__(self) -> None:
        self.room = 1 << 40
        self.error = 0
        self.does = True
        self.memory: dict[int, np.ndarray[Any, Any]] = {}
        self.next = ALIGNMENT
        self.ran: list[tuple[str, int, int]] = []
        """Tower, items, and the priority of the stream."""
        self.uploads = 0

    def allocate(self, array: np.ndarray[Any, Any]) -> int:
        if array.nbytes > self.room:
            raise OutOfMemoryError(f"{array.nbytes} bytes")
        address, self.next = self.next, self.next + -(-max(1, array.nbytes) // ALIGNMENT) * ALIGNMENT
        self.memory[address] = array
        return address


class Stream:
    def __init__(self, device: Device, priority: int | None) -> None:
        self._device = device
        self.ptr = 1000 - (priority or 0)
        self.priority = priority

    def __enter__(self) -> "Stream":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def record(self) -> object:
        return object()

    def wait_event(self, event: object) -> None:
        assert event is not None

    def synchronize(self) -> None:
        if self._device.error:
            raise CUDARuntimeError(self._device.error)


class Array:
    """A CuPy array."""

    def __init__(self, device: Device, values: np.ndarray[Any, Any], address: int | None = None) -> None:
        self._device = device
        self.values = values
        address = device.allocate(values) if address is None else address
        device.memory[address] = values
        self.data = SimpleNamespace(ptr=address)
        self.shape, self.dtype, self.nbytes = values.shape, values.dtype, values.nbytes

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, part: slice) -> "Array":
        offset = (part.start or 0) * self.values.strides[0]
        return Array(self._device, self.values[part], self.data.ptr + offset)

    def copy(self) -> "Array":
        return Array(self._device, self.values.copy())

    def get(self, stream: Stream, out: np.ndarray[Any, Any], *, blocking: bool) -> None:
        assert not blocking
        out[:] = self.values


def make_cupy(device: Device) -> ModuleType:
    cupy: Any = ModuleType("cupy")

    def on_device(values: Any) -> Array:
        if isinstance(values, Array):
            return values
        device.uploads += 1
        return Array(device, np.ascontiguousarray(values))

    def contiguous(values: Array) -> Array:
        if not isinstance(values, Array):
            raise TypeError(f"expected cupy._core.core._ndarray_base, got {type(values)}")
        return values

    cupy.ndarray = Array
    cupy.asarray = on_device
    cupy.ascontiguousarray = contiguous
    cupy.empty = lambda shape, dtype: Array(device, np.full(shape, np.nan, dtype))
    cupy.cuda = SimpleNamespace(
        Stream=lambda *, non_blocking, priority: Stream(device, priority),
        MemoryPointer=object,
        get_current_stream=lambda: Stream(device, 0),
        alloc=lambda size: SimpleNamespace(ptr=device.allocate(np.zeros(size, np.uint8))),
        memory=SimpleNamespace(OutOfMemoryError=OutOfMemoryError),
        runtime=SimpleNamespace(CUDARuntimeError=CUDARuntimeError),
        driver=SimpleNamespace(CUDADriverError=CUDADriverError),
    )
    return cupy  # type: ignore[no-any-return] # a module


def make_cupyx() -> ModuleType:
    cupyx: Any = ModuleType("cupyx")
    cupyx.empty_pinned = np.empty
    return cupyx  # type: ignore[no-any-return] # a module


class Context:
    """Runs a graph on what lies at the addresses."""

    def __init__(self, device: Device, graph: Path, batch: int) -> None:
        self._device = device
        self._session = ort.InferenceSession(str(graph))
        self._batch = batch
        self._name = graph.stem
        self._inputs = {i.name: i.shape for i in self._session.get_inputs()}
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._addresses: dict[str, int] = {}
        self._scratch = -1

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        self._shapes[name] = shape
        fixed = zip(self._inputs[name], shape, strict=True)
        return 1 <= shape[0] <= self._batch and all(size in (n, "batch", "tokens") for size, n in fixed)

    def set_tensor_address(self, name: str, memory: int) -> bool:
        assert memory % 256 == 0, f"{name} is not aligned"
        self._addresses[name] = memory
        return True

    def update_device_memory_size_for_shapes(self) -> int:
        assert self._shapes.keys() == self._inputs.keys()
        return self._needed()

    def set_device_memory(self, memory: int, size: int) -> None:
        assert self._device.memory[memory].nbytes >= size
        self._scratch = size

    def execute_async_v3(self, stream_handle: int) -> bool:
        assert self._scratch >= self._needed()
        if not self._device.does or self._device.error:
            return False
        feeds = {name: self._device.memory[self._addresses[name]] for name in self._inputs}
        assert all(feeds[name].shape == self._shapes[name] for name in feeds)
        (output,) = self._session.get_outputs()
        self._device.memory[self._addresses[output.name]][:] = self._session.run(None, feeds)[0]
        self._device.ran.append((self._name, len(next(iter(feeds.values()))), 1000 - stream_handle))
        return True

    def _needed(self) -> int:
        return SCRATCH_PER_ITEM * next(iter(self._shapes.values()))[0]


def make_tensorrt(device: Device) -> ModuleType:
    trt: Any = ModuleType("tensorrt")

    class ILogger:
        Severity = Enum("Severity", "INTERNAL_ERROR ERROR WARNING INFO VERBOSE")

    class IProgressMonitor:
        pass

    class Runtime:
        def __init__(self, logger: ILogger) -> None:
            self.logger = logger

        def deserialize_cuda_engine(self, serialized_engine: bytes) -> Any:
            if serialized_engine == b"broken":
                self.logger.log(ILogger.Severity.ERROR, "the engine is broken")  # type: ignore[attr-defined] # ours
                return None
            graph, batch = serialized_engine.decode().split("\n")
            return SimpleNamespace(
                create_execution_context=lambda strategy: Context(device, Path(graph), int(batch))
            )

    trt.__version__ = "11.4.0"
    trt.__getattr__ = lambda name: object  # types in annotations
    trt.ILogger, trt.IProgressMonitor, trt.Runtime = ILogger, IProgressMonitor, Runtime
    vars(trt).update(
        DataType=Enum("DataType", "UINT8 INT64 FLOAT"),
        ExecutionContextAllocationStrategy=Enum("ExecutionContextAllocationStrategy", "USER_MANAGED"),
    )
    return trt  # type: ignore[no-any-return] # a module
