"""Cut work into batches: texts of similar length together, smaller batches when GPU memory runs out."""

from collections.abc import Callable, Iterable, Sequence
from math import prod

import structlog

from shared.errors import EngineError
from worker.models.embedding_engine import Vectors

log = structlog.get_logger(__name__)

PATIENCE = 64
"""Batches in a row that must fit before larger ones are tried again."""
MOST_TOKENS = 4096
"""Tokens of one call, padding included: 32 texts of 128 tokens."""
GRAPH_TEXTS = (1, 2, 4, 8)
GRAPH_TOKENS = (8, 16, 32, 64, 128)
MOST_GRAPH_TOKENS = 512
"""Tokens of a batch that has a graph, padding included. With PyTorch on an H200, 64 texts of 128 tokens take
no longer than one, which is all launch time (tests/bench/results/gpu-h200): this much padding costs less."""

Shape = tuple[int, int]
"""(texts, tokens) of a batch."""


def text_runs(
    lengths: Sequence[int],
    most_texts: int,
    most_tokens: int = MOST_TOKENS,
    *,
    call_cost: float = float("inf"),
) -> list[list[int]]:
    """Cut texts of these `lengths` (tokens) into runs of at most `most_texts` texts and, padded to their
    longest, `most_tokens` tokens; a text longer than that gets its own run. A longer text also starts a new
    run if it would pad the shorter ones by more than `call_cost` tokens, the cost of another call. Each run
    lists the indexes of its texts; every index is in exactly one run."""
    runs: list[list[int]] = []
    run: list[int] = []
    longest = 0
    for index in sorted(range(len(lengths)), key=lengths.__getitem__):
        length = lengths[index]
        full = len(run) == most_texts or (len(run) + 1) * length > most_tokens
        if run and (full or len(run) * (length - longest) > call_cost):
            runs.append(run)
            run = []
        run.append(index)
        longest = length
    return [*runs, run] if run else runs


def graph_shapes(most_texts: int, most_tokens: int) -> list[Shape]:
    """Return the batches that get a CUDA graph, the largest first: up to 8 texts of any length."""
    lengths = {min(tokens, most_tokens) for tokens in GRAPH_TOKENS}
    shapes = [(texts, tokens) for texts in GRAPH_TEXTS if texts <= most_texts for tokens in lengths]
    return sorted((shape for shape in shapes if prod(shape) <= MOST_GRAPH_TOKENS), reverse=True)


def smallest_holding(shapes: Iterable[Shape], texts: int, tokens: int) -> Shape | None:
    """Return the smallest of `shapes` that holds the batch; None if none does."""
    return min((s for s in shapes if s[0] >= texts and s[1] >= tokens), key=prod, default=None)


class Batches:
    """Cuts work into batches of at most `limit`, which halves when memory runs out or the engine fails on a
    whole batch, and grows back later."""

    def __init__(self, most: int) -> None:
        self.limit = most
        self._most = most
        self._fitted = 0

    def run(self, count: int, call: Callable[[int, int], Vectors]) -> list[Vectors]:
        """Return the results of `call(start, end)` for consecutive parts of 0 to `count`.

        `call` raises EngineError for a batch that is too large, DeviceMemoryShort if memory is the reason.
        This method raises them only for a batch of one.
        """
        done: list[Vectors] = []
        start = 0
        while start < count:
            end = min(count, start + self.limit)
            try:
                done.append(call(start, end))
            except EngineError as error:
                self._shrink(end - start, error)
            else:
                self._grow()
                start = end
        return done

    def _shrink(self, size: int, error: EngineError) -> None:
        self._fitted = 0
        if size == 1:
            raise type(error)(f"a batch of one fails: {error.message}") from error
        self.limit = size // 2
        log.warning("batch failed: smaller batches", batch_size=self.limit, error=error.message)

    def _grow(self) -> None:
        self._fitted += 1
        if self.limit < self._most and self._fitted >= PATIENCE:
            self._fitted = 0
            self.limit = min(self._most, 2 * self.limit)
            log.info("larger batches again", batch_size=self.limit)
