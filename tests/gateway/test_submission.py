import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

import pytest

from gateway.context import Context
from gateway.submission import FailedEnd, collect
from shared import keys
from shared.errors import ServerBusy
from shared.jobs import TextJob
from shared.redis.connection import Redis
from shared.requests import CANCELLED, Request, failed, finish
from shared.results import End, Result
from shared.settings import Settings, load
from tests.support import until
from worker.publish.publisher import Publisher

JOB = TextJob(request="r1", texts=["a", "b"])
REQUEST = Request(id="r1", lane="text", planned=2)


@pytest.fixture
async def ctx(redis: Redis, settings: Settings) -> AsyncIterator[Context]:
    made = Context(settings)
    async with made.running():
        yield made


async def state(redis: Redis) -> str:
    value: Any = await redis.hget(keys.request("r1"), "state")
    return value.decode() if value else "gone"


async def is_cancelled(redis: Redis) -> bool:
    return await state(redis) == "cancelled"


async def test_results_are_collected_in_the_order_of_chunks(
    ctx: Context, redis: Redis, settings: Settings
) -> None:
    publisher = Publisher(redis, settings)
    heard: list[int] = []
    async with ctx.submitter.submitted(REQUEST, [JOB]) as (created, follower):
        assert abs((await redis.time())[0] - created) <= 5
        await publisher.publish(JOB, [Result(chunk=1, vector=b"1111")])
        await publisher.publish(JOB, [Result(chunk=0, vector=b"0000")])
        found = await collect(follower, 2, lambda result: heard.append(result.chunk))
    assert [(r.chunk, r.vector) for r in found] == [(0, b"0000"), (1, b"1111")]
    assert heard == [1, 0]
    assert await state(redis) == "done"


async def test_an_end_with_an_error_is_the_answers(ctx: Context, redis: Redis) -> None:
    with pytest.raises(FailedEnd, match="no film") as caught:
        await _ended(ctx, failed("no film", "InvalidFile", 400))
    assert (caught.value.code, caught.value.status) == ("InvalidFile", 400)
    assert await state(redis) == "failed"


async def test_a_request_that_was_cancelled_by_another_hand_fails(
    ctx: Context,
) -> None:
    with pytest.raises(FailedEnd, match="the request was cancelled") as caught:
        await _ended(ctx, CANCELLED)
    assert (caught.value.code, caught.value.status) == ("InternalServerError", 500)


async def _ended(ctx: Context, end: End) -> None:
    async with ctx.submitter.submitted(REQUEST, [JOB]) as (_, follower):
        await finish(ctx.redis, ctx.settings, REQUEST, end)
        await collect(follower, 2)


@pytest.mark.parametrize("error", [RuntimeError("x"), asyncio.CancelledError(), TimeoutError()])
async def test_leaving_early_cancels_the_request(ctx: Context, redis: Redis, error: BaseException) -> None:
    with pytest.raises(type(error)):
        async with ctx.submitter.submitted(REQUEST, [JOB]):
            raise error
    await until(lambda: is_cancelled(redis))


async def test_a_detached_request_goes_on(ctx: Context, redis: Redis) -> None:
    with pytest.raises(RuntimeError):
        async with ctx.submitter.submitted(REQUEST, [JOB], detached=True):
            raise RuntimeError
    await asyncio.sleep(0.05)
    assert await state(redis) == "running"


async def test_a_request_that_was_refused_is_not_cancelled(redis: Redis, settings: Settings) -> None:
    ctx = Context(load({"REDIS_URL": settings.redis_url or "", "RTEMBED_TEXT_QUEUE_LIMIT": "1"}))
    async with ctx.running():
        with pytest.raises(ServerBusy):
            async with ctx.submitter.submitted(REQUEST, [JOB, JOB]):
                pytest.fail("accepted")
    assert await state(redis) == "gone"


@pytest.mark.parametrize("detached", [False, True])
async def test_a_submission_that_is_cut_short_leaves_no_work_behind(
    ctx: Context, redis: Redis, detached: bool
) -> None:
    """The caller is cancelled while Redis has accepted the request but not told so yet."""
    slow = asyncio.create_task(_submit(ctx, detached=detached))
    await until(lambda: _paused(redis))
    slow.cancel()
    with suppress(asyncio.CancelledError):
        await slow
    await redis.client_unpause()
    await until(lambda: is_cancelled(redis))


async def _submit(ctx: Context, *, detached: bool) -> None:
    await ctx.redis.client_pause(5000, all=False)  # writes wait
    async with ctx.submitter.submitted(REQUEST, [JOB], detached=detached):
        await asyncio.Event().wait()


async def _paused(redis: Redis) -> bool:
    clients: Any = await redis.client_list()
    return any("b" in client["flags"] for client in clients)


async def test_stopping_waits_for_cancellations_under_way(redis: Redis, settings: Settings) -> None:
    ctx = Context(settings)
    async with ctx.running():
        with pytest.raises(RuntimeError):
            async with ctx.submitter.submitted(REQUEST, [JOB]):
                raise RuntimeError
    assert await is_cancelled(redis)
