"""What all commands that use a service share: their options, the client that these make, and their errors."""

import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import typer
from rich.console import RenderableType
from typer.core import TyperCommand, TyperOption

from rt_embed import AsyncClient, Client, ClientError, ConnectionFailed
from rt_embed.calls import Call, Retries, answered
from rt_embed.cli.client.curl import curl_command
from rt_embed.cli.data_folder import running_service
from rt_embed.cli.terminal import CommandFailed, ExitStatus, command_group, terminal

PANEL = "The service"
RETRIES = Retries(2)
DATA_DIR = Path(".rtembed")


class Session(msgspec.Struct):
    """The options --backend, --api-key, --timeout, --json and --print-curl-command of one command."""

    backend: str | None = None
    api_key: str | None = None
    timeout: float = 60.0
    json: bool = False
    print_curl_command: bool = False

    @property
    def url(self) -> str:
        """The address of the service: as told, else what `rt-embed up` started here, else port 8000."""
        if self.backend:
            return self.backend if "://" in self.backend else f"http://{self.backend}"
        service = running_service(Path(os.environ.get("RTEMBED_DATA_DIR") or DATA_DIR))
        return service.url if service else "http://localhost:8000"

    def client(self) -> Client:
        """Return a client of the service."""
        return Client(self.url, api_key=self.api_key, timeout=self.timeout)

    def async_client(self, retries: int) -> AsyncClient:
        """Return an asynchronous client of the service."""
        return AsyncClient(self.url, api_key=self.api_key, timeout=self.timeout, retries=retries)

    def send(self, call: Call, retries: Retries = RETRIES) -> bytes:
        """Send a call and return its answer; with --print-curl-command, print it instead and end."""
        self.offer_curl(call)
        with self.client() as client:
            return client.run(answered(call, retries)).content

    def ask(self, call: Call, retries: Retries = RETRIES) -> Any:
        """Send a call and return its answer's JSON, None if it is empty."""
        content = self.send(call, retries)
        return msgspec.json.decode(content) if content else None

    def offer_curl(self, call: Call) -> None:
        """With --print-curl-command, print the call and end."""
        if self.print_curl_command:
            print(curl_command(call, self.url, with_key=bool(self.api_key)))
            raise typer.Exit

    def show(self, answer: Any, drawn: Callable[[], RenderableType]) -> None:
        """Print an answer: as JSON with --json, else as it is drawn for people."""
        if self.json:
            terminal.json(answer)
        else:
            terminal.out.print(drawn())


def session(context: typer.Context) -> Session:
    """Return the session of a command."""
    found = context.meta.setdefault("rt_embed.session", Session())
    assert isinstance(found, Session)  # noqa: S101 - nobody else writes there
    return found


class ServiceCommand(TyperCommand):
    """A command with the options of `Session`, whose errors are one line."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.params += [
            _option("--backend", envvar="RTVI_BACKEND", metavar="URL", help="The address of the service."),
            _option(
                "--api-key",
                envvar="RTEMBED_API_KEY",
                metavar="KEY",
                help="An API key, if the service requires one.",
            ),
            _option(
                "--timeout",
                type=float,
                metavar="SECONDS",
                help="How long to wait for an answer. Default: 60.",
            ),
            _option("--json", is_flag=True, help="Print JSON."),
            _option("--print-curl-command", is_flag=True, help="Print the request for curl; do not send it."),
        ]

    def invoke(self, ctx: Any) -> Any:
        """Run the command."""
        if terminal.verbose:
            logging.basicConfig(level=logging.INFO, format="%(message)s")
        try:
            return super().invoke(ctx)
        except ConnectionFailed as error:
            raise CommandFailed(f"no answer from {error}", ExitStatus.UNREACHABLE) from error
        except ClientError as error:
            raise CommandFailed(str(error)) from error
        except OSError as error:
            if isinstance(error, BrokenPipeError):
                raise
            raise CommandFailed(f"{error.filename or 'error'}: {error.strerror or error}") from error


def service_commands() -> typer.Typer:
    """Return a Typer application for commands that use a service."""
    return command_group()


def _option(name: str, **options: Any) -> TyperOption:
    field = name.strip("-").replace("-", "_")

    def keep(context: typer.Context, _parameter: object, value: Any) -> None:
        if value is not None and value is not False:
            setattr(session(context), field, value)

    return TyperOption(
        param_decls=[name],
        expose_value=False,
        callback=keep,
        rich_help_panel=PANEL,
        show_envvar=True,
        **options,
    )
