"""Reads a Cosmos-Embed1 checkpoint: its configuration, and its tensors, all checked before use."""

import json
import struct
from collections.abc import Iterator, Mapping
from math import isqrt, prod
from pathlib import Path

import ml_dtypes
import msgspec
import numpy as np
from numpy.typing import NDArray

from shared.errors import ModelError

PATCH = 14
VISION_HEAD = 88
TEXT_HEAD = 64
TEMPORAL_ENCODINGS = ("neighboring_token_propagation", "temporal_parameter")
UNUSED = ("qformer.cls.", "itm_head.", "qformer.bert.embeddings.position_ids", "logit_scale", "logit_bias")
HEADER_LIMIT = 100_000_000  # bytes, as the safetensors library has it

Floats = NDArray[np.float32]

DTYPES = {
    "F64": np.dtype(np.float64),
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "I64": np.dtype(np.int64),
    "I32": np.dtype(np.int32),
    "U8": np.dtype(np.uint8),
    "BOOL": np.dtype(np.bool_),
}


class StoredTensor(msgspec.Struct, frozen=True):
    """The place of a tensor in a safetensors file."""

    file: Path
    dtype: str
    shape: tuple[int, ...]
    offset: int
    """Bytes from the start of the file."""
    size: int
    """Bytes."""

    def read(self) -> Floats:
        """Return the values as float32. Reads this tensor only, without keeping the file mapped."""
        with self.file.open("rb") as file:
            file.seek(self.offset)
            values = np.fromfile(file, DTYPES[self.dtype], prod(self.shape))
        if values.size != prod(self.shape):
            raise ModelError(f"{self.file} ended early")
        return values.reshape(self.shape).astype(np.float32, copy=False)


class Config(msgspec.Struct, frozen=True):
    """The used part of `config.json`, with the defaults of the checkpoint's own code."""

    model_type: str = "cosmos-embed1"
    embed_dim: int = 768
    resolution: int = 224
    num_video_frames: int = 8
    num_query_tokens: int = 32
    max_txt_len: int = 128
    vocab_size: int = 30523
    temporal_encoding_type: str = "neighboring_token_propagation"


class ModelSizes(msgspec.Struct, frozen=True):
    """Sizes of the model, from the shapes of its tensors."""

    vision_width: int
    vision_depth: int
    vision_hidden: int
    text_width: int
    text_depth: int
    text_hidden: int
    queries: int
    vocabulary: int
    positions: int
    dimension: int
    stored_rows: int
    """Rows of the position table: the class token and a square grid."""
    cross_layers: tuple[int, ...]
    """Q-Former layers that read the video."""

    @property
    def vision_heads(self) -> int:
        return self.vision_width // VISION_HEAD

    @property
    def text_heads(self) -> int:
        return self.text_width // TEXT_HEAD


class Checkpoint(msgspec.Struct, frozen=True):
    """A checkpoint with exactly the expected tensors, in the right shapes."""

    path: Path
    config: Config
    layout: ModelSizes
    temporal_key: str
    tensors: dict[str, StoredTensor]

    @property
    def grid(self) -> int:
        """Patches along an edge of a frame at the configured resolution."""
        return self.config.resolution // PATCH

    def read(self, key: str) -> Floats:
        """One tensor as float32."""
        return self.tensors[key].read()

    @property
    def stored_dtype(self) -> str:
        """The dtype of the weights, as safetensors names it."""
        return self.tensors["visual_encoder.patch_embed.proj.weight"].dtype


def is_checkpoint(path: Path) -> bool:
    """Return whether the folder holds a Cosmos-Embed1 checkpoint, going by its `config.json`."""
    try:
        config = json.loads((path / "config.json").read_bytes())
    except (OSError, ValueError):
        return False
    return isinstance(config, dict) and config.get("model_type") == "cosmos-embed1"


