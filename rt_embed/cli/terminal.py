"""What all commands share: where they write, how they fail, and the option `--verbose`."""

import json
import os
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from enum import IntEnum
from importlib.util import find_spec
from typing import Any

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

PIPE_WIDTH = 200
"""Columns of a table that goes into a file or another program."""


class ExitStatus(IntEnum):
    """What a command's exit status means; `deploy/command-line.md` lists them."""

    DONE = 0
    FAILED = 1
    WRONG_USE = 2
    UNVERIFIED = 3
    CANNOT_START = 4
    STUCK = 5
    UNREACHABLE = 6
    INTERRUPTED = 130


class CommandFailed(Exception):
    """Ends a command with one line on standard error and an exit status."""

    def __init__(self, message: str, status: ExitStatus = ExitStatus.FAILED) -> None:
        super().__init__(message)
        self.message = message
        self.status = status


class Terminal:
    """Standard output for results, standard error for everything else."""

    def __init__(self) -> None:
        self.verbose = False

    @property
    def out(self) -> Console:
        """Where results go."""
        return _console(stderr=False)

    @property
    def err(self) -> Console:
        """Where errors, notes and progress go."""
        return _console(stderr=True)

    def json(self, value: object) -> None:
        """Print a value for scripts: indented JSON, never wrapped or coloured."""
        sys.stdout.write(_escaped(json.dumps(value, indent=2, ensure_ascii=False)) + "\n")

    def json_line(self, value: object) -> None:
        """Print a value as one line of JSON, at once."""
        sys.stdout.write(_escaped(json.dumps(value, ensure_ascii=False)) + "\n")
        sys.stdout.flush()

    def note(self, text: str) -> None:
        """Say something that is no result."""
        self.err.print(Text(printable(text)), soft_wrap=True)


terminal = Terminal()
_CONTROL = re.compile(r"[\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069]")


def printable(text: str) -> str:
    """Return the text with what would steer a terminal spelled out: cameras and clients have a say in it."""
    return "".join(
        letter if letter.isprintable() or letter == "\n" else ascii(letter)[1:-1] for letter in text
    )


def _escaped(text: str) -> str:
    """JSON without what `json.dumps` leaves as it is and terminals act on."""
    return _CONTROL.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def _console(*, stderr: bool) -> Console:
    stream = sys.stderr if stderr else sys.stdout
    piped = not stream.isatty() and "COLUMNS" not in os.environ
    return Console(file=stream, width=PIPE_WIDTH if piped else None, highlight=False)


def command_group(**options: Any) -> typer.Typer:
    """Return a Typer application without its own completion options."""
    return typer.Typer(
        add_completion=False,
        rich_markup_mode="rich",
        context_settings={"help_option_names": ["-h", "--help"]},
        pretty_exceptions_enable=False,
        **options,
    )


def require_extra(extra: str, *packages: str) -> None:
    """Raise CommandFailed, saying what to install, if one of the packages is missing."""
    missing = [package for package in packages if find_spec(package) is None]
    if missing:
        raise CommandFailed(
            f"needs the extra [{extra}] ({', '.join(missing)} not installed): "
            f"pip install 'rt-embed[{extra}]'",
            ExitStatus.WRONG_USE,
        )


def table(rows: Iterable[Mapping[str, Any]], columns: Sequence[str] = ()) -> Table:
    """Return rows as a table. Columns are those named, else all that occur, in the order of appearance."""
    found = list(rows)
    names = list(columns) or list(dict.fromkeys(name for row in found for name in row))
    drawn = Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for name in names:
        numeric = all(isinstance(row.get(name), int | float | None) for row in found)
        drawn.add_column(
            printable(name.replace("_", " ")), justify="right" if numeric else "left", overflow="fold"
        )
    for row in found:
        drawn.add_row(*(cell(row.get(name)) for name in names))
    return drawn


def facts(row: Mapping[str, Any]) -> Table:
    """Return one thing's fields, one on a line."""
    drawn = Table(box=None, show_header=False, pad_edge=False)
    for name, value in row.items():
        drawn.add_row(Text(printable(name.replace("_", " ")), style="dim"), cell(value))
    return drawn


def cell(value: Any) -> Text:
    """Return a value as one cell: lists and objects as JSON, nothing as a dash."""
    if value is None or value == "":
        return Text("-", style="dim")
    if isinstance(value, float):
        return Text(f"{value:.1f}" if abs(value) >= 1 else f"{value:.3f}")
    if isinstance(value, list | dict):
        return Text(printable(json.dumps(value, ensure_ascii=False)))
    return Text(printable(str(value)))
