"""RT-Embed's commands about the server: models, version, manifest, metrics, health."""

import sys
from typing import Annotated

import typer

from rt_embed import ServiceError
from rt_embed.calls import Call, Retries
from rt_embed.cli.client.service_options import ServiceCommand, service_commands, session
from rt_embed.cli.terminal import CommandFailed, facts, table

app = service_commands()


@app.command("list-models", cls=ServiceCommand)
def list_models(context: typer.Context) -> None:
    """List the models that the service has loaded."""
    here = session(context)
    answer = here.ask(Call("GET", "/v1/models"))
    here.show(answer, lambda: table(answer["data"]))


@app.command("get-version", cls=ServiceCommand)
def get_version(context: typer.Context) -> None:
    """Show the version of the service."""
    here = session(context)
    answer = here.ask(Call("GET", "/v1/version"))
    here.show(answer, lambda: facts(answer))


@app.command("get-manifest", cls=ServiceCommand)
def get_manifest(context: typer.Context) -> None:
    """Show version and model of the service."""
    here = session(context)
    answer = here.ask(Call("GET", "/v1/manifest"))
    here.show(answer, lambda: facts(answer))


@app.command("server-metrics", cls=ServiceCommand)
def server_metrics(context: typer.Context) -> None:
    """Print the metrics of the service, in Prometheus's text format."""
    sys.stdout.write(session(context).send(Call("GET", "/v1/metrics")).decode())


@app.command("server-health-check", cls=ServiceCommand)
def server_health_check(
    context: typer.Context,
    *,
    liveness: Annotated[bool, typer.Option("--liveness", help="Check liveness, not readiness.")] = False,
) -> None:
    """Say whether the service is ready. Exit status 1 if it is not."""
    here = session(context)
    call = Call("GET", "/v1/live" if liveness else "/v1/ready", params={"detailed": "true"})
    try:
        answer = here.ask(call, Retries(0))
    except ServiceError as error:
        raise CommandFailed(
            f"the service is not {'alive' if liveness else 'ready'}: {error.message}"
        ) from error
    here.show(answer, lambda: table(answer["checks"], ("component", "healthy", "message")))
