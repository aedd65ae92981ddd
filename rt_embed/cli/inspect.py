"""`rt-embed inspect`: what lies in Redis, for people. It only reads, unless told to requeue or drop."""

import argparse
import asyncio
import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from redis.exceptions import ResponseError

from shared import keys, settings
from shared.errors import SettingsError
from shared.records import added_ms
from shared.redis.connection import Redis, RedisError, connect, script
from shared.settings import Settings

Row = dict[str, Any]
RESULTS_SHOWN = 1000
DEAD = {"job": keys.JOBS_DEAD, "message": keys.OUTBOX_DEAD}
ADDED_TO_DEAD_JOBS = {"lane", "deliveries", "error"}


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status: 0, 1 if something asked for is not there, 2 for a bad setting or no Redis."""
    arguments = _parser().parse_args(argv, argparse.Namespace(json=False, watch=None))
    try:
        configuration = settings.load()
        return asyncio.run(_run(configuration, arguments))
    except (SettingsError, RedisError) as error:
        print(f"rt-embed inspect: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 0


def _parser() -> argparse.ArgumentParser:
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--json", action="store_true", default=argparse.SUPPRESS, help="print JSON")
    common.add_argument(
        "--watch", nargs="?", type=float, const=2.0, default=argparse.SUPPRESS, metavar="SECONDS",
        help="show it again and again",
    )  # fmt: skip
    parser = argparse.ArgumentParser("rt-embed inspect", description=__doc__, parents=[common])
    parser.set_defaults(what="all", action=None)
    commands = parser.add_subparsers(metavar="WHAT")
    for name, meaning in (
        ("lanes", "jobs that wait and run, and who has them"),
        ("live", "live sessions"),
        ("outbox", "messages that wait for Kafka or Redis"),
        ("workers", "the fleet"),
        ("routes", "where messages and events were switched to at run time"),
    ):
        commands.add_parser(name, help=meaning, parents=[common]).set_defaults(what=name)
    one = commands.add_parser("request", help="one request and its results", parents=[common])
    one.add_argument("id")
    one.set_defaults(what="request")
    dead = commands.add_parser("dead", help="jobs and messages that were given up", parents=[common])
    dead.set_defaults(what="dead")
    dead.add_argument("action", nargs="?", choices=["requeue", "drop"], help="do this with them")
    dead.add_argument("ids", nargs="*", help="ids as listed, such as job:1717957951123-0")
    dead.add_argument("--all", action="store_true", help="with every one of them")
    return parser


async def _run(configuration: Settings, arguments: argparse.Namespace) -> int:
    redis = connect(configuration)
    try:
        if arguments.action:
            return await _act(redis, configuration, arguments)
        while True:
            found = await look(redis, arguments.what, getattr(arguments, "id", ""))
            if arguments.watch and sys.stdout.isatty():
                print("\033[2J\033[H", end="")
            print(json.dumps(found, indent=2) if arguments.json else render(found))
            if not arguments.watch:
                return 0 if found else 1
            sys.stdout.flush()
            await asyncio.sleep(arguments.watch)
    finally:
        await redis.aclose()


async def look(redis: Redis, what: str, request_id: str = "") -> dict[str, Any]:
    """What there is to know of `what`, ready for JSON; empty if there is no such request."""
    readers = {
        "lanes": lanes,
        "outbox": outbox,
        "live": live,
        "workers": workers,
        "dead": dead,
        "routes": routes,
    }
    if what == "request":
        return await request(redis, request_id)
    wanted = readers if what == "all" else {what: readers[what]}
    return {name: await read(redis) for name, read in wanted.items()}


# Reading ------------------------------------------------------------------------------------------------


async def lanes(redis: Redis) -> list[Row]:
    """Per lane: jobs waiting and running, the age of the oldest in seconds, and who has them."""
    return [
        {"lane": lane, **await _queue(redis, keys.jobs(lane), keys.GROUP, "workers")} for lane in keys.LANES
    ]


async def outbox(redis: Redis) -> Row:
    """Messages that wait and are under way, the oldest one's age, and what became of all others."""
    counts = await _hash(redis, keys.OUTBOX_COUNTS)
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
        "oldest_s": await _age(redis, first[0][0]) if first else None,
        holders: [
            {"name": c["name"].decode(), "pending": c["pending"], "silent_s": c["idle"] / 1000}
            for c in sorted(consumers, key=lambda c: c["name"])
        ],
    }


async def live(redis: Redis) -> list[Row]:
    """Every live session's record."""
    found = sorted([key async for key in redis.scan_iter(match=keys.live("*"), count=1000)])
    prefix = len(keys.live(""))
    return [{"stream": key.decode()[prefix:], **await _hash(redis, key)} for key in found]


async def workers(redis: Redis) -> list[Row]:
    """The records of the workers that are alive."""
    names: Any = sorted(await redis.zrange(keys.WORKERS, 0, -1))
    records = [await _hash(redis, keys.worker(name.decode())) for name in names]
    return [record for record in records if record]


async def routes(redis: Redis) -> Row:
    """Where messages and events go, as far as it was switched at run time."""
    return await _hash(redis, keys.ROUTES)


async def request(redis: Redis, request_id: str) -> dict[str, Any]:
    """The request's record and its results; vectors are shown by their number of bytes."""
    record = await _hash(redis, keys.request(request_id))
    entries: Any = await redis.xrange(keys.results(request_id), count=RESULTS_SHOWN)
    if not record and not entries:
        return {}
    return {"request": {"id": request_id, **record}, "results": [_shown(i, f) for i, f in entries]}


