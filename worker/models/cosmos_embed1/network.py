"""The two branches of Cosmos-Embed1 as ONNX graphs: EVA-ViT-g and the Q-Former of BLIP-2.

Q-Former: J. Li et al., "BLIP-2" (2023). Vision encoder: Y. Fang et al., "EVA" (2023). The temporal table
comes from L. Qian et al., "Momentor" (2024); its neighbour propagation cancels out in the forward pass.
"""

from collections.abc import Sequence

import numpy as np
from onnx import TensorProto

from worker.models.cosmos_embed1.checkpoint import PATCH, TEXT_HEAD, VISION_HEAD, Checkpoint
from worker.models.cosmos_embed1.graph import Floats, Graph, Precision, Value
from worker.models.cosmos_embed1.positions import resize_positions
from worker.models.cosmos_embed1.recipe import Recipe

QFORMER = "qformer.bert"
FLOAT = int(TensorProto.FLOAT)


class GraphWriter:
    """Builds branches from a checkpoint's tensors. Values are fp32 between the blocks, and products run in
    the graph's precision."""

    def __init__(self, checkpoint: Checkpoint, precision: Precision) -> None:
        self.checkpoint = checkpoint
        self.layout = checkpoint.layout
        self.graph = Graph(precision)

    def tensor(self, key: str, precision: Precision = "fp32") -> Value:
        """Return a tensor of the checkpoint, unchanged."""
        shape = self.checkpoint.tensors[key].shape
        return self.graph.weight(key, shape, lambda: self.checkpoint.read(key), precision)

    def product(self, x: Value, key: str) -> Value:
        """x @ weight.T, in the precision of x."""
        outputs, inputs = self.checkpoint.tensors[f"{key}.weight"].shape

        def read() -> Floats:
            return self.checkpoint.read(f"{key}.weight").T

        weight = self.graph.weight(f"{key}.weight.T", (inputs, outputs), read, x.precision)
        return self.graph.op("MatMul", x, weight)

    def linear(self, x: Value, key: str) -> Value:
        """x @ weight.T + bias, in the precision of x."""
        return self.graph.op("Add", self.product(x, key), self.tensor(f"{key}.bias", x.precision))

    def norm(self, x: Value, key: str, epsilon: float) -> Value:
        """Layer norm over the last axis, fp32."""
        scale, bias = self.tensor(f"{key}.weight"), self.tensor(f"{key}.bias")
        return self.graph.op("LayerNormalization", self.graph.cast(x, "fp32"), scale, bias, epsilon=epsilon)

    def products_in(self, x: Value) -> Value:
        """x in the precision of the products."""
        return self.graph.cast(x, self.graph.precision)

    def residual(self, x: Value, change: Value) -> Value:
        """x + change, fp32: over dozens of layers a 16-bit sum would drift, and could overflow."""
        return self.graph.op("Add", x, self.graph.cast(change, "fp32"))

    def attention(
        self, q: Value, k: Value, v: Value, *, heads: int, size: int, mask: Value | None = None
    ) -> Value:
        """Multi-head attention over [B, S, heads * size], the softmax in fp32. `mask` is added to the scores.

        Written as single operators: TensorRT builds ONNX's Attention only if it has one kernel for it. From
        this form, casts included, it makes the same fused kernel if it has one.
        """
        graph = self.graph
        scale = graph.number(size**-0.5, q.precision)
        queries = graph.op("Mul", self.by_head(q, heads, [0, 2, 1, 3]), scale)
        scores = graph.op("MatMul", queries, self.by_head(k, heads, [0, 2, 3, 1]))
        scores = graph.cast(scores, "fp32")
        if mask:
            scores = graph.op("Add", scores, mask)
        weights = graph.cast(graph.op("Softmax", scores, axis=-1), v.precision)
        context = graph.op("MatMul", weights, self.by_head(v, heads, [0, 2, 1, 3]))
        joined = graph.op("Transpose", context, perm=[0, 2, 1, 3])
        return graph.reshape(joined, 0, 0, heads * size)

    def by_head(self, x: Value, heads: int, order: list[int]) -> Value:
        """[B, S, heads * size] as [B, S, heads, size], its axes in `order`."""
        return self.graph.op("Transpose", self.graph.reshape(x, 0, 0, heads, -1), perm=order)

    def feed_forward(self, x: Value, inner: str, outer: str) -> Value:
        """outer(gelu(inner(x))), with the exact GELU."""
        return self.linear(self.graph.op("Gelu", self.linear(x, inner), approximate="none"), outer)

    def unit(self, x: Value) -> Value:
        """x / max(|x|, 1e-12) over the last axis, fp32."""
        graph = self.graph
        length = Value(graph.node("ReduceL2", [x.name, graph.integers(-1)], keepdims=1), "fp32")
        return graph.op("Div", x, graph.op("Max", length, graph.number(1e-12)))

    def attend(self, x: Value, read: Value, key: str, recipe: Recipe, mask: Value | None = None) -> Value:
        """Return an attention of the Q-Former with its sum and norm: fp32, of the shape of x."""
        source = self.products_in(read)
        context = self.attention(
            self.linear(self.products_in(x), f"{key}.self.query"),
            self.linear(source, f"{key}.self.key"),
            self.linear(source, f"{key}.self.value"),
            heads=self.layout.text_heads,
            size=TEXT_HEAD,
            mask=mask,
        )
        change = self.linear(context, f"{key}.output.dense")
        return self.norm(self.residual(x, change), f"{key}.output.LayerNorm", recipe.text_epsilon)

    def mean(self, x: Value) -> Value:
        """Return the mean over the second of three axes, fp32."""
        return Value(self.graph.node("ReduceMean", [x.name, self.graph.integers(1)], keepdims=0), "fp32")

    def first(self, x: Value) -> Value:
        """[B, S, width] -> [B, width], the first of each row."""
        return Value(self.graph.node("Gather", [x.name, self.graph.integer(0)], axis=1), x.precision)


