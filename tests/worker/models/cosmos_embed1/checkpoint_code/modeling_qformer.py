"""The Q-Former: a BERT with a second feed-forward branch, and cross-attention in some layers, for queries."""

import math

import torch
from torch import nn
from torch.nn import functional
from transformers.modeling_utils import apply_chunking_to_forward

HEAD = 64


class SelfAttention(nn.Module):
    def __init__(self, width, read):
        super().__init__()
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(read, width)
        self.value = nn.Linear(read, width)

    def forward(self, x, read, mask):
        def heads(y):
            return y.unflatten(-1, (-1, HEAD)).transpose(1, 2)

        q, k, v = heads(self.query(x)), heads(self.key(read)), heads(self.value(read))
        scores = q @ k.transpose(-1, -2) / math.sqrt(HEAD)
        if mask is not None:
            scores = scores + mask
        return (scores.softmax(-1) @ v).transpose(1, 2).flatten(2)


class SumAndNorm(nn.Module):
    def __init__(self, inputs, width):
        super().__init__()
        self.dense = nn.Linear(inputs, width)
        self.LayerNorm = nn.LayerNorm(width, eps=1e-12)

    def forward(self, h, x):
        return self.LayerNorm(self.dense(h) + x)


class BertAttention(nn.Module):
    def __init__(self, width, read):
        super().__init__()
        self.self = SelfAttention(width, read)
        self.output = SumAndNorm(width, width)

    def forward(self, x, read, mask=None):
        return self.output(self.self(x, read, mask), x)


class Intermediate(nn.Module):
    def __init__(self, width, hidden):
        super().__init__()
        self.dense = nn.Linear(width, hidden)

    def forward(self, x):
        return functional.gelu(self.dense(x))


class BertLayer(nn.Module):
    def __init__(self, width, hidden, read):
        super().__init__()
        self.attention = BertAttention(width, width)
        if read:
            self.crossattention = BertAttention(width, read)
        self.reads = bool(read)
        self.intermediate = Intermediate(width, hidden)
        self.output = SumAndNorm(hidden, width)
        self.intermediate_query = Intermediate(width, hidden)
        self.output_query = SumAndNorm(hidden, width)

    def text(self, x, mask):
        x = self.attention(x, x, mask)
        return apply_chunking_to_forward(lambda part: self.output(self.intermediate(part), part), 0, 1, x)

    def queries(self, x, read):
        x = self.attention(x, x)
        if self.reads:
            x = self.crossattention(x, read)
        return self.output_query(self.intermediate_query(x), x)


class BertEmbeddings(nn.Module):
    def __init__(self, vocabulary, positions, width):
        super().__init__()
        self.word_embeddings = nn.Embedding(vocabulary, width)
        self.position_embeddings = nn.Embedding(positions, width)
        self.LayerNorm = nn.LayerNorm(width, eps=1e-12)
        self.register_buffer("position_ids", torch.arange(positions)[None])

    def forward(self, ids):
        positions = self.position_embeddings(self.position_ids[:, : ids.shape[1]])
        return self.LayerNorm(self.word_embeddings(ids) + positions)


class BertEncoder(nn.Module):
    def __init__(self, layers):
        super().__init__()
        self.layer = nn.ModuleList(layers)


class BertModel(nn.Module):
    def __init__(self, embeddings, encoder):
        super().__init__()
        self.embeddings = embeddings
        self.encoder = encoder


class Transform(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.dense = nn.Linear(width, width)
        self.LayerNorm = nn.LayerNorm(width)


class Predictions(nn.Module):
    def __init__(self, width, vocabulary):
        super().__init__()
        self.transform = Transform(width)
        self.decoder = nn.Linear(width, vocabulary)
        self.bias = nn.Parameter(torch.zeros(vocabulary))


class LanguageHead(nn.Module):
    def __init__(self, width, vocabulary):
        super().__init__()
        self.predictions = Predictions(width, vocabulary)


class QFormer(nn.Module):
    def __init__(self, size, vision_width, vocabulary):
        super().__init__()
        width = size["text_width"]
        layers = [
            BertLayer(width, size["text_hidden"], vision_width if i in size["cross_layers"] else 0)
            for i in range(size["text_depth"])
        ]
        embeddings = BertEmbeddings(vocabulary, size["positions"], width)
        self.bert = BertModel(embeddings, BertEncoder(layers))
        self.cls = LanguageHead(width, vocabulary)

    def text(self, ids, attention_mask):
        x = self.bert.embeddings(ids)
        mask = (1.0 - attention_mask[:, None, None, :].to(x.dtype)) * -10000.0
        for layer in self.bert.encoder.layer:
            x = layer.text(x, mask)
        return x

    def queries(self, query_tokens, read):
        x = self.bert.embeddings.LayerNorm(query_tokens)
        for layer in self.bert.encoder.layer:
            x = layer.queries(x, read)
        return x
