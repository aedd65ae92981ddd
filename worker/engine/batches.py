"""Batches that shrink when they are too large for the GPU."""

from collections.abc import Callable

import structlog

from shared.errors import EngineError
from worker.models.embedding_engine import Vectors

log = structlog.get_logger(__name__)

PATIENCE = 64
"""Batches that must fit, one after the other, before larger ones are tried again."""


class Batches:
    """Cuts work into batches of at most `limit`, which halves when memory runs out or the engine fails at a
    whole batch, and comes back later."""

    def __init__(self, most: int) -> None:
        self.limit = most
        self._most = most
        self._fitted = 0

    def run(self, count: int, call: Callable[[int, int], Vectors]) -> list[Vectors]:
        """What `call(start, end)` gives for consecutive parts of 0 to `count`.

        `call` raises EngineError for a batch that is too large, DeviceMemoryShort if memory is the reason; so
        does this for a single item.
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
