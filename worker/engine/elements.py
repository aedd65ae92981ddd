"""How large a graph's tensors become. This limits the batch: TensorRT indexes elements with 32 bits."""

from collections.abc import Mapping
from math import prod
from pathlib import Path

import onnx

MOST_ELEMENTS = 2**31 - 1


def largest_tensor(graph: Path, inputs: Mapping[str, tuple[int, ...]]) -> int:
    """Return the elements of the graph's largest intermediate tensor for inputs of these shapes, as far as
    shapes can be inferred. Weights are not read."""
    model = onnx.load(str(graph), load_external_data=False)
    for given in model.graph.input:
        if shape := inputs.get(given.name):
            for dimension, size in zip(given.type.tensor_type.shape.dim, shape, strict=True):
                dimension.dim_value = size
    for output in model.graph.output:
        output.type.tensor_type.ClearField("shape")
    inferred = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    values = [*inferred.value_info, *inferred.input]
    shapes = [[d.dim_value for d in value.type.tensor_type.shape.dim] for value in values]
    return max(prod(shape) for shape in shapes)


def batch_within_limit(graph: Path, inputs: Mapping[str, tuple[int, ...]], batch: int) -> int:
    """Return `batch`, reduced until every tensor has fewer than 2^31 elements; at least 1. `inputs` are the
    shapes for a batch of one."""
    return max(1, min(batch, MOST_ELEMENTS // max(1, largest_tensor(graph, inputs))))
