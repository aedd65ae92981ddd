"""`rt-embed watch`: the chunks of a live stream as they come, and their similarity to a sentence."""

import time
from typing import Annotated, Any

import typer
from rich.text import Text

from rt_embed import Vector, VideoChunk
from rt_embed.cli.client.search import cosine
from rt_embed.cli.client.service_options import ServiceCommand, service_commands, session
from rt_embed.cli.terminal import CommandFailed, ExitStatus, terminal

app = service_commands()


@app.command("watch", cls=ServiceCommand)
def watch(
    context: typer.Context,
    stream: Annotated[str, typer.Argument(help="An rtsp:// URL, or the id of a registered live stream.")],
    *,
    alert: Annotated[
        list[str] | None,
        typer.Option("--alert", help="Show each chunk's similarity to this. May be repeated."),
    ] = None,
    above: Annotated[
        float, typer.Option("--above", help="The lowest score that makes a chunk an alert.")
    ] = 0.25,
    chunk_duration: Annotated[int, typer.Option("--chunk-duration", min=1, help="Seconds per chunk.")] = 10,
    chunk_overlap_duration: Annotated[
        int, typer.Option("--chunk-overlap-duration", help="Seconds that chunks share.")
    ] = 0,
    count: Annotated[
        int | None, typer.Option("--count", min=1, help="End after so many chunks. Default: at Ctrl-C.")
    ] = None,
    model: Annotated[str | None, typer.Option("--model", help="Default: the one that is loaded.")] = None,
) -> int:
    """Embed a camera, and show each chunk as it comes.

    An rtsp:// URL is registered for as long as this runs; a registered stream goes on being embedded.
    """
    here = session(context)
    if here.print_curl_command:
        raise CommandFailed("it makes several requests; see generate-video-embeddings", ExitStatus.WRONG_USE)
    sentences = alert or []
    with here.client() as client:
        wanted = client.embed_texts(sentences, model=model)
        with client.live(
            stream, chunk_duration=chunk_duration, chunk_overlap=chunk_overlap_duration, model=model
        ) as chunks:
            try:
                for number, chunk in enumerate(chunks, 1):
                    _show(chunk, dict(zip(sentences, wanted, strict=True)), above, as_json=here.json)
                    if number == count:
                        break
            except KeyboardInterrupt:
                pass
    return ExitStatus.DONE


def _show(chunk: VideoChunk, wanted: dict[str, Vector], above: float, *, as_json: bool) -> None:
    failed = not len(chunk.vector)
    likeness = {} if failed else {text: round(cosine(v, chunk.vector), 3) for text, v in wanted.items()}
    record: dict[str, Any] = {
        "start": chunk.start_time,
        "end": chunk.end_time,
        "late_s": round(time.time() - chunk.end, 1),
        "failed": failed,
        "likeness": likeness,
        "alert": [text for text, value in likeness.items() if value >= above],
    }
    if as_json:
        terminal.json_line({**record, "vector": [float(value) for value in chunk.vector]})
        return
    line = Text(f"{chunk.start_time} to {chunk.end_time}  {record['late_s']:5.1f} s late")
    if failed:
        line.append("  failed", style="red")
    for text, value in likeness.items():
        line.append(f"  {text}: {value:.3f}", style="bold red" if value >= above else "")
    terminal.out.print(line, soft_wrap=True)
