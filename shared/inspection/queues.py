"""Reading what Redis holds, for people and scripts: lanes, requests, sessions, messages, workers."""

from collections.abc import Mapping, Sequence
from typing import Any

from redis.exceptions import ResponseError

from shared import keys
from shared.fleet import read_lanes
from shared.records import added_ms
from shared.redis.connection import Redis

Row = dict[str, Any]
RESULTS_SHOWN = 1000
SCAN_PAGE = 500
MOST_SCANNED = 100_000
"""Largest number of requests that a list reads; of more than that, it shows the newest of a sample."""


async def lanes(redis: Redis) -> list[Row]:
    """Per lane of each model: jobs waiting and running, the age of the oldest (s), and who has them."""
    return [
        {"lane": at.lane, "model": at.model, **await _queue(redis, at.stream, keys.GROUP, "workers")}
        for at in await read_lanes(redis)
    ]


async def outbox(redis: Redis) -> Row:
    """Return messages that wait and are under way, the oldest one's age, and counts of those sent and
    dropped."""
    counts = await read_hash(redis, keys.OUTBOX_COUNTS)
    totals = {name: int(counts.get(name, 0)) for name in ("sent", "dropped", "refused")}
    return {**await _queue(redis, keys.OUTBOX, keys.PUBLISHERS, "publishers"), **totals}


async def _queue(redis: Redis, stream: str, group: str, holders: str) -> Row:
    first: Any = await redis.xrange(stream, count=1)
    try:
        pending: int = (await redis.xpending(stream, group))["pending"]
        consumers: Any = await redis.xinfo_consumers(stream, group)
    except ResponseError:
        pending, consumers = 0, []
    depth: int = await redis.xlen(stream)
    return {
        "depth": depth,
        "waiting": depth - pending,
        "pending": pending,
        "oldest_s": await age_of(redis, first[0][0]) if first else None,
        holders: [
            {"name": c["name"].decode(), "pending": c["pending"], "silent_s": c["idle"] / 1000}
            for c in sorted(consumers, key=lambda c: c["name"])
        ],
    }


async def live(redis: Redis) -> list[Row]:
    """Return the record of every live session."""
    found = sorted([key async for key in redis.scan_iter(match=keys.live("*"), count=1000)])
    prefix = len(keys.live(""))
    records = await _read_hashes(redis, found)
    return [{"stream": key.decode()[prefix:], **row} for key, row in zip(found, records, strict=True)]


async def workers(redis: Redis) -> list[Row]:
    """Return the records of the living workers."""
    names: Any = sorted(await redis.zrange(keys.WORKERS, 0, -1))
    records = await _read_hashes(redis, [keys.worker(name.decode()) for name in names])
    return [record for record in records if record]


async def routes(redis: Redis) -> Row:
    """Return the routes of messages and events that were switched at run time."""
    return await read_hash(redis, keys.ROUTES)


async def requests(redis: Redis, state: str = "", limit: int = 50) -> list[Row]:
    """Return the newest requests, newest first: lane, state, age in seconds, chunks done of those planned."""
    now = (await redis.time())[0]
    found: list[Row] = []
    page: list[bytes] = []
    scanned = 0
    async for key in redis.scan_iter(match=keys.request("*"), count=SCAN_PAGE):
        if not key.endswith(b":done"):
            page.append(key)
        if len(page) == SCAN_PAGE:
            found += await _request_rows(redis, page, now)
            scanned += len(page)
            page.clear()
        if scanned >= MOST_SCANNED:
            break
    found += await _request_rows(redis, page, now)
    wanted = [row for row in found if not state or row["state"] == state]
    return sorted(wanted, key=lambda row: float(row["age_s"]))[:limit]


async def _request_rows(redis: Redis, found: list[bytes], now: int) -> list[Row]:
    names = ("kind", "state", "created", "finished", "done", "planned", "model", "assets")
    pipeline = redis.pipeline(transaction=False)
    for key in found:
        pipeline.hmget(key, names)
    rows = []
    for key, values in zip(found, await pipeline.execute() if found else (), strict=True):
        lane, state, created, finished, done, planned, model, assets = (
            value.decode(errors="replace") if value else "" for value in values
        )
        if state:  # it may have expired since the scan
            rows.append(
                {
                    "request": key.decode().removeprefix(keys.request("")),
                    "lane": lane,
                    "state": state,
                    "age_s": now - int(created),
                    "ran_s": (int(finished) if finished else now) - int(created),
                    "chunks": f"{done or 0}/{planned}",
                    "model": model,
                    "assets": assets,
                }
            )
    return rows


async def request(redis: Redis, request_id: str) -> dict[str, Any]:
    """Return the request's record and its results; vectors are shown by their number of bytes."""
    record = await read_hash(redis, keys.request(request_id))
    entries: Any = await redis.xrange(keys.results(request_id), count=RESULTS_SHOWN)
    if not record and not entries:
        return {}
    return {"request": {"id": request_id, **record}, "results": [shown(i, f) for i, f in entries]}


def shown(entry_id: bytes, fields: Mapping[bytes, bytes]) -> Row:
    """Return the fields of a stream entry with large binary ones as their size."""
    binary = {b"vector", b"value"}
    texts = _texts({name: value for name, value in fields.items() if name not in binary})
    sizes = {f"{name.decode()}_bytes": len(fields[name]) for name in binary if name in fields}
    return {"entry": entry_id.decode(), **texts, **sizes}


async def age_of(redis: Redis, entry_id: bytes) -> float:
    """Return how many seconds ago, by Redis's clock, a stream's entry was added."""
    seconds, microseconds = await redis.time()
    return round(max(0.0, seconds + microseconds / 1e6 - added_ms(entry_id) / 1000), 3)


async def read_hash(redis: Redis, key: str | bytes) -> dict[str, str]:
    """Return a hash as texts; empty if there is none."""
    fields: Any = await redis.hgetall(key)
    return _texts(fields)


async def _read_hashes(redis: Redis, wanted: Sequence[str | bytes]) -> list[dict[str, str]]:
    found: list[dict[str, str]] = []
    for at in range(0, len(wanted), SCAN_PAGE):
        async with redis.pipeline(transaction=False) as pipe:
            for key in wanted[at : at + SCAN_PAGE]:
                pipe.hgetall(key)
            found += map(_texts, await pipe.execute())
    return found


def _texts(fields: Mapping[bytes, bytes]) -> dict[str, str]:
    return {name.decode(): value.decode(errors="replace") for name, value in fields.items()}
