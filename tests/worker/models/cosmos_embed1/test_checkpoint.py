import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import save_file

from shared.errors import ModelError
from tests.worker.models.cosmos_embed1.conftest import MakeCheckpoint, Miniature
from worker.models.cosmos_embed1.checkpoint import (
    Config,
    ModelSizes,
    expected_shapes,
    is_checkpoint,
    open_checkpoint,
    read_header,
)

REAL = ModelSizes(
    vision_width=1408,
    vision_depth=39,
    vision_hidden=6144,
    text_width=768,
    text_depth=12,
    text_hidden=3072,
    queries=32,
    vocabulary=30523,
    positions=512,
    dimension=768,
    stored_rows=1025,
    cross_layers=(0, 2, 4, 6, 8, 10),
)

Change = Callable[[dict[str, NDArray[Any]]], object]
Damaged = Callable[..., Path]
"""Change weights in place, and sizes by name, to the folder of such a checkpoint."""


@pytest.fixture
def damaged(tmp_path: Path, make_checkpoint: MakeCheckpoint) -> Damaged:
    """damaged(change): a checkpoint whose weights `change` has altered, in one file."""

    def make(change: Change, **sizes: Any) -> Path:
        made: Miniature = make_checkpoint(tmp_path / "checkpoint", **sizes)
        weights = {key: value.astype(np.float32) for key, value in made.weights.items()}
        change(weights)
        for path in made.path.glob("*.safetensors*"):
            path.unlink()
        save_file(
            {key: np.array(value, order="C") for key, value in weights.items()}, made.path / "m.safetensors"
        )
        return made.path

    return make


def test_sizes_are_read_from_the_weights(miniature: Miniature) -> None:
    checkpoint = open_checkpoint(miniature.path)
    assert checkpoint.layout.cross_layers == (0, 2)
    assert (checkpoint.layout.vision_width, checkpoint.layout.vision_heads) == (176, 2)
    assert (checkpoint.layout.text_width, checkpoint.layout.text_heads) == (128, 2)
    assert (checkpoint.layout.vision_depth, checkpoint.layout.text_depth) == (2, 4)
    assert checkpoint.grid == 3
    assert checkpoint.temporal_key == "temporal_encoding.temporal_table_xyz"
    assert checkpoint.stored_dtype == "BF16"


@pytest.mark.parametrize("dtype", ["BF16", "F16", "F32"])
def test_tensors_are_what_the_safetensors_library_wrote(
    tmp_path: Path, make_checkpoint: MakeCheckpoint, dtype: str
) -> None:
    made = make_checkpoint(tmp_path / "c", dtype=dtype)
    checkpoint = open_checkpoint(made.path)
    for key in ("query_tokens", "visual_encoder.blocks.1.mlp.fc2.weight", "text_proj.bias", "logit_scale"):
        values = checkpoint.read(key)
        assert values.dtype == np.float32
        np.testing.assert_array_equal(values, made.weights[key])


def test_the_real_model_has_the_published_number_of_tensors_and_parameters() -> None:
    shapes = expected_shapes(REAL)
    # 820 in the published index, less 12 that embeddings do not need (the language-model head 7,
    # itm_head 2, position_ids, logit_scale, logit_bias) and the temporal table.
    assert len(shapes) == 820 - 12 - 1
    parameters = sum(int(np.prod(shape)) for shape in shapes.values()) + 8 * 1408
    # 1,198,007,162 stored, of which 24,094,838 are the language-model head, 1,538 itm_head and 2 logits.
    assert parameters == 1_198_007_162 - 24_094_838 - 1_538 - 2


def test_any_choice_of_cross_attention_layers_is_taken(
    tmp_path: Path, make_checkpoint: MakeCheckpoint
) -> None:
    made = make_checkpoint(tmp_path / "c", cross_layers=(1, 3))
    assert open_checkpoint(made.path).layout.cross_layers == (1, 3)


@pytest.mark.parametrize("shape", [(1, 8, 176), (8, 1, 1, 176), (1408,)])
def test_the_temporal_table_is_found_whatever_its_name_and_shape(
    damaged: Damaged, shape: tuple[Any, ...]
) -> None:
    def change(weights: dict[str, NDArray[Any]]) -> None:
        table = weights.pop("temporal_encoding.temporal_table_xyz")
        weights["temporal_encoding.other"] = table.reshape(shape)

    assert open_checkpoint(damaged(change)).temporal_key == "temporal_encoding.other"


