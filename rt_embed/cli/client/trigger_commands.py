"""`rt-embed trigger`: save sentences and pictures that new chunks are compared with; watch what matches."""

import time
from collections.abc import Generator, Iterable, Iterator
from contextlib import closing, suppress
from typing import Annotated, Any

import httpx
import msgspec
import typer
from rich.text import Text

from rt_embed import Client, flows
from rt_embed.calls import Call, Retries, answered
from rt_embed.cli.client.service_options import ServiceCommand, service_commands, session
from rt_embed.cli.terminal import CommandFailed, ExitStatus, facts, table, terminal

PATH = "/v1/triggers"
COLUMNS = ("id", "name", "text", "threshold", "cooldown", "matches", "last_match")
AGAIN = 1.0
"""Seconds before a stream that broke off is opened again."""
LONGEST_NAME = 200
TriggerId = Annotated[str, typer.Argument(metavar="ID", help="The id of the trigger.")]

app = service_commands()


@app.command("add", cls=ServiceCommand)
def add(
    context: typer.Context,
    text: Annotated[str | None, typer.Argument(help="A sentence.")] = None,
    *,
    threshold: Annotated[
        float, typer.Option("--threshold", help="Least score that matches: see rt-embed search.")
    ],
    image: Annotated[str | None, typer.Option("--image", help="A picture instead: a file or URL.")] = None,
    name: Annotated[
        str | None, typer.Option("--name", help="What it is called. Default: the sentence.")
    ] = None,
    camera: Annotated[
        list[str] | None, typer.Option("--camera", help="Only this camera. May be repeated.")
    ] = None,
    files: Annotated[bool, typer.Option("--files", help="Match chunks of files, too.")] = False,
    cooldown: Annotated[
        float, typer.Option("--cooldown", min=0, help="Seconds without another match of the same camera.")
    ] = 60.0,
    webhook: Annotated[str | None, typer.Option("--webhook", help="URL to which each match is sent.")] = None,
    webhook_secret: Annotated[
        str | None,
        typer.Option(
            "--webhook-secret", envvar="RTEMBED_WEBHOOK_SECRET", help="Key that signs what is sent."
        ),
    ] = None,
) -> None:
    """Tell when a camera sees what a sentence or picture describes."""
    if (text is None) == (image is None):
        raise CommandFailed("give a sentence or --image", ExitStatus.WRONG_USE)
    question = flows.search_query(text, image, None, 1, {})
    body = {
        "name": (name or text or (image or "").rpartition("/")[2])[:LONGEST_NAME], "threshold": threshold,
        "files": files, "cooldown": cooldown, "cameras": camera or None, "webhook": webhook,
        "webhook_secret": webhook_secret,
    } | {kind: question[kind] for kind in ("text", "image") if kind in question}  # fmt: skip
    here = session(context)
    made = here.ask(Call("POST", PATH, json=body, repeatable=False))
    here.show(made, lambda: made["id"])


@app.command("list", cls=ServiceCommand)
def list_all(context: typer.Context) -> None:
    """List the triggers."""
    here = session(context)
    found = here.ask(Call("GET", PATH))["triggers"]
    here.show(found, lambda: table(found, COLUMNS))


@app.command("show", cls=ServiceCommand)
def show(context: typer.Context, trigger: TriggerId) -> None:
    """Show a trigger, and how its webhook fares."""
    here = session(context)
    found = here.ask(Call("GET", f"{PATH}/{trigger}"))
    here.show(found, lambda: facts(found))


@app.command("delete", cls=ServiceCommand)
def delete(context: typer.Context, trigger: TriggerId) -> None:
    """Delete a trigger and its matches."""
    here = session(context)
    gone = here.ask(Call("DELETE", f"{PATH}/{trigger}"))
    here.show(gone, lambda: f"deleted {gone['id']}")


@app.command("watch", cls=ServiceCommand)
def watch(
    context: typer.Context,
    trigger: TriggerId,
    *,
    last: Annotated[int, typer.Option("--last", min=0, max=1000, help="Begin with the last matches.")] = 0,
    count: Annotated[
        int | None, typer.Option("--count", min=1, help="End after so many matches. Default: at Ctrl-C.")
    ] = None,
) -> None:
    """Show matches as they come, until Ctrl-C or until the trigger is deleted."""
    here = session(context)
    here.offer_curl(Call("GET", f"{PATH}/{trigger}/events", params={"last": last}))
    with (
        here.client() as client,
        suppress(KeyboardInterrupt),
        closing(_events(client, trigger, last)) as events,
    ):
        for number, event in enumerate(events, 1):
            if here.json:
                terminal.json_line(event)
            else:
                when = event["start_time"] or f"{event['start']:.1f} s"
                terminal.out.print(
                    Text(f"{when}  {event['score']:.3f}  {event['name']}  chunk {event['chunk']}")
                )
            if number == count:
                return


def _events(client: Client, trigger: str, last: int) -> Generator[dict[str, Any], None, None]:
    """The matches, over as many connections as it takes, until the trigger is deleted."""
    seen = ""
    while True:
        headers = {"Accept": "text/event-stream", **({"Last-Event-ID": seen} if seen else {})}
        call = Call("GET", f"{PATH}/{trigger}/events", params={"last": last}, headers=headers, stream=True)
        with closing(client.run(answered(call, Retries()))) as answer, suppress(httpx.TransportError):
            for event_id, data in _blocks(answer.iter_lines()):
                if data == "[DONE]":
                    return
                seen = event_id
                yield msgspec.json.decode(data)
        time.sleep(AGAIN)


def _blocks(lines: Iterable[str]) -> Iterator[tuple[str, str]]:
    """The id and the data of each event."""
    event_id = data = ""
    for line in lines:
        name, _, value = line.partition(": ")
        if name == "data":
            data = value
        elif name == "id":
            event_id = value
        elif not line and data:
            yield event_id, data
            data = ""
