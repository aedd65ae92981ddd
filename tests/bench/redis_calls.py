"""A script's round trip to Redis: through redis-py's pool, and over the multiplexed connection.

Asked one after the other with a pause in between, as it is in a service that waits for requests: code that
has not run for some milliseconds runs at half its speed or less.
"""

import argparse
import asyncio
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import uvloop

from shared.redis.connection import Redis, connect
from shared.settings import load
from tests.support import RedisServer, valkey_binary

SOURCE = "for i = 1, 10 do redis.call('HGET', 'a', 'b') end return 1"
ARGUMENTS = ["x" * 3000, *range(20)]
PAUSE = 0.003


async def measured(call: Callable[[], Awaitable[object]], count: int) -> tuple[float, float]:
    """Median microseconds of a call: elapsed, and of this process's CPU."""
    elapsed, cpu = [], []
    for _ in range(count):
        await asyncio.sleep(PAUSE)
        began, used = time.perf_counter(), time.process_time()
        await call()
        elapsed.append(time.perf_counter() - began)
        cpu.append(time.process_time() - used)
    return statistics.median(elapsed) * 1e6, statistics.median(cpu) * 1e6


async def run(redis: Redis, count: int) -> None:
    """Ask both ways in turn, three times, and print the figures."""
    pooled = redis.register_script(SOURCE)
    sha = await redis.script_load(SOURCE)

    async def over_pool() -> object:
        return await pooled(keys=["a"], args=ARGUMENTS)

    async def multiplexed() -> object:
        return await redis.multiplexed.call("EVALSHA", sha, 1, "a", *ARGUMENTS)

    for turn in range(3):
        figures = {call.__name__: await measured(call, count) for call in (over_pool, multiplexed)}
        slow, fast = figures["over_pool"], figures["multiplexed"]
        print(
            f"run {turn}: pool {slow[0]:.0f} us ({slow[1]:.0f} CPU), multiplexed {fast[0]:.0f} us "
            f"({fast[1]:.0f} CPU), ratio {slow[0] / fast[0]:.1f} ({slow[1] / fast[1]:.1f} CPU)"
        )


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calls", type=int, default=500)
    count = parser.parse_args().calls
    with tempfile.TemporaryDirectory() as folder:
        server = RedisServer(valkey_binary(), Path(folder))
        server.start()
        redis = connect(load({"REDIS_URL": server.url}))
        try:
            await run(redis, count)
        finally:
            await redis.aclose()
            server.stop()


if __name__ == "__main__":
    uvloop.run(main())
