"""EfficientNet-Lite0 written as an ONNX graph from its PyTorch weights.

Tan and Le, "EfficientNet", ICML 2019; the Lite variants have no squeeze-and-excitation and clip at 6.
"""

from typing import Any

import msgspec
import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from worker.models.conse.torch_checkpoint import Weights

OPSET = 18
IR_VERSION = 10
FRAMES = 8
RESOLUTION = 224
CLASSES = 1000
BATCH_NORM_EPSILON = 1e-3
PIXEL_MEAN, PIXEL_SCALE = 127, 128
TEMPERATURE, TOP_CLASSES = 1.5, 100
"""The best of 0.7, 1, 1.5 and of 10, 100, 1000: they found most of 17 pictures by 46 sentences."""


class Stage(msgspec.Struct, frozen=True):
    """`blocks` inverted residual blocks; only the first one has the stride."""

    blocks: int
    stride: int


STAGES = (Stage(1, 1), Stage(2, 2), Stage(2, 2), Stage(3, 2), Stage(3, 1), Stage(4, 2), Stage(1, 1))


def video_graph(weights: Weights, label_vectors: NDArray[np.float32]) -> onnx.ModelProto:
    """`videos` uint8 [B, 8, 3, 224, 224], RGB -> `video_embeddings` float32 [B, D], by ConSE: the sum of
    `label_vectors` [1000, D] weighted by the probabilities of each frame's first 100 classes, at unit length.

    Norouzi et al., "Zero-shot learning by convex combination of semantic embeddings", ICLR 2014.
    """
    graph = _Graph(weights)
    frames = graph.node(
        "Reshape", "videos", graph.constant("frame_shape", np.array([-1, 3, RESOLUTION, RESOLUTION]))
    )
    pixels = graph.node("Cast", frames, to=TensorProto.FLOAT)
    centred = graph.node("Sub", pixels, graph.constant("pixel_mean", np.float32(PIXEL_MEAN)))
    probabilities = graph.node("Softmax", _classify(graph, centred), axis=-1)
    first = _keep_first_classes(graph, probabilities)
    by_clip = graph.node("Reshape", first, graph.constant("clip_shape", np.array([-1, FRAMES, CLASSES])))
    mean = graph.node("ReduceMean", by_clip, graph.constant("frame_axis", np.array([1])), keepdims=0)
    combined = graph.node("MatMul", mean, graph.constant("label_vectors", label_vectors))
    graph.node("LpNormalization", combined, output="video_embeddings", axis=-1, p=2)
    return graph.model(dimension=label_vectors.shape[1])


def _classify(graph: "_Graph", pixels: str) -> str:
    """Return the 1,000 logits of centred pixels, over the temperature."""
    # The first convolution's weights include the division by 128: exact, as it is a power of two.
    x = graph.conv_bn(pixels, "_conv_stem", "_bn0", stride=2, scale=1 / PIXEL_SCALE)
    strides = [stage.stride if i == 0 else 1 for stage in STAGES for i in range(stage.blocks)]
    for i, stride in enumerate(strides):
        x = _block(graph, x, f"_blocks.{i}.", stride)
    x = graph.conv_bn(x, "_conv_head", "_bn1")
    x = graph.node("Flatten", graph.node("GlobalAveragePool", x))
    weight, bias = (
        graph.constant(name, graph.weights[name] / np.float32(TEMPERATURE))
        for name in ("_fc.weight", "_fc.bias")
    )
    return graph.node("Gemm", x, weight, bias, transB=1)


def _keep_first_classes(graph: "_Graph", probabilities: str) -> str:
    """`probabilities` [F, 1000] with zeros in place of all but each row's largest."""
    count = graph.constant("top_classes", np.array([TOP_CLASSES]))
    graph.nodes.append(helper.make_node("TopK", [probabilities, count], ["largest", "largest_at"]))
    least = graph.node("ReduceMin", "largest", graph.constant("class_axis", np.array([1])), keepdims=1)
    kept = graph.node("Cast", graph.node("GreaterOrEqual", probabilities, least), to=TensorProto.FLOAT)
    return graph.node("Mul", probabilities, kept)


def _block(graph: "_Graph", x: str, name: str, stride: int) -> str:
    """Return an inverted residual block: widen, filter each channel, narrow."""
    expand, depthwise, project = (f"{name}_{part}_conv" for part in ("expand", "depthwise", "project"))
    wide, narrow = len(graph.weights[f"{depthwise}.weight"]), len(graph.weights[f"{project}.weight"])
    y, channels = x, wide
    if f"{expand}.weight" in graph.weights:
        y = graph.conv_bn(x, expand, f"{name}_bn0")
        channels = graph.weights[f"{expand}.weight"].shape[1]
    y = graph.conv_bn(y, depthwise, f"{name}_bn1", stride=stride, groups=wide)
    y = graph.conv_bn(y, project, f"{name}_bn2", activation=False)
    return graph.node("Add", y, x) if stride == 1 and channels == narrow else y


class _Graph:
    """Nodes and constants under way."""

    def __init__(self, weights: Weights) -> None:
        self.weights = weights
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self.constant("zero", np.float32(0))
        self.constant("six", np.float32(6))

    def constant(self, name: str, value: NDArray[Any] | np.generic) -> str:
        self.constants.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def node(self, op: str, *inputs: str, output: str = "", **attributes: Any) -> str:
        output = output or f"{op.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, inputs, [output], **attributes))
        return output

    def conv_bn(
        self,
        x: str,
        conv: str,
        norm: str,
        *,
        stride: int = 1,
        groups: int = 1,
        scale: float = 1.0,
        activation: bool = True,
    ) -> str:
        """Return a convolution with its batch normalisation folded in, padded as TensorFlow does ("SAME")."""
        weight = self.weights[f"{conv}.weight"]
        mean, variance, gamma, beta = (
            self.weights[f"{norm}.{part}"] for part in ("running_mean", "running_var", "weight", "bias")
        )
        factor = gamma / np.sqrt(variance + np.float32(BATCH_NORM_EPSILON))
        y = self.node(
            "Conv",
            x,
            self.constant(f"{conv}.weight", weight * factor[:, None, None, None] * np.float32(scale)),
            self.constant(f"{conv}.bias", beta - mean * factor),
            auto_pad="SAME_UPPER",
            strides=[stride, stride],
            group=groups,
        )
        return self.node("Clip", y, "zero", "six") if activation else y

    def model(self, dimension: int) -> onnx.ModelProto:
        clip = helper.make_tensor_value_info(
            "videos", TensorProto.UINT8, ["batch", FRAMES, 3, RESOLUTION, RESOLUTION]
        )
        vector = helper.make_tensor_value_info("video_embeddings", TensorProto.FLOAT, ["batch", dimension])
        graph = helper.make_graph(self.nodes, "conse_video", [clip], [vector], self.constants)
        return helper.make_model(
            graph,
            opset_imports=[helper.make_opsetid("", OPSET)],
            ir_version=IR_VERSION,
            producer_name="rt-embed",
        )
