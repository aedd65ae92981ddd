"""A database of its own for each test of the index."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from psycopg import sql

from search.schema import migrate
from shared.search import database
from shared.search.database import Connection
from shared.settings import Settings, load


@pytest.fixture
def settings(redis_url: str, search_url: str, tmp_path: Path) -> Settings:
    """Settings of a service with an index of its own, whose messages go to a Redis stream."""
    return load(
        {
            "REDIS_URL": redis_url,
            "RTEMBED_SEARCH_URL": search_url,
            "MESSAGE_BUS": "redis",
            "ASSET_STORAGE_DIR": str(tmp_path / "assets"),
            "RTEMBED_CLAIM_TIMEOUT": "1",
        }
    )


@pytest.fixture
async def index(settings: Settings) -> AsyncIterator[Connection]:
    """A connection to an empty index."""
    connection = await database.connect(settings)
    await migrate(connection)
    yield connection
    await connection.close()


async def count(connection: Connection, what: str = "chunks") -> int:
    """How many rows a table has."""
    query = sql.SQL("SELECT count(*) FROM {}").format(sql.SQL(what))
    found = await (await connection.execute(query)).fetchone()
    assert found
    return int(found[0])
