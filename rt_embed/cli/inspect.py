"""`rt-embed inspect`: what Redis holds, for people. It only reads, unless told to requeue or drop."""

import asyncio
import sys
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Any

import typer
from rich.console import Group, RenderableType
from rich.text import Text

from rt_embed.cli.data_folder import redis_address, with_redis_found
from rt_embed.cli.terminal import CommandFailed, ExitStatus, command_group, facts, printable, table, terminal
from shared import settings
from shared.inspection import queues
from shared.inspection.dead_letters import dead, drop, requeue
from shared.inspection.queues import Row
from shared.redis.connection import Redis, RedisError, connect
from shared.settings import Settings

READERS: dict[str, tuple[str, Callable[[Redis], Awaitable[Any]]]] = {
    "lanes": ("Waiting and running jobs, and their workers.", queues.lanes),
    "outbox": ("Messages that wait for Kafka or Redis.", queues.outbox),
    "live": ("Live sessions.", queues.live),
    "workers": ("The fleet.", queues.workers),
    "routes": ("Where messages and events were switched to at run time.", queues.routes),
}
HOLDERS = ("workers", "publishers")
"""Lists inside a row, which get a table of their own."""

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Watch = Annotated[bool, typer.Option("-w", "--watch", help="Refresh until Ctrl-C.")]
Every = Annotated[float, typer.Option("--every", min=0.01, help="Seconds between refreshes with --watch.")]

app = command_group()


@dataclass(frozen=True)
class View:
    """How to show what was found: as JSON or tables, once or repeatedly."""

    json: bool = False
    watch: bool = False
    every: float = 2.0


class LetterAction(StrEnum):
    """What can be done with dead letters."""

    REQUEUE = "requeue"
    DROP = "drop"


Look = Callable[[Redis], Awaitable[dict[str, Any]]]


@app.callback(invoke_without_command=True)
def inspect(context: typer.Context, json: Json = False, watch: Watch = False, every: Every = 2.0) -> int:
    """See queues, requests, live sessions, messages, workers and dead letters.

    Finds what `rt-embed up` started in this folder; otherwise REDIS_URL or REDIS_HOST says where to look.
    """
    context.obj = View(json, watch, every)
    return 0 if context.invoked_subcommand else _show(context.obj, look_at_all)


def _viewer(what: str, read: Callable[[Redis], Awaitable[Any]]) -> Callable[..., int]:
    def view(context: typer.Context, json: Json = False, watch: Watch = False, every: Every = 2.0) -> int:
        async def look(redis: Redis) -> dict[str, Any]:
            return {what: await read(redis)}

        return _show(_merged(context, json, watch, every), look)

    return view


for _name, (_meaning, _read) in READERS.items():
    app.command(_name, help=_meaning)(_viewer(_name, _read))


@app.command("requests")
def list_requests(
    context: typer.Context,
    *,
    state: Annotated[
        str, typer.Option("--state", help="Only these: running, done, failed or cancelled.")
    ] = "",
    limit: Annotated[int, typer.Option("--limit", min=1, help="How many.")] = 50,
    json: Json = False,
    watch: Watch = False,
    every: Every = 2.0,
) -> int:
    """List requests, newest first: lane, state, age, chunks done."""

    async def look(redis: Redis) -> dict[str, Any]:
        return {"requests": await queues.requests(redis, state, limit)}

    return _show(_merged(context, json, watch, every), look)


@app.command("request")
def one_request(
    context: typer.Context,
    request_id: Annotated[str, typer.Argument(metavar="ID")],
    json: Json = False,
    watch: Watch = False,
    every: Every = 2.0,
) -> int:
    """Show one request and its results."""

    async def look(redis: Redis) -> dict[str, Any]:
        return await queues.request(redis, request_id)

    return _show(_merged(context, json, watch, every), look)


