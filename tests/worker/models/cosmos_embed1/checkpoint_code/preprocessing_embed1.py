"""Frames to pixels in 0..1, and texts to token ids."""

import torch
import torchvision.transforms.functional as transforms
from transformers import BatchFeature, ProcessorMixin


class CosmosEmbed1Processor(ProcessorMixin):
    attributes = ["tokenizer"]  # noqa: RUF012 - transformers looks for these
    valid_kwargs = ["resolution", "num_video_frames", "max_txt_len"]  # noqa: RUF012 - likewise
    tokenizer_class = ("BertTokenizer", "BertTokenizerFast")

    def __init__(self, tokenizer=None, resolution=224, num_video_frames=8, max_txt_len=128):
        self.resolution = resolution
        self.num_video_frames = num_video_frames
        self.max_txt_len = max_txt_len
        super().__init__(tokenizer)

    def __call__(self, videos=None, text=None, return_tensors="pt"):
        if videos is not None:
            return BatchFeature({"videos": self.pixels(torch.as_tensor(videos))})
        return self.tokenizer(
            text,
            padding="max_length",
            truncation=True,
            max_length=self.max_txt_len,
            return_token_type_ids=False,
            return_tensors=return_tensors,
        )

    def pixels(self, videos):
        batch, frames, channels = videos.shape[:3]
        assert channels == 3
        assert frames == self.num_video_frames
        size = (self.resolution, self.resolution)
        x = videos.flatten(0, 1).float()
        x = transforms.resize(x, list(size), antialias=True)
        return x.clamp(0, 255).round().unflatten(0, (batch, frames)) / 255
