"""The vision encoder: EVA-ViT with all tokens kept and no final norm."""

import torch
from torch import nn
from torch.nn import functional

HEAD = 88
PATCH = 14


class PatchEmbed(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.proj = nn.Conv2d(3, width, PATCH, PATCH)

    def forward(self, x):
        return self.proj(x).flatten(2).transpose(1, 2)


class Attention(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x):
        batch, tokens, width = x.shape
        qkv = self.qkv(x).reshape(batch, tokens, 3, width // HEAD, HEAD).permute(2, 0, 3, 1, 4)
        x = functional.scaled_dot_product_attention(*qkv.unbind(0))
        return self.proj(x.transpose(1, 2).reshape(batch, tokens, width))


class Mlp(nn.Module):
    def __init__(self, width, hidden):
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, x):
        return self.fc2(functional.gelu(self.fc1(x)))


class Block(nn.Module):
    def __init__(self, width, hidden):
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=1e-6)
        self.attn = Attention(width)
        self.norm2 = nn.LayerNorm(width, eps=1e-6)
        self.mlp = Mlp(width, hidden)

    def forward(self, x):
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class VisionEncoder(nn.Module):
    def __init__(self, width, depth, hidden, stored_grid):
        super().__init__()
        self.patch_embed = PatchEmbed(width)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = nn.Parameter(torch.zeros(1, stored_grid**2 + 1, width))
        self.blocks = nn.ModuleList(Block(width, hidden) for _ in range(depth))
        self.stored_grid = stored_grid

    def positions(self, grid):
        if grid == self.stored_grid:
            return self.pos_embed
        first, square = self.pos_embed[:, :1], self.pos_embed[:, 1:]
        square = square.reshape(1, self.stored_grid, self.stored_grid, -1).permute(0, 3, 1, 2)
        square = functional.interpolate(square, size=(grid, grid), mode="bicubic", align_corners=False)
        return torch.cat([first, square.permute(0, 2, 3, 1).flatten(1, 2)], dim=1)

    def forward(self, x):
        grid = x.shape[-1] // PATCH
        x = self.patch_embed(x)
        x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], dim=1) + self.positions(grid)
        for block in self.blocks:
            x = block(x)
        return x
