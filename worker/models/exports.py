"""Adapts exported graphs (CLIP, SigLIP, X-CLIP, OpenCLIP ...) to the inputs and outputs that engines expect,
by adding nodes before and after them."""

import hashlib
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from shared.errors import ModelError
from worker.models.directory import (
    MODEL_JSON,
    ModelDirectory,
    ModelInfo,
    load_model_directory,
    write_model_json,
)
from worker.models.locks import host_lock
from worker.models.preparation_progress import Progress, silent

OLDEST_OPSET, REDUCE_BY_INPUT = 13, 18
MOST_FRAMES = 64
RESERVED = ("videos", "video_embeddings", "input_ids", "attention_mask", "text_embeddings")
"""The names that engines use for a graph's inputs and outputs."""
SMALLEST_LENGTH = 1e-12


class VideoExport(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Inputs and outputs of the graph for pictures or clips."""

    file: str
    output: str
    """A tensor [B, dimension], or [B * T, dimension] for a graph of single pictures, whose mean is taken."""
    input: str = "pixel_values"
    layout: Literal["BCHW", "BHWC", "BTCHW", "BCTHW", "BTHWC"] = "BCHW"
    """B clips or pictures, T frames, C channels, H rows, W columns."""
    height: int = 0
    width: int = 0
    """px; 0 means `resolution`."""
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)
    """For pixels from 0 to 1; not for a graph that takes uint8."""
    type: Literal["float32", "float16", "uint8"] = "float32"


class TextExport(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Inputs and outputs of the graph for texts."""

    file: str
    output: str
    """A tensor [B, dimension]."""
    ids: str = "input_ids"
    mask: str = "attention_mask"
    """Empty for a graph without one."""
    zeros: tuple[str, ...] = ()
    """Further inputs with the shape of `ids`, filled with zeros: `token_type_ids`."""
    pad_id: int = 0
    """The padding token."""
    pad_to: int = 0
    """The length to which every text is padded; 0: the longest of its batch."""
    type: Literal["int64", "int32"] = "int64"


class Export(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The part of a `model.json` that describes exported graphs."""

    video: VideoExport
    text: TextExport | None = None
    normalize: bool = False
    """Whether to normalise vectors to unit length after the graph; those of single pictures also before their
    mean."""


class _WithExport(msgspec.Struct, frozen=True):
    export: Export | None = None


def read_export(folder: Path) -> Export | None:
    """Return what a folder's `model.json` says about exported graphs; None if its graphs need no adapter.

    Raises ModelError.
    """
    path = folder / MODEL_JSON
    try:
        return msgspec.json.decode(path.read_bytes(), type=_WithExport).export
    except msgspec.MsgspecError as error:
        raise ModelError(f"{path} is not valid: {error}") from error


def adapt(folder: Path, export: Export, cache: Path, progress: Progress = silent) -> ModelDirectory:
    """Return the model directory for an export; make it in `cache` if it is missing. Raises ModelError."""
    info = _info(folder)
    target = cache / f"{info.id.rpartition('/')[2]}-adapted-{_mark(folder, export)}"
    with host_lock(target.with_name(f".{target.name}.lock")):
        if not (target / MODEL_JSON).exists():
            part = target.with_name(f".{target.name}.part")
            shutil.rmtree(part, ignore_errors=True)
            part.mkdir(parents=True)
            try:
                progress(f"adapting {info.id}", 0, 0)
                _write(folder, export, info, part)
                write_model_json(part, msgspec.structs.replace(info, source=str(folder)))
                part.replace(target)
            finally:
                shutil.rmtree(part, ignore_errors=True)
    return load_model_directory(target)


def _info(folder: Path) -> ModelInfo:
    try:
        info = msgspec.json.decode((folder / MODEL_JSON).read_bytes(), type=ModelInfo)
    except msgspec.MsgspecError as error:
        raise ModelError(f"{folder / MODEL_JSON} is not valid: {error}") from error
    if not 1 <= info.frames <= MOST_FRAMES:
        raise ModelError(f"{folder / MODEL_JSON}: frames is {info.frames}; 1 to {MOST_FRAMES} are possible")
    return info


def _mark(folder: Path, export: Export) -> str:
    """Return eight hexadecimal digits that change with the description and with any file of the export."""
    digest = hashlib.sha256((folder / MODEL_JSON).read_bytes())
    for path in sorted(folder.iterdir()):
        stat = path.stat()
        digest.update(f"{path.name} {stat.st_size} {stat.st_mtime_ns}\n".encode())
    return digest.hexdigest()[:8]


def _write(folder: Path, export: Export, info: ModelInfo, target: Path) -> None:
    video = _Adapter(folder / export.video.file, [export.video.input], export.video.output)
    video.take_clips(export.video, info)
    video.give("video_embeddings", info, frames=_frames_apart(export.video, info), unit=export.normalize)
    video.save(target / "video.onnx")
    if export.text:
        text = export.text
        inputs = [text.ids, *([text.mask] if text.mask else []), *text.zeros]
        graph = _Adapter(folder / text.file, inputs, text.output)
        graph.take_texts(text)
        graph.give("text_embeddings", info, frames=1, unit=export.normalize)
        graph.save(target / "text.onnx")
        _write_tokenizer(folder / "tokenizer.json", target / "tokenizer.json")


def _frames_apart(video: VideoExport, info: ModelInfo) -> int:
    """Return how many vectors of single pictures make up a clip's vector."""
    return 1 if "T" in video.layout else info.frames


def _write_tokenizer(source: Path, target: Path) -> None:
    """Write a copy with a token [PAD]. Its id never reaches the graph: padding ids are replaced."""
    from tokenizers import Tokenizer  # noqa: PLC0415 - part of the extras of workers

    try:
        tokenizer = Tokenizer.from_file(str(source))
    except Exception as error:  # the package raises plain Exception for any unreadable file
        raise ModelError(f"cannot load the tokenizer {source}: {error}") from error
    if tokenizer.token_to_id("[PAD]") is None:
        tokenizer.add_special_tokens(["[PAD]"])
    tokenizer.save(str(target), pretty=False)


class _Adapter:
    """An exported graph, reduced to what one output needs, that gets nodes before and after it."""

    def __init__(self, path: Path, inputs: Sequence[str], output: str) -> None:
        import onnx  # noqa: PLC0415 - part of the extras of workers

        self._onnx, self._path = onnx, path
        try:
            model = onnx.load(str(path), load_external_data=False)
        except Exception as error:  # protobuf's and the file system's have no common base
            raise ModelError(f"cannot load {path}: {error}") from error
        names = [value.name for value in model.graph.output]
        given = {value.name for value in model.graph.input}
        if output not in names:
            raise ModelError(f"{path} has the outputs {', '.join(names)}, not {output}")
        if missing := [name for name in inputs if name not in given]:
            raise ModelError(f"{path} has the inputs {', '.join(sorted(given))}, not {', '.join(missing)}")
        self.model = _cut(model, inputs, output)
        if left := {value.name for value in self.model.graph.input} - set(inputs):
            raise ModelError(f"{path}: {output} needs the inputs {', '.join(sorted(left))}, too: name them")
        versions = [opset.version for opset in model.opset_import if opset.domain in ("", "ai.onnx")]
        self._opset = max(versions, default=0)
        if self._opset < OLDEST_OPSET:
            raise ModelError(f"{path} is of opset {self._opset}; export it in {OLDEST_OPSET} or a later one")
        for name in RESERVED:
            _rename_tensor(self.model.graph, name, own(name))
        self._output = own(output)
        self._before: list[Any] = []
        self._after: list[Any] = []
        self._count = 0

    def take_clips(self, video: VideoExport, info: ModelInfo) -> None:
        """Connect the graph to `videos`, uint8 [B, frames, 3, resolution, resolution]."""
        size = info.resolution
        height, width = video.height or size, video.width or size
        pictures = self._node("Cast", ["videos"], to=self._onnx.TensorProto.FLOAT)
        pictures = self._node("Reshape", [pictures, self._constant([-1, 3, size, size])])
        if (height, width) != (size, size):
            scales = np.array([1, 1, height / size, width / size], np.float32)
            pictures = self._node("Resize", [pictures, "", self._constant(scales)], mode="linear")
        if video.type != "uint8":
            # (pixel / 255 - mean) / std
            std = np.array(video.std, np.float32).reshape(1, 3, 1, 1)
            mean = np.array(video.mean, np.float32).reshape(1, 3, 1, 1)
            pictures = self._node("Mul", [pictures, self._constant((1 / (255 * std)).astype(np.float32))])
            pictures = self._node("Sub", [pictures, self._constant((mean / std).astype(np.float32))])
        order = "BCHW"
        if "T" in video.layout:
            shape = self._constant([-1, info.frames, 3, height, width])
            pictures, order = self._node("Reshape", [pictures, shape]), "BTCHW"
        if video.layout != order:
            pictures = self._node("Transpose", [pictures], perm=[order.index(axis) for axis in video.layout])
        type_ = {"float32": "FLOAT", "float16": "FLOAT16", "uint8": "UINT8"}[video.type]
        if type_ != "FLOAT":
            pictures = self._node("Cast", [pictures], to=getattr(self._onnx.TensorProto, type_))
        self._rename(video.input, pictures)
        self._inputs([("videos", self._onnx.TensorProto.UINT8, ["batch", info.frames, 3, size, size])])

    def take_texts(self, text: TextExport) -> None:
        """Connect the graph to `input_ids` and `attention_mask`, int64 [B, S]."""
        ids, mask = "input_ids", "attention_mask"
        padded = self._node("Equal", [mask, self._constant(np.array(0, np.int64))])
        tokens = self._node("Where", [padded, self._constant(np.array(text.pad_id, np.int64)), ids])
        if text.pad_to:
            length = self._node("Slice", [self._node("Shape", [ids]), *map(self._constant, ([1], [2], [0]))])
            missing = self._node("Sub", [self._constant([text.pad_to]), length])
            pads = self._node("Concat", [self._constant([0, 0, 0]), missing], axis=0)
            tokens = self._node("Pad", [tokens, pads, self._constant(np.array(text.pad_id, np.int64))])
            mask = self._node("Pad", [mask, pads, self._constant(np.array(0, np.int64))])
        zeros = self._node("Sub", [tokens, tokens]) if text.zeros else ""
        type_ = getattr(self._onnx.TensorProto, text.type.upper())
        fed = {
            text.ids: tokens,
            **({text.mask: mask} if text.mask else {}),
            **dict.fromkeys(text.zeros, zeros),
        }
        for name, value in fed.items():
            self._rename(name, value if text.type == "int64" else self._node("Cast", [value], to=type_))
        int64, shape = self._onnx.TensorProto.INT64, ["batch", "tokens"]
        self._inputs([("input_ids", int64, shape), ("attention_mask", int64, shape)])

    def give(self, name: str, info: ModelInfo, *, frames: int, unit: bool) -> None:
        """Output float32 [B, dimension] as `name`: the mean of `frames` vectors, normalised if requested."""
        vectors = self._node("Cast", [self._output], after=True, to=self._onnx.TensorProto.FLOAT)
        vectors = self._node("Reshape", [vectors, self._constant([-1, info.dimension])], after=True)
        if unit:
            vectors = self._unit(vectors)
        if frames > 1:
            vectors = self._node(
                "Reshape", [vectors, self._constant([-1, frames, info.dimension])], after=True
            )
            vectors = self._reduce("ReduceMean", vectors, 1, keep=0)
            vectors = self._unit(vectors) if unit else vectors
        self._after.append(self._onnx.helper.make_node("Identity", [vectors], [name]))
        value = self._onnx.helper.make_tensor_value_info(
            name, self._onnx.TensorProto.FLOAT, ["batch", info.dimension]
        )
        del self.model.graph.output[:]
        self.model.graph.output.append(value)

    def save(self, target: Path) -> None:
        """Write the graph, and its data files beside it under the names that the export uses."""
        graph = self.model.graph
        nodes = [*self._before, *graph.node, *self._after]
        del graph.node[:]
        graph.node.extend(nodes)
        del graph.value_info[:]
        for name in _data_files(self.model):
            _link(self._path.parent / name, target.parent / name)
        self._onnx.save(self.model, str(target))

    def _unit(self, vectors: str) -> str:
        length = self._reduce("ReduceL2", vectors, 1, keep=1)
        length = self._node(
            "Max", [length, self._constant(np.array(SMALLEST_LENGTH, np.float32))], after=True
        )
        return self._node("Div", [vectors, length], after=True)

    def _reduce(self, operator: str, value: str, axis: int, *, keep: int) -> str:
        if self._opset < REDUCE_BY_INPUT:
            return self._node(operator, [value], after=True, axes=[axis], keepdims=keep)
        return self._node(operator, [value, self._constant([axis])], after=True, keepdims=keep)

    def _node(self, operator: str, inputs: Sequence[str], *, after: bool = False, **attributes: Any) -> str:
        self._count += 1
        name = f"rt_{operator.lower()}_{self._count}"
        nodes = self._after if after else self._before
        nodes.append(self._onnx.helper.make_node(operator, list(inputs), [name], name=name, **attributes))
        return name

    def _constant(self, values: Sequence[int] | NDArray[Any]) -> str:
        self._count += 1
        name = f"rt_constant_{self._count}"
        array = values if isinstance(values, np.ndarray) else np.array(values, np.int64)
        self.model.graph.initializer.append(self._onnx.numpy_helper.from_array(array, name))
        return name

    def _rename(self, name: str, value: str) -> None:
        """Make the graph read `value` instead of its input `name`."""
        self._before.append(self._onnx.helper.make_node("Identity", [value], [own(name)]))

    def _inputs(self, values: Sequence[tuple[str, int, list[Any]]]) -> None:
        del self.model.graph.input[:]
        made = (self._onnx.helper.make_tensor_value_info(*value) for value in values)
        self.model.graph.input.extend(made)


def _cut(model: Any, inputs: Sequence[str], output: str) -> Any:
    """Return the model reduced to the nodes and weights that `output` needs; its inputs are `inputs` and any
    others that these nodes need. A graph with two towers can thus serve as either."""
    producers = {name: node for node in model.graph.node for name in node.output}
    needed, seen, names = [output], set(), set()
    while needed:
        name = needed.pop()
        if name in names:
            continue
        names.add(name)
        node = producers.get(name)
        if node is not None and id(node) not in seen:
            seen.add(id(node))
            needed += [*node.input, *_outer_names(node)]
    for field, keep in (
        (model.graph.node, lambda node: id(node) in seen),
        (model.graph.initializer, lambda tensor: tensor.name in names),
        (model.graph.input, lambda value: value.name in names or value.name in inputs),
        (model.graph.output, lambda value: value.name == output),
    ):
        kept = [item for item in field if keep(item)]
        del field[:]
        field.extend(kept)
    return model


def _outer_names(node: Any) -> list[str]:
    """Return the names that a node's subgraphs read; they may belong to the outer graph."""
    graphs = [attribute.g for attribute in node.attribute if attribute.HasField("g")]
    return [name for graph in graphs for inner in graph.node for name in [*inner.input, *_outer_names(inner)]]


def own(name: str) -> str:
    """Return the name for an export's tensor: a new one if engines use its name."""
    return f"rt_own_{name}" if name in RESERVED else name


def _rename_tensor(graph: Any, before: str, after: str) -> None:
    """Rename a tensor in a graph and its subgraphs."""
    for node in graph.node:
        node.input[:] = [after if name == before else name for name in node.input]
        node.output[:] = [after if name == before else name for name in node.output]
        for attribute in node.attribute:
            if attribute.HasField("g"):
                _rename_tensor(attribute.g, before, after)
    for tensor in graph.initializer:
        tensor.name = after if tensor.name == before else tensor.name


def _data_files(model: Any) -> set[str]:
    """Return the files beside a graph that hold its large weights."""
    tensors = [*model.graph.initializer]
    return {entry.value for tensor in tensors for entry in tensor.external_data if entry.key == "location"}


def _link(source: Path, target: Path) -> None:
    """Link a file to another place, or copy it where the file system allows no link."""
    if target.exists():
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, target)
    except OSError:
        try:
            shutil.copyfile(source, target)
        except OSError as error:
            raise ModelError(f"cannot copy {source}: {error}") from error
