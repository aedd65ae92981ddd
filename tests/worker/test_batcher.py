import asyncio
import threading
from collections.abc import AsyncIterator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from shared.errors import EngineError
from tests.support import until, wait_for
from worker.batcher import Batcher, Embedded
from worker.models.embedding_engine import Vectors


class Engine:
    """Doubles numbers, one batch at a time, each when the test opens the gate."""

    def __init__(self) -> None:
        self.batches: list[list[float]] = []
        self.gate = threading.Event()
        self.gate.set()
        self.refuse: float | None = None

    def __call__(self, items: Sequence[float]) -> Vectors:
        self.batches.append(list(items))
        assert self.gate.wait(20)
        if self.refuse in items:
            raise EngineError(f"cannot double {self.refuse}")
        return np.array([[2 * item, item] for item in items], np.float32)


@pytest.fixture
def executor() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(1) as made:
        yield made


@pytest.fixture
def engine() -> Iterator[Engine]:
    made = Engine()
    yield made
    made.gate.set()


@pytest.fixture
async def batcher(engine: Engine, executor: ThreadPoolExecutor) -> AsyncIterator[Batcher[float]]:
    made: Batcher[float] = Batcher(engine, 3, executor)
    running = asyncio.create_task(made.run())
    yield made
    engine.gate.set()
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


def ask(batcher: Batcher[float], *items: float) -> list[asyncio.Future[Embedded]]:
    return [batcher.embed(item) for item in items]


async def test_each_caller_gets_its_own_vector(batcher: Batcher[float], engine: Engine) -> None:
    found = await asyncio.gather(*(batcher.embed(float(i)) for i in range(10)))
    assert [item.vector.tolist() for item in found] == [[2.0 * i, i] for i in range(10)]
    assert all(item.start <= item.end for item in found)


async def test_a_lone_item_waits_for_no_other(batcher: Batcher[float], engine: Engine) -> None:
    await batcher.embed(1)
    await batcher.embed(2)
    assert engine.batches == [[1], [2]]


async def test_what_queued_up_meanwhile_goes_together_up_to_the_limit(
    batcher: Batcher[float], engine: Engine
) -> None:
    engine.gate.clear()
    asked = ask(batcher, 0)
    await until(lambda: engine.batches == [[0]])
    asked += ask(batcher, 1, 2, 3, 4, 5, 6, 7)
    await asyncio.sleep(0)
    engine.gate.set()
    await asyncio.gather(*asked)
    assert engine.batches == [[0], [1, 2, 3], [4, 5, 6], [7]]


async def test_an_error_reaches_every_caller_of_its_batch_and_no_other(
    batcher: Batcher[float], engine: Engine
) -> None:
    engine.gate.clear()
    engine.refuse = 2
    asked = ask(batcher, 0)
    await until(lambda: engine.batches == [[0]])
    asked += ask(batcher, 1, 2, 3, 4)
    await asyncio.sleep(0)
    engine.gate.set()
    outcomes = await asyncio.gather(*asked, return_exceptions=True)
    assert [isinstance(outcome, EngineError) for outcome in outcomes] == [False, True, True, True, False]
    assert str(outcomes[1]) == "cannot double 2"


async def test_an_engine_that_breaks_its_contract_fails_its_callers(executor: ThreadPoolExecutor) -> None:
    """One vector too few: nobody may wait for ever, and the next batch is served."""
    answers = [np.zeros((1, 2), np.float32), np.ones((1, 2), np.float32)]
    gate = threading.Event()

    def call(items: Sequence[float]) -> Vectors:
        assert gate.wait(20)
        return answers.pop(0)

    batcher: Batcher[float] = Batcher(call, 2, executor)
    asked = ask(batcher, 1, 2)
    await asyncio.sleep(0)
    running = asyncio.create_task(batcher.run())
    gate.set()
    outcomes = await asyncio.wait_for(asyncio.gather(*asked, return_exceptions=True), 10)
    assert all(isinstance(outcome, EngineError) for outcome in outcomes), outcomes
    assert (await asyncio.wait_for(batcher.embed(3), 10)).vector.tolist() == [1, 1]
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


async def test_an_item_whose_caller_has_gone_is_not_computed(batcher: Batcher[float], engine: Engine) -> None:
    engine.gate.clear()
    first = ask(batcher, 0)
    await until(lambda: engine.batches == [[0]])
    later = ask(batcher, 1, 2, 3, 4)
    await asyncio.sleep(0)
    for task in later[:2]:
        task.cancel()
    engine.gate.set()
    await asyncio.gather(*first, *later[2:])
    assert engine.batches == [[0], [3, 4]]