class VideoNetwork(GraphWriter):
    """`videos` uint8 [batch, frames, 3, R, R] -> `video_embeddings` float32 [batch, dimension].

    `frames` is the model's number, or 1 for a picture that stands for all of them: then the vision encoder
    runs once for it, and the sum with the temporal table repeats its tokens.
    """

    def build(self, recipes: Sequence[Recipe]) -> Graph:
        """Return the graph for the first recipe. Further ones, which must share its pixel constants, give
        further outputs `video_embeddings_1` ... at little cost."""
        graph, resolution = self.graph, self.checkpoint.config.resolution
        videos = graph.input("videos", TensorProto.UINT8, ["batch", "frames", 3, resolution, resolution])
        tokens = self.vision_encoder(videos, recipes[0])
        clips = self.clips(videos, tokens)
        for i, recipe in enumerate(recipes):
            if recipe.pixels != recipes[0].pixels:
                raise ValueError("recipes of one graph must share their pixel constants")
            states = self.queries(videos, self.with_time(clips, recipe), recipe)
            name = f"video_embeddings_{i}" if i else "video_embeddings"
            graph.output(self.head(states, recipe), name, ["batch", self.layout.dimension])
        return graph

    def vision_encoder(self, videos: str, recipe: Recipe) -> Value:
        """Tokens of every frame: fp32 [batch * frames, 1 + grid * grid, width]."""
        x = self.patches(videos, recipe)
        for i in range(self.layout.vision_depth):
            block = f"visual_encoder.blocks.{i}"
            x = self.residual(x, self.self_attention(x, block, recipe))
            h = self.products_in(self.norm(x, f"{block}.norm2", recipe.vision_epsilon))
            x = self.residual(x, self.feed_forward(h, f"{block}.mlp.fc1", f"{block}.mlp.fc2"))
        return x

    def patches(self, videos: str, recipe: Recipe) -> Value:
        """Return the patch convolution with the pixel constants folded in, the class token and the positions.

        fp32, because the folding makes the kernel small; it is under a thousandth of the encoder's work.
        """
        graph, resolution, grid = self.graph, self.checkpoint.config.resolution, self.checkpoint.grid
        kernel, table = folded_patches(self.checkpoint, recipe)
        # The cast comes first because TensorRT cannot reshape uint8.
        pixels = Value(graph.node("Cast", [videos], to=FLOAT), "fp32")
        frames = graph.reshape(pixels, -1, 3, resolution, resolution)
        weight = graph.constant("patches", kernel)
        x = graph.op("Conv", frames, weight, kernel_shape=[PATCH, PATCH], strides=[PATCH, PATCH])
        flat = graph.reshape(x, 0, self.layout.vision_width, grid * grid)
        rows = graph.op("Transpose", flat, perm=[0, 2, 1])
        with_class = Value(graph.node("Pad", [rows.name, graph.integers(0, 1, 0, 0, 0, 0)]), "fp32")
        return graph.op("Add", with_class, graph.constant("positions", table))

    def self_attention(self, x: Value, block: str, recipe: Recipe) -> Value:
        """Return the first half of a block, without the sum."""
        layout = self.layout
        h = self.products_in(self.norm(x, f"{block}.norm1", recipe.vision_epsilon))
        qkv = self.linear(h, f"{block}.attn.qkv")
        parts = self.graph.nodes_with("Split", [qkv.name], 3, axis=-1, num_outputs=3)
        q, k, v = (Value(part, qkv.precision) for part in parts)
        return self.linear(
            self.attention(q, k, v, heads=layout.vision_heads, size=VISION_HEAD), f"{block}.attn.proj"
        )

    def clips(self, videos: str, tokens: Value) -> Value:
        """Tokens by clip and frame: [batch, frames, rows, width]."""
        graph, rows = self.graph, self.checkpoint.grid**2 + 1
        counts = graph.node("Shape", [videos], start=0, end=2)
        shape = graph.node("Concat", [counts, graph.integers(rows, self.layout.vision_width)], axis=0)
        return Value(graph.node("Reshape", [tokens.name, shape]), tokens.precision)

    def with_time(self, clips: Value, recipe: Recipe) -> Value:
        """Return what the Q-Former reads, one frame after the other: [batch, 8 * rows, width]."""
        graph, layout, frames = self.graph, self.layout, self.checkpoint.config.num_video_frames
        key = self.checkpoint.temporal_key
        table = graph.weight(
            "temporal",
            (frames, 1, layout.vision_width),
            lambda: self.checkpoint.read(key).reshape(frames, 1, layout.vision_width),
            "fp32",
        )
        if recipe.temporal == "before_norm":
            clips = graph.op("Add", clips, table)
        clips = self.norm(clips, "ln_vision", recipe.norm_epsilon)
        if recipe.temporal == "after_norm":
            clips = graph.op("Add", clips, table)
        return self.products_in(graph.reshape(clips, 0, -1, layout.vision_width))

    def queries(self, videos: str, tokens: Value, recipe: Recipe) -> Value:
        """Return the learned queries after the Q-Former: fp32 [batch, queries, width]."""
        epsilon = recipe.text_epsilon
        x = self.norm(self.tensor("query_tokens"), f"{QFORMER}.embeddings.LayerNorm", epsilon)
        for i in range(self.layout.text_depth):
            layer = f"{QFORMER}.encoder.layer.{i}"
            x = self.attend(x, x, f"{layer}.attention", recipe)
            if i == self.layout.cross_layers[0]:  # until here the queries are the same for every clip
                x = self.for_every_clip(videos, x)
            if i in self.layout.cross_layers:
                x = self.attend(x, tokens, f"{layer}.crossattention", recipe)
            h = self.feed_forward(
                self.products_in(x), f"{layer}.intermediate_query.dense", f"{layer}.output_query.dense"
            )
            x = self.norm(self.residual(x, h), f"{layer}.output_query.LayerNorm", epsilon)
        return x

    def for_every_clip(self, videos: str, x: Value) -> Value:
        """[1, queries, width] -> [batch, queries, width]."""
        graph = self.graph
        batch = graph.node("Shape", [videos], start=0, end=1)
        shape = graph.node("Concat", [batch, graph.integers(1, 1)], axis=0)
        return Value(graph.node("Expand", [x.name, shape]), x.precision)

    def head(self, states: Value, recipe: Recipe) -> Value:
        """fp32 [batch, queries, width] -> unit vectors fp32 [batch, dimension]."""
        if recipe.pooling == "first":
            return self.unit(self.linear(self.first(states), "vision_proj"))
        if recipe.pooling == "mean_of_unit":
            vectors = self.unit(self.linear(states, "vision_proj"))
            return self.unit(self.mean(vectors))
        return self.unit(self.linear(self.mean(states), "vision_proj"))


