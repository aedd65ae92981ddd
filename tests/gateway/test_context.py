import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

import msgspec
import pytest
from starlette.requests import Request as HttpRequest

from gateway.context import ClientGone, Context, FailedEnd, collect, json, require_service, until_gone
from shared import keys
from shared.errors import ServerBusy, Unavailable
from shared.fleet import Worker
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


def connection() -> tuple[HttpRequest, asyncio.Queue[dict[str, Any]]]:
    """A request whose client the test plays."""
    messages: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
    return HttpRequest({"type": "http", "method": "POST", "headers": []}, messages.get), messages


async def state(redis: Redis) -> str:
    value: Any = await redis.hget(keys.request("r1"), "state")
    return value.decode() if value else "gone"


async def is_cancelled(redis: Redis) -> bool:
    return await state(redis) == "cancelled"


# Waiting for an answer --------------------------------------------------------------------------------


async def test_an_answer_is_passed_on() -> None:
    request, _ = connection()

    async def answer() -> str:
        await asyncio.sleep(0)
        return "done"

    assert await until_gone(request, answer()) == "done"


async def test_an_error_is_passed_on() -> None:
    request, _ = connection()

    async def answer() -> None:
        raise ServerBusy("full")

    with pytest.raises(ServerBusy, match="full"):
        await until_gone(request, answer())


async def test_a_client_that_goes_cancels_its_answer() -> None:
    request, messages = connection()
    cancelled = asyncio.Event()

    async def answer() -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            await asyncio.sleep(0)
            cancelled.set()
            raise

    waiting = asyncio.create_task(until_gone(request, answer()))
    messages.put_nowait({"type": "http.request", "body": b"more", "more_body": False})
    await asyncio.sleep(0.01)
    assert not waiting.done()
    messages.put_nowait({"type": "http.disconnect"})
    with pytest.raises(ClientGone):
        await waiting
    assert cancelled.is_set()


async def test_an_answer_that_is_ready_wins_over_a_client_that_goes() -> None:
    request, messages = connection()
    ready: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    ready.set_result(7)
    messages.put_nowait({"type": "http.disconnect"})
    assert await until_gone(request, ready) == 7


async def test_whoever_waits_may_be_cancelled() -> None:
    request, _ = connection()
    ended = asyncio.Event()

    async def answer() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    waiting = asyncio.create_task(until_gone(request, answer()))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert ended.is_set()


# Requests ---------------------------------------------------------------------------------------------


async def test_results_are_collected_in_the_order_of_chunks(
    ctx: Context, redis: Redis, settings: Settings
) -> None:
    publisher = Publisher(redis, settings)
    heard: list[int] = []
    async with ctx.submitted(REQUEST, [JOB]) as (created, follower):
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
    async with ctx.submitted(REQUEST, [JOB]) as (_, follower):
        await finish(ctx.redis, ctx.settings, REQUEST, end)
        await collect(follower, 2)


@pytest.mark.parametrize("error", [RuntimeError("x"), asyncio.CancelledError(), TimeoutError()])
async def test_leaving_early_cancels_the_request(ctx: Context, redis: Redis, error: BaseException) -> None:
    with pytest.raises(type(error)):
        async with ctx.submitted(REQUEST, [JOB]):
            raise error
    await until(lambda: is_cancelled(redis))


async def test_a_detached_request_goes_on(ctx: Context, redis: Redis) -> None:
    with pytest.raises(RuntimeError):
        async with ctx.submitted(REQUEST, [JOB], detached=True):
            raise RuntimeError
    await asyncio.sleep(0.05)
    assert await state(redis) == "running"


async def test_a_request_that_was_refused_is_not_cancelled(redis: Redis, settings: Settings) -> None:
    ctx = Context(load({"REDIS_URL": settings.redis_url or "", "RTEMBED_TEXT_QUEUE_LIMIT": "1"}))
    async with ctx.running():
        with pytest.raises(ServerBusy):
            async with ctx.submitted(REQUEST, [JOB, JOB]):
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
    async with ctx.submitted(REQUEST, [JOB], detached=detached):
        await asyncio.Event().wait()


async def _paused(redis: Redis) -> bool:
    clients: Any = await redis.client_list()
    return any("b" in client["flags"] for client in clients)


async def test_stopping_waits_for_cancellations_under_way(redis: Redis, settings: Settings) -> None:
    ctx = Context(settings)
    async with ctx.running():
        with pytest.raises(RuntimeError):
            async with ctx.submitted(REQUEST, [JOB]):
                raise RuntimeError
    assert await is_cancelled(redis)


# The service ------------------------------------------------------------------------------------------


async def test_without_a_worker_nothing_is_accepted(ctx: Context) -> None:
    with pytest.raises(Unavailable, match="no worker is running"):
        require_service(ctx)


async def test_with_a_ready_worker_requests_are_accepted(worker: Worker, ctx: Context) -> None:
    await ctx.view.refresh()
    require_service(ctx)


def test_json_is_what_it_says() -> None:
    class Thing(msgspec.Struct):
        text: str

    answer = json(Thing("ü"), 202)
    assert (answer.status_code, answer.body) == (202, '{"text":"ü"}'.encode())
    assert answer.headers["content-type"] == "application/json"
