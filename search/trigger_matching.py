"""Triggers: saved questions that are compared with each new chunk, in the transaction that writes it.

So a chunk that is there already matches nothing again, a trigger counts from its creation to its deletion,
and a match is kept exactly if its chunk is.
"""

from bisect import bisect_left, insort
from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

from shared.search.database import Connection

KEPT = 1000
"""Matches of each trigger that are kept, the newest."""

# A vector of another length than the model's cannot be compared, and must not stop the batch.
_CANDIDATES = """
    SELECT triggers.key, cooldown_ns, chunks.asset, chunks.key, number, start_ns, end_ns, request, score
    FROM chunks JOIN assets ON assets.key = chunks.asset JOIN models ON models.key = chunks.model
    JOIN triggers ON triggers.model = models.id
    CROSS JOIN LATERAL (SELECT CASE WHEN vector_dims(triggers.embedding) = models.dimension
        THEN 1 - (chunks.embedding <=> triggers.embedding) END AS score) AS compared
    WHERE chunks.key = ANY(%s) AND score >= threshold AND (files OR assets.kind = 'stream')
        AND (cameras IS NULL OR assets.sensor = ANY(cameras) OR assets.id = ANY(cameras))
    ORDER BY triggers.key, chunks.asset, start_ns, chunks.key"""
# Another indexer may have matches of the same trigger, which cool-down counts once they are committed.
_LOCK = "SELECT key FROM triggers WHERE key = ANY(%s) ORDER BY key FOR NO KEY UPDATE"
_EARLIER = "SELECT trigger, asset, start_ns FROM matches WHERE trigger = ANY(%s) AND asset = ANY(%s)"
_ADD = """
    WITH added AS (
        INSERT INTO matches (trigger, asset, chunk, number, start_ns, end_ns, request, score)
        SELECT trigger, asset, chunk, number, start_ns, end_ns, request, score
        FROM unnest(%s::bigint[], %s::bigint[], %s::bigint[], %s::integer[], %s::bigint[], %s::bigint[],
                    %s::text[], %s::real[]) WITH ORDINALITY
            AS n (trigger, asset, chunk, number, start_ns, end_ns, request, score, place)
        ORDER BY place
        ON CONFLICT (trigger, asset, start_ns) DO NOTHING RETURNING trigger
    ), counted AS (SELECT trigger, count(*) AS number FROM added GROUP BY trigger)
    UPDATE triggers SET matches = matches + counted.number FROM counted WHERE key = counted.trigger
    RETURNING counted.number"""
_PRUNE = """
    DELETE FROM matches USING triggers WHERE matches.trigger = triggers.key AND matches.key <= (
        SELECT key FROM matches AS kept WHERE kept.trigger = triggers.key
        ORDER BY key DESC OFFSET %s LIMIT 1)"""


class Candidate(NamedTuple):
    """A new chunk that is similar enough to the question of a trigger. Times are nanoseconds since 1970."""

    trigger: int
    cooldown: int
    asset: int
    chunk: int
    number: int
    start: int
    end: int
    request: str
    score: float


async def match_triggers(connection: Connection, chunks: Sequence[int]) -> int:
    """Keep what triggers match among the new rows `chunks`; return the number of matches.

    To be called in the transaction that wrote the rows. Raises DatabaseError.
    """
    found = await (await connection.execute(_CANDIDATES, [list(chunks)])).fetchall()
    candidates = [Candidate(*row) for row in found]
    if not candidates:
        return 0
    triggers = sorted({candidate.trigger for candidate in candidates})
    locked = {key for (key,) in await (await connection.execute(_LOCK, [triggers])).fetchall()}
    candidates = [candidate for candidate in candidates if candidate.trigger in locked]
    assets = sorted({candidate.asset for candidate in candidates})
    earlier = await (await connection.execute(_EARLIER, [triggers, assets])).fetchall()
    chosen = cooled(candidates, earlier)
    columns = [
        [getattr(candidate, name) for candidate in chosen] for name in Candidate._fields if name != "cooldown"
    ]
    added = await (await connection.execute(_ADD, columns)).fetchall()
    return sum(number for (number,) in added)


def cooled(candidates: Sequence[Candidate], earlier: Sequence[tuple[int, int, int]]) -> list[Candidate]:
    """Return those of the candidates, in order of time, that are a cool-down from every other match of their
    trigger and asset. `earlier` are matches as trigger, asset and start."""
    starts: defaultdict[tuple[int, int], list[int]] = defaultdict(list)
    for trigger, asset, start in sorted(earlier):
        starts[trigger, asset].append(start)
    chosen = []
    for candidate in candidates:
        known = starts[candidate.trigger, candidate.asset]
        at = bisect_left(known, candidate.start)
        if all(
            abs(candidate.start - start) >= max(1, candidate.cooldown)
            for start in known[max(0, at - 1) : at + 1]
        ):
            insort(known, candidate.start)
            chosen.append(candidate)
    return chosen


async def remove_old_matches(connection: Connection) -> int:
    """Remove the matches of each trigger beyond the newest KEPT; return how many those were.

    Raises DatabaseError.
    """
    return (await connection.execute(_PRUNE, [KEPT])).rowcount
