"""A GPU, CuPy and TensorRT as far as the GPU engine uses them, for machines that have none of it: memory is
numpy's under invented addresses, and engines are run by ONNX Runtime.

It refuses what the real ones refuse: addresses that are not aligned or not memory (any more), shapes outside
the profile, too little scratch memory, and during a capture whatever waits. A CUDA graph runs on the
addresses of its capture, and only while nothing changes its context. Its names and arguments are those of the
stubs in `typings/`.
"""

from collections.abc import Callable
from enum import Enum
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any
from weakref import WeakValueDictionary

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
    `does`, whether TensorRT does what it is asked; `capture_error`, which the end of a capture reports;
    `drifts`, what graphs add to what they give."""

    def __init__(self) -> None:
        self.room = 1 << 40
        self.error = 0
        self.does = True
        self.capture_error = 0
        self.drifts = 0.0
        self.memory: WeakValueDictionary[int, np.ndarray[Any, Any]] = WeakValueDictionary()
        self.next = ALIGNMENT
        self.ran: list[tuple[str, int, int]] = []
        """Tower, items, and the priority of the stream."""
        self.graphs: list[tuple[int, ...]] = []
        """The shapes of the graphs that were launched."""
        self.captures = 0
        self.capturing: list[Callable[[], None]] | None = None
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
        assert self._device.capturing is None, "a capture does not survive this"
        if self._device.error:
            raise CUDARuntimeError(self._device.error)

    def begin_capture(self) -> None:
        assert self.priority is not None
        self._device.capturing = []

    def end_capture(self) -> "Graph":
        work, self._device.capturing = self._device.capturing, None
        self._device.captures += 1
        if self._device.capture_error:
            raise CUDARuntimeError(self._device.capture_error)
        assert work is not None
        return Graph(self._device, work)


class Graph:
    def __init__(self, device: Device, work: list[Callable[[], None]]) -> None:
        self._device = device
        self._work = work

    def launch(self, stream: Stream) -> None:
        if self._device.error:
            raise CUDARuntimeError(self._device.error)
        for each in self._work:
            each()


class Array:
    """A CuPy array."""

    def __init__(self, device: Device, values: np.ndarray[Any, Any], address: int | None = None) -> None:
        self._device = device
        self.values = values
        if address is None:
            address = device.allocate(values)
        elif address not in device.memory:
            device.memory[address] = values  # else it begins where what it is a part of begins
        self.data = SimpleNamespace(ptr=address)
        self.shape, self.dtype, self.nbytes = values.shape, values.dtype, values.nbytes

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, part: slice) -> "Array":
        offset = (part.start or 0) * self.values.strides[0]
        return Array(self._device, self.values[part], self.data.ptr + offset)

    def copy(self) -> "Array":
        return Array(self._device, self.values.copy())

    def set(self, arr: np.ndarray[Any, Any], stream: Stream) -> None:
        assert (arr.shape, arr.dtype) == (self.shape, self.dtype)
        self.values[:] = arr

    def get(self, stream: Stream, out: np.ndarray[Any, Any], *, blocking: bool) -> None:
        assert not blocking
        out[:] = self.values


class MemoryPointer:
    def __init__(self, device: Device, values: np.ndarray[Any, Any]) -> None:
        self.ptr = device.allocate(values)
        self._values = values


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
        MemoryPointer=MemoryPointer,
        get_current_stream=lambda: Stream(device, 0),
        alloc=lambda size: MemoryPointer(device, np.zeros(size, np.uint8)),
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
        (output,) = self._session.get_outputs()
        self._output = output.name
        self._scratch = -1
        self._memory = 0

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
        self._scratch, self._memory = size, memory

    def execute_async_v3(self, stream_handle: int) -> bool:
        assert self._scratch >= self._needed()
        if not self._device.does or self._device.error:
            return False
        if self._device.capturing is not None:
            self._device.capturing.append(self._captured(stream_handle))
        else:
            self._run(stream_handle)
        return True

    def _captured(self, stream_handle: int) -> Callable[[], None]:
        bound = (self._shapes.copy(), self._addresses.copy())

        def run() -> None:
            assert (self._shapes, self._addresses) == bound, "the context was changed under its graph"
            assert self._memory in self._device.memory, "the scratch memory is gone"
            self._run(stream_handle)
            self._device.memory[self._addresses[self._output]][:] += self._device.drifts * np.eye(1, 3)
            self._device.graphs.append(next(iter(self._shapes.values())))

        return run

    def _run(self, stream_handle: int) -> None:
        lying = {name: self._device.memory[self._addresses[name]] for name in self._inputs}
        feeds = {name: lying[name][: shape[0]] for name, shape in self._shapes.items()}
        assert all(feeds[name].shape == self._shapes[name] for name in feeds)
        self._device.memory[self._addresses[self._output]][:] = self._session.run(None, feeds)[0]
        self._device.ran.append((self._name, len(next(iter(feeds.values()))), 1000 - stream_handle))

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
