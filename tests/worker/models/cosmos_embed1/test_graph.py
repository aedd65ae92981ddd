from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, numpy_helper

from shared.errors import ModelError
from worker.models.cosmos_embed1.graph import ALIGNMENT, Graph, Precision


def small(precision: Precision = "fp32", values: NDArray[Any] | None = None) -> Graph:
    graph = Graph(precision)
    graph.input("x", TensorProto.FLOAT, ["n", 3])
    values = np.arange(6, dtype=np.float32).reshape(3, 2) if values is None else values
    weight = graph.weight("w", (3, 2), lambda: values, precision)
    bias = graph.weight("b", (2,), lambda: np.array([0.5, -0.5], np.float32), precision)
    x = graph.cast(type(weight)("x", "fp32"), precision)
    graph.output(graph.op("Add", graph.op("MatMul", x, weight), bias), "y", ["n", 2])
    return graph


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
def test_weights_are_found_in_the_data_file(tmp_path: Path, precision: Precision) -> None:
    graph = small(precision)
    seen: list[int] = []
    graph.write_data(tmp_path / "m.data", seen.append)
    graph.write(tmp_path / "m.onnx", "m.data", {"recipe": "r"})
    model = onnx.load(tmp_path / "m.onnx")
    tensors = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    np.testing.assert_array_equal(tensors["w"].astype(np.float32), np.arange(6).reshape(3, 2))
    np.testing.assert_array_equal(tensors["b"].astype(np.float32), [0.5, -0.5])
    assert seen[-1] == (tmp_path / "m.data").stat().st_size == graph.data_size
    assert model.metadata_props[0].value == "r"


def test_weights_are_aligned_and_written_once(tmp_path: Path) -> None:
    graph = small()
    graph.weight("w", (3, 2), lambda: pytest.fail("read twice"), "fp32")
    assert [external.offset % ALIGNMENT for external in graph.externals.values()] == [0, 0]
    graph.write_data(tmp_path / "m.data")
    assert (tmp_path / "m.data").stat().st_size == 64 + 8


def test_a_weight_too_large_for_half_precision_is_named(tmp_path: Path) -> None:
    graph = small("fp16", np.full((3, 2), 70000, np.float32))
    with pytest.raises(ModelError, match="w is not finite in float16"):
        graph.write_data(tmp_path / "m.data")


def test_a_weight_that_is_not_finite_is_named(tmp_path: Path) -> None:
    graph = small("fp32", np.full((3, 2), np.nan, np.float32))
    with pytest.raises(ModelError, match="w is not finite in float32"):
        graph.write_data(tmp_path / "m.data")


def test_a_weight_of_another_size_is_refused(tmp_path: Path) -> None:
    graph = small("fp32", np.zeros((3, 3), np.float32))
    with pytest.raises(ModelError, match="w has 36 bytes, not 24"):
        graph.write_data(tmp_path / "m.data")


def test_a_graph_that_onnx_refuses(tmp_path: Path) -> None:
    graph = small()
    graph.node("Gelu", ["nothing"])
    graph.write_data(tmp_path / "m.data")
    with pytest.raises(ModelError, match=r"m\.onnx is not a valid graph"):
        graph.write(tmp_path / "m.onnx", "m.data", {})


def test_values_of_different_precisions_do_not_mix() -> None:
    graph = Graph("fp16")
    a, b = graph.number(1.0, "fp16"), graph.number(1.0)
    with pytest.raises(ValueError, match="Add over"):
        graph.op("Add", a, b)


def test_bfloat16_rounds_to_nearest(tmp_path: Path) -> None:
    values = np.array([[1.00390625, 1.01171875], [3.1415927, -2.7182817], [1e-30, 65504]], np.float32)
    graph = small("bf16", values)
    graph.write_data(tmp_path / "m.data")
    stored = np.fromfile(tmp_path / "m.data", ml_dtypes.bfloat16, 6).astype(np.float32)
    # Neighbours of 1.00390625 are 1 and 1.0078125, at the same distance: the even one wins.
    assert stored[:2].tolist() == [1.0, 1.015625]
    assert stored[2] == np.float32(3.140625)
