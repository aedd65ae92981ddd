"""`rt-embed embed`: films and pictures, from files, folders and URLs, into a file of vectors."""

import asyncio
import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from rt_embed import AsyncClient, BadRequestError, Bookmark, ClientError, NotFoundError, Vector, VideoChunk
from rt_embed.cli.client.embed_progress import EmbedBars, SourceBar
from rt_embed.cli.client.service_options import ServiceCommand, Session, service_commands, session
from rt_embed.cli.client.vector_files import (
    JournalEntry,
    SourceState,
    VectorFile,
    VectorRow,
    encode_vector,
    record_of,
)
from rt_embed.cli.terminal import CommandFailed, ExitStatus, terminal
from rt_embed.flows import is_id, is_url
from rt_embed.upload_body import PICTURES, is_picture

FILMS = {".avi", ".flv", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".ts", ".webm", ".wmv"}
RETRIES = 10
LONGEST_NAME = 100

app = service_commands()


@dataclass(frozen=True)
class EmbedJob:
    """What to do with every source."""

    chunk_duration: int
    chunk_overlap: int
    model: str | None
    delete: bool
    thumbnails: Path | None = None

    @property
    def shape(self) -> dict[str, Any]:
        """What vectors of two runs must have in common to lie in one file."""
        return {
            "chunk_duration": self.chunk_duration,
            "chunk_overlap": self.chunk_overlap,
            "model": self.model or "",
        }