class TextNetwork(GraphWriter):
    """`input_ids`, `attention_mask` int64 [batch, tokens] -> `text_embeddings` float32 [batch, dimension]."""

    def build(self, recipe: Recipe) -> Graph:
        """Return the graph."""
        graph = self.graph
        ids = graph.input("input_ids", TensorProto.INT64, ["batch", "tokens"])
        mask = graph.input("attention_mask", TensorProto.INT64, ["batch", "tokens"])
        x = self.embeddings(ids, recipe)
        added = self.added_mask(mask)
        for i in range(self.layout.text_depth):
            layer = f"{QFORMER}.encoder.layer.{i}"
            x = self.attend(x, x, f"{layer}.attention", recipe, added)
            h = self.feed_forward(self.products_in(x), f"{layer}.intermediate.dense", f"{layer}.output.dense")
            x = self.norm(self.residual(x, h), f"{layer}.output.LayerNorm", recipe.text_epsilon)
        vector = self.unit(self.linear(self.first(x), "text_proj"))
        graph.output(vector, "text_embeddings", ["batch", self.layout.dimension])
        return graph

    def embeddings(self, ids: str, recipe: Recipe) -> Value:
        """Embeddings of words and positions: fp32 [batch, tokens, width]."""
        graph, key = self.graph, f"{QFORMER}.embeddings"
        words = self.tensor(f"{key}.word_embeddings.weight", graph.precision)
        x = graph.cast(Value(graph.node("Gather", [words.name, ids]), words.precision), "fp32")
        table = self.tensor(f"{key}.position_embeddings.weight")
        length = graph.node("Shape", [ids], start=1, end=2)
        positions = graph.node("Slice", [table.name, graph.integers(0), length, graph.integers(0)])
        return self.norm(
            graph.op("Add", x, Value(positions, "fp32")), f"{key}.LayerNorm", recipe.text_epsilon
        )

    def added_mask(self, mask: str) -> Value:
        """0 where there is a token and -10000 where there is padding: fp32 [batch, 1, 1, tokens]."""
        graph = self.graph
        kept = Value(graph.node("Cast", [mask], to=FLOAT), "fp32")
        added = graph.op("Mul", graph.op("Sub", graph.number(1.0), kept), graph.number(-10000.0))
        return Value(graph.node("Unsqueeze", [added.name, graph.integers(1, 2)]), "fp32")


def folded_patches(checkpoint: Checkpoint, recipe: Recipe) -> tuple[Floats, Floats]:
    """Return the patch convolution for pixels in 0..255, and what is added to its output.

    float32 [width, 3, 14, 14], and [1, 1 + grid * grid, width] which holds the class token, the positions
    enlarged to the configured resolution, the bias and the subtracted mean.
    """
    weight = checkpoint.read("visual_encoder.patch_embed.proj.weight").astype(np.float64)
    std, mean = np.array(recipe.std), np.array(recipe.mean)
    kernel = weight / (255 * std)[:, None, None]
    bias = checkpoint.read("visual_encoder.patch_embed.proj.bias")
    bias = bias - np.einsum("wchv,c->w", weight, mean / std)
    table = resize_positions(checkpoint.read("visual_encoder.pos_embed")[0], checkpoint.grid)
    first = checkpoint.read("visual_encoder.cls_token")[0] + table[:1]
    rows = np.concatenate([first, table[1:] + bias])[None]
    return kernel.astype(np.float32), rows.astype(np.float32)
