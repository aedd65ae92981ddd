"""Batches for one engine call: whatever is queued, up to the batch size, without waiting for more."""

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
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


class Batcher(Generic[Item]):
    """Feeds a blocking engine call with batches of at most `limit`; `at_once` of them run at a time, each on
    a thread of `executor`."""

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
        """When each batch that runs began, by its thread."""
        self._seats = asyncio.Semaphore(at_once)
        self._labels = {"modality": modality}
        self._call = call
        self._limit = limit
        self._executor = executor
        self._queue: deque[tuple[Item, asyncio.Future[Embedded]]] = deque()
        self._wake = asyncio.Event()

    @property
    def began(self) -> float | None:
        """When the oldest batch that runs began, in `time.monotonic()` seconds; None between batches. A batch
        that nobody waits for any more runs, too."""
        return min(self._running.copy().values(), default=None)

    def embed(self, item: Item) -> "asyncio.Future[Embedded]":
        """The vector of `item`, or what the engine raised for its batch. An item whose future is cancelled
        before its batch starts is not computed."""
        future: asyncio.Future[Embedded] = asyncio.get_running_loop().create_future()
        self._queue.append((item, future))
        self._wake.set()
        return future

    async def run(self) -> None:
        """Run batches until cancelled."""
        async with asyncio.TaskGroup() as batches:
            while True:
                await self._seats.acquire()
                await self._wake.wait()
                batch = self._next_batch()
                if batch:
                    batches.create_task(self._embed_batch(batch))
                else:
                    self._seats.release()

    def _next_batch(self) -> list[tuple[Item, asyncio.Future[Embedded]]]:
        batch: list[tuple[Item, asyncio.Future[Embedded]]] = []
        while self._queue and len(batch) < self._limit:
            item, future = self._queue.popleft()
            if not future.done():
                batch.append((item, future))
        if not self._queue:
            self._wake.clear()
        return batch

    async def _embed_batch(self, batch: list[tuple[Item, asyncio.Future[Embedded]]]) -> None:
        start = time.monotonic()
        try:
            running = asyncio.get_running_loop().run_in_executor(
                self._executor, self._timed_call, [item for item, _ in batch]
            )
            batch_size.record(len(batch), self._labels)
            vectors = await running
            if len(vectors) != len(batch):
                raise EngineError(f"the engine gave {len(vectors)} vectors for a batch of {len(batch)}")
        except Exception as error:  # it belongs to the callers, whatever it was
            for _, future in batch:
                if not future.done():
                    future.set_exception(error)
        else:
            end = time.monotonic()
            for (_, future), vector in zip(batch, vectors, strict=True):
                if not future.done():
                    future.set_result(Embedded(vector, start, end))
        finally:
            self._seats.release()
            engine_busy.add(time.monotonic() - start, self._labels)

    def _timed_call(self, items: Sequence[Item]) -> Vectors:
        thread = threading.get_ident()
        self._running[thread] = time.monotonic()
        try:
            return self._call(items)
        finally:
            del self._running[thread]