async def dead(redis: Redis) -> list[Row]:
    """Jobs and messages that were given up, oldest first."""
    found = []
    for kind, stream in DEAD.items():
        entries: Any = await redis.xrange(stream)
        for entry_id, fields in entries:
            age = await _age(redis, entry_id)
            found.append({"id": f"{kind}:{entry_id.decode()}", "age_s": age, **_shown(entry_id, fields)})
    return found


def _shown(entry_id: bytes, fields: Mapping[bytes, bytes]) -> Row:
    """The fields of a stream entry with large binary ones as their size."""
    binary = {b"vector", b"value"}
    texts = _texts({name: value for name, value in fields.items() if name not in binary})
    sizes = {f"{name.decode()}_bytes": len(fields[name]) for name in binary if name in fields}
    return {"entry": entry_id.decode(), **texts, **sizes}


async def _age(redis: Redis, entry_id: bytes) -> float:
    seconds, microseconds = await redis.time()
    return round(max(0.0, seconds + microseconds / 1e6 - added_ms(entry_id) / 1000), 3)


async def _hash(redis: Redis, key: str | bytes) -> dict[str, str]:
    fields: Any = await redis.hgetall(key)
    return _texts(fields)


def _texts(fields: Mapping[bytes, bytes]) -> dict[str, str]:
    return {name.decode(): value.decode(errors="replace") for name, value in fields.items()}


# Dead letters -------------------------------------------------------------------------------------------


async def _act(redis: Redis, configuration: Settings, arguments: argparse.Namespace) -> int:
    ids = [row["id"] for row in await dead(redis)] if arguments.all else arguments.ids
    if not ids:
        print("rt-embed inspect: no dead letters named; see `rt-embed inspect dead`", file=sys.stderr)
        return 1
    status = 0
    for letter in ids:
        outcome = (
            await drop(redis, letter)
            if arguments.action == "drop"
            else await requeue(redis, configuration, letter)
        )
        print(f"{letter}: {outcome}")
        status = status or int(outcome not in {"requeued", "dropped"})
    return status


async def drop(redis: Redis, letter: str) -> str:
    """Delete a dead letter for good; returns what happened."""
    kind, _, entry_id = letter.partition(":")
    try:
        deleted = kind in DEAD and await redis.xdel(DEAD[kind], entry_id)
    except ResponseError:
        deleted = False
    return "dropped" if deleted else "not there"


async def requeue(redis: Redis, configuration: Settings, letter: str) -> str:
    """Put a dead letter back to where it came from; returns what happened.

    A job's request is open again, for as long as it is remembered and its files exist.
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
        request_id, lane = fields.get(b"request", b"").decode(), fields.get(b"lane", b"").decode()
        assets = [a for a in (await _hash(redis, keys.request(request_id))).get("assets", "").split(",") if a]
        for asset in assets:
            if not await redis.exists(keys.asset(asset)):
                return f"refused: its file {asset} was deleted"
        touched = [
            DEAD[kind], f"{keys.PREFIX}jobs:{lane}", keys.request(request_id), keys.results(request_id),
            keys.done(request_id), keys.running(lane), *map(keys.asset_users, assets),
        ]  # fmt: skip
    outcome = await script(redis, "requeue")(
        keys=touched, args=[entry_id, request_id, configuration.request_ttl, *pairs]
    )
    explanations = {b"ok": "requeued", b"gone": "not there", b"expired": "refused: its request is forgotten"}
    return explanations[outcome]


# Showing ------------------------------------------------------------------------------------------------


def render(found: Mapping[str, Any]) -> str:
    """The same for people: one block per subject."""
    return "\n\n".join(_block(name, value) for name, value in found.items()) or "not there"


def _block(name: str, value: Any) -> str:
    rows = value if isinstance(value, list) else [value] if value else []
    if not rows:
        return f"{name}: none"
    nested = [f"{name} {label}" for label in ("workers", "publishers") if label in rows[0]]
    plain = [{k: v for k, v in row.items() if not isinstance(v, list)} for row in rows]
    inner = [
        {**_first(row), **holder}
        for row in rows
        for k in ("workers", "publishers")
        for holder in row.get(k, ())
    ]
    table = f"{name}\n{_table(plain)}"
    return f"{table}\n\n{nested[0]}\n{_table(inner)}" if nested and inner else table


def _first(row: Row) -> Row:
    return {"lane": row["lane"]} if "lane" in row else {}


def _table(rows: Sequence[Row]) -> str:
    columns = list(dict.fromkeys(column for row in rows for column in row))
    cells = [[_cell(row.get(column)) for column in columns] for row in rows]
    if len(rows) == 1 and len(columns) > 6:
        width = max(map(len, columns))
        return "\n".join(f"  {c:{width}}  {v}" for c, v in zip(columns, cells[0], strict=True))
    widths = [max(map(len, column)) for column in zip(columns, *cells, strict=True)]
    return "\n".join("  " + _line(line, widths) for line in [columns, *cells])


def _line(cells: Iterable[str], widths: Iterable[int]) -> str:
    return "  ".join(f"{cell:{width}}" for cell, width in zip(cells, widths, strict=True)).rstrip()


def _cell(value: Any) -> str:
    text = "-" if value is None or value == "" else f"{value:.1f}" if isinstance(value, float) else str(value)
    return text if len(text) <= 60 else text[:57] + "..."


if __name__ == "__main__":
    sys.exit(main())
