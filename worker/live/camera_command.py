"""`rt-embed camera`: shows whether a camera plays, the properties of its stream, and if not, why."""

import asyncio
from pathlib import Path
from typing import Annotated

import typer

from shared.errors import DecodeError
from shared.settings import load
from worker.live.camera_description import CameraError, address
from worker.live.diagnosis import contact_sheet, diagnose
from worker.live.session import camera_options

app = typer.Typer(
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.command("camera")
def run_camera(
    url: Annotated[str, typer.Argument(help="An rtsp:// or rtsps:// address, with credentials if need be.")],
    seconds: Annotated[
        float,
        typer.Option("--seconds", min=0.5, max=600, help="How long to watch; the first chunk's length."),
    ] = 10.0,
    sheet: Annotated[
        Path, typer.Option("--sheet", help="Where the first chunk's frames are written, as a PNG.")
    ] = Path("camera.png"),
) -> int:
    """Play a camera for a while and print what was said, the stream's properties, and what is wrong.

    The settings are those of a worker (RTEMBED_RTSP_TRANSPORT and the others). Exit status 1 if it does not
    play.
    """
    options = camera_options(load())
    try:
        where = address(url)
    except CameraError as error:
        typer.echo(f"rt-embed camera: {error}", err=True)
        return 1
    found = asyncio.run(diagnose(where, options, seconds))
    frames = 0
    try:
        frames = contact_sheet(found, sheet)
    except (DecodeError, OSError) as error:
        found.error = found.error or str(error)
    for line in found.lines():
        typer.echo(line)
    if frames:
        typer.echo(f"frames     {frames} of the first chunk in {sheet}")
    return int(bool(found.error) or not frames)
