"""A tower of a model on the GPU: batches of any shape, and CUDA graphs of small batches of texts.

TensorRT launches a batch kernel by kernel, which for a few texts takes longer than the computation. A CUDA
graph launches all at once. It repeats the captured kernels, shapes and addresses, so each graph has its own
execution context, inputs and output, which nothing else uses.
"""

from collections.abc import Callable, Mapping
from typing import Any, cast

import cupy
import cupyx
import numpy as np
import tensorrt as trt
from numpy.typing import NDArray

from shared.errors import EngineError, ModelError
from shared.telemetry.instruments import text_graphs
from worker.engine.batches import Batches, Shape, smallest_holding
from worker.engine.build import Log, Tower
from worker.models.cosmos_embed1.verification_samples import lowest_cosine
from worker.models.embedding_engine import Vectors

Array = NDArray[Any] | cupy.ndarray

ALIGNMENT = 256
"""Alignment in bytes of every tensor that TensorRT reads or writes."""
DTYPES = {"UINT8": np.uint8, "INT64": np.int64}
SAME = 0.9999
"""The lowest cosine allowed between a graph's vectors and those of a plain run."""


class TowerSession:
    """One tower on the GPU, with its own stream and memory. CuPy allocates all memory."""

    def __init__(
        self, engine: trt.ICudaEngine, tower: Tower, batch_size: int, log: Log, *, priority: int
    ) -> None:
        self.batches = Batches(batch_size)
        self.graphs: dict[Shape, TextGraph] = {}
        self._tower = tower
        self._log = log
        self._engine = engine  # must outlive its contexts
        self._execution = Execution(engine, tower, log)
        self._stream = cupy.cuda.Stream(non_blocking=True, priority=priority)
        self._vectors = cast("Vectors", cupyx.empty_pinned((batch_size, tower.output.shape[1]), np.float32))
        self._scratch: cupy.cuda.MemoryPointer | None = None
        self._scratch_size = 0

    def run(self, inputs: Mapping[str, Array]) -> Vectors:
        """Run one batch. Raises EngineError, or what CuPy raises."""
        shape = smallest_holding(self.graphs, *_texts_and_tokens(inputs)) if self.graphs else None
        if shape is None:
            return self._run_plain(inputs)
        vectors = self._replay(self.graphs[shape], inputs)
        text_graphs.add(1, {"outcome": "replayed"})
        return vectors

    def capture(self, shape: Shape, inputs: Mapping[str, NDArray[Any]]) -> None:
        """Capture a CUDA graph for batches of `shape`. Keep it if its vectors for `inputs`, a batch of that
        shape, match a plain run. Raises EngineError if they do not, or what CuPy raises."""
        execution = Execution(self._engine, self._tower, self._log)
        with self._stream:
            graph = TextGraph(execution, self._tower, shape, self._stream, self._enough)
        cosine = lowest_cosine(self._replay(graph, inputs), self._run_plain(inputs))
        if cosine < SAME:
            raise EngineError(f"its CUDA graph gives other vectors than a plain run: cosine {cosine:.6f}")
        self.graphs[shape] = graph

    def zeros(self, item: tuple[int, ...], start: int, end: int) -> dict[str, Array]:
        """Return a batch of zeros from `start` to `end`, with items of the shape `item`."""
        return {t.name: np.zeros((end - start, *item), DTYPES[t.dtype]) for t in self._tower.inputs}

    def _run_plain(self, inputs: Mapping[str, Array]) -> Vectors:
        produced = cupy.cuda.get_current_stream().record()
        with self._stream:
            self._stream.wait_event(produced)
            arrays = {name: _on_gpu(array) for name, array in inputs.items()}
            count = len(next(iter(arrays.values())))
            output = cupy.empty((count, self._tower.output.shape[1]), np.float32)
            self._execution.bind(arrays, output, self._enough)
            try:
                self._execution.start(self._stream)
            except EngineError:
                self._stream.synchronize()  # raises CUDA's error, if there is one
                raise
            return self._fetched(output, count)

    def _replay(self, graph: "TextGraph", inputs: Mapping[str, Array]) -> Vectors:
        with self._stream:
            graph.start(inputs, self._stream)
            return self._fetched(graph.output, _texts_and_tokens(inputs)[0])

    def _fetched(self, output: cupy.ndarray, count: int) -> Vectors:
        output[:count].get(stream=self._stream, out=self._vectors[:count], blocking=False)
        self._stream.synchronize()
        return self._vectors[:count].copy()

    def _enough(self, size: int) -> cupy.cuda.MemoryPointer:
        """Return at least `size` bytes of scratch memory; the largest so far is kept. All executions share
        it: they follow each other on one stream."""
        if self._scratch is None or size > self._scratch_size:
            self._scratch, self._scratch_size = None, 0
            self._scratch = cupy.cuda.alloc(max(size, 1))
            self._scratch_size = size
        return self._scratch


