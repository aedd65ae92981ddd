"""`rt-embed`: one parser for all sub-commands, each in a module that is imported when it is asked for."""

import os
import sys
import traceback
from collections.abc import Sequence
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.text import Text
from typer._click.exceptions import ClickException, UsageError
from typer.core import TyperCommand, TyperGroup, TyperOption
from typer.main import get_command

from rt_embed.cli.terminal import CommandFailed, ExitStatus, command_group, printable, terminal
from shared.errors import RtEmbedError, SettingsError
from shared.settings.settings_file import apply_settings_file

FILES = "rt_embed.cli.client.file_commands"
EMBEDDINGS = "rt_embed.cli.client.embedding_commands"
STREAMS = "rt_embed.cli.client.stream_commands"
SERVER = "rt_embed.cli.client.server_commands"

PANELS = {
    "Run the service": {
        "up": "rt_embed.cli.up",
        "demo": "rt_embed.cli.demo",
        "gateway": "rt_embed.cli.processes",
        "worker": "rt_embed.cli.processes",
        "indexer": "rt_embed.cli.processes",
    },
    "Embed and search": {
        "embed": "rt_embed.cli.client.embed",
        "text": "rt_embed.cli.client.search",
        "search": "rt_embed.cli.client.search",
        "watch": "rt_embed.cli.client.watch_command",
        "trigger": "rt_embed.cli.client.trigger_commands",
    },
    "Use a service, as RT-Embed's own client does": {
        "add-file": FILES,
        "list-files": FILES,
        "file-info": FILES,
        "file-content": FILES,
        "delete-file": FILES,
        "generate-video-embeddings": EMBEDDINGS,
        "generate-text-embeddings": EMBEDDINGS,
        "add-live-stream": STREAMS,
        "list-live-streams": STREAMS,
        "delete-live-stream": STREAMS,
        "stop-live-stream-embed-processing": STREAMS,
        "stream-add": STREAMS,
        "stream-remove": STREAMS,
        "stream-list": STREAMS,
        "list-models": SERVER,
        "get-version": SERVER,
        "get-manifest": SERVER,
        "server-metrics": SERVER,
        "server-health-check": SERVER,
    },
    "Look after it": {
        "doctor": "rt_embed.cli.doctor",
        "settings": "rt_embed.cli.settings_command",
        "backup": "rt_embed.cli.backup",
        "restore": "rt_embed.cli.backup",
        "camera": "worker.live.camera_command",
        "inspect": "rt_embed.cli.inspect",
        "model": "worker.model_command",
    },
}
"""The sub-commands, as `rt-embed --help` groups them, and the modules whose `app` holds them."""

CONFIG_HELP = (
    "Settings in a file, NAME=value on a line or TOML (NAME.toml); the environment's own win over them."
)
VERBOSE_HELP = "Say more: log lines, and the traceback of an error."
MODULES = {name: module for commands in PANELS.values() for name, module in commands.items()}


class LazyCommands(TyperGroup):
    """Imports the module of a sub-command when it is asked for."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.commands: Any = MODULES  # only their names are looked at, to guess what a wrong word meant

    def list_commands(self, ctx: Any) -> list[str]:
        """Return the names in the order of `PANELS`."""
        del ctx
        return list(MODULES)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Return the sub-command, or one that says what is missing; None if there is no such name."""
        del ctx
        if cmd_name not in MODULES:
            return None
        try:
            loaded: Any = get_command(import_module(MODULES[cmd_name]).app)
        except ModuleNotFoundError as error:
            loaded = _without_its_packages(cmd_name, error.name or "")
        found = getattr(loaded, "commands", {}).get(cmd_name, loaded)
        found.name = cmd_name
        found.rich_help_panel = next(panel for panel, names in PANELS.items() if cmd_name in names)
        _add_common_options(found)
        return found


def be_verbose(_context: object, _parameter: object, value: bool) -> None:
    """Remember that more is wanted."""
    if value:
        terminal.verbose = True


def take_settings_file(_context: object, _parameter: object, value: str | None) -> None:
    """Set what the file has and the environment has not. Raises SettingsError."""
    if value:
        apply_settings_file(Path(value))


