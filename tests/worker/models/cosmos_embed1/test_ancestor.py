"""The parts that Cosmos-Embed1 took from BLIP-2, by the transformers library, with the same weights."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.worker.models.cosmos_embed1.conftest import MakeClips, Miniature, NumpyModel
from worker.models.cosmos_embed1.recipe import CLIP_MEAN, CLIP_STD

torch = pytest.importorskip("torch", reason="torch and transformers are not installed")
transformers = pytest.importorskip("transformers", reason="torch and transformers are not installed")


def load(module: Any, weights: dict[str, NDArray[Any]]) -> Any:
    """Every parameter of the module gets a value of the same shape; buffers may stay."""
    state = {key: torch.from_numpy(np.asarray(value, np.float32)) for key, value in weights.items()}
    report = module.load_state_dict(state, strict=False)
    assert not report.unexpected_keys
    assert not set(report.missing_keys) & {name for name, _ in module.named_parameters()}
    return module.eval()


def renamed(weights: dict[str, NDArray[Any]], before: str, after: str) -> dict[str, NDArray[Any]]:
    return {
        after + key.removeprefix(before): value for key, value in weights.items() if key.startswith(before)
    }


@pytest.fixture(scope="module")
def plain(miniature: Miniature, numpy_model: type[NumpyModel]) -> NumpyModel:
    return numpy_model(miniature, CLIP_MEAN, CLIP_STD)


def blip2_vision(miniature: Miniature) -> Any:
    size, weights = miniature.size, miniature.weights
    config = transformers.Blip2VisionConfig(
        hidden_size=size.vision_width,
        intermediate_size=size.vision_hidden,
        num_hidden_layers=size.vision_depth,
        num_attention_heads=size.vision_width // 88,
        image_size=14 * size.stored_grid,
        patch_size=14,
        hidden_act="gelu",
    )
    assert config.layer_norm_eps == 1e-6
    given = {
        "embeddings.class_embedding": weights["visual_encoder.cls_token"],
        "embeddings.position_embedding": weights["visual_encoder.pos_embed"],
        "post_layernorm.weight": np.ones(size.vision_width),
        "post_layernorm.bias": np.zeros(size.vision_width),
        **renamed(weights, "visual_encoder.patch_embed.proj.", "embeddings.patch_embedding."),
    }
    parts = {
        "norm1": "layer_norm1",
        "norm2": "layer_norm2",
        "attn.qkv": "self_attn.qkv",
        "attn.proj": "self_attn.projection",
        "mlp.fc1": "mlp.fc1",
        "mlp.fc2": "mlp.fc2",
    }
    for i in range(size.vision_depth):
        for ours, theirs in parts.items():
            given |= renamed(weights, f"visual_encoder.blocks.{i}.{ours}.", f"encoder.layers.{i}.{theirs}.")
    return load(transformers.Blip2VisionModel(config), given)


def test_the_vision_encoder(miniature: Miniature, plain: NumpyModel, clips: MakeClips) -> None:
    picture = clips(1)[0, 0]
    mean, std = np.array(CLIP_MEAN)[:, None, None], np.array(CLIP_STD)[:, None, None]
    pixels = torch.from_numpy(((picture / 255 - mean) / std).astype(np.float32))[None]
    with torch.no_grad():
        output = blip2_vision(miniature)(pixels, interpolate_pos_encoding=True, output_hidden_states=True)
    # The last hidden state before the final norm, which Cosmos-Embed1 has not.
    np.testing.assert_allclose(output.hidden_states[-1][0].numpy(), plain.frame(picture), atol=2e-5)


def blip2_qformer(miniature: Miniature) -> Any:
    size, weights = miniature.size, miniature.weights
    config = transformers.Blip2QFormerConfig(
        hidden_size=size.text_width,
        num_hidden_layers=size.text_depth,
        num_attention_heads=size.text_width // 64,
        intermediate_size=size.text_hidden,
        encoder_hidden_size=size.vision_width,
        cross_attention_frequency=2,
        use_qformer_text_input=True,
    )
    assert config.layer_norm_eps == 1e-12
    given = renamed(weights, "qformer.bert.embeddings.LayerNorm.", "layernorm.")
    for i in range(size.text_depth):
        ours, theirs = f"qformer.bert.encoder.layer.{i}.", f"encoder.layer.{i}."
        for kind in ("attention", "crossattention"):
            given |= renamed(weights, f"{ours}{kind}.self.", f"{theirs}{kind}.attention.")
            given |= renamed(weights, f"{ours}{kind}.output.", f"{theirs}{kind}.output.")
        for part in ("intermediate", "output", "intermediate_query", "output_query"):
            given |= renamed(weights, f"{ours}{part}.", f"{theirs}{part}.")
    return load(transformers.Blip2QFormerModel(config), given)


def unit(x: NDArray[Any]) -> NDArray[Any]:
    result: NDArray[Any] = x / np.linalg.norm(x)
    return result


def test_the_queries_of_the_qformer(miniature: Miniature, plain: NumpyModel, clips: MakeClips) -> None:
    given = clips(1)[0]
    frames = [plain.frame(picture) for picture in given]
    table = miniature.weights["temporal_encoding.temporal_table_xyz"]
    tokens = [plain.norm(x, "ln_vision", 1e-5) + row for x, row in zip(frames, table, strict=True)]
    read = torch.from_numpy(np.concatenate(tokens).astype(np.float32))[None]
    with torch.no_grad():
        states = (
            blip2_qformer(miniature)(
                query_embeds=torch.from_numpy(miniature.weights["query_tokens"]), encoder_hidden_states=read
            )
            .last_hidden_state[0]
            .numpy()
        )
    vector = unit(plain.linear(states, "vision_proj").mean(0))
    np.testing.assert_allclose(vector, plain.read(frames), atol=2e-6)


def test_the_text_branch_of_the_qformer(miniature: Miniature, plain: NumpyModel) -> None:
    ids = np.random.default_rng(0).integers(1, 30000, 9)
    bert = "qformer.bert.embeddings"
    words = miniature.weights[f"{bert}.word_embeddings.weight"][ids]
    embedded = torch.from_numpy(words + miniature.weights[f"{bert}.position_embeddings.weight"][:9])[None]
    mask = torch.ones(1, 9, dtype=torch.int64)
    mask[0, 7:] = 0
    with torch.no_grad():
        states = (
            blip2_qformer(miniature)(query_embeds=embedded, query_length=0, attention_mask=mask)
            .last_hidden_state[0]
            .numpy()
        )
    vector = unit(plain.linear(states[0], "text_proj"))
    np.testing.assert_allclose(vector, plain.text(ids, mask[0].numpy()), atol=2e-6)
