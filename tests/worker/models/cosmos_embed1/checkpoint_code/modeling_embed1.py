"""A miniature Cosmos-Embed1 in PyTorch, written from the model's description."""

from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional
from transformers import AutoModel, BertConfig, PreTrainedModel

from .configuration_embed1 import CosmosEmbed1Config
from .modeling_qformer import QFormer
from .modeling_vit import VisionEncoder

PIXEL_MEAN = (0.48145466, 0.4578275, 0.40821073)
PIXEL_STD = (0.26862954, 0.26130258, 0.27577711)


@dataclass
class VideoOutput:
    visual_proj: torch.Tensor


@dataclass
class TextOutput:
    text_proj: torch.Tensor


class NeighboringTokenPropagation(nn.Module):
    """t_k + adj_k - stopgradient(adj_k): the neighbours are there for training only."""

    def __init__(self, frames, width):
        super().__init__()
        self.temporal_table_xyz = nn.Parameter(torch.zeros(frames, width))

    def forward(self, x):
        table = self.temporal_table_xyz
        index = torch.arange(len(table))
        weights = 2.0 ** -(index[:, None] - index[None]).abs()
        weights.fill_diagonal_(0)
        adjacent = weights @ table
        return x + (table + adjacent - adjacent.detach())[None, :, None, :]


class CosmosEmbed1(PreTrainedModel):
    config_class = CosmosEmbed1Config

    def __init__(self, config):
        super().__init__(config)
        # The real code asks the hub for this by name, and so must work offline.
        bert = BertConfig.from_pretrained("bert-base-uncased")
        assert bert.layer_norm_eps == 1e-12
        size = config.miniature
        width = size["vision_width"]
        self.visual_encoder = VisionEncoder(
            width, size["vision_depth"], size["vision_hidden"], size["stored_grid"]
        )
        self.ln_vision = nn.LayerNorm(width)
        self.qformer = QFormer(size, width, config.vocab_size)
        self.query_tokens = nn.Parameter(torch.zeros(1, config.num_query_tokens, size["text_width"]))
        self.temporal_encoding = NeighboringTokenPropagation(config.num_video_frames, width)
        self.vision_proj = nn.Linear(size["text_width"], config.embed_dim)
        self.text_proj = nn.Linear(size["text_width"], config.embed_dim)
        self.itm_head = nn.Linear(size["text_width"], 2)
        self.logit_scale = nn.Parameter(torch.zeros(()))
        self.logit_bias = nn.Parameter(torch.zeros(()))
        self.post_init()

    def _init_weights(self, module):
        pass

    def get_video_embeddings(self, videos):
        batch, frames = videos.shape[:2]
        constants = {"dtype": videos.dtype, "device": videos.device}
        mean = torch.tensor(PIXEL_MEAN, **constants).view(3, 1, 1)
        std = torch.tensor(PIXEL_STD, **constants).view(3, 1, 1)
        tokens = self.visual_encoder(((videos - mean) / std).flatten(0, 1)).unflatten(0, (batch, frames))
        if self.config.miniature["temporal"] == "before_norm":
            tokens = self.ln_vision(self.temporal_encoding(tokens))
        else:
            tokens = self.temporal_encoding(self.ln_vision(tokens))
        states = self.qformer.queries(self.query_tokens.expand(batch, -1, -1), tokens.flatten(1, 2))
        return VideoOutput(functional.normalize(self.pool(states), dim=-1))

    def pool(self, states):
        vectors = self.vision_proj(states)
        pooling = self.config.miniature["pooling"]
        if pooling == "mean_of_unit":
            return functional.normalize(vectors, dim=-1).mean(1)
        return {"mean": vectors.mean(1), "first": vectors[:, 0], "last": vectors[:, -1]}[pooling]

    def get_text_embeddings(self, input_ids, attention_mask):
        states = self.qformer.text(input_ids, attention_mask)
        return TextOutput(functional.normalize(self.text_proj(states[:, 0]), dim=-1))


AutoModel.register(CosmosEmbed1Config, CosmosEmbed1)
