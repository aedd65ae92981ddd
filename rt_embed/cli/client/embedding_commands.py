"""RT-Embed's commands that embed: generate-video-embeddings, generate-text-embeddings."""

import uuid
from contextlib import closing
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer

from rt_embed.calls import Call, Retries, answered
from rt_embed.cli.client.inline_file import InlineFile
from rt_embed.cli.client.service_options import ServiceCommand, Session, service_commands, session
from rt_embed.cli.terminal import CommandFailed, ExitStatus, table
from rt_embed.flows import VIDEO_PATH, idempotent

Model = Annotated[str, typer.Option("--model", help="The model. Default: the one that is loaded.")]

app = service_commands()


@app.command("generate-text-embeddings", cls=ServiceCommand)
def generate_text_embeddings(
    context: typer.Context,
    *,
    text_input: Annotated[list[str], typer.Option("--text-input", help="A text. May be repeated.")],
    model: Model = "",
) -> None:
    """Embed texts."""
    here = session(context)
    body = {"text_input": text_input, "model": model or served_model(here)}
    answer = here.ask(Call("POST", "/v1/generate_text_embeddings", json=body))
    rows = [{"text": row["text_input"], "dimensions": len(row["embeddings"])} for row in answer["data"]]
    here.show(answer, lambda: table(rows))


@app.command("generate-video-embeddings", cls=ServiceCommand)
def generate_video_embeddings(
    context: typer.Context,
    *,
    ids: Annotated[
        list[str] | None, typer.Option("--id", help="A file, a live stream, or several pictures.")
    ] = None,
    model: Model = "",
    stream: Annotated[bool, typer.Option("--stream", help="Show chunks as they are finished.")] = False,
    chunk_duration: Annotated[int, typer.Option("--chunk-duration", help="Seconds per chunk; 0: one.")] = 0,
    chunk_overlap_duration: Annotated[
        int, typer.Option("--chunk-overlap-duration", help="Seconds that chunks share.")
    ] = 0,
    file_start_offset: Annotated[
        int | None, typer.Option("--file-start-offset", help="Where to begin, seconds.")
    ] = None,
    file_end_offset: Annotated[
        int | None, typer.Option("--file-end-offset", help="Where to end, seconds.")
    ] = None,
    url: Annotated[str, typer.Option("--url", help="Media to fetch.")] = "",
    base64_file: Annotated[
        Path | None, typer.Option("--base64", metavar="FILE", help="Send this file inside the request.")
    ] = None,
    media_type: Annotated[str, typer.Option("--media-type", help="What --url is: video or image.")] = "video",
    creation_time: Annotated[
        str, typer.Option("--creation-time", help="When the recording behind --url began.")
    ] = "",
) -> None:
    """Embed a film, pictures, a URL or a live stream."""
    if url and base64_file:
        raise CommandFailed("--base64 and --url exclude each other", ExitStatus.WRONG_USE)
    if not ids and not url and not base64_file:
        raise CommandFailed("give --id, --url or --base64", ExitStatus.WRONG_USE)
    here = session(context)
    chosen = ids or [str(uuid.uuid4())]
    body: dict[str, Any] = {
        "id": chosen[0] if len(chosen) == 1 else chosen,
        "model": model or served_model(here),
        "stream": stream,
        "chunk_duration": chunk_duration,
        "chunk_overlap_duration": chunk_overlap_duration,
        "media_type": media_type,
    }
    offsets = {"start_offset": file_start_offset, "end_offset": file_end_offset}
    if given := {name: value for name, value in offsets.items() if value is not None}:
        body["media_info"] = {"type": "offset", **given}
    if url:
        body["url"] = url
    if creation_time:
        body["creation_time"] = creation_time
    inline = InlineFile(base64_file, body) if base64_file else None
    call = Call(
        "POST", VIDEO_PATH, json=None if inline else body, upload=inline, headers=idempotent(), stream=stream
    )
    _stream(here, call) if stream else _answer(here, call)


def served_model(here: Session) -> str:
    """Return the id of the model that the service has loaded."""
    if here.print_curl_command:
        return "MODEL"
    with here.client() as client:
        return client.models()[0].id


def _answer(here: Session, call: Call) -> None:
    answer = here.ask(call)
    here.show(answer, lambda: table(map(_row, answer["chunk_responses"])))


def _stream(here: Session, call: Call) -> None:
    """Print events as they come: a line for each chunk, or the events' JSON."""
    here.offer_curl(call)
    failed = False
    with here.client() as client, closing(client.run(answered(call, Retries()))) as answer:
        for line in answer.iter_lines():
            data = line.removeprefix("data: ")
            if data in {line, "[DONE]"}:
                continue
            event = msgspec.json.decode(data)
            failed = failed or ("chunk_responses" not in event and event.get("usage") is None)
            if here.json:
                print(data, flush=True)
                continue
            for chunk in event.get("chunk_responses", ()):
                row = _row(chunk)
                print(row["start"], row["end"], row["dimensions"], sep="  ", flush=True)
    if failed:
        raise CommandFailed("the request failed; `rt-embed inspect requests` and the service's log say why")


def _row(chunk: dict[str, Any]) -> dict[str, Any]:
    return {
        "start": chunk["start_time"],
        "end": chunk["end_time"],
        "dimensions": len(chunk["embeddings"]),
        "frames": chunk.get("frame_count"),
        "latency_ms": chunk.get("chunk_latency_ms"),
    }