def open_checkpoint(path: Path) -> Checkpoint:
    """Read the configuration and the headers of the weights, and check every key and shape.

    Raises ModelError naming missing and unexpected tensors, and those of a wrong shape.
    """
    config = read_config(path / "config.json")
    tensors = strip_prefix(dict(read_headers(path)))
    layout = measure(tensors)
    shapes = expected_shapes(layout)
    left = [key for key in tensors if key not in shapes and not key.startswith(UNUSED)]
    rows = config.num_video_frames * layout.vision_width
    temporal = [key for key in left if prod(tensors[key].shape) == rows]
    problems = [
        *_listing("missing", [key for key in shapes if key not in tensors]),
        *_listing("unexpected", [key for key in left if [key] != temporal]),
        *_listing(
            "of another shape",
            [
                f"{key} {list(tensors[key].shape)}, not {list(shape)}"
                for key, shape in shapes.items()
                if key in tensors and tensors[key].shape != shape
            ],
        ),
        *config_conflicts(config, layout),
    ]
    if len(temporal) != 1:
        problems.append(f"{len(temporal)} tensors could be the temporal table ({rows} numbers), not one")
    if problems:
        raise ModelError(f"{path} does not fit Cosmos-Embed1: {'; '.join(problems)}")
    return Checkpoint(path, config, layout, temporal[0], tensors)


def read_config(path: Path) -> Config:
    """`config.json`, checked. Raises ModelError."""
    try:
        fields = msgspec.json.decode(path.read_bytes(), type=dict[str, object])
        config = msgspec.convert({**fields, "resolution": edge_of(fields, path)}, Config)
    except FileNotFoundError as error:
        raise ModelError(f"{path} does not exist") from error
    except msgspec.MsgspecError as error:
        raise ModelError(f"{path} is not valid: {error}") from error
    if config.resolution % PATCH or config.resolution <= 0:
        raise ModelError(f"{path}: the resolution {config.resolution} is not a multiple of {PATCH}")
    if config.temporal_encoding_type not in TEMPORAL_ENCODINGS:
        raise ModelError(f"{path}: unknown temporal_encoding_type {config.temporal_encoding_type!r}")
    return config


def edge_of(fields: Mapping[str, object], path: Path) -> object:
    """Return the edge of the frames; `resolution` may be a pair. Raises ModelError for a rectangle."""
    given = fields.get("resolution", Config().resolution)
    if not isinstance(given, list):
        return given
    if len(given) != 2 or given[0] != given[1]:
        raise ModelError(f"{path}: the resolution {given} is not square; only squares are converted")
    return given[0]


def read_headers(path: Path) -> Iterator[tuple[str, StoredTensor]]:
    """(key, Tensor) of every tensor in the checkpoint's safetensors files. Raises ModelError."""
    for file in weight_files(path):
        yield from read_header(file)


def weight_files(path: Path) -> list[Path]:
    """Return the shards that the index names, or every safetensors file without one. Raises ModelError."""
    index = path / "model.safetensors.index.json"
    if not index.exists():
        files = sorted(path.glob("*.safetensors"))
        if not files:
            raise ModelError(f"{path} has no safetensors file")
        return files
    try:
        names: set[str] = set(json.loads(index.read_bytes())["weight_map"].values())
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(f"{index} is not a weight index: {error!r}") from error
    absent = sorted(name for name in names if not (path / name).exists())
    if absent:
        raise ModelError(f"{path} lacks {', '.join(absent)}, which its index names")
    return [path / name for name in sorted(names)]


