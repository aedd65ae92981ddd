"""What a user would write instead of our queue: a task of arq or taskiq per chunk, which returns its vector.

`tests.bench.queues` runs it in an environment that has arq or taskiq, and none of our packages.
"""

import asyncio
import base64
import json
import os
import random
import resource
import sys
import time
from typing import Any

URL = os.environ.get("QUEUE_URL", "redis://127.0.0.1:6379/0")
VECTOR = random.Random(1).randbytes(4 * 768)
AT_ONCE = 10


def _result(chunk: dict[str, Any]) -> dict[str, Any]:
    """Return what our workers store of a chunk."""
    times = [chunk["start"] + n * 10**9 for n in range(8)]
    return {**chunk, "vector": VECTOR, "frame_times": times}


def _chunks(count: int) -> list[dict[str, Any]]:
    return [{"chunk": n, "start": n * 10**10, "end": (n + 1) * 10**10} for n in range(count)]


def _report(began: float, results: list[Any], count: int) -> None:
    seconds = time.perf_counter() - began
    assert sorted(result["chunk"] for result in results) == list(range(count))
    assert all(result["vector"] == VECTOR for result in results)
    used = resource.getrusage(resource.RUSAGE_SELF)
    print(json.dumps({"seconds": seconds, "client": used.ru_utime + used.ru_stime}))


async def embed_arq(_: dict[Any, Any], chunk: dict[str, Any]) -> dict[str, Any]:
    """Answer a chunk, as a task of arq."""
    return _result(chunk)


def arq_worker() -> None:
    """Serve arq's tasks until killed."""
    from arq.connections import RedisSettings  # type: ignore[import-not-found]
    from arq.worker import run_worker  # type: ignore[import-not-found]

    class Settings:
        functions = (embed_arq,)
        redis_settings = RedisSettings.from_dsn(URL)
        max_jobs = AT_ONCE
        poll_delay = 0.01  # its default of 0.5 s would be all there is to see

    run_worker(Settings)


async def arq_client(count: int) -> None:
    """Enqueue as many chunks and wait for their results."""
    from arq.connections import RedisSettings, create_pool

    pool = await create_pool(RedisSettings.from_dsn(URL))
    began = 0.0
    for batch in (_chunks(10), _chunks(count)):  # the first is a warm-up
        began = time.perf_counter()
        jobs = [await pool.enqueue_job("embed_arq", chunk) for chunk in batch]
        results = [await job.result(timeout=120, poll_delay=0.01) for job in jobs]
    _report(began, results, count)
    await pool.aclose()


def taskiq_broker() -> Any:
    """Return taskiq's broker over a Redis stream, with its results in Redis, and the task."""
    from taskiq_redis import RedisAsyncResultBackend, RedisStreamBroker  # type: ignore[import-not-found]

    broker = RedisStreamBroker(url=URL).with_result_backend(
        RedisAsyncResultBackend(redis_url=URL, result_ex_time=3600)
    )

    async def embed(chunk: dict[str, Any]) -> dict[str, Any]:
        result = _result(chunk)
        result["vector"] = base64.b64encode(result["vector"]).decode()  # its results are JSON
        return result

    return broker, broker.register_task(embed, task_name="embed")


async def taskiq_client(count: int) -> None:
    """Enqueue as many chunks and wait for their results."""
    made, task = taskiq_broker()
    await made.startup()
    for batch in (_chunks(10), _chunks(count)):
        began = time.perf_counter()
        sent = [await task.kiq(chunk) for chunk in batch]
        results = [(await one.wait_result(check_interval=0.01, timeout=120)).return_value for one in sent]
        for result in results:
            result["vector"] = base64.b64decode(result["vector"])
    _report(began, results, count)
    await made.shutdown()


if os.environ.get("QUEUE_PEER") == "taskiq":  # `taskiq worker` looks for it here
    broker, _ = taskiq_broker()

if __name__ == "__main__":
    import uvloop

    what = sys.argv[1]
    if what == "arq-worker":
        uvloop.install()
        asyncio.set_event_loop(asyncio.new_event_loop())
        arq_worker()
    else:
        uvloop.run({"arq": arq_client, "taskiq": taskiq_client}[what](int(sys.argv[2])))
