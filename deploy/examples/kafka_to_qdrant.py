"""Write embedding messages from Kafka into Qdrant, each chunk once.

    KAFKA_BOOTSTRAP_SERVERS=localhost:9092 QDRANT=./qdrant python kafka_to_qdrant.py

QDRANT is the address of a server, or a folder in which Qdrant works without one. A point's id is made of the
asset or stream, the model and the times, so a message that comes twice changes nothing. With an argument it
ends after so many messages.
"""

import asyncio
import os
import sys
import uuid

from aiokafka import AIOKafkaConsumer
from qdrant_client import QdrantClient
from qdrant_client.models import Distance, PointStruct, VectorParams

from shared.messages.nv_pb2 import VisionLLM

TOPIC = os.environ.get("KAFKA_TOPIC", "mdx-embed")
COLLECTION = "chunks"


def point_of(value: bytes) -> PointStruct | None:
    """Return a message's point; None for a text, and for a chunk that failed."""
    message = VisionLLM.FromString(value)
    asset = message.info.get("streamId", "")
    if not asset or not message.llm.visionEmbeddings:
        return None
    payload = {
        "asset": asset,
        "model": message.llm.info.get("modelId", "") or message.version,
        "start": message.timestamp.ToJsonString(),
        "end": message.end.ToJsonString(),
    }
    identity = str(uuid.uuid5(uuid.NAMESPACE_OID, "|".join(payload.values())))
    return PointStruct(id=identity, vector=list(message.llm.visionEmbeddings[0].vector), payload=payload)


def write(qdrant: QdrantClient, points: list[PointStruct]) -> None:
    """Write points, into a collection that is made for the first."""
    if points and not qdrant.collection_exists(COLLECTION):
        size = len(points[0].vector)  # type: ignore[arg-type]
        qdrant.create_collection(COLLECTION, VectorParams(size=size, distance=Distance.COSINE))
    if points:
        qdrant.upsert(COLLECTION, points)


async def main(count: int | None) -> None:
    place = os.environ.get("QDRANT", "./qdrant")
    qdrant = QdrantClient(url=place) if "://" in place else QdrantClient(path=place)
    consumer = AIOKafkaConsumer(
        TOPIC,
        bootstrap_servers=os.environ["KAFKA_BOOTSTRAP_SERVERS"],
        group_id="films-in-qdrant",
        auto_offset_reset="earliest",
        enable_auto_commit=False,
    )
    async with consumer:
        seen = 0
        while count is None or seen < count:
            batches = await consumer.getmany(timeout_ms=1000, max_records=500)
            records = [record for batch in batches.values() for record in batch]
            points = [point for record in records if (point := point_of(record.value))]
            await asyncio.to_thread(write, qdrant, points)
            if records:
                await consumer.commit()
            seen += len(records)
    qdrant.close()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else None))
