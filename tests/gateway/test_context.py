from collections.abc import AsyncIterator

import pytest

from gateway.context import Context
from shared.errors import Unavailable
from shared.fleet import Worker
from shared.redis.connection import Redis
from shared.settings import Settings


@pytest.fixture
async def ctx(redis: Redis, settings: Settings) -> AsyncIterator[Context]:
    made = Context(settings)
    async with made.running():
        yield made


async def test_without_a_worker_nothing_is_accepted(ctx: Context) -> None:
    with pytest.raises(Unavailable, match="no worker is running"):
        ctx.require_service()


async def test_with_a_ready_worker_requests_are_accepted(worker: Worker, ctx: Context) -> None:
    await ctx.view.refresh()
    ctx.require_service()
