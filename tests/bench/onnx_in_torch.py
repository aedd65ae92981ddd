"""Runs a graph of this project in PyTorch with exactly the types that its nodes have.

ONNX Runtime's CPU provider computes 16-bit graphs in fp32 between the nodes, and so shows neither their
rounding nor their overflow. Here every product has 16-bit inputs, sums in fp32 and rounds its result, as
tensor cores do.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper

from worker.models.cosmos_embed1.graph import TYPES as GRAPH_TYPES
from worker.models.cosmos_embed1.graph import Graph

TYPES: dict[int, Any] = {
    TensorProto.FLOAT: torch.float32,
    TensorProto.FLOAT16: torch.float16,
    TensorProto.BFLOAT16: torch.bfloat16,
    TensorProto.INT64: torch.int64,
}
WATCHED = {"MatMul": "product", "Gelu": "gelu", "Add": "sum"}
Change = Callable[[str, np.ndarray], np.ndarray]


class TorchGraph:
    """`run` gives the outputs; `largest` then holds the largest absolute value by kind of node and type.

    `change` may alter weights by name. With `everything`, what is fp32 in the graph is in its precision too.
    """

    def __init__(
        self, graph: Graph, *, change: Change = lambda _, values: values, everything: bool = False
    ) -> None:
        self.graph = graph
        self.change = change
        self.fp32 = TYPES[GRAPH_TYPES[graph.precision]] if everything else torch.float32
        self.largest: dict[str, float] = {}
        self.inline = {
            tensor.name: tensor
            for tensor in graph.initializers
            if tensor.data_location != TensorProto.EXTERNAL
        }
        self.types = {tensor.name: self.type_of(tensor.data_type) for tensor in graph.initializers}
        self.last_use = {name: i for i, node in enumerate(graph.nodes) for name in node.input}

    @torch.inference_mode()  # type: ignore[untyped-decorator]
    def run(self, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        values: dict[str, Any] = {name: torch.from_numpy(array) for name, array in inputs.items()}
        for i, node in enumerate(self.graph.nodes):
            given = [values[name] if name in values else self.constant(name) for name in node.input]
            attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
            if node.op_type == "Cast":
                result = given[0].to(self.type_of(attributes["to"]))
            else:
                result = OPERATORS[node.op_type](given, attributes)
            results = result if isinstance(result, tuple) else (result,)
            values.update(zip(node.output, results, strict=True))
            self.watch(node, results[0])
            for name in node.input:
                if self.last_use[name] == i:
                    values.pop(name, None)
        return {output.name: values[output.name].float().numpy() for output in self.graph.outputs}

    def type_of(self, onnx_type: int) -> torch.dtype:
        return self.fp32 if onnx_type == TensorProto.FLOAT else TYPES[onnx_type]

    def constant(self, name: str) -> torch.Tensor:
        if name in self.inline:
            array = numpy_helper.to_array(self.inline[name])
            exact = array.astype(np.float32) if self.types[name].is_floating_point else array.copy()
            return torch.from_numpy(exact).to(self.types[name])
        values = self.change(name, self.graph.externals[name].read())
        return torch.from_numpy(np.ascontiguousarray(values)).to(self.types[name])

    def watch(self, node: onnx.NodeProto, value: torch.Tensor) -> None:
        if node.op_type in WATCHED and value.is_floating_point():
            kind = f"{WATCHED[node.op_type]} in {str(value.dtype).removeprefix('torch.')}"
            # An infinity is what an overflow leaves, and shows here.
            self.largest[kind] = max(self.largest.get(kind, 0.0), float(value.abs().max()))


def _like(value: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    return value.to(other.dtype)


def _layer_norm(given: list[torch.Tensor], attributes: dict[str, Any]) -> torch.Tensor:
    x, weight, bias = given
    return torch.nn.functional.layer_norm(x, x.shape[-1:], weight, bias, attributes["epsilon"])


def _slice(given: list[torch.Tensor], _: dict[str, Any]) -> torch.Tensor:
    x, starts, ends, _axes = given
    return x[int(starts) : int(ends)]


def _reshape(given: list[torch.Tensor], _: dict[str, Any]) -> torch.Tensor:
    x, shape = given
    return x.reshape([x.shape[i] if size == 0 else size for i, size in enumerate(shape.tolist())])


def _unsqueeze(given: list[torch.Tensor], _: dict[str, Any]) -> torch.Tensor:
    x = given[0]
    for axis in given[1].tolist():
        x = x.unsqueeze(axis)
    return x


OPERATORS: dict[str, Callable[[list[Any], dict[str, Any]], Any]] = {
    "Add": lambda g, a: g[0] + g[1],
    "Concat": lambda g, a: torch.cat(g, a["axis"]),
    "Conv": lambda g, a: _like(
        torch.nn.functional.conv2d(g[0].float(), g[1].float(), stride=a["strides"]), g[0]
    ),
    "Div": lambda g, a: g[0] / g[1],
    "Expand": lambda g, a: g[0].expand(torch.broadcast_shapes(g[0].shape, tuple(g[1].tolist()))),
    "Gather": lambda g, a: (
        torch.nn.functional.embedding(g[1], g[0]) if "axis" not in a else g[0].select(a["axis"], int(g[1]))
    ),
    "Gelu": lambda g, a: _like(torch.nn.functional.gelu(g[0].float()), g[0]),
    "Identity": lambda g, a: g[0],
    "LayerNormalization": _layer_norm,
    "MatMul": lambda g, a: _like(g[0].float() @ g[1].float(), g[0]),
    "Max": lambda g, a: torch.maximum(g[0], g[1]),
    "Mul": lambda g, a: g[0] * g[1],
    "Pad": lambda g, a: torch.nn.functional.pad(g[0], (0, 0, 1, 0)),
    "ReduceL2": lambda g, a: g[0].norm(dim=-1, keepdim=True),
    "ReduceMean": lambda g, a: g[0].mean(1),
    "Reshape": _reshape,
    "Shape": lambda g, a: torch.tensor(g[0].shape[a["start"] : a["end"]]),
    "Slice": _slice,
    "Softmax": lambda g, a: g[0].softmax(-1),
    "Split": lambda g, a: tuple(g[0].chunk(a["num_outputs"], -1)),
    "Sub": lambda g, a: g[0] - g[1],
    "Transpose": lambda g, a: g[0].permute(a["perm"]).contiguous(),
    "Unsqueeze": _unsqueeze,
}