@app.command("dead")
def dead_letters(
    context: typer.Context,
    action: Annotated[LetterAction | None, typer.Argument(help="Do this with them. Default: list.")] = None,
    ids: Annotated[list[str] | None, typer.Argument(help="As listed, such as job:1717957951123-0.")] = None,
    *,
    every_one: Annotated[bool, typer.Option("--all", help="With every one of them.")] = False,
    json: Json = False,
    watch: Watch = False,
    every: Every = 2.0,
) -> int:
    """List jobs and messages that were given up; requeue or drop them."""
    if action:
        return _with_redis(
            lambda redis, settings: _act(redis, settings, action, ids or [], everything=every_one)
        )

    async def look(redis: Redis) -> dict[str, Any]:
        return {"dead": await dead(redis)}

    return _show(_merged(context, json, watch, every), look)


async def look_at_all(redis: Redis) -> dict[str, Any]:
    """Return what every view but those of requests shows, by name."""
    return {name: await read(redis) for name, (_, read) in READERS.items()} | {"dead": await dead(redis)}


def _merged(context: typer.Context, json: bool, watch: bool, every: float) -> View:
    """Options may stand before or after the name of the view."""
    before = context.obj if isinstance(context.obj, View) else View()
    return View(json or before.json, watch or before.watch, every if every != View.every else before.every)


def _show(view: View, look: Look) -> int:
    async def repeat(redis: Redis, _: Settings) -> int:
        while True:
            found = await look(redis)
            if view.watch and sys.stdout.isatty():
                terminal.out.clear()
            if view.json:
                terminal.json(found)
            elif found:
                terminal.out.print(render(found))
            else:
                raise CommandFailed("there is no such request, or it has expired")
            if not view.watch:
                return ExitStatus.DONE if found else ExitStatus.FAILED
            sys.stdout.flush()
            await asyncio.sleep(view.every)

    try:
        return _with_redis(repeat)
    except KeyboardInterrupt:
        return ExitStatus.DONE


def _with_redis(work: Callable[[Redis, Settings], Awaitable[int]]) -> int:
    configuration = with_redis_found(settings.load())

    async def run() -> int:
        redis = connect(configuration)
        try:
            return await work(redis, configuration)
        finally:
            await redis.aclose()

    try:
        return asyncio.run(run())
    except RedisError as error:
        raise CommandFailed(
            f"Redis at {redis_address(configuration)} does not answer: {error}", ExitStatus.UNREACHABLE
        ) from error


async def _act(
    redis: Redis,
    configuration: Settings,
    action: LetterAction,
    ids: list[str],
    *,
    everything: bool,
) -> int:
    letters = [row["id"] for row in await dead(redis)] if everything else ids
    if not letters:
        raise CommandFailed("no dead letters named; see `rt-embed inspect dead`")
    status = 0
    for letter in letters:
        outcome = (
            await drop(redis, letter)
            if action is LetterAction.DROP
            else await requeue(redis, configuration, letter)
        )
        print(printable(f"{letter}: {outcome}"))
        status = status or int(outcome not in {"requeued", "dropped"})
    return status


def render(found: Mapping[str, Any]) -> Group:
    """Return the same for people: one block per subject."""
    blocks: list[RenderableType] = []
    for name, value in found.items():
        blocks += [*_blocks(name, value), ""]
    return Group(*blocks[:-1])


def _blocks(name: str, value: Any) -> list[RenderableType]:
    rows: list[Row] = value if isinstance(value, list) else [value] if value else []
    if not rows:
        return [Text.assemble((name, "bold"), ": none")]
    plain = [{k: v for k, v in row.items() if k not in HOLDERS} for row in rows]
    one = len(plain) == 1 and len(plain[0]) > 6
    blocks: list[RenderableType] = [Text(name, style="bold"), facts(plain[0]) if one else table(plain)]
    for holders in HOLDERS:
        inner = [
            {**({"lane": row["lane"]} if "lane" in row else {}), **holder}
            for row in rows
            for holder in row.get(holders, ())
        ]
        if inner:
            blocks += ["", Text(f"{name} {holders}", style="bold"), table(inner)]
    return blocks