class Execution:
    """An execution context and its bindings."""

    def __init__(self, engine: trt.ICudaEngine, tower: Tower, log: Log) -> None:
        """Raises ModelError."""
        context = engine.create_execution_context(trt.ExecutionContextAllocationStrategy.USER_MANAGED)
        if context is None:
            raise ModelError(f"TensorRT makes no context for the {tower.name} engine: {log.errors()}")
        self._context = context
        self._tower = tower
        self._log = log

    def bind(
        self,
        inputs: Mapping[str, cupy.ndarray],
        output: cupy.ndarray,
        enough: Callable[[int], cupy.cuda.MemoryPointer],
    ) -> cupy.cuda.MemoryPointer:
        """Bind the inputs and the output; return the scratch memory. The caller keeps all of it while it is
        in use. Raises EngineError."""
        context = self._context
        for name, array in inputs.items():
            if not context.set_input_shape(name, array.shape):
                raise EngineError(f"the {self._tower.name} engine takes no {name} of the shape {array.shape}")
            context.set_tensor_address(name, array.data.ptr)
        context.set_tensor_address(self._tower.output.name, output.data.ptr)
        size = context.update_device_memory_size_for_shapes()
        scratch = enough(size)
        context.set_device_memory(scratch.ptr, size)
        return scratch

    def start(self, stream: cupy.cuda.Stream) -> None:
        """Run the bound batch on `stream`. Raises EngineError."""
        if not self._context.execute_async_v3(stream.ptr):
            raise EngineError(f"TensorRT does not run the {self._tower.name} engine: {self._log.errors()}")


class TextGraph:
    """The CUDA graph for batches of one shape."""

    def __init__(
        self,
        execution: Execution,
        tower: Tower,
        shape: Shape,
        stream: cupy.cuda.Stream,
        enough: Callable[[int], cupy.cuda.MemoryPointer],
    ) -> None:
        """Capture it on `stream`. Raises EngineError, or what CuPy raises."""
        self._execution = execution
        self._inputs = {t.name: cupy.asarray(np.ones(shape, DTYPES[t.dtype])) for t in tower.inputs}
        self._staged = {t.name: cupyx.empty_pinned(shape, DTYPES[t.dtype]) for t in tower.inputs}
        self.output = cupy.empty((shape[0], tower.output.shape[1]), np.float32)
        self._scratch = execution.bind(self._inputs, self.output, enough)
        execution.start(stream)  # loads the kernels and prepares the context for the shape
        stream.synchronize()
        stream.begin_capture()
        try:
            execution.start(stream)
        finally:
            self._graph = stream.end_capture()

    def start(self, inputs: Mapping[str, Array], stream: cupy.cuda.Stream) -> None:
        """Run a batch no larger than the graph's. Its vectors come first in `output`."""
        texts, tokens = _texts_and_tokens(inputs)
        for name, staged in self._staged.items():
            staged[:] = 0
            staged[:texts, :tokens] = inputs[name]
            staged[texts:] = staged[0]
            self._inputs[name].set(staged, stream=stream)
        self._graph.launch(stream)


def _texts_and_tokens(inputs: Mapping[str, Array]) -> Shape:
    texts, tokens = next(iter(inputs.values())).shape
    return texts, tokens


def _on_gpu(array: Array) -> cupy.ndarray:
    """Return the array, contiguous in the GPU's memory; no copy if it is already there."""
    found = cupy.ascontiguousarray(cupy.asarray(array))  # cupy.ascontiguousarray takes no NumPy array
    return found if found.data.ptr % ALIGNMENT == 0 else found.copy()