def test_a_common_prefix_of_the_keys_is_removed(damaged: Damaged) -> None:
    def change(weights: dict[str, NDArray[Any]]) -> None:
        for key in list(weights):
            weights[f"model.{key}"] = weights.pop(key)

    assert open_checkpoint(damaged(change)).layout.vision_width == 176


def test_what_embeddings_do_not_need_may_be_absent(damaged: Damaged) -> None:
    def change(weights: dict[str, NDArray[Any]]) -> None:
        for key in list(weights):
            if key.startswith(("qformer.cls.", "itm_head.", "logit_")) or key.endswith("position_ids"):
                del weights[key]

    open_checkpoint(damaged(change))


def drop(*keys: str) -> Change:
    return lambda weights: [weights.pop(key) for key in keys]


def put(key: str, shape: tuple[int, ...]) -> Change:
    return lambda weights: weights.update({key: np.zeros(shape, np.float32)})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            drop("ln_vision.bias", "visual_encoder.blocks.0.norm1.weight"),
            r"missing: ln_vision\.bias, visual_encoder\.blocks\.0\.norm1\.weight",
        ),
        (
            put("visual_encoder.blocks.0.attn.qkv.lora_A", (4, 176)),
            r"unexpected: visual_encoder\.blocks\.0\.attn\.qkv\.lora_A$",
        ),
        (
            put("visual_encoder.blocks.1.mlp.fc1.bias", (399,)),
            r"of another shape: visual_encoder\.blocks\.1\.mlp\.fc1\.bias \[399\], not \[400\]",
        ),
        (
            drop("temporal_encoding.temporal_table_xyz"),
            r"0 tensors could be the temporal table \(1408 numbers\), not one",
        ),
        (
            put("temporal_encoding.second", (8, 176)),
            r"unexpected: .*temporal_encoding\.second.*2 tensors could be the temporal table",
        ),
        (
            drop(*[f"visual_encoder.blocks.0.{part}" for part in ("norm2.weight", "norm2.bias")]),
            r"missing: visual_encoder\.blocks\.0\.norm2\.weight",
        ),
        (drop("query_tokens"), r"not those of Cosmos-Embed1: no 'query_tokens'"),
        (put("vision_proj.weight", (40, 128)), r"embed_dim is 48 in config\.json and 40 in the weights"),
        (put("query_tokens", (1, 6, 128)), r"num_query_tokens is 5 in config\.json and 6"),
        (put("query_tokens", (5, 128)), r"query_tokens has the shape \[5, 128\], not 3 dimensions"),
        (put("visual_encoder.pos_embed", (1, 6, 176)), r"6 rows is not a class token and a square grid"),
        (put("visual_encoder.patch_embed.proj.weight", (170, 3, 14, 14)), r"widths of 170 and 128"),
    ],
)
def test_weights_that_do_not_fit_are_named(damaged: Damaged, change: Change, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        open_checkpoint(damaged(change))


def test_a_block_missing_in_the_middle_is_named(damaged: Damaged) -> None:
    def change(weights: dict[str, NDArray[Any]]) -> None:
        for key in list(weights):
            if key.startswith("visual_encoder.blocks.0."):
                del weights[key]

    with pytest.raises(ModelError, match=r"no 'visual_encoder\.blocks\.0\.mlp\.fc1\.weight'"):
        open_checkpoint(damaged(change))


def test_many_missing_keys_are_counted(damaged: Damaged) -> None:
    def change(weights: dict[str, NDArray[Any]]) -> None:
        for key in list(weights):
            if ".norm1." in key or ".norm2." in key or "LayerNorm" in key:
                del weights[key]

    with pytest.raises(ModelError, match=r"missing: .* and \d+ more"):
        open_checkpoint(damaged(change))


def test_a_missing_shard_is_named(tmp_path: Path, make_checkpoint: MakeCheckpoint) -> None:
    made = make_checkpoint(tmp_path / "c")
    (made.path / "model-00002-of-00003.safetensors").unlink()
    with pytest.raises(ModelError, match=r"lacks model-00002-of-00003\.safetensors, which its index names"):
        open_checkpoint(made.path)


@pytest.mark.parametrize("index", [b"{", b"[]", b'{"weight_map": 3}'])
def test_a_broken_index(tmp_path: Path, make_checkpoint: MakeCheckpoint, index: bytes) -> None:
    made = make_checkpoint(tmp_path / "c")
    (made.path / "model.safetensors.index.json").write_bytes(index)
    with pytest.raises(ModelError, match="is not a weight index"):
        open_checkpoint(made.path)


def test_a_truncated_shard_is_noticed(tmp_path: Path, make_checkpoint: MakeCheckpoint) -> None:
    made = make_checkpoint(tmp_path / "c")
    shard = made.path / "model-00003-of-00003.safetensors"
    with shard.open("r+b") as file:
        file.truncate(shard.stat().st_size - 1)
    with pytest.raises(
        ModelError, match=r"model-00003-of-00003\.safetensors is not a safetensors file: a tensor of"
    ):
        open_checkpoint(made.path)


def header(entry: Any) -> bytes:
    data = json.dumps({"x": entry}).encode()
    return struct.pack("<Q", len(data)) + data + bytes(16)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"PK\x03\x04 a zip, as PyTorch writes it",
        struct.pack("<Q", 2**60) + b"{}",
        struct.pack("<Q", 2) + b"[]",
        header({"dtype": "F32", "shape": [4], "data_offsets": [0, 15]}),
        header({"dtype": "F32", "shape": [4], "data_offsets": [8, 24]}),
        header({"dtype": "F32", "shape": [-4], "data_offsets": [0, 16]}),
        header({"dtype": "Q3", "shape": [4], "data_offsets": [0, 16]}),
        header({"dtype": "F32", "shape": [4]}),
    ],
)
def test_files_that_are_no_safetensors(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "x.safetensors"
    file.write_bytes(content)
    with pytest.raises(ModelError, match=r"x\.safetensors is not a safetensors file"):
        list(read_header(file))


def rewrite(path: Path, **changes: Any) -> None:
    config = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps({**config, **changes}))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"resolution": 225}, "resolution 225 is not a multiple of 14"),
        ({"resolution": 0}, "resolution 0 is not"),
        (
            {"resolution": "big"},
            r"config\.json is not valid: Expected `int`, got `str` - at `\$\.resolution`",
        ),
        ({"resolution": [224, 336]}, r"the resolution \[224, 336\] is not square"),
        ({"temporal_encoding_type": "rope"}, "unknown temporal_encoding_type 'rope'"),
        ({"max_txt_len": 65}, "max_txt_len is 65, with 64 text positions"),
        ({"vocab_size": 30522}, r"vocab_size is 30522 in config\.json and 30523"),
        ({"num_video_frames": 4}, "0 tensors could be the temporal table"),
    ],
)
def test_configurations_that_do_not_fit(
    tmp_path: Path, make_checkpoint: MakeCheckpoint, changes: dict[str, Any], message: str
) -> None:
    made = make_checkpoint(tmp_path / "c")
    rewrite(made.path, **changes)
    with pytest.raises(ModelError, match=message):
        open_checkpoint(made.path)


def test_a_resolution_may_be_a_pair(tmp_path: Path, make_checkpoint: MakeCheckpoint) -> None:
    made = make_checkpoint(tmp_path / "c")
    rewrite(made.path, resolution=[42, 42])
    assert open_checkpoint(made.path).config.resolution == 42


def test_defaults_are_those_of_the_checkpoints_own_code() -> None:
    assert (Config().embed_dim, Config().resolution, Config().num_video_frames) == (768, 224, 8)


def test_folders_that_are_no_checkpoint(tmp_path: Path, miniature: Miniature) -> None:
    assert is_checkpoint(miniature.path)
    assert not is_checkpoint(tmp_path)
    for text in ("{", "[]", '{"model_type": "llama"}'):
        (tmp_path / "config.json").write_text(text)
        assert not is_checkpoint(tmp_path)
    with pytest.raises(ModelError, match=r"config\.json does not exist"):
        open_checkpoint(tmp_path / "nowhere")
