"""`rt-embed gateway`, `rt-embed worker` and `rt-embed indexer`: one process of the service."""

import os
import sys
from typing import Annotated

import typer

from rt_embed.cli.terminal import command_group, require_extra, terminal

LogLevel = Annotated[
    str | None, typer.Option("--log-level", metavar="LEVEL", help="The setting LOG_LEVEL: debug, info, ...")
]

app = command_group()


@app.command()
def gateway(
    host: Annotated[
        str | None, typer.Option("--host", help="The address to listen on: the setting RTEMBED_HOST.")
    ] = None,
    port: Annotated[
        int | None, typer.Option("--port", help="The port to listen on: the setting BACKEND_PORT.")
    ] = None,
    log_level: LogLevel = None,
) -> None:
    """Run one gateway: HTTP in, jobs into Redis, results back."""
    become("gateway", RTEMBED_HOST=host, BACKEND_PORT=port, LOG_LEVEL=log_level)


@app.command()
def worker(
    model_path: Annotated[
        str | None, typer.Option("--model-path", help="The model to serve: the setting MODEL_PATH.")
    ] = None,
    backend: Annotated[
        str | None, typer.Option("--backend", help="auto, cpu or cuda: the setting RTEMBED_BACKEND.")
    ] = None,
    log_level: LogLevel = None,
) -> None:
    """Run one worker, or one for each GPU: jobs out of Redis, vectors back."""
    require_extra("worker", "av", "numpy", "tokenizers")
    become("worker", MODEL_PATH=model_path, RTEMBED_BACKEND=backend, LOG_LEVEL=log_level)


@app.command()
def indexer(log_level: LogLevel = None) -> None:
    """Run one indexer: embedding messages into the search index of RTEMBED_SEARCH_URL."""
    require_extra("search", "psycopg", "pgvector")
    become("search", LOG_LEVEL=log_level)


def become(module: str, **variables: object) -> None:
    """Replace this process by `python -m module`, so that signals reach it directly.

    `variables` are set in its environment unless they are None.
    """
    given = {name: str(value) for name, value in variables.items() if value is not None}
    more = {"LOG_LEVEL": "debug"} if terminal.verbose else {}
    os.execve(  # noqa: S606 - no shell is wanted
        sys.executable, [sys.executable, "-P", "-m", module], {**os.environ, **more, **given}
    )