def _add_common_options(command: Any) -> None:
    """Add the options `--verbose` and `--config` to a command and to all below it."""
    for below in getattr(command, "commands", {}).values():
        _add_common_options(below)
    command.params.append(
        TyperOption(
            param_decls=["-v", "--verbose"],
            is_flag=True,
            expose_value=False,
            callback=be_verbose,
            help=VERBOSE_HELP,
        )
    )
    command.params.append(
        TyperOption(
            param_decls=["--config"],
            metavar="FILE",
            is_eager=True,  # before options that have variables for defaults
            expose_value=False,
            callback=take_settings_file,
            help=CONFIG_HELP,
        )
    )


def _without_its_packages(name: str, missing: str) -> TyperCommand:
    """Return a command that only says which extra to install."""
    reason = f"needs the extra \\[worker] ({missing} is not installed): pip install 'rt-embed\\[worker]'"

    def fail(_context: typer.Context) -> None:
        raise CommandFailed(reason.replace("\\", ""))

    application = command_group()
    application.command(
        name,
        help=reason[0].upper() + reason[1:],
        context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
    )(fail)
    return get_command(application)  # type: ignore[return-value] # one command, no group


app = typer.Typer(
    cls=LazyCommands,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
)


def show_version(asked: bool) -> None:
    """Print the version and end."""
    if asked:
        print("rt-embed", version("rt-embed"))
        raise typer.Exit


@app.callback(invoke_without_command=True)
def rt_embed(
    context: typer.Context,
    *,
    _version: Annotated[
        bool,
        typer.Option("-V", "--version", callback=show_version, is_eager=True, help="Print the version."),
    ] = False,
    verbose: Annotated[bool, typer.Option("-v", "--verbose", help=VERBOSE_HELP)] = False,
    config: Annotated[
        str | None, typer.Option("--config", metavar="FILE", is_eager=True, help=CONFIG_HELP)
    ] = None,
) -> None:
    """Embed video, images and text: run the service, use it, look after it.

    Every setting is an environment variable; options override them.
    """
    be_verbose(None, None, verbose)
    take_settings_file(None, None, config)
    if context.invoked_subcommand is None:
        print(context.get_help())


def main() -> None:
    """Run the command line with this process's arguments, and exit."""
    sys.exit(run(sys.argv[1:]))


def run(arguments: Sequence[str]) -> int:
    """Run one command; return its exit status. Errors are one line on standard error."""
    terminal.verbose = False
    if arguments[:1] == ["help"]:
        arguments = [*arguments[1:], "--help"]
    command = get_command(app)
    try:
        status = command.main(list(arguments), prog_name="rt-embed", standalone_mode=False)
        return int(status or 0)
    except ClickException as error:
        where = error.ctx.command_path if isinstance(error, UsageError) and error.ctx else _name(arguments)
        return _complain(
            f"{where}: {_one_line(error.format_message())} Try '{where} --help'.", error.exit_code
        )
    except CommandFailed as error:
        return _complain(f"{_name(arguments)}: {error.message}", error.status)
    except SettingsError as error:
        return _complain(f"{_name(arguments)}: {error.message}", ExitStatus.WRONG_USE)
    except RtEmbedError as error:
        return _complain(f"{_name(arguments)}: {error.message}", ExitStatus.FAILED)
    except BrokenPipeError:  # `rt-embed ... | head` has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return ExitStatus.FAILED


def _name(arguments: Sequence[str]) -> str:
    """Return the command that these arguments name, for its error messages."""
    command: Any = get_command(app)
    words = ["rt-embed"]
    for word in arguments:
        found = None if word.startswith("-") else command.get_command(None, word)
        if found:
            command = found
            words.append(word)
        if not hasattr(command, "get_command"):
            break
    return " ".join(words)


def _complain(line: str, status: int) -> int:
    if terminal.verbose:
        traceback.print_exc()
    terminal.err.print(Text(printable(line), style="red"), soft_wrap=True)
    return status


def _one_line(message: str) -> str:
    line = " ".join(message.split())
    return line if line.endswith((".", "?")) else f"{line}."
