"""Writes ONNX graphs, and streams their weights into a file beside them, one tensor at a time."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import ml_dtypes
import msgspec
import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from shared.errors import ModelError

Precision = Literal["fp32", "fp16", "bf16"]
PRECISIONS: tuple[Precision, ...] = ("fp32", "fp16", "bf16")
Floats = NDArray[np.float32]

OPSET = 20  # the first with Gelu
IR_VERSION = 10
ALIGNMENT = 64  # bytes
TYPES = {"fp32": TensorProto.FLOAT, "fp16": TensorProto.FLOAT16, "bf16": TensorProto.BFLOAT16}
DTYPES = {"fp32": np.dtype(np.float32), "fp16": np.dtype(np.float16), "bf16": np.dtype(ml_dtypes.bfloat16)}


class Value(msgspec.Struct, frozen=True):
    """The result of a node: its name and its precision."""

    name: str
    precision: Precision


class External(msgspec.Struct, frozen=True):
    """A weight in the data file, and the source of its values."""

    name: str
    dtype: np.dtype[np.generic]
    offset: int
    size: int
    read: Callable[[], Floats]


class Graph:
    """A graph under construction.

    Matrix products run in `precision`; sensitive parts (norms, softmax, residual sums, the heads) are always
    fp32. Every node is named after its output.
    """

    def __init__(self, precision: Precision) -> None:
        self.precision: Precision = precision
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []
        self.inputs: list[onnx.ValueInfoProto] = []
        self.outputs: list[onnx.ValueInfoProto] = []
        self.externals: dict[str, External] = {}

    def input(self, name: str, kind: int, shape: list[str | int]) -> str:
        """Declare an input."""
        self.inputs.append(helper.make_tensor_value_info(name, kind, shape))
        return name

    def output(self, value: Value, name: str, shape: list[str | int]) -> None:
        """Declare an fp32 output."""
        self.nodes.append(helper.make_node("Identity", [self.cast(value, "fp32").name], [name], name))
        self.outputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))

    def node(self, kind: str, inputs: list[str], **attributes: Any) -> str:
        """Add a node with one output and give its name."""
        return self.nodes_with(kind, inputs, 1, **attributes)[0]

    def nodes_with(self, kind: str, inputs: list[str], outputs: int, **attributes: Any) -> list[str]:
        """Add a node with several outputs and give their names."""
        name = f"{kind}_{len(self.nodes)}"
        names = [name] if outputs == 1 else [f"{name}_{i}" for i in range(outputs)]
        self.nodes.append(helper.make_node(kind, inputs, names, name, **attributes))
        return names

    def op(self, kind: str, *values: Value, **attributes: Any) -> Value:
        """Add a node over values of one precision, which is also its output's."""
        precisions = {value.precision for value in values}
        if len(precisions) != 1:
            raise ValueError(f"{kind} over {sorted(precisions)}")
        return Value(self.node(kind, [value.name for value in values], **attributes), values[0].precision)

    def reshape(self, value: Value, *shape: int) -> Value:
        """`value` in another shape; 0 keeps a dimension and -1 takes the rest."""
        name = self.node("Reshape", [value.name, self.integers(*shape)])
        return Value(name, value.precision)

    def cast(self, value: Value, precision: Precision) -> Value:
        """`value` in another precision; itself if it has it."""
        if value.precision == precision:
            return value
        return Value(self.node("Cast", [value.name], to=TYPES[precision]), precision)

    def integers(self, *values: int) -> str:
        """Return a constant int64 vector."""
        return self._inline(f"integers_{'_'.join(map(str, values))}", np.array(values, np.int64))

    def integer(self, value: int) -> str:
        """Return a constant int64 scalar."""
        return self._inline(f"integer_{value}", np.array(value, np.int64))

    def number(self, value: float, precision: Precision = "fp32") -> Value:
        """Return a constant scalar."""
        return self.constant(f"number_{value}_{precision}", np.array(value, np.float32), precision)

    def constant(self, name: str, values: Floats, precision: Precision = "fp32") -> Value:
        """Return a small constant, kept in the graph's own file."""
        return Value(self._inline(name, values.astype(DTYPES[precision], order="C")), precision)

    def _inline(self, name: str, values: NDArray[np.generic]) -> str:
        if all(known.name != name for known in self.initializers):
            self.initializers.append(numpy_helper.from_array(values, name))
        return name

    def weight(
        self, name: str, shape: tuple[int, ...], read: Callable[[], Floats], precision: Precision
    ) -> Value:
        """Return a constant in the data file. `read` gives its values when that is written."""
        if name not in self.externals:
            offset = -(-self.data_size // ALIGNMENT) * ALIGNMENT
            dtype = DTYPES[precision]
            size = int(np.prod(shape)) * dtype.itemsize
            self.externals[name] = External(name, dtype, offset, size, read)
            tensor = TensorProto(name=name, data_type=TYPES[precision], dims=shape)
            tensor.data_location = TensorProto.EXTERNAL
            for key, value in (("location", ""), ("offset", str(offset)), ("length", str(size))):
                tensor.external_data.add(key=key, value=value)
            self.initializers.append(tensor)
        return Value(name, precision)

    @property
    def data_size(self) -> int:
        """Bytes of the data file."""
        last = next(reversed(self.externals.values()), None)
        return last.offset + last.size if last else 0

    def write_data(self, path: Path, progress: Callable[[int], None] = lambda _: None) -> None:
        """Stream every weight into `path`, holding one at a time. `progress` gets the bytes written.

        Raises ModelError for a weight that is not finite in its precision.
        """
        with path.open("wb") as file:
            for external in self.externals.values():
                with np.errstate(over="ignore"):
                    values = np.ascontiguousarray(external.read()).astype(external.dtype, copy=False)
                if not np.isfinite(values).all():
                    raise ModelError(f"{external.name} is not finite in {external.dtype}")
                if values.nbytes != external.size:
                    raise ModelError(f"{external.name} has {values.nbytes} bytes, not {external.size}")
                file.seek(external.offset)
                values.tofile(file)
                progress(external.offset + external.size)

    def write(self, path: Path, data: str, metadata: dict[str, str]) -> None:
        """Write the graph to `path`, with its weights in the file `data` beside it, and check it.

        Raises ModelError if ONNX's checker refuses it.
        """
        for tensor in self.initializers:
            for entry in tensor.external_data:
                if entry.key == "location":
                    entry.value = data
        graph = helper.make_graph(self.nodes, path.stem, self.inputs, self.outputs, self.initializers)
        model = helper.make_model(
            graph,
            opset_imports=[helper.make_opsetid("", OPSET)],
            ir_version=IR_VERSION,
            producer_name="rt-embed",
        )
        helper.set_model_props(model, metadata)
        part = path.with_name(f".{path.name}.part")  # a worker may be reading the present file
        part.write_bytes(model.SerializeToString())
        try:
            onnx.checker.check_model(str(part))
        except onnx.checker.ValidationError as error:
            part.unlink()
            raise ModelError(f"{path} is not a valid graph: {error}") from error
        part.replace(path)
