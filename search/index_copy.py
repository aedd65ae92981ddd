"""The index as files, one per table, and back: PostgreSQL's binary COPY, in one transaction each way."""

from graphlib import TopologicalSorter
from pathlib import Path

from psycopg import sql

from search.schema import migrate
from shared.errors import RtEmbedError
from shared.search.database import SCHEMA, Connection, connect
from shared.search.index_tables import IndexTable
from shared.settings import Settings

PIECE = 1 << 20
MIGRATIONS = "migrations"
"""A table that the schema's own version fills."""
_COLUMNS = """
    SELECT table_name, array_agg(column_name::text ORDER BY ordinal_position)
    FROM information_schema.columns JOIN information_schema.tables USING (table_schema, table_name)
    WHERE table_schema = %s AND table_type = 'BASE TABLE' AND is_generated = 'NEVER' GROUP BY table_name"""
_REFERENCES = """
    SELECT refers.relname, referred.relname FROM pg_constraint
    JOIN pg_class refers ON refers.oid = conrelid JOIN pg_class referred ON referred.oid = confrelid
    WHERE contype = 'f' AND connamespace = to_regnamespace(%s)"""
_SEQUENCES = """
    SELECT column_name::text FROM information_schema.columns
    WHERE table_schema = %s AND table_name = %s AND is_identity = 'YES'"""


async def export_index(settings: Settings, folder: Path) -> list[IndexTable]:
    """Write every table of the index into `folder` as it is at one moment, and return them; none if there is
    no index yet."""
    connection = await connect(settings)
    try:
        async with connection.transaction():
            await connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
            columns = await _columns(connection)
            return [
                await _write(connection, folder, t, columns[t]) for t in await _order(connection, columns)
            ]
    finally:
        await connection.close()


async def import_index(settings: Settings, folder: Path, tables: list[IndexTable], *, replace: bool) -> None:
    """Make the tables where they are missing, and fill them. Raises RtEmbedError if one has rows, unless they
    are to be replaced, and if the backup has what this version does not know."""
    connection = await connect(settings)
    try:
        await migrate(connection)
        async with connection.transaction():
            known = await _columns(connection)
            for table in tables:
                if unknown := set(table.columns) - set(known.get(table.name, ())):
                    names = ", ".join(sorted(unknown))
                    raise RtEmbedError(
                        f"table {table.name} of the backup has {names}, which this version does not know"
                    )
            await _make_empty(connection, list(known), replace=replace)
            for table in tables:
                await _read(connection, folder, table)
    finally:
        await connection.close()


async def _columns(connection: Connection) -> dict[str, list[str]]:
    found = await (await connection.execute(_COLUMNS, [SCHEMA])).fetchall()
    return {table: columns for table, columns in found if table != MIGRATIONS}


async def _order(connection: Connection, tables: dict[str, list[str]]) -> list[str]:
    """Return the tables, each after those that it refers to."""
    graph: TopologicalSorter[str] = TopologicalSorter(dict.fromkeys(sorted(tables), ()))
    for table, referred in await (await connection.execute(_REFERENCES, [SCHEMA])).fetchall():
        if table != referred:
            graph.add(table, referred)
    return list(graph.static_order())


def _name(table: str) -> sql.Identifier:
    return sql.Identifier(SCHEMA, table)


async def _write(connection: Connection, folder: Path, table: str, columns: list[str]) -> IndexTable:
    order = sql.SQL(", ").join(map(sql.Identifier, columns))
    query = sql.SQL("COPY (SELECT {} FROM {}) TO STDOUT (FORMAT binary)").format(order, _name(table))
    with (folder / f"{table}.copy").open("xb") as file:
        async with connection.cursor() as cursor:
            async with cursor.copy(query) as copy:
                async for piece in copy:
                    file.write(piece)
            return IndexTable(table, columns, cursor.rowcount)


async def _make_empty(connection: Connection, tables: list[str], *, replace: bool) -> None:
    names = sql.SQL(", ").join(map(_name, tables))
    if replace:
        await connection.execute(sql.SQL("TRUNCATE {}").format(names))
        return
    for table in tables:
        query = sql.SQL("SELECT EXISTS (SELECT FROM {})").format(_name(table))
        row = await (await connection.execute(query)).fetchone()
        if row and row[0]:
            raise RtEmbedError(
                f"the index at RTEMBED_SEARCH_URL has rows in {table}: name an empty database, or --replace"
            )


async def _read(connection: Connection, folder: Path, table: IndexTable) -> None:
    order = sql.SQL(", ").join(map(sql.Identifier, table.columns))
    query = sql.SQL("COPY {} ({}) FROM STDIN (FORMAT binary)").format(_name(table.name), order)
    with (folder / f"{table.name}.copy").open("rb") as file:
        async with connection.cursor() as cursor, cursor.copy(query) as copy:
            while piece := file.read(PIECE):
                await copy.write(piece)
    for (column,) in await (await connection.execute(_SEQUENCES, [SCHEMA, table.name])).fetchall():
        query = sql.SQL(
            "SELECT setval(pg_get_serial_sequence({}, {}), coalesce(max({}), 0) + 1, false) FROM {}"
        ).format(f"{SCHEMA}.{table.name}", column, sql.Identifier(column), _name(table.name))
        await connection.execute(query)
