"""A worker process that stores results and forwards messages until it is killed."""

import asyncio
import struct

from shared.assets import Asset
from shared.bus.errorbus import ErrorBus
from shared.chunks import SECOND, Chunk
from shared.fleet import ServedModel
from shared.jobs import VideoJob
from shared.redis.connection import connect
from shared.results import Result
from shared.settings import Settings
from worker.publish.forward import Forwarder
from worker.publish.publisher import Publisher

MODEL = ServedModel(
    id="m", owned_by="o", api_type="a", dimension=1, frames=1, supports_text=True, verified=True, created=0
)


def work(settings: Settings, request: str, chunks: int, pause: float) -> None:
    """Publish the chunks of the request that are not done yet, one by one, and go on forwarding for ever."""
    asyncio.run(_work(settings, request, chunks, pause))


async def _work(settings: Settings, request: str, chunks: int, pause: float) -> None:
    redis = connect(settings)
    job = VideoJob(
        request=request,
        assets=[Asset(id="file", path="/film.mp4")],
        chunks=[Chunk(n, n * SECOND, (n + 1) * SECOND) for n in range(chunks)],
    )
    publisher = Publisher(redis, settings)
    publisher.model = MODEL
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(Forwarder(redis, settings, "mortal", ErrorBus(redis, settings)).run())
        done = await publisher.chunks_done(job)
        for chunk in job.chunks:
            if chunk.index not in done:
                vector = struct.pack("<f", chunk.index)
                await publisher.publish(job, [Result(chunk=chunk.index, vector=vector)])
                await asyncio.sleep(pause)
