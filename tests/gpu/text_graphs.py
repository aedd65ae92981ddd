"""Texts with CUDA graphs and without, on this machine's GPU: python -m tests.gpu.text_graphs MODEL

Ends with an error if a batch that should have a graph has none, or gives other vectors than a plain run.
"""

import os
import sys
import time
from typing import Any

import numpy as np

from shared import settings
from worker.compose import load
from worker.engine.batches import graph_shapes
from worker.models.cosmos_embed1.verification_samples import lowest_cosine
from worker.models.preparation_progress import silent

ROUNDS = 50
WORDS = [
    "a",
    "forklift",
    "moves",
    "two",
    "pallets",
    "while",
    "workers",
    "in",
    "red",
    "coats",
    "wait",
    "outside",
]
BATCHES = ((1, 4), (1, 12), (3, 12), (8, 12), (1, 100), (4, 100), (9, 12))
"""Texts and words of each. The last one has no graph."""


def batch(texts: int, words: int) -> list[str]:
    """Texts that differ."""
    return [" ".join(WORDS[(i + j) % len(WORDS)] for j in range(words)) for i in range(texts)]


def milliseconds(engine: Any, texts: list[str]) -> float:
    """The median of many calls."""
    took = []
    for _ in range(ROUNDS):
        began = time.perf_counter()
        engine.embed_text(texts)
        took.append(time.perf_counter() - began)
    return float(np.median(took)) * 1000


def main() -> None:
    chosen = settings.load({**os.environ, "RTEMBED_BACKEND": "cuda", "MODEL_PATH": sys.argv[1]})
    loaded = load(chosen, silent)
    engine: Any = loaded.engine
    wanted = graph_shapes(loaded.text_batch_size, loaded.info.max_text_tokens)
    missing = sorted(set(wanted) - set(engine.captured))
    print(f"CUDA graphs: {len(engine.captured)} of {len(wanted)}; missing: {missing or 'none'}")
    failed = bool(missing)
    session = engine._towers["text"]
    graphs = session.graphs
    print(f"{'texts':>6}{'words':>6}{'graph, ms':>11}{'plain, ms':>11}{'cosine':>10}")
    for texts, words in BATCHES:
        sample = batch(texts, words)
        replayed, vectors = milliseconds(engine, sample), engine.embed_text(sample)
        session.graphs = {}
        plain, others = milliseconds(engine, sample), engine.embed_text(sample)
        session.graphs = graphs
        cosine = lowest_cosine(vectors, others)
        failed |= cosine < 0.999
        print(f"{texts:6}{words:6}{replayed:11.3f}{plain:11.3f}{cosine:10.6f}", flush=True)
    engine.close()
    sys.exit(failed)


if __name__ == "__main__":
    main()
