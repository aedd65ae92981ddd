"""Connections to the PostgreSQL that holds the search index. Needs the extra [search]."""

from typing import Any

import psycopg
from pgvector.psycopg.halfvec import register_halfvec_info
from psycopg import AsyncConnection, sql
from psycopg.types import TypeInfo

from shared.settings import Settings

SCHEMA = "rtembed"
"""The PostgreSQL schema that holds every table of the index."""
CONNECT_TIMEOUT = 10

Connection = AsyncConnection[Any]
DatabaseError = psycopg.Error

_EXTENSION_SCHEMA = """
    SELECT nspname FROM pg_extension JOIN pg_namespace ON pg_namespace.oid = extnamespace
    WHERE extname = 'vector'"""


def connection_arguments() -> dict[str, Any]:
    """psycopg's arguments beside the address: each statement is its own transaction unless it is in a
    `transaction()` block, and a server that has gone is noticed."""
    return {
        "autocommit": True,
        "connect_timeout": CONNECT_TIMEOUT,
        "application_name": "rt-embed",
        "keepalives_idle": 15,
        "keepalives_interval": 5,
        "keepalives_count": 3,
        "tcp_user_timeout": 30_000,
    }


async def connect(settings: Settings) -> Connection:
    """Return a connection that reads our tables and knows pgvector's types. Raises DatabaseError."""
    assert settings.search_url  # noqa: S101 - for the type checker; who has no index does not call this
    try:
        connection: Connection = await AsyncConnection.connect(settings.search_url, **connection_arguments())
    except UnicodeError as error:
        raise psycopg.OperationalError(f"the host is not a name: {error}") from error
    try:
        await configure(connection)
    except BaseException:
        await connection.close()
        raise
    return connection


async def configure(connection: Connection) -> None:
    """Let a fresh connection read our tables and pgvector's types, which may be missing yet.

    Raises DatabaseError.
    """
    found = await (await connection.execute(_EXTENSION_SCHEMA)).fetchone()
    schemas = [SCHEMA, *(found or ())]
    path = sql.SQL(", ").join(map(sql.Identifier, dict.fromkeys([*schemas, "public"])))
    await connection.execute(sql.SQL("SET search_path = {}").format(path))
    if found and (info := await TypeInfo.fetch(connection, "halfvec")):
        register_halfvec_info(connection, info)
