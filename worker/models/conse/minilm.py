"""all-MiniLM-L6-v2 as the text graph of a model directory, and sentences embedded by it."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

from shared.errors import ModelError
from worker.models.embedding_engine import Vectors
from worker.models.tokenizer import TextTokenizer

DIMENSION = 384
MAX_TOKENS = 128
BATCH = 50


def text_graph(source: Path) -> onnx.ModelProto:
    """`input_ids`, `attention_mask` int64 [B, S] -> `text_embeddings` float32 [B, 384]: the mean over the
    tokens of `source`'s last hidden state, at unit length (Reimers and Gurevych, "Sentence-BERT", EMNLP
    2019). Raises ModelError."""
    model = onnx.load(source)
    graph = model.graph
    found = ([value.name for value in graph.input], [value.name for value in graph.output])
    if found != (["input_ids", "attention_mask", "token_type_ids"], ["last_hidden_state"]):
        raise ModelError(f"{source} has the inputs and outputs {found}, which are not those of MiniLM")
    before = helper.make_node("Sub", ["input_ids", "input_ids"], ["token_type_ids"])
    after = [
        helper.make_node("Cast", ["attention_mask"], ["pool_mask"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["pool_mask", "pool_last"], ["pool_mask3"]),
        helper.make_node("Mul", ["last_hidden_state", "pool_mask3"], ["pool_tokens"]),
        # A sum: the number of tokens, which would make it the mean, cancels out at unit length.
        helper.make_node("ReduceSum", ["pool_tokens", "pool_sequence"], ["pool_sum"], keepdims=0),
        helper.make_node("LpNormalization", ["pool_sum"], ["text_embeddings"], axis=-1, p=2),
    ]
    nodes = [before, *graph.node, *after]
    inputs = [value for value in graph.input if value.name != "token_type_ids"]
    output = helper.make_tensor_value_info("text_embeddings", TensorProto.FLOAT, ["batch", DIMENSION])
    constants = [
        *graph.initializer,
        numpy_helper.from_array(np.array([-1]), "pool_last"),
        numpy_helper.from_array(np.array([1]), "pool_sequence"),
    ]
    wrapped = helper.make_graph(nodes, "minilm_text", inputs, [output], constants)
    return helper.make_model(
        wrapped, opset_imports=model.opset_import, ir_version=model.ir_version, producer_name="rt-embed"
    )


def embed_sentences(graph: Path, tokenizer: Path, sentences: Sequence[str]) -> Vectors:
    """Return float32 [len(sentences), 384]. Sentences of similar length share a batch to save padding."""
    tokenize = TextTokenizer(tokenizer, MAX_TOKENS)
    session = ort.InferenceSession(str(graph), providers=["CPUExecutionProvider"])
    order = sorted(range(len(sentences)), key=lambda i: len(sentences[i]))
    vectors = np.empty((len(sentences), DIMENSION), np.float32)
    for start in range(0, len(order), BATCH):
        batch = order[start : start + BATCH]
        input_ids, attention_mask = tokenize([sentences[i] for i in batch])
        feeds = {"input_ids": input_ids, "attention_mask": attention_mask}
        (vectors[batch],) = session.run(["text_embeddings"], feeds)
    return vectors
