"""Triggers and their matches in the index's database."""

import msgspec
from pgvector import HalfVector

from gateway.search.hits import Hit
from gateway.search.search_index import SearchIndex
from gateway.triggers.trigger_records import Match, NewTrigger, StoredTrigger
from shared.errors import Conflict, NotFound

LOCK = 0x52544535
"""PostgreSQL's advisory lock: one trigger at a time is created, so that they are counted right."""

_COLUMNS = """
    id, name, question, sentence, model, threshold, cameras, files, cooldown_ns,
    extract(epoch FROM created)::bigint, matches, webhook, signed, given_up, error,
    (SELECT (extract(epoch FROM max(matched_at)) * 1000)::bigint FROM matches WHERE trigger = triggers.key),
    (SELECT count(*) FROM matches WHERE trigger = triggers.key AND matches.key > delivered)"""
_LIST = f"SELECT {_COLUMNS} FROM triggers ORDER BY key"  # noqa: S608 - our own text
_FIND = f"SELECT {_COLUMNS} FROM triggers WHERE id = %s"  # noqa: S608 - our own text
_CREATE = """
    INSERT INTO triggers (id, name, question, sentence, model, embedding, threshold, cameras, files,
        cooldown_ns, webhook, delivery, sealed, signed)
    VALUES (%(id)s, %(name)s, %(question)s, %(sentence)s, %(model)s, %(vector)s, %(threshold)s, %(cameras)s,
        %(files)s, %(cooldown)s, %(webhook)s, %(delivery)s, %(sealed)s, %(signed)s)"""
_DELETE = "DELETE FROM triggers WHERE id = %s"
_KEY = "SELECT key FROM triggers WHERE id = %s"
_BEFORE_LAST = """
    SELECT key FROM matches WHERE trigger = (SELECT key FROM triggers WHERE id = %s)
    ORDER BY key DESC OFFSET %s LIMIT 1"""
_MATCHES = """
    SELECT matches.key, (extract(epoch FROM matched_at) * 1000)::bigint, triggers.id, triggers.name,
        assets.id, assets.name, assets.kind, assets.media_type, assets.sensor, assets.base_ns,
        matches.number, matches.start_ns, matches.end_ns, matches.request, matches.score, chunks.thumbnail
    FROM matches JOIN triggers ON triggers.key = matches.trigger JOIN assets ON assets.key = matches.asset
    LEFT JOIN chunks ON chunks.key = matches.chunk
    WHERE triggers.id = %s AND matches.key > %s
    ORDER BY matches.key LIMIT %s"""


class TriggerStore:
    """Every method raises Unavailable while the database is away."""

    def __init__(self, index: SearchIndex) -> None:
        self._index = index

    async def create(self, new: NewTrigger, most: int) -> None:
        """Keep a trigger. Raises Conflict if there are `most` already."""
        values = {**msgspec.structs.asdict(new), "vector": HalfVector(new.vector)}
        async with self._index.connected() as connection, connection.transaction():
            await connection.execute("SELECT pg_advisory_xact_lock(%s)", [LOCK])
            found = await (await connection.execute("SELECT count(*) FROM triggers")).fetchone()
            if found and found[0] >= most:
                raise Conflict(
                    f"there are {most} triggers, the maximum: delete one, or raise RTEMBED_MAX_TRIGGERS"
                )
            await connection.execute(_CREATE, values)

    async def all(self) -> list[StoredTrigger]:
        """Return all triggers, the oldest first."""
        async with self._index.connected() as connection:
            rows = await (await connection.execute(_LIST)).fetchall()
        return [_stored(row) for row in rows]

    async def find(self, trigger: str) -> StoredTrigger:
        """One trigger. Raises NotFound."""
        async with self._index.connected() as connection:
            row = await (await connection.execute(_FIND, [trigger])).fetchone()
        if row is None:
            raise NotFound(f"No such trigger {trigger}")
        return _stored(row)

    async def delete(self, trigger: str) -> None:
        """Remove a trigger and its matches. Raises NotFound."""
        async with self._index.connected() as connection:
            if not (await connection.execute(_DELETE, [trigger])).rowcount:
                raise NotFound(f"No such trigger {trigger}")

    async def position_before(self, trigger: str, last: int) -> int:
        """Return the key after which the last `last` matches come. Raises NotFound."""
        async with self._index.connected() as connection:
            if await (await connection.execute(_KEY, [trigger])).fetchone() is None:
                raise NotFound(f"No such trigger {trigger}")
            row = await (await connection.execute(_BEFORE_LAST, [trigger, last])).fetchone()
        return int(row[0]) if row else 0

    async def matches_after(self, trigger: str, after: int, count: int) -> list[Match] | None:
        """At most `count` matches after the one with the key `after`; None if the trigger is gone."""
        async with self._index.connected() as connection:
            rows = await (await connection.execute(_MATCHES, [trigger, after, count])).fetchall()
            if not rows and await (await connection.execute(_KEY, [trigger])).fetchone() is None:
                return None
        return [_match(row) for row in rows]


def _stored(row: tuple[object, ...]) -> StoredTrigger:
    return msgspec.convert(dict(zip(StoredTrigger.__struct_fields__, row, strict=True)), StoredTrigger)


def _match(row: tuple[object, ...]) -> Match:
    key, at, trigger, name, *rest = row
    fields = (
        "asset", "name", "kind", "media_type", "camera", "base", "number", "start", "end", "request", "score",
        "thumbnail",
    )  # fmt: skip
    values = dict(zip(fields, rest, strict=True))
    hit = msgspec.convert({**values, "key": 0, "numbers": [values["number"]]}, Hit)
    return Match(key=key, at=at, trigger=trigger, trigger_name=name, hit=hit)  # type: ignore[arg-type]
