"""The configuration of a miniature Cosmos-Embed1. The real one has the sizes as constants in its code."""

from transformers import PretrainedConfig


class CosmosEmbed1Config(PretrainedConfig):
    model_type = "cosmos-embed1"

    def __init__(self, embed_dim=768, resolution=224, num_video_frames=8, num_query_tokens=32, **kwargs):
        self.embed_dim = embed_dim
        self.resolution = resolution
        self.num_video_frames = num_video_frames
        self.num_query_tokens = num_query_tokens
        super().__init__(**kwargs)
