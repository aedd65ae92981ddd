"""Batches for one engine call: everything queued, up to the batch size, without waiting for more."""

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from functools import partial
from typing import Generic, TypeVar

import msgspec
import numpy as np
from numpy.typing import NDArray

from shared.errors import EngineError
from shared.telemetry.instruments import batch_size, engine_busy
from worker.models.embedding_engine import Vectors

Item = TypeVar("Item")


class Embedded(msgspec.Struct, frozen=True):
    """One item's vector, float32 [dimension], and when its batch ran, in `time.monotonic()` seconds."""

    vector: NDArray[np.float32]
    start: float
    end: float


def milliseconds(start: float, end: float) -> float:
    """Return the milliseconds from one moment in seconds to another, never negative."""
    return round(max(0.0, end - start) * 1000, 3)


@dataclass(eq=False)
class _Batch(Generic[Item]):
    """The items of one engine call, and when it ran, in `time.monotonic()` seconds."""

    queued: list[tuple[Item, "asyncio.Future[Embedded]"]] = field(default_factory=list)
    start: float = 0.0
    end: float = 0.0


class Batcher(Generic[Item]):
    """Feeds a blocking engine call with batches of at most `limit`; up to `at_once` of them run at a time,
    each on its own thread of `executor`.

    A free thread builds its batch from what is queued at that moment. The next call already waits in the
    executor, so the engine does not wait for the event loop between two batches.
    """

    def __init__(
        self,
        call: Callable[[Sequence[Item]], Vectors],
        limit: int,
        executor: Executor,
        modality: str = "video",
        *,
        at_once: int = 1,
    ) -> None:
        self._running: dict[int, float] = {}
        """When each running batch began, by its thread."""
        self._labels = {"modality": modality}
        self._call = call
        self._limit = limit
        self._executor = executor
        self._calls = 2 * at_once
        self._queue: deque[tuple[Item, asyncio.Future[Embedded]]] = deque()
        self._waiting: set[_Batch[Item]] = set()
        """Batches that no thread has started to build."""
        self._taking = threading.Lock()
        self._wake = asyncio.Event()

    @property
    def began(self) -> float | None:
        """When the oldest running batch began, in `time.monotonic()` seconds; None between batches.

        Includes batches whose callers have all gone.
        """
        return min(self._running.copy().values(), default=None)

    def embed(self, item: Item) -> "asyncio.Future[Embedded]":
        """Return the vector of `item`, or raise what the engine raised for its batch. An item that is
        cancelled before its batch starts is not computed."""
        future: asyncio.Future[Embedded] = asyncio.get_running_loop().create_future()
        self._queue.append((item, future))
        self._wake.set()
        return future

    async def run(self) -> None:
        """Run batches until cancelled."""
        seats = asyncio.Semaphore(self._calls)
        async with asyncio.TaskGroup() as calls:
            while True:
                await seats.acquire()
                while len(self._queue) <= len(self._waiting) * self._limit:
                    self._wake.clear()
                    await self._wake.wait()
                batch: _Batch[Item] = _Batch()
                self._waiting.add(batch)
                task = calls.create_task(self._embed(batch))
                task.add_done_callback(partial(self._done, batch, seats))

    def _done(self, batch: _Batch[Item], seats: asyncio.Semaphore, _: object) -> None:
        self._waiting.discard(batch)
        seats.release()

    async def _embed(self, batch: _Batch[Item]) -> None:
        loop = asyncio.get_running_loop()
        try:
            vectors = await loop.run_in_executor(self._executor, self._timed_call, batch)
            if len(vectors) != len(batch.queued):
                raise EngineError(
                    f"the engine gave {len(vectors)} vectors for a batch of {len(batch.queued)}"
                )
        except Exception as error:  # every error goes to the callers
            for _, future in batch.queued:
                if not future.done():
                    future.set_exception(error)
        else:
            for (_, future), vector in zip(batch.queued, vectors, strict=True):
                if not future.done():
                    future.set_result(Embedded(vector, batch.start, batch.end))
        if batch.queued:
            batch_size.record(len(batch.queued), self._labels)
            engine_busy.add(batch.end - batch.start, self._labels)

    def _take(self, batch: _Batch[Item]) -> None:
        """Build the batch. Only read futures here: this is not their thread."""
        with self._taking:
            self._waiting.discard(batch)
            while self._queue and len(batch.queued) < self._limit:
                item, future = self._queue.popleft()
                if not future.done():
                    batch.queued.append((item, future))

    def _timed_call(self, batch: _Batch[Item]) -> Vectors:
        self._take(batch)
        if not batch.queued:
            return np.empty((0, 0), np.float32)
        thread = threading.get_ident()
        self._running[thread] = batch.start = time.monotonic()
        try:
            return self._call([item for item, _ in batch.queued])
        finally:
            batch.end = time.monotonic()
            del self._running[thread]
