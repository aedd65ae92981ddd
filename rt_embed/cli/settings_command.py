"""`rt-embed settings`: what a process started here would be set to, and where each value comes from."""

import dataclasses
import os
from collections.abc import Container, Mapping
from typing import Annotated, Any

import typer
from rich.text import Text

from rt_embed.cli.terminal import command_group, table, terminal
from shared.settings.loading import GROUPS, load, read
from shared.settings.names import without_effect
from shared.settings.settings_file import origins

app = command_group()


@app.command("settings")
def settings(
    name: Annotated[
        str, typer.Argument(metavar="[WORD]", help="Only variables whose name contains this word.")
    ] = "",
    *,
    everything: Annotated[bool, typer.Option("--all", help="Those left at their defaults, too.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print JSON, every variable in it.")] = False,
) -> None:
    """Print the settings in effect, and whether each comes from the environment, a file or its default.

    Secrets are not shown. A wrong setting shows its default and is named at the end; exit status 2.
    """
    groups = effective(os.environ)
    if json:
        terminal.json([{"group": group, **row} for group, rows in groups.items() for row in rows])
        load()
        return
    shown = 0
    for group, rows in groups.items():
        wanted = [
            row
            for row in rows
            if name.upper() in row["variable"] and (everything or name or row["origin"] != "default")
        ]
        if wanted:
            terminal.out.print(Text(f"\n{group}", style="bold"))
            terminal.out.print(table(wanted, ["variable", "value", "origin"]))
        shown += len(wanted)
    if not shown:
        hint = f"no setting has {name!r} in its name" if name else "everything is at its default"
        terminal.note(f"{hint}; rt-embed settings --all shows all")
    for variable, advice in without_effect(os.environ).items():
        terminal.note(f"{variable} has no effect here: {advice}")
    load()  # raises what is wrong


def effective(environment: Mapping[str, str]) -> dict[str, list[dict[str, Any]]]:
    """Return every setting by group: its variable, value as text and origin."""
    loaded, problems = read(environment)
    wrong = {problem.partition("=")[0] for problem in problems}
    return {
        group.__doc__: [_row(field, loaded, environment, wrong) for field in dataclasses.fields(group)]
        for group in GROUPS
    }


def _row(
    field: dataclasses.Field[Any], loaded: Any, environment: Mapping[str, str], wrong: Container[str]
) -> dict[str, Any]:
    variable = field.metadata["variable"]
    given = environment.get(variable, "").strip() or (field.metadata["empty"] and variable in environment)
    value = getattr(loaded, field.name)
    hidden = field.metadata["secret"] and value
    origin = origins.get(variable, "environment") if given else "default"
    if variable in wrong:
        origin = f"default: the one of {origin} is wrong"
    return {"variable": variable, "value": "(hidden)" if hidden else _text(value), "origin": origin}


def _text(value: Any) -> str | None:
    """Return a value as it is written in a variable."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return ",".join("=".join(map(str, v)) if isinstance(v, tuple) else str(v) for v in value) or None
    return None if value is None else str(value)
