"""RT-Embed's commands for live streams and cameras."""

from datetime import UTC, datetime
from typing import Annotated, Any

import typer

from rt_embed.calls import Call
from rt_embed.cli.client.service_options import ServiceCommand, service_commands, session
from rt_embed.cli.terminal import CommandFailed, facts, table

StreamId = Annotated[str, typer.Argument(metavar="ID", help="The id of the stream.")]
CameraId = Annotated[str, typer.Option("--camera-id", help="The camera's own id.")]

app = service_commands()


@app.command("add-live-stream", cls=ServiceCommand)
def add_live_stream(
    context: typer.Context,
    url: Annotated[str, typer.Argument(help="An rtsp:// URL.")],
    *,
    description: Annotated[str, typer.Option("--description", help="What it shows.")],
    username: Annotated[str, typer.Option("--username", help="How to log in to the camera.")] = "",
    password: Annotated[str, typer.Option("--password", help="How to log in to the camera.")] = "",
    place_name: Annotated[str, typer.Option("--place-name", help="Where the camera is.")] = "",
    place_type: Annotated[str, typer.Option("--place-type", help="What kind of place that is.")] = "",
    place_lat: Annotated[float | None, typer.Option("--place-lat", help="Latitude, degrees.")] = None,
    place_lon: Annotated[float | None, typer.Option("--place-lon", help="Longitude, degrees.")] = None,
    place_alt: Annotated[float | None, typer.Option("--place-alt", help="Altitude, metres.")] = None,
    place_coordinate_x: Annotated[
        float | None, typer.Option("--place-coordinate-x", help="Local coordinate.")
    ] = None,
    place_coordinate_y: Annotated[
        float | None, typer.Option("--place-coordinate-y", help="Local coordinate.")
    ] = None,
    stream_id: Annotated[str, typer.Option("--stream-id", help="The id to give it.")] = "",
    sensor_name: Annotated[str, typer.Option("--sensor-name", help="The name of the camera.")] = "",
) -> None:
    """Register a live stream. Embedding begins with generate-video-embeddings."""
    fields = {
        "username": username,
        "password": password,
        "place_name": place_name,
        "place_type": place_type,
        "place_lat": place_lat,
        "place_lon": place_lon,
        "place_alt": place_alt,
        "place_coordinate_x": place_coordinate_x,
        "place_coordinate_y": place_coordinate_y,
        "id": stream_id,
        "sensor_name": sensor_name,
    }
    given = {name: value for name, value in fields.items() if value not in {"", None}}
    stream = {"liveStreamUrl": url, "description": description, **given}
    here = session(context)
    call = Call("POST", "/v1/streams/add", json={"streams": [stream]}, repeatable=bool(stream_id))
    answer = here.ask(call)
    for refused in answer["errors"]:
        raise CommandFailed(f"{refused['status_code']} {refused['error_code']}: {refused['error']}")
    here.show(answer, lambda: answer["results"][0]["id"])


@app.command("list-live-streams", cls=ServiceCommand)
def list_live_streams(context: typer.Context) -> None:
    """List the registered live streams."""
    here = session(context)
    answer = here.ask(Call("GET", "/v1/streams/get-stream-info"))
    columns = ("id", "liveStreamUrl", "description", "chunk_duration", "chunk_overlap_duration")
    here.show(answer, lambda: table(answer, columns))


@app.command("delete-live-stream", cls=ServiceCommand)
def delete_live_stream(context: typer.Context, stream_id: StreamId) -> None:
    """Stop embedding a live stream, and remove it."""
    here = session(context)
    here.ask(Call("DELETE", f"/v1/streams/delete/{stream_id}"))
    here.show({"id": stream_id, "deleted": True}, lambda: f"deleted {stream_id}")


@app.command("stop-live-stream-embed-processing", cls=ServiceCommand)
def stop_embedding(context: typer.Context, stream_id: StreamId) -> None:
    """Stop embedding a live stream, and keep it registered."""
    here = session(context)
    here.ask(Call("DELETE", f"/v1/generate_video_embeddings/{stream_id}"))
    here.show({"id": stream_id, "stopped": True}, lambda: f"stopped {stream_id}")


@app.command("stream-add", cls=ServiceCommand)
def stream_add(
    context: typer.Context,
    *,
    camera_url: Annotated[str, typer.Option("--camera-url", help="An rtsp:// URL.")],
    camera_id: CameraId,
    camera_name: Annotated[str, typer.Option("--camera-name", help="What people call it.")] = "",
    model: Annotated[str, typer.Option("--model", help="Start embedding with this model.")] = "",
    chunk_duration: Annotated[int | None, typer.Option("--chunk-duration", help="Seconds per chunk.")] = None,
    chunk_overlap_duration: Annotated[
        int | None, typer.Option("--chunk-overlap-duration", help="Seconds that chunks share.")
    ] = None,
    source: Annotated[str, typer.Option("--source", help="Who adds it.")] = "cli",
) -> None:
    """Add a camera; with --model, embed it at once."""
    options = {
        "model": model or None,
        "chunk_duration": chunk_duration,
        "chunk_overlap_duration": chunk_overlap_duration,
    }
    metadata = {name: value for name, value in options.items() if value is not None}
    value: dict[str, Any] = {"camera_id": camera_id, "camera_url": camera_url, "change": "camera_add"}
    if camera_name:
        value["camera_name"] = camera_name
    if metadata:
        value["metadata"] = metadata
    here = session(context)
    answer = here.ask(_camera_call("/v1/stream/add", value, source))
    here.show(answer, lambda: facts(answer))


@app.command("stream-remove", cls=ServiceCommand)
def stream_remove(context: typer.Context, *, camera_id: CameraId) -> None:
    """Remove a camera."""
    here = session(context)
    value = {"camera_id": camera_id, "change": "camera_remove"}
    answer = here.ask(_camera_call("/v1/stream/remove", value, "cli"))
    here.show(answer, lambda: facts(answer))


@app.command("stream-list", cls=ServiceCommand)
def stream_list(context: typer.Context) -> None:
    """List the cameras."""
    here = session(context)
    answer = here.ask(Call("GET", "/v1/stream/get-stream-info"))
    columns = ("camera_id", "camera_name", "camera_url", "inference_active", "chunk_duration")
    here.show(answer, lambda: table(answer["stream_list"], columns))


def _camera_call(path: str, value: dict[str, Any], source: str) -> Call:
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    body = {"key": "sensor", "value": value, "headers": {"source": source, "created_at": now}}
    return Call("POST", path, json=body, repeatable=False)
