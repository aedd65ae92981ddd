"""`rt-embed trigger`: save sentences and pictures that new chunks are compared with; watch what matches."""

from contextlib import closing, suppress
from typing import Annotated

import msgspec
import typer
from rich.text import Text

from rt_embed import flows
from rt_embed.calls import Call
from rt_embed.cli.client.service_options import ServiceCommand, service_commands, session
from rt_embed.cli.terminal import CommandFailed, ExitStatus, facts, table, terminal
from rt_embed.trigger_calls import TRIGGERS_PATH

COLUMNS = ("id", "name", "text", "threshold", "cooldown", "matches", "last_match")
LONGEST_NAME = 200
TriggerId = Annotated[str, typer.Argument(metavar="ID", help="The id of the trigger.")]

app = service_commands()


@app.command("add", cls=ServiceCommand)
def add(
    context: typer.Context,
    text: Annotated[str | None, typer.Argument(help="A sentence.")] = None,
    *,
    threshold: Annotated[
        float, typer.Option("--threshold", help="Minimum score that matches: see rt-embed search.")
    ],
    image: Annotated[str | None, typer.Option("--image", help="A picture instead: a file or URL.")] = None,
    name: Annotated[str | None, typer.Option("--name", help="Its name. Default: the sentence.")] = None,
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
    question = flows.search_query(text, image, None, {})
    body = {
        "name": (name or text or (image or "").rpartition("/")[2])[:LONGEST_NAME], "threshold": threshold,
        "files": files, "cooldown": cooldown, "cameras": camera or None, "webhook": webhook,
        "webhook_secret": webhook_secret,
    } | question  # fmt: skip
    here = session(context)
    made = here.ask(Call("POST", TRIGGERS_PATH, json=body, repeatable=False))
    here.show(made, lambda: made["id"])


@app.command("list", cls=ServiceCommand)
def list_all(context: typer.Context) -> None:
    """List the triggers."""
    here = session(context)
    found = here.ask(Call("GET", TRIGGERS_PATH))["triggers"]
    here.show(found, lambda: table(found, COLUMNS))


@app.command("show", cls=ServiceCommand)
def show(context: typer.Context, trigger: TriggerId) -> None:
    """Show a trigger and the state of its webhook."""
    here = session(context)
    found = here.ask(Call("GET", f"{TRIGGERS_PATH}/{trigger}"))
    here.show(found, lambda: facts(found))


@app.command("delete", cls=ServiceCommand)
def delete(context: typer.Context, trigger: TriggerId) -> None:
    """Delete a trigger and its matches."""
    here = session(context)
    gone = here.ask(Call("DELETE", f"{TRIGGERS_PATH}/{trigger}"))
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
    here.offer_curl(Call("GET", f"{TRIGGERS_PATH}/{trigger}/events", params={"last": last}))
    with (
        here.client() as client,
        suppress(KeyboardInterrupt),
        closing(client.triggers.matches(trigger, last=last)) as events,
    ):
        for number, event in enumerate(events, 1):
            if here.json:
                terminal.json_line(msgspec.to_builtins(event))
            else:
                when = event.start_time or f"{event.start:.1f} s"
                terminal.out.print(Text(f"{when}  {event.score:.3f}  {event.name}  chunk {event.chunk}"))
            if number == count:
                return
