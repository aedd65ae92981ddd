"""Dead letters: jobs and messages that were given up. List them, put them back, or delete them."""

from collections.abc import Mapping
from typing import Any, cast

from redis.exceptions import ResponseError

from shared import keys
from shared.inspection.queues import Row, age_of, read_hash, shown
from shared.keys import Lane
from shared.redis.connection import Redis, script
from shared.settings import Settings

DEAD = {"job": keys.JOBS_DEAD, "message": keys.OUTBOX_DEAD}
ADDED_TO_DEAD_JOBS = {"lane", "model", "deliveries", "error"}


async def dead(redis: Redis, most: int | None = None) -> list[Row]:
    """Return dead jobs and messages, oldest first: the newest `most` of each kind, or all."""
    found = []
    for kind, stream in DEAD.items():
        entries: Any = await redis.xrevrange(stream, count=most)
        for entry_id, fields in reversed(entries):
            age = await age_of(redis, entry_id)
            found.append({"id": f"{kind}:{entry_id.decode()}", "age_s": age, **shown(entry_id, fields)})
    return found


async def count_dead(redis: Redis) -> int:
    """Return the number of dead jobs and of dead messages."""
    return sum([await redis.xlen(stream) for stream in DEAD.values()])


async def drop(redis: Redis, letter: str) -> str:
    """Delete a dead letter for good; returns what happened."""
    kind, _, entry_id = letter.partition(":")
    try:
        deleted = kind in DEAD and await redis.xdel(DEAD[kind], entry_id)
    except ResponseError:
        deleted = False
    return "dropped" if deleted else "not there"


async def requeue(redis: Redis, configuration: Settings, letter: str) -> str:
    """Put a dead letter back into its stream; returns what happened.

    A job's request is open again if its record and its files still exist.
    """
    kind, _, entry_id = letter.partition(":")
    try:
        entries: Any = await redis.xrange(DEAD[kind], entry_id, entry_id)
    except (KeyError, ResponseError):
        entries = []
    if not entries:
        return "not there"
    fields: Mapping[bytes, bytes] = entries[0][1]
    added = {"error"} if kind == "message" else ADDED_TO_DEAD_JOBS
    pairs = [part for name, value in fields.items() if name.decode() not in added for part in (name, value)]
    if kind == "message":
        touched: list[str] = [DEAD[kind], keys.OUTBOX]
        request_id = ""
    else:
        request_id, lane, model = (fields.get(name, b"").decode() for name in (b"request", b"lane", b"model"))
        assets = [
            a for a in (await read_hash(redis, keys.request(request_id))).get("assets", "").split(",") if a
        ]
        for asset in assets:
            if not await redis.exists(keys.asset(asset)):
                return f"refused: its file {asset} was deleted"
        touched = [
            DEAD[kind], keys.jobs(cast("Lane", lane), model),
            keys.request(request_id), keys.results(request_id),
            keys.done(request_id), keys.running(lane), *map(keys.asset_users, assets),
        ]  # fmt: skip
    outcome = await script(redis, "requeue")(
        keys=touched, args=[entry_id, request_id, configuration.request_ttl, *pairs]
    )
    explanations = {b"ok": "requeued", b"gone": "not there", b"expired": "refused: its request is forgotten"}
    return explanations[outcome]
