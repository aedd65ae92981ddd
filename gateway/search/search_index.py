"""The search index as a gateway sees it: a pool of connections to PostgreSQL, and what can be asked."""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any, NamedTuple

import structlog
from psycopg import errors
from psycopg.sql import Composed
from psycopg_pool import AsyncConnectionPool, PoolClosed, PoolTimeout, TooManyRequests

from gateway.search import search_queries
from gateway.search.hits import Hit, read_row
from gateway.search.search_filters import ChunkPage, SearchFilters
from shared import keys
from shared.errors import BadParameters, Unavailable
from shared.redis.connection import Redis
from shared.search.database import Connection, DatabaseError, configure, connection_arguments
from shared.settings import Settings
from shared.telemetry import instruments

log = structlog.get_logger(__name__)

WAITING_LIMIT = 1000
"""Searches that may wait for a connection."""
LARGEST_CANDIDATES = 1000
"""pgvector's bound on hnsw.ef_search."""


class IndexState(NamedTuple):
    """What a question needs to know first: the model's key and dimension, and rows that no longer count."""

    model: int
    dimension: int
    removed: list[tuple[int, int]]


async def _check(connection: Connection) -> None:
    """Raise what is wrong with a connection, and tell one that is older than the index what types it has."""
    await AsyncConnectionPool.check_connection(connection)
    if connection.adapters.types.get("halfvec") is None:
        await configure(connection)


class SearchIndex:
    """Answers from the index. Every method raises Unavailable while the database is away."""

    def __init__(self, redis: Redis, settings: Settings) -> None:
        assert settings.search_url  # noqa: S101 - for the type checker; without one there is no index
        self._redis = redis
        self._settings = settings
        self._candidates = settings.search_candidates
        self._pool: AsyncConnectionPool[Connection] = AsyncConnectionPool(
            settings.search_url,
            kwargs=connection_arguments(),
            configure=self._configure,
            check=_check,
            min_size=0,
            max_size=settings.search_connections,
            max_waiting=WAITING_LIMIT,
            timeout=settings.search_timeout,
            open=False,
            name="search",
        )

    async def run(self) -> None:
        """Keep connections until cancelled."""
        await self._pool.open()
        try:
            await asyncio.Event().wait()
        finally:
            await self._pool.close()

    async def _configure(self, connection: Connection) -> None:
        await configure(connection)
        for name, value in (
            ("hnsw.ef_search", str(self._candidates)),
            ("hnsw.iterative_scan", "strict_order"),
            # A plan for any model and any filter would use no HNSW index.
            ("plan_cache_mode", "force_custom_plan"),
            ("statement_timeout", f"{int(self._settings.search_timeout * 1000)}"),
        ):
            await connection.execute("SELECT set_config(%s, %s, false)", [name, value])

    @asynccontextmanager
    async def _connected(self) -> AsyncIterator[Connection]:
        """Yield a connection for one search, whose time is measured."""
        began = time.monotonic()
        try:
            async with self.connected() as connection:
                yield connection
        finally:
            instruments.search_duration.record(time.monotonic() - began)

    @asynccontextmanager
    async def connected(self) -> AsyncIterator[Connection]:
        """Yield a connection to the index, for a short while."""
        try:
            async with (
                asyncio.timeout(2 * self._settings.search_timeout),
                self._pool.connection() as connection,
            ):
                yield connection
        except errors.UndefinedTable as error:
            raise Unavailable("the search index is empty: no indexer has started yet") from error
        except (DatabaseError, PoolTimeout, PoolClosed, TooManyRequests, TimeoutError) as error:
            reason = " ".join(str(error).split())[:300] or "no answer in time"
            log.warning("search index away", error=reason)
            raise Unavailable("the search index does not answer; try again later") from error

    async def models(self) -> list[tuple[str, int]]:
        """Return the models that the index has vectors of, and how many values those have."""
        async with self._connected() as connection:
            return await (await connection.execute(search_queries.MODELS)).fetchall()

    async def count(self) -> int:
        """Return about how many chunks the index holds."""
        async with self._connected() as connection:
            found = await (await connection.execute(search_queries.COUNT)).fetchone()
            return int(found[0]) if found else 0

    async def nearest(
        self,
        model: str,
        vector: Sequence[float],
        count: int,
        filters: SearchFilters,
        *,
        exact: bool = False,
        thumbnails: bool = True,
    ) -> list[Hit]:
        """Return the chunks nearest to `vector`, the nearest first. `exact` compares all that the filters
        leave.

        Raises BadParameters for a vector whose length is not that of the model's.
        """
        filters = replace(filters, deleted=await self._deleted())
        async with self._connected() as connection:
            state = await self._state(connection, model)
            if state is None:
                return []
            if len(vector) != state.dimension:
                raise BadParameters(f"{model} makes vectors of {state.dimension} values, not {len(vector)}")
            query, parameters = search_queries.nearest(
                state.model,
                state.dimension,
                vector,
                count,
                replace(filters, removed=state.removed),
                thumbnails=thumbnails,
            )
            rows = await _rows(connection, query, parameters, _settings(count, self._candidates, exact=exact))
            if len(rows) < count and filters.narrow and not exact:
                # The HNSW scan gave up before it had enough that fit; so few are quickly compared one by one.
                rows = await _rows(
                    connection, query, parameters, _settings(count, self._candidates, exact=True)
                )
        return [read_row(row) for row in rows]

    async def chunks(self, model: str, page: ChunkPage) -> list[Hit]:
        """Chunks of one asset, in order of time."""
        filters = SearchFilters(deleted=await self._deleted())
        async with self._connected() as connection:
            state = await self._state(connection, model)
            if state is None:
                return []
            query, parameters = search_queries.chunks_of(
                state.model, page, replace(filters, removed=state.removed)
            )
            rows = await (await connection.execute(query, parameters)).fetchall()
        return [read_row(row) for row in rows]

    async def forget(self, asset: str) -> None:
        """Leave the asset's chunks out from now on; an indexer removes them. Later ones are indexed again."""
        async with self._connected() as connection:
            await connection.execute(search_queries.FORGET, [asset])

    async def _state(self, connection: Connection, model: str) -> IndexState | None:
        found = await (await connection.execute(search_queries.STATE, [model])).fetchone()
        return IndexState(found[0], found[1], [tuple(pair) for pair in found[2]]) if found else None

    async def _deleted(self) -> list[str]:
        """Assets that were deleted and that no indexer has heard of yet. Raises RedisError."""
        listed: Any = await self._redis.zrange(keys.SEARCH_DELETED, 0, -1)
        return [asset_id.decode() for asset_id in listed]


def _settings(count: int, candidates: int, *, exact: bool) -> dict[str, str]:
    """PostgreSQL's settings for one query."""
    if exact:
        return {"enable_indexscan": "off"}  # HNSW indexes know no other kind of scan
    return {"hnsw.ef_search": str(min(count, LARGEST_CANDIDATES))} if count > candidates else {}


async def _rows(
    connection: Connection, query: Composed, parameters: dict[str, Any], settings: dict[str, str]
) -> list[tuple[Any, ...]]:
    if not settings:
        return await (await connection.execute(query, parameters)).fetchall()
    async with connection.transaction():
        for name, value in settings.items():
            await connection.execute("SELECT set_config(%s, %s, true)", [name, value])
        return await (await connection.execute(query, parameters)).fetchall()