@app.command("embed", cls=ServiceCommand)
def embed(
    context: typer.Context,
    sources: Annotated[
        list[str], typer.Argument(help="Files, folders, URLs, or ids of files of the service.")
    ],
    *,
    out: Annotated[
        Path | None,
        typer.Option("-o", "--out", help="Where to write the vectors: a .jsonl, .npy or .parquet file."),
    ] = None,
    chunk_duration: Annotated[
        int, typer.Option("--chunk-duration", min=0, help="Seconds per chunk; 0: a film is one chunk.")
    ] = 10,
    chunk_overlap_duration: Annotated[
        int, typer.Option("--chunk-overlap-duration", help="Seconds that chunks share.")
    ] = 0,
    model: Annotated[str | None, typer.Option("--model", help="Default: the one that is loaded.")] = None,
    parallel: Annotated[int, typer.Option("--parallel", min=1, help="How many sources at a time.")] = 4,
    delete: Annotated[
        bool, typer.Option("--delete", help="Delete what was uploaded when its vectors are there.")
    ] = False,
    thumbnails: Annotated[
        Path | None,
        typer.Option("--thumbnails", help="A folder for a small JPEG of each chunk.", file_okay=False),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the file of --out.")] = False,
) -> int:
    """Embed films and pictures: upload them, and collect a vector for each chunk.

    Run the same command again after Ctrl-C or a failure: it goes on where it was. Without --out the chunks
    are listed; with --json, vectors included.
    """
    here = session(context)
    if here.print_curl_command:
        raise CommandFailed("it makes many requests; see generate-video-embeddings", ExitStatus.WRONG_USE)
    job = EmbedJob(chunk_duration, chunk_overlap_duration, model, delete, thumbnails)
    if thumbnails:
        thumbnails.mkdir(parents=True, exist_ok=True)
    found = list(dict.fromkeys(name for source in sources for name in expanded(source)))
    target: PrintedVectors | VectorFile = (
        VectorFile(out, job.shape, overwrite=overwrite) if out else PrintedVectors(as_json=here.json)
    )
    try:
        failures = asyncio.run(embed_all(here, found, job, parallel, target))
        rows = target.finish()
    except KeyboardInterrupt:
        terminal.note("interrupted; run the same command again to go on" if out else "interrupted")
        return ExitStatus.INTERRUPTED
    finally:
        target.close()
    if out:
        terminal.note(f"{rows} vectors in {out}")
    for source, reason in failures.items():
        terminal.note(f"failed: {source}: {reason}")
    return ExitStatus.FAILED if failures else ExitStatus.DONE


class PrintedVectors:
    """Chunks that are printed as they come: a line for people, or a JSON object with the vector."""

    def __init__(self, *, as_json: bool) -> None:
        self._as_json = as_json
        self._rows = 0

    def state(self, source: str) -> SourceState:
        """Return that nothing is known of a source."""
        del source
        return SourceState()

    def add(self, entry: JournalEntry) -> None:
        """Print a chunk."""
        if row := entry.row:
            self._rows += 1
            if self._as_json:
                terminal.json_line(record_of(row))
            else:
                print(_line(row), flush=True)

    def finish(self) -> int:
        """Return how many chunks there were."""
        return self._rows

    def close(self) -> None:
        """Nothing is open."""


def _line(row: VectorRow) -> str:
    return f"{row.source}  {row.start_time} to {row.end_time}  {len(row.values)} dimensions"


def thumbnail_name(source: str, start_time: str) -> str:
    """Return the file name of a chunk's thumbnail: that of the source, which film of that name it is, and
    where the chunk begins."""
    name = re.sub(r"[^\w.-]", "_", source.partition("?")[0].rstrip("/").rpartition("/")[2])[-LONGEST_NAME:]
    which = hashlib.sha256(source.encode()).hexdigest()[:8]
    return f"{name}-{which}-{start_time.replace(':', '')}.jpg"


def expanded(source: str) -> Iterator[str]:
    """Yield a source, or the films and pictures in a folder. Raises CommandFailed if it is neither."""
    path = Path(source)
    if is_url(source) or is_id(source):
        yield source
    elif path.is_dir():
        inside = sorted(p for p in path.rglob("*") if p.is_file() and p.suffix.lower() in FILMS | PICTURES)
        if not inside:
            raise CommandFailed(f"{source} holds neither films nor pictures", ExitStatus.WRONG_USE)
        yield from map(str, inside)
    elif path.is_file():
        yield source
    else:
        raise CommandFailed(f"{source}: no such file or folder", ExitStatus.WRONG_USE)


async def embed_all(
    here: Session, sources: list[str], job: EmbedJob, parallel: int, target: "PrintedVectors | VectorFile"
) -> dict[str, str]:
    """Embed all sources, some at a time; return why which of them failed."""
    failures: dict[str, str] = {}
    limit = asyncio.Semaphore(parallel)

    async def one(source: str) -> None:
        async with limit:
            with bars.source(source) as bar:
                try:
                    await SourceWork(client, source, job, target, bar).run()
                except (ClientError, OSError) as error:
                    failures[source] = str(error)

    with EmbedBars(len(sources)) as bars:
        async with here.async_client(RETRIES) as client, asyncio.TaskGroup() as tasks:
            for source in sources:
                tasks.create_task(one(source))
    return failures


class SourceWork:
    """Uploading and embedding one source, from where an earlier run stopped."""

    def __init__(
        self,
        client: AsyncClient,
        source: str,
        job: EmbedJob,
        target: "PrintedVectors | VectorFile",
        bar: SourceBar,
    ) -> None:
        self._client, self._source, self._job = client, source, job
        self._target, self._bar = target, bar
        self._state = target.state(source)

    async def run(self) -> None:
        """Embed it. Raises ClientError or OSError."""
        if self._state.done:
            return
        if is_picture(self._source.partition("?")[0]) and not is_id(self._source):
            await self._picture()
        else:
            await self._film()
        self._add(done=True)

    async def _picture(self) -> None:
        vector = await self._picture_vector()
        row = VectorRow(
            source=self._source,
            asset_id="",
            start=0.0,
            end=0.0,
            start_time="0.0",
            end_time="0.0",
            vector=encode_vector(vector),
        )
        self._add(row=row)

    async def _picture_vector(self) -> Vector:
        if not self._job.thumbnails:
            return (await self._client.embed_images([self._source], model=self._job.model))[0]
        (image,) = await self._client.embed_images([self._source], model=self._job.model, thumbnails=True)
        await self._keep("0.0", image.thumbnail)
        return image.vector

    async def _keep(self, start_time: str, thumbnail: bytes | None) -> None:
        """Write a thumbnail. Raises OSError."""
        if self._job.thumbnails and thumbnail:
            name = thumbnail_name(self._source, start_time)
            await asyncio.to_thread((self._job.thumbnails / name).write_bytes, thumbnail)

    async def _film(self) -> None:
        """Go on where an earlier run stopped; if the service has forgotten that, begin again."""
        state = self._state
        if state.bookmark and await self._known(state.asset_id, state.bookmark):
            return
        if not (state.asset_id and await self._known(state.asset_id, None)):
            await self._chunks(await self._uploaded(), None)
        if self._job.delete and not is_id(self._source):
            await self._client.files.delete(state.asset_id)

    async def _known(self, asset_id: str, bookmark: Bookmark | None) -> bool:
        """Embed what an earlier run uploaded; return False if the service does not have it any more."""
        try:
            await self._chunks(asset_id, bookmark)
        except (NotFoundError, BadRequestError):
            return False
        return True

    async def _uploaded(self) -> str:
        """Return what to ask the service for: an id, or a URL that it fetches."""
        if is_url(self._source) or is_id(self._source):
            return self._source
        stored = await self._client.files.upload(self._source, progress=self._bar.uploaded)
        self._add(asset_id=stored.id)
        return stored.id

    async def _chunks(self, source: str, bookmark: Bookmark | None) -> None:
        if bookmark is None:
            self._add(restart=True)
        async with self._client.embed_video(
            source,
            chunk_duration=self._job.chunk_duration,
            chunk_overlap=self._job.chunk_overlap,
            model=self._job.model,
            thumbnails=self._job.thumbnails is not None,
            resume_from=bookmark,
        ) as stream:
            async for chunk in stream:
                await self._keep(chunk.start_time, chunk.thumbnail)
                event = stream.bookmark.event_id if stream.bookmark else ""
                self._add(row=self._row(chunk), asset_id=chunk.asset_id, event_id=event)
                self._bar.embedded(len(self._state.rows), stream.chunks_planned)

    def _row(self, chunk: VideoChunk) -> VectorRow:
        return VectorRow(
            source=self._source,
            asset_id=chunk.asset_id,
            start=chunk.start,
            end=chunk.end,
            start_time=chunk.start_time,
            end_time=chunk.end_time,
            vector=encode_vector(chunk.vector),
        )

    def _add(self, **fields: Any) -> None:
        self._target.add(JournalEntry(source=self._source, **fields))
