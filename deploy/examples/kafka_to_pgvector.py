"""Write embedding messages from Kafka into PostgreSQL with pgvector, each chunk once.

    export KAFKA_BOOTSTRAP_SERVERS=localhost:9092 DATABASE_URL=postgresql://localhost/films
    python kafka_to_pgvector.py

A message may come twice, and a film that is embedded again gets other message keys: the row's key is
therefore the chunk itself, the asset or stream, the model, and the times. Offsets are committed after the
rows are. With an argument it ends after so many messages.
"""

import asyncio
import os
import sys

import psycopg
from aiokafka import AIOKafkaConsumer
from pgvector.psycopg import register_vector_async

from shared.messages.nv_pb2 import VisionLLM

TOPIC = os.environ.get("KAFKA_TOPIC", "mdx-embed")
TABLE = """
    CREATE EXTENSION IF NOT EXISTS vector;
    CREATE TABLE IF NOT EXISTS chunks (
        asset text, model text, starts timestamptz, ends timestamptz, embedding vector,
        PRIMARY KEY (asset, model, starts, ends)
    )
"""
UPSERT = """
    INSERT INTO chunks VALUES (%s, %s, %s, %s, %s)
    ON CONFLICT (asset, model, starts, ends) DO UPDATE SET embedding = EXCLUDED.embedding
"""
Row = tuple[object, ...]


def row_of(value: bytes) -> Row | None:
    """Return a message's row; None for a text, and for a chunk that failed."""
    message = VisionLLM.FromString(value)
    asset = message.info.get("streamId", "")
    if not asset or not message.llm.visionEmbeddings:
        return None
    model = message.llm.info.get("modelId", "") or message.version
    times = (message.timestamp.ToJsonString(), message.end.ToJsonString())
    return (asset, model, *times, list(message.llm.visionEmbeddings[0].vector))


async def main(count: int | None) -> None:
    consumer = AIOKafkaConsumer(
        TOPIC,
        bootstrap_servers=os.environ["KAFKA_BOOTSTRAP_SERVERS"],
        group_id="films",
        auto_offset_reset="earliest",
        enable_auto_commit=False,
    )
    async with await psycopg.AsyncConnection.connect(os.environ["DATABASE_URL"]) as database:
        await database.execute(TABLE)
        await register_vector_async(database)
        await database.commit()
        async with consumer:
            seen = 0
            while count is None or seen < count:
                batches = await consumer.getmany(timeout_ms=1000, max_records=500)
                records = [record for batch in batches.values() for record in batch]
                rows = [row for record in records if (row := row_of(record.value))]
                async with database.cursor() as cursor:
                    await cursor.executemany(UPSERT, rows)
                await database.commit()
                if records:
                    await consumer.commit()
                seen += len(records)


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else None))