async def test_a_caller_may_go_while_its_batch_runs(batcher: Batcher[float], engine: Engine) -> None:
    engine.gate.clear()
    asked = ask(batcher, 1)
    await until(lambda: engine.batches == [[1]])
    asked[0].cancel()
    engine.gate.set()
    assert (await batcher.embed(2)).vector.tolist() == [4, 2]


async def test_cancelling_all_that_is_queued_computes_nothing(
    batcher: Batcher[float], engine: Engine
) -> None:
    asked = ask(batcher, 1, 2, 3)
    await asyncio.sleep(0)
    for task in asked:
        task.cancel()
    await asyncio.gather(*asked, return_exceptions=True)
    assert (await batcher.embed(4)).vector.tolist() == [8, 4]
    assert engine.batches in ([[4]], [[1, 2, 3], [4]])


async def test_a_cancelled_run_leaves_what_is_queued_to_the_next(
    engine: Engine, executor: ThreadPoolExecutor
) -> None:
    batcher: Batcher[float] = Batcher(engine, 3, executor)
    running = asyncio.create_task(batcher.run())
    await batcher.embed(1)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    assert running.cancelled()
    asked = ask(batcher, 2, 3)
    await asyncio.sleep(0.02)
    assert engine.batches == [[1]]
    again = asyncio.create_task(batcher.run())
    await asyncio.gather(*asked)
    assert engine.batches == [[1], [2, 3]]
    again.cancel()
    await asyncio.gather(again, return_exceptions=True)


async def test_a_run_may_be_cancelled_in_the_middle_of_a_batch(
    engine: Engine, executor: ThreadPoolExecutor
) -> None:
    engine.gate.clear()
    batcher: Batcher[float] = Batcher(engine, 3, executor)
    running = asyncio.create_task(batcher.run())
    asked = ask(batcher, 1)
    await until(lambda: engine.batches == [[1]])
    running.cancel()
    await asyncio.wait_for(asyncio.gather(running, return_exceptions=True), 10)
    assert running.cancelled()
    engine.gate.set()
    asked[0].cancel()
    await asyncio.gather(*asked, return_exceptions=True)


@pytest.mark.parametrize("threads", [1, 3])
async def test_as_many_calls_at_a_time_as_there_are_threads(threads: int) -> None:
    inside, most = 0, 0
    full = threading.Barrier(threads)

    def call(items: Sequence[float]) -> Vectors:
        nonlocal inside, most
        inside += 1
        most = max(most, inside)
        full.wait(20)
        inside -= 1
        return np.zeros((len(items), 1), np.float32)

    with ThreadPoolExecutor(threads) as many:
        batcher: Batcher[float] = Batcher(call, 1, many, at_once=threads)
        running = asyncio.create_task(batcher.run())
        await asyncio.gather(*(batcher.embed(float(i)) for i in range(12)))
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
    assert most == threads


async def test_the_next_batch_does_not_wait_for_the_event_loop(
    batcher: Batcher[float], engine: Engine
) -> None:
    engine.gate.clear()
    asked = ask(batcher, 0)
    await until(lambda: engine.batches == [[0]])
    asked += ask(batcher, 1, 2)
    await asyncio.sleep(0.02)
    asked += ask(batcher, 3)  # it goes along, though the next call waits for its thread already
    engine.gate.set()
    wait_for(lambda: len(engine.batches) == 2)  # and blocks the loop
    assert engine.batches == [[0], [1, 2, 3]]
    await asyncio.gather(*asked)


async def test_an_item_that_is_cancelled_while_its_call_waits_is_not_computed(
    batcher: Batcher[float], engine: Engine
) -> None:
    engine.gate.clear()
    first = ask(batcher, 0)
    await until(lambda: engine.batches == [[0]])
    later = ask(batcher, 1, 2)
    await asyncio.sleep(0.02)
    later[0].cancel()
    engine.gate.set()
    await asyncio.gather(*first, later[1])
    assert engine.batches == [[0], [2]]


async def test_a_batch_that_nobody_waits_for_is_still_under_way(
    engine: Engine, executor: ThreadPoolExecutor
) -> None:
    """A worker that stops must see that its engine is stuck."""
    batcher: Batcher[float] = Batcher(engine, 3, executor)
    running = asyncio.create_task(batcher.run())
    engine.gate.clear()
    asked = ask(batcher, 1)
    await until(lambda: batcher.began is not None)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    assert batcher.began is not None
    engine.gate.set()
    await until(lambda: batcher.began is None)
    asked[0].cancel()