def read_header(file: Path) -> Iterator[tuple[str, StoredTensor]]:
    """(key, Tensor) of every tensor in one safetensors file. Raises ModelError.

    The format: eight bytes with the header's length, a JSON header with `data_offsets`, the data.
    """
    total = file.stat().st_size
    try:
        with file.open("rb") as stream:
            (length,) = struct.unpack("<Q", stream.read(8))
            if length > min(HEADER_LIMIT, total - 8):
                raise ValueError(f"a header of {length} bytes in a file of {total}")
            header = json.loads(stream.read(length))
        for key, entry in header.items():
            if key != "__metadata__":
                yield key, _tensor(file, entry, 8 + length, total)
    except (struct.error, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(f"{file} is not a safetensors file: {error}") from error


def _tensor(file: Path, entry: dict[str, object], start: int, total: int) -> StoredTensor:
    tensor = msgspec.convert(entry, _Entry)
    begin, end = tensor.data_offsets
    size = prod(tensor.shape) * DTYPES[tensor.dtype].itemsize
    if not 0 <= begin <= end <= total - start or end - begin != size:
        raise ValueError(f"a tensor of {size} bytes at {begin} to {end} of {total - start}")
    return StoredTensor(file, tensor.dtype, tensor.shape, start + begin, size)


class _Entry(msgspec.Struct):
    dtype: str
    shape: tuple[int, ...]
    data_offsets: tuple[int, int]


def strip_prefix(tensors: dict[str, StoredTensor]) -> dict[str, StoredTensor]:
    """Return keys as the checkpoint's own code names them: training frameworks prefix `model.` or such."""
    ends = [key for key in tensors if key == "query_tokens" or key.endswith(".query_tokens")]
    prefix = ends[0].removesuffix("query_tokens") if len(ends) == 1 else ""
    return {key.removeprefix(prefix): tensor for key, tensor in tensors.items()}


def measure(tensors: dict[str, StoredTensor]) -> ModelSizes:
    """Return sizes from the shapes of the tensors. Raises ModelError if a needed tensor is missing."""

    def shape(key: str, dimensions: int) -> tuple[int, ...]:
        found = tensors[key].shape
        if len(found) != dimensions:
            raise ModelError(f"{key} has the shape {list(found)}, not {dimensions} dimensions")
        return found

    def count(before: str) -> int:
        return 1 + max(int(key[len(before) :].split(".")[0]) for key in tensors if key.startswith(before))

    vision, text = "visual_encoder.", "qformer.bert."
    try:
        layout = ModelSizes(
            vision_width=shape(f"{vision}patch_embed.proj.weight", 4)[0],
            vision_depth=count(f"{vision}blocks."),
            vision_hidden=shape(f"{vision}blocks.0.mlp.fc1.weight", 2)[0],
            text_width=shape("query_tokens", 3)[2],
            text_depth=count(f"{text}encoder.layer."),
            text_hidden=shape(f"{text}encoder.layer.0.intermediate.dense.weight", 2)[0],
            queries=shape("query_tokens", 3)[1],
            vocabulary=shape(f"{text}embeddings.word_embeddings.weight", 2)[0],
            positions=shape(f"{text}embeddings.position_embeddings.weight", 2)[0],
            dimension=shape("vision_proj.weight", 2)[0],
            stored_rows=shape(f"{vision}pos_embed", 3)[1],
            cross_layers=cross_layers(tensors),
        )
    except (KeyError, ValueError) as error:
        raise ModelError(f"the weights are not those of Cosmos-Embed1: no {error}") from error
    if layout.vision_width % VISION_HEAD or layout.text_width % TEXT_HEAD:
        raise ModelError(
            f"widths of {layout.vision_width} and {layout.text_width} are not multiples of the head sizes "
            f"{VISION_HEAD} and {TEXT_HEAD}"
        )
    if isqrt(layout.stored_rows - 1) ** 2 != layout.stored_rows - 1:
        raise ModelError(
            f"a position table with {layout.stored_rows} rows is not a class token and a square grid"
        )
    return layout


def cross_layers(tensors: dict[str, StoredTensor]) -> tuple[int, ...]:
    """Return the Q-Former layers for which the checkpoint has cross-attention."""
    before = "qformer.bert.encoder.layer."
    layers = {
        int(key[len(before) :].split(".")[0])
        for key in tensors
        if key.startswith(before) and ".crossattention." in key
    }
    return tuple(sorted(layers))


def expected_shapes(layout: ModelSizes) -> dict[str, tuple[int, ...]]:
    """Return every tensor that the model needs, except the temporal table, whose name varies."""
    width, hidden = layout.vision_width, layout.vision_hidden
    shapes: dict[str, tuple[int, ...]] = {
        "query_tokens": (1, layout.queries, layout.text_width),
        "visual_encoder.cls_token": (1, 1, width),
        "visual_encoder.pos_embed": (1, layout.stored_rows, width),
        "visual_encoder.patch_embed.proj.weight": (width, 3, PATCH, PATCH),
        "visual_encoder.patch_embed.proj.bias": (width,),
    }
    shapes |= _norm("ln_vision", width)
    for i in range(layout.vision_depth):
        block = f"visual_encoder.blocks.{i}"
        shapes |= _norm(f"{block}.norm1", width) | _norm(f"{block}.norm2", width)
        shapes |= _linear(f"{block}.attn.qkv", width, 3 * width) | _linear(f"{block}.attn.proj", width, width)
        shapes |= _linear(f"{block}.mlp.fc1", width, hidden) | _linear(f"{block}.mlp.fc2", hidden, width)
    return shapes | _qformer_shapes(layout)


def _qformer_shapes(layout: ModelSizes) -> dict[str, tuple[int, ...]]:
    width, hidden = layout.text_width, layout.text_hidden
    embeddings = "qformer.bert.embeddings"
    shapes: dict[str, tuple[int, ...]] = {
        f"{embeddings}.word_embeddings.weight": (layout.vocabulary, width),
        f"{embeddings}.position_embeddings.weight": (layout.positions, width),
    }
    shapes |= _norm(f"{embeddings}.LayerNorm", width)
    for i in range(layout.text_depth):
        layer = f"qformer.bert.encoder.layer.{i}"
        attentions = {"attention": width}
        if i in layout.cross_layers:
            attentions["crossattention"] = layout.vision_width
        for attention, read in attentions.items():
            shapes |= _linear(f"{layer}.{attention}.self.query", width, width)
            shapes |= _linear(f"{layer}.{attention}.self.key", read, width)
            shapes |= _linear(f"{layer}.{attention}.self.value", read, width)
            shapes |= _linear(f"{layer}.{attention}.output.dense", width, width)
            shapes |= _norm(f"{layer}.{attention}.output.LayerNorm", width)
        for branch in ("", "_query"):
            shapes |= _linear(f"{layer}.intermediate{branch}.dense", width, hidden)
            shapes |= _linear(f"{layer}.output{branch}.dense", hidden, width)
            shapes |= _norm(f"{layer}.output{branch}.LayerNorm", width)
    shapes |= _linear("vision_proj", width, layout.dimension)
    return shapes | _linear("text_proj", width, layout.dimension)


def _linear(key: str, inputs: int, outputs: int) -> dict[str, tuple[int, ...]]:
    return {f"{key}.weight": (outputs, inputs), f"{key}.bias": (outputs,)}


def _norm(key: str, width: int) -> dict[str, tuple[int, ...]]:
    return {f"{key}.weight": (width,), f"{key}.bias": (width,)}


def config_conflicts(config: Config, layout: ModelSizes) -> list[str]:
    """Return where `config.json` and the weights contradict each other."""
    pairs = {
        "embed_dim": (config.embed_dim, layout.dimension),
        "num_query_tokens": (config.num_query_tokens, layout.queries),
        "vocab_size": (config.vocab_size, layout.vocabulary),
    }
    conflicts = [
        f"{name} is {said} in config.json and {found} in the weights"
        for name, (said, found) in pairs.items()
        if said != found
    ]
    if config.max_txt_len > layout.positions:
        conflicts.append(f"max_txt_len is {config.max_txt_len}, with {layout.positions} text positions")
    if not layout.cross_layers:
        conflicts.append("no layer of the Q-Former reads the video")
    return conflicts


def _listing(what: str, keys: list[str], shown: int = 8) -> list[str]:
    if not keys:
        return []
    rest = f" and {len(keys) - shown} more" if len(keys) > shown else ""
    return [f"{what}: {', '.join(keys[:shown])}{rest}"]
