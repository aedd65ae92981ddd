"""The tables of the index are made once, whoever comes first."""

import asyncio

import psycopg
import pytest

from search import schema
from search.schema import migrate, migrations
from shared.errors import IndexUnusable
from shared.search import database
from shared.search.database import Connection, DatabaseError
from shared.settings import Settings, load
from tests.search.conftest import count


def test_migrations_are_numbered_without_a_gap() -> None:
    numbers = [number for number, _ in migrations()]
    assert numbers == list(range(1, len(numbers) + 1))
    assert numbers


async def test_two_indexers_that_start_at_once_make_the_tables_once(settings: Settings) -> None:
    connections = [await database.connect(settings) for _ in range(2)]
    versions = await asyncio.gather(*map(migrate, connections))
    assert versions == [len(migrations())] * 2
    assert await count(connections[0], "migrations") == len(migrations())
    for connection in connections:
        await connection.close()


async def test_a_migration_that_fails_leaves_nothing(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = [*migrations(), (99, "CREATE TABLE fine (x integer); SELECT nothing_of_the_kind()")]
    monkeypatch.setattr(schema, "migrations", lambda: broken)
    connection = await database.connect(settings)
    with pytest.raises(DatabaseError, match="nothing_of_the_kind"):
        await migrate(connection)
    found = await (await connection.execute("SELECT to_regclass('rtembed.chunks')")).fetchone()
    assert found == (None,)
    await connection.close()


async def test_a_user_without_rights_is_told_what_to_do(search_url: str) -> None:
    with psycopg.connect(search_url, autocommit=True) as owner:
        owner.execute("DROP ROLE IF EXISTS poor")
        owner.execute("CREATE ROLE poor LOGIN")
    settings = load({"RTEMBED_SEARCH_URL": search_url.replace("postgres@/", "poor@/")})
    connection = await database.connect(settings)
    with pytest.raises(IndexUnusable, match="CREATE EXTENSION vector"):
        await migrate(connection)
    await connection.close()
    with psycopg.connect(search_url, autocommit=True) as owner:
        owner.execute("CREATE EXTENSION vector")
    connection = await database.connect(settings)
    with pytest.raises(IndexUnusable, match="may not create the schema rtembed"):
        await migrate(connection)
    await connection.close()
    with psycopg.connect(search_url, autocommit=True) as owner:
        owner.execute("CREATE SCHEMA rtembed AUTHORIZATION poor")
    connection = await database.connect(settings)
    assert await migrate(connection) == len(migrations())
    await connection.close()


async def test_an_old_pgvector_is_refused(index: Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(schema, "OLDEST_PGVECTOR", (99, 0))
    with pytest.raises(IndexUnusable, match=r"too old for the index: it needs 99\.0 or newer"):
        await migrate(index)
