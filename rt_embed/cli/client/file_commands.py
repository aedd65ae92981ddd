"""RT-Embed's commands for files: add-file, list-files, file-info, file-content, delete-file."""

import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn, TransferSpeedColumn

from rt_embed.calls import Call, Retries, answered
from rt_embed.cli.client.service_options import ServiceCommand, service_commands, session
from rt_embed.cli.terminal import facts, table, terminal
from rt_embed.upload_body import UploadBody

FileId = Annotated[str, typer.Argument(metavar="ID", help="The id of the file.")]
COLUMNS = ("id", "filename", "bytes", "media_type", "creation_time", "sensor_name")

app = service_commands()


@app.command("add-file", cls=ServiceCommand)
def add_file(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(help="A film or a picture.")],
    *,
    add_as_path: Annotated[
        bool, typer.Option("--add-as-path", help="Register a path on the server; send no bytes.")
    ] = False,
    is_image: Annotated[bool, typer.Option("--is-image", help="It is a picture, not a film.")] = False,
    creation_time: Annotated[
        str, typer.Option("--creation-time", help="When it was recorded: 2024-06-09T18:32:11.123Z.")
    ] = "",
    stream_id: Annotated[str, typer.Option("--stream-id", help="The id to give it, a UUID.")] = "",
    sensor_name: Annotated[str, typer.Option("--sensor-name", help="The name of its camera.")] = "",
) -> None:
    """Upload a film or a picture, or register one that the server has."""
    given = {"creation_time": creation_time, "id": stream_id, "sensor_name": sensor_name}
    fields = {
        "purpose": "vision",
        "media_type": "image" if is_image else "video",
        **{name: value for name, value in given.items() if value},
    }
    here = session(context)
    if add_as_path:
        answer = here.ask(Call("POST", "/v1/files", form={**fields, "filename": str(file)}))
    else:
        with upload_bar() as bar:
            task = bar.add_task(file.name, total=None)

            def sent(done: int, total: int) -> None:
                bar.update(task, completed=done, total=total)

            upload = UploadBody(file, fields, sent)
            answer = here.ask(Call("POST", "/v1/files", upload=upload, repeatable=bool(stream_id)))
    here.show(answer, lambda: facts(answer))


def upload_bar() -> Progress:
    """Return a progress bar for bytes: shown on standard error, and only to people."""
    return Progress(
        "{task.description}", BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn(),
        console=terminal.err, transient=True, disable=not sys.stderr.isatty(),
    )  # fmt: skip


@app.command("list-files", cls=ServiceCommand)
def list_files(context: typer.Context) -> None:
    """List the files that the service keeps."""
    here = session(context)
    answer = here.ask(Call("GET", "/v1/files", params={"purpose": "vision"}))
    here.show(answer, lambda: table(answer["data"], COLUMNS))


@app.command("file-info", cls=ServiceCommand)
def file_info(context: typer.Context, file_id: FileId) -> None:
    """Show what the service knows of a file."""
    here = session(context)
    answer = here.ask(Call("GET", f"/v1/files/{file_id}"))
    here.show(answer, lambda: facts(answer))


@app.command("file-content", cls=ServiceCommand)
def file_content(
    context: typer.Context,
    file_id: FileId,
    out: Annotated[
        Path | None, typer.Option("-o", "--out", help="Where to write it. Default: standard output.")
    ] = None,
) -> None:
    """Fetch a file's bytes."""
    here = session(context)
    call = Call("GET", f"/v1/files/{file_id}/content", stream=True)
    here.offer_curl(call)
    with here.client() as client:
        answer = client.run(answered(call, Retries()))
        target: Any = out.open("wb") if out else sys.stdout.buffer
        try:
            for piece in answer.iter_bytes(1 << 20):
                target.write(piece)
        finally:
            answer.close()
            target.close() if out else target.flush()


@app.command("delete-file", cls=ServiceCommand)
def delete_file(context: typer.Context, file_id: FileId) -> None:
    """Delete a file."""
    here = session(context)
    answer = here.ask(Call("DELETE", f"/v1/files/{file_id}"))
    here.show(answer, lambda: f"deleted {answer['id']}")
